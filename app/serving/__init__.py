"""Serve the page over HTTP: what requests have to pass before Gradio sees them, and the server."""
