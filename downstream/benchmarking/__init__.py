"""How fast models are and what memory they take: timed in turn, with medians and quartiles."""
