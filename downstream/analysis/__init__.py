"""What the results of a test mean, as numbers."""
