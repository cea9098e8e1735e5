"""Devices, dtypes, memory and work in pieces that fit the cache."""
