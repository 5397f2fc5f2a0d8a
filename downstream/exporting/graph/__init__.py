"""What is exported: networks with all that a picture needs before and after them, as one graph."""
