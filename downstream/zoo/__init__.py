"""The rows of the papers' tables: a recipe each, its published figures, and what can be proven of it."""

from .table import Row, find_row, rows

__all__ = ['Row', 'find_row', 'rows']
