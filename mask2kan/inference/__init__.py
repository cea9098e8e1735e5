"""From an image to a prediction, its scores and their explanation."""
