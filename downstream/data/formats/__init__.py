"""Annotation formats: read into one description of a data set, split, and written."""
