"""One code base's names each, and what is read off them."""
