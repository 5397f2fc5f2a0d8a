"""Speed and memory beside the other implementations, in one run: ``make bench``."""
