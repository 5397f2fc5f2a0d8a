"""A data set written in another format."""

from .convert import FORMS, convert

__all__ = ['FORMS', 'convert']
