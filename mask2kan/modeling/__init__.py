"""The model: backbone, pixel decoder, transformer decoder, KAN or MLP head."""
