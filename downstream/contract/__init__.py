"""Checks of what a backbone must do."""

from .checks import Finding, check_backbone, require_all_passed
from .cost import gmacs

__all__ = ['Finding', 'check_backbone', 'gmacs', 'require_all_passed']
