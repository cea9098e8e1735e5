"""Trained models: a model or a pair of heads on one trunk, from scratch or from a checkpoint."""
