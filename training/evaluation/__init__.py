"""Measuring models on labelled images."""
