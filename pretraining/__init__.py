"""Pre-training of backbones without labels: FCMAE of ConvNeXt V2."""

from .fcmae import FCMAE

__all__ = ['FCMAE']
