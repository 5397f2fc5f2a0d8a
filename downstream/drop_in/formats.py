"""Whether the heads of a model take maps in channels_last memory format."""

from __future__ import annotations

from collections.abc import Mapping

# The necks and heads of the suite's recipes, which its tests run in this format. Heads that call
# ``view()`` on what they get refuse it, and only a run shows which do.
_TAKE_IT = {
    'CSPNeXtPAFPN',
    'CascadeRoIHead',
    'FCNHead',
    'FPN',
    'Float32RPNHead',
    'Mask2FormerHead',
    'MaskFormerFusionHead',
    'RPNHead',
    'RTMDetSepBNHead',
    'StandardRoIHead',
    'UPerHead',
}


def takes_channels_last(model: Mapping) -> bool:
    """Whether all necks and heads of ``model`` are known to take maps in channels_last memory format."""
    for key, value in model.items():
        if key != 'neck' and not key.endswith('head'):
            continue
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, Mapping) and part.get('type') not in _TAKE_IT:
                return False
    return True
