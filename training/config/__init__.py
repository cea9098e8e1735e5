"""A run's configuration and the recipes that fill it in."""
