"""What the page asks for: models, batches, results, what is on offer."""
