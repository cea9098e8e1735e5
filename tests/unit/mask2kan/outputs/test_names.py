"""Names of results: the image's own wherever it can be written, and never another's."""

from __future__ import annotations

import pytest

from mask2kan.outputs.names import LONGEST_STEM, stem_of, unique_stems


@pytest.mark.parametrize(
    ("image", "stem"),
    [
        ("drive/road.2024.jpg", "road.2024"),
        ("https://x.org/a%20b.png?size=1", "a b"),
        ("https://x.org/%2e%2e%2f%2e%2e%2fpasswd", "passwd"),
        ("https://x.org/a%00b%1b.png", "ab"),
        ("https://x.org/con.png", "_con"),
        ("COM1.jpg", "_COM1"),
        ("NUL.a.jpg", "_NUL.a"),
        ("aux .png", "_aux"),
        ("console.jpg", "console"),
        ("road. .jpg", "road"),
        ("a\u202eb.png", "ab"),
        ("\ud800.png", "image"),
        ("", "image"),
    ],
)
def test_stems_can_be_written_by_every_system(image: str, stem: str) -> None:
    assert stem_of(image) == stem


def test_long_names_are_cut_between_characters_and_stay_apart() -> None:
    names = [f"https://x.org/{'ж' * 5_000}{number}.png" for number in range(3)]
    stems = unique_stems(names)
    assert len(set(stems)) == 3
    assert all(len(stem.encode()) <= LONGEST_STEM + 2 for stem in stems)
    assert set("".join(stems)) == set("ж_23")
