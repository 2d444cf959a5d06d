"""Collections, encoding, exact search and metrics."""
