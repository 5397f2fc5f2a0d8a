"""Images as people see them: the pixels that a network gets, with the annotations that it learns from."""
