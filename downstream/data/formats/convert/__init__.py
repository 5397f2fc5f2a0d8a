"""A data set written in another format."""

from .convert import FORMS, convert, task_of

__all__ = ['FORMS', 'convert', 'task_of']
