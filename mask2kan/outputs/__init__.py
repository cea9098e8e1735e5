"""From a prediction to files and figures."""
