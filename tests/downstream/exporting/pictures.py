"""Pictures in which detectors with random weights find objects."""

import numpy as np

STRIDE = 32


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noisy patches, ``(height, width, 3)`` of uint8."""
    generator = np.random.default_rng(seed)
    patches = generator.integers(0, 200, (-(-height // 16), -(-width // 16), 3))
    whole = patches.repeat(16, 0).repeat(16, 1)[:height, :width]
    return (whole + generator.integers(0, 56, whole.shape)).astype(np.uint8)
