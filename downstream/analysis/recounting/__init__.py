"""Figures of a data set in which images occur any number of times."""
