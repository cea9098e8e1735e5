"""Devices, precision, memory and work in strips."""
