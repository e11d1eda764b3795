"""`vlm check-data`: every mistake in a data set."""
