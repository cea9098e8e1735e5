"""Services behind the page: models, batches, results, the catalog."""
