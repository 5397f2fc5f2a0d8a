"""A backbone in a detector or a segmenter."""

from .apply import detector, drop_in, linear_segmentor, num_classes, segmentor, without_masks

__all__ = ['detector', 'drop_in', 'linear_segmentor', 'num_classes', 'segmentor', 'without_masks']
