"""A data set of one's own: from a folder to a config that trains."""
