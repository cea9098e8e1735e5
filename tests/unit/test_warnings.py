"""A warning that our own code causes fails the test it comes up in."""

import warnings

import pytest


@pytest.mark.parametrize("module", ["mask2kan.media.images", "training.train", "app"])
@pytest.mark.parametrize("category", [UserWarning, DeprecationWarning, FutureWarning])
def test_ours_are_errors(module, category):
    with pytest.raises(category, match="mend this"):
        warnings.warn_explicit("mend this", category, "file.py", 1, module)


def test_those_of_others_are_shown():
    with pytest.warns(UserWarning, match="as it is"):
        warnings.warn_explicit("as it is", UserWarning, "file.py", 1, "mask2kanlike.of_others")
