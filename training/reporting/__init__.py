"""Tables, plots, statistics and cards."""
