"""From files of any kind to named tensors."""
