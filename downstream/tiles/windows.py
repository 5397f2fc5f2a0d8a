"""The tiles of a picture: squares that overlap, evenly spread."""

from __future__ import annotations

from dataclasses import dataclass

from backbones.errors import ConfigError

SMALLEST = 16
DEFAULT_OVERLAP = 0.2
# With more, most pixels would be predicted by four tiles, and evenly spread ones hand over too fast.
LARGEST_OVERLAP = 0.5


@dataclass(frozen=True)
class Window:
    """A part of a picture in pixels: ``[top, bottom)`` x ``[left, right)``."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut.

    Attributes:
        tile: Height and width of a tile in pixels of the picture.
        overlap: Least part of a tile that it shares with its neighbour, 0 to 0.5.

    Raises:
        ConfigError: A value is out of range.
    """

    tile: int
    overlap: float = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        if self.tile < SMALLEST:
            raise ConfigError(f'--tile {self.tile}: a tile has at least {SMALLEST} pixels a side.')
        if not 0 <= self.overlap <= LARGEST_OVERLAP:
            raise ConfigError(
                f'--overlap {self.overlap}: give the part of a tile that it shares with the next one, '
                f'0 to {LARGEST_OVERLAP}.'
            )

    @property
    def shared(self) -> int:
        """Pixels that neighbours share at least."""
        return round(self.tile * self.overlap)

    def starts(self, length: int) -> list[int]:
        """Where the tiles of a side of ``length`` pixels begin."""
        rest = length - self.tile
        if rest <= 0:
            return [0]
        gaps = -(-rest // (self.tile - self.shared))
        return [round(rest * place / gaps) for place in range(gaps + 1)]

    def rows(self, height: int, width: int) -> list[list[Window]]:
        """The tiles of a picture, row by row; one that covers all of a picture that is no larger."""
        return [
            [
                Window(x, y, min(x + self.tile, width), min(y + self.tile, height))
                for x in self.starts(width)
            ]
            for y in self.starts(height)
        ]
