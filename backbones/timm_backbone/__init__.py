"""Any model of timm as a backbone."""

from .backbone import TimmBackbone

__all__ = ['TimmBackbone']
