"""A mask of class indices for each image: ``images``, ``masks`` and ``classes.txt``."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from downstream.data.formats.found import Found
from downstream.data.formats.write import index_masks, write_mask

from .parts import flat_names, place_image


def write(found: Found, folder: Path, copy: bool) -> list[str]:
    """Write masks of class indices; 255 is unlabelled."""
    for name, part in found.segmentation_parts().items():
        place = '' if name == 'all' else name
        names = flat_names([image for image, _ in part.pairs])
        for flat, (image, pixels) in zip(names, index_masks(part, found.classes, name)):
            place_image(part.root / image, folder / 'images' / place / flat, copy)
            write_mask(pixels, folder / 'masks' / place / f'{PurePosixPath(flat).stem}.png')
    (folder / 'classes.txt').write_text(''.join(f'{n}\n' for n in found.classes), encoding='utf-8')
    return []
