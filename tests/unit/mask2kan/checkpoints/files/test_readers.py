"""What kind a file is follows from its first bytes."""

import json
import struct

import pytest
import torch
from safetensors.torch import save

from mask2kan.checkpoints.files.readers import read_file


@pytest.mark.parametrize("start", [b"PK\0\0", b"\x80\x02\0\0", b"(\0\0\0"])
def test_a_header_whose_length_reads_like_another_format(tmp_path, start):
    """The length of a safetensors header is its first eight bytes, whatever they spell."""
    (length,) = struct.unpack("<I", start)
    content = save({"x": torch.arange(4.0)})
    old = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + old]), content[8 + old :]
    text = json.dumps(header).encode()
    if length < len(text):  # then it is as long as the next number that starts alike
        length += 1 << 16
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + text.ljust(length) + data)
    assert path.read_bytes().startswith(start[:2])
    assert torch.equal(read_file(path, "it", whole=True).tensors["x"].read(), torch.arange(4.0))


def test_names_of_classes_are_looked_at_when_a_model_has_as_many(tmp_path):
    """A pickle repeats a long text for two bytes; put in order, each would be one of its own."""
    path = tmp_path / "model.pth"
    names = ["long\n" * 100] * 50_000
    torch.save({"meta": {"classes": names}, "state_dict": {"x": torch.ones(1)}}, path)
    found = read_file(path, "it").classes
    assert len(found) == 50_000
    assert len(set(map(id, found))) == 1
