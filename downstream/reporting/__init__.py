"""What one run means, or how several differ, on one page of HTML."""

from .page import write_page

__all__ = ['write_page']
