"""Boxes, masks, label maps and their classes on images, by OpenCV; the same colours everywhere."""

from .colors import Color, class_color, class_palette
from .labels import text_px
from .panels import beside, captioned, file_content, fitted, legend
from .pictures import draw_detections, draw_segmentation

__all__ = [
    'Color',
    'beside',
    'captioned',
    'class_color',
    'class_palette',
    'draw_detections',
    'draw_segmentation',
    'file_content',
    'fitted',
    'legend',
    'text_px',
]
