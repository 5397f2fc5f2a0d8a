"""Many backbones under one recipe: trained, tested and put into a table, by one command."""

from .compare import CompareOptions, Outcome, compare

__all__ = ['CompareOptions', 'Outcome', 'compare']
