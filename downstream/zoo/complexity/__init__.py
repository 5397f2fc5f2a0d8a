"""Parameters and multiply-adds of whole models, counted as the papers counted them."""

from .counting import (
    DETECTOR_SIZE,
    build_on_meta,
    counted_size,
    gmacs,
    padded_size,
    parameters,
    run_parts,
)

__all__ = [
    'DETECTOR_SIZE',
    'build_on_meta',
    'counted_size',
    'gmacs',
    'padded_size',
    'parameters',
    'run_parts',
]
