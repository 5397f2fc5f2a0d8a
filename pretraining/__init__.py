"""Pre-training of backbones without labels: FCMAE of ConvNeXt V2. Importing it registers its classes."""

from .data import AsyncImgDataPreprocessor, PackImage, RandomResizedCropFlip, UnlabelledImages
from .encoder import EncoderHook
from .fcmae import FCMAE
from .pictures import ReconstructionPicturesHook
from .schedule import DecayByDimensionConstructor, WarmUpCosineLR

__all__ = [
    'FCMAE',
    'AsyncImgDataPreprocessor',
    'DecayByDimensionConstructor',
    'EncoderHook',
    'PackImage',
    'RandomResizedCropFlip',
    'ReconstructionPicturesHook',
    'UnlabelledImages',
    'WarmUpCosineLR',
]
