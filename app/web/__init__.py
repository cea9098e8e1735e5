"""Our own components and the looks of the page."""
