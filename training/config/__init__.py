"""What a run is made of: its configuration and the recipes that fill it in."""
