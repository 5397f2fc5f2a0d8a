"""Checks of the data sets of a config before a run, each kind of annotation in a module of its own."""
