"""Bands and bit depth of images against what a pipeline loads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmengine.logging import print_log

from backbones.errors import DataError
from downstream.data.findings.finding import Finding
from downstream.data.images.loading import too_few_bands
from downstream.data.images.read import ImageHeader
from downstream.data.pipelines import steps_of

_ADVICE = 'docs/data.md, "Images that are not 8-bit RGB"'


@dataclass(frozen=True)
class Loading:
    """What a pipeline loads of image files.

    Attributes:
        bands: Numbers of bands, as they are (``LoadBands``); None: whatever ``rgb`` says.
        rgb: Whether 8-bit R, G and B are made of every file.
        fill: What replaces NaN and infinity; None: they are an error.
        picture_bands: Places in ``bands`` that pictures show, as in ``LoadBands``.
    """

    bands: tuple[int, ...] | None = None
    rgb: bool = True
    fill: float | None = None
    picture_bands: tuple[int, ...] | None = None

    @classmethod
    def of(cls, pipeline: Iterable) -> Loading:
        """What the transforms of ``pipeline`` load."""
        loaders = [step for step in steps_of(pipeline) if 'Image' in str(step.get('type'))]
        loaders += [step for step in steps_of(pipeline) if step.get('type') == 'LoadBands']
        chosen = next((step for step in loaders if 'bands' in step), {})
        bands = tuple(chosen['bands']) if chosen else None
        rgb = not bands and any(_loads_rgb(step) for step in loaders)
        shown = chosen.get('picture_bands')
        return cls(bands, rgb, chosen.get('fill'), tuple(shown) if shown else None)

    def refusal(self, path: Path, header: ImageHeader) -> str | None:
        """Why a run stops at an image; None if it can load it."""
        if self.bands and max(self.bands) > header.bands:
            return too_few_bands(header.bands, self.bands)
        if not self.rgb:
            return None
        choose = f'--bands, e.g. --bands {" ".join(map(str, range(1, min(3, header.bands) + 1)))}'
        if header.bands > 4:
            return (
                f'has {header.bands} bands, and the pipeline loads R, G and B: choose bands with '
                f'{choose}'
            )
        if header.dtype.kind == 'f' or header.dtype.itemsize > 2:
            return (
                f'has values of {header.dtype}, and the pipeline loads 8 bits: load them as they are '
                f'with {choose}'
            )
        if path.suffix == '.npy':
            return f'is an array, which the pipeline does not load: load it with {choose}'
        if header.bands > 2 and not header.is_color:
            return f'has {header.bands} bands that are no colours: choose bands with {choose}'
        return None


class BandChecks:
    """Counts what a pipeline loses of images, and refuses images that it cannot load.

    Args:
        where: The name of the data set, for messages.
        pipeline: Its transforms.
    """

    def __init__(self, where: object, pipeline: Iterable) -> None:
        self.where = where
        self.loading = Loading.of(pipeline)
        self.seen: Counter[str] = Counter()

    def add(self, path: Path, header: ImageHeader) -> None:
        """Check one image.

        Raises:
            DataError: The image lacks bands, or its values are none that the pipeline can load.
        """
        refusal = self.loading.refusal(path, header)
        if refusal:
            raise DataError(Finding('bands', str(path), refusal).message)
        self.seen[str(header.dtype)] += 1
        self.seen['alpha'] += self.loading.rgb and header.bands in (2, 4)

    def report(self) -> None:
        """Log what the pipeline loses, a line each."""
        alpha, images = self.seen.pop('alpha', 0), sum(self.seen.values())
        deep = images - self.seen['uint8']
        if self.loading.rgb and deep:
            print_log(
                f'{self.where}: {deep} of the {images} images that were opened have 16 bits and are '
                f'loaded with 8; --bands 1 2 3 keeps all of them ({_ADVICE}).',
                'current',
            )
        if alpha:
            print_log(
                f'{self.where}: {alpha} of the {images} images that were opened have an alpha channel, '
                f'which is left out; --channels 4 loads it ({_ADVICE}).',
                'current',
            )
        if self.loading.bands and len(+self.seen) > 1:
            kinds = ', '.join(f'{count} of {kind}' for kind, count in self.seen.items() if count)
            print_log(
                f'{self.where}: the images that were opened differ in their values: {kinds}; all of '
                'them are normalised with one mean and standard deviation.',
                'current',
            )


def _loads_rgb(step: Mapping) -> bool:
    """Whether a transform makes 8-bit BGR of an image file."""
    is_loader = str(step.get('type')).endswith('LoadImageFromFile')
    return is_loader and str(step.get('color_type', 'color')).startswith('color')
