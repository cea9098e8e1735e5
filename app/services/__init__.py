"""What the page asks for: models, batches, results, the catalog."""
