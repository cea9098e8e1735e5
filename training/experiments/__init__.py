"""Experiments of several runs, and the thesis's tables."""
