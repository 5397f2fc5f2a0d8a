"""Resampled images, and the interval that a figure's values on them give it.

Each sample is a random half of the images. What halving the images does to a figure is, to first order,
what drawing another data set of the full size does (Politis and Romano 1994), and no image occurs twice.
``'bootstrap'`` draws as many images as there are, with replacement (Efron 1979). hotcoco 1.3 has a
bootstrap that counts an image once however often it is drawn, which makes its intervals too narrow by a
fifth.

Quantiles of the samples are no interval of AP: precision is interpolated by a maximum, which makes AP the
higher the fewer objects there are, and the samples repeat that error. The interval is therefore centred
on the figure less the bias of the samples; the bias also counts as uncertainty, because samples show
only a part of it.

mIoU has another difficulty: a few images with large objects may carry most of a class, and then the
spread itself is known badly. Where the influence of each image on the figure is given, the interval is
Student's, with as many degrees of freedom as the variance of heavy-tailed influences has (the variance of
a variance follows from the kurtosis; matched as Satterthwaite 1946 does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from backbones.errors import ConfigError

CONFIDENCE = 0.95
RESAMPLINGS = ('halves', 'bootstrap')
# Images with objects of a class below which the samples say little of their spread.
FEWEST_IMAGES = 10


@dataclass(frozen=True)
class Interval:
    """A figure and where it lies; None where that cannot be said."""

    figure: float | None
    low: float | None = None
    high: float | None = None
    per_class: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """The figure of B less that of A, on the same images; None where it cannot be said."""

    figure: float | None
    low: float | None = None
    high: float | None = None
    probability_b_better: float | None = None
    """Of a difference above zero, by the distribution that the interval is of; 0.5 for equal results."""
    per_class: Mapping[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class Samples:
    """How often each of ``N`` images occurs in each of ``S`` samples."""

    weights: np.ndarray
    """``(N, S)`` of int32."""
    scale: float
    """The spread of a figure, as a multiple of the spread of the samples."""

    @classmethod
    def draw(cls, images: int, seed: int, samples: int, resampling: str = 'halves') -> Samples:
        """Draw samples; the same for the same arguments.

        Args:
            images: ``N``.
            seed: Any number from 0.
            samples: ``S``.
            resampling: ``'halves'`` or ``'bootstrap'``.

        Raises:
            ConfigError: A value is not possible.
        """
        if resampling not in RESAMPLINGS:
            raise ConfigError(f'resampling={resampling!r}: give {" or ".join(RESAMPLINGS)}.')
        if samples < 2 or seed < 0:
            raise ConfigError(
                f'seed={seed}, samples={samples}: give a seed from 0 and 2 samples or more.'
            )
        generator = np.random.default_rng(seed)
        if resampling == 'bootstrap':
            weights = generator.multinomial(images, np.full(images, 1 / images), samples).T
            return cls(weights.astype(np.int32), 1.0)
        half = images // 2
        weights = np.zeros((images, samples), np.int32)
        order = generator.permuted(np.tile(np.arange(images), (samples, 1)), axis=1)
        np.put_along_axis(weights, order[:, :half].T, 1, axis=0)
        return cls(weights, (half / (images - half)) ** 0.5)

    def interval(
        self,
        figure: float,
        samples: np.ndarray,
        images: int,
        top: float,
        influence: np.ndarray | None = None,
    ) -> Interval:
        """The interval of a figure between 0 and ``top``.

        Args:
            figure: Of all images; NaN where there is none.
            samples: ``(S,)``, the figure of each sample.
            images: How many images it depends on.
            top: The figure of a perfect result.
            influence: ``(N,)``, how far each image moves the figure, in any unit; without it the spread
                counts as known.
        """
        if (moments := self._moments(figure, samples, images)) is None:
            return Interval(_known(figure))
        bias, spread = moments
        middle, wide = figure - bias, float(np.hypot(spread, bias))
        return Interval(float(figure), *_bounds(middle, wide, _freedom(influence), (0.0, top)))

    def difference(
        self,
        figures: tuple[float, float],
        samples: tuple[np.ndarray, np.ndarray],
        images: int,
        top: float,
        influence: np.ndarray | None = None,
    ) -> Difference:
        """The same for the second of two figures less the first, sample by sample.

        The biases of two tests need not cancel, even where samples show none of their difference: as a
        multiple of the spread they count as for each figure alone.
        """
        figure = figures[1] - figures[0]
        first, second = (self._moments(*one, images) for one in zip(figures, samples))
        moments = self._moments(figure, samples[1] - samples[0], images)
        if moments is None or first is None or second is None:
            return Difference(_known(figure))
        bias, spread = moments
        ratios = [own / (wide or 1) for own, wide in (first, second)]
        hidden = spread * float(np.hypot(ratios[0], ratios[1])) / 2**0.5
        middle, wide = figure - bias, float(np.hypot(np.hypot(spread, bias), hidden))
        freedom = _freedom(influence)
        if wide:
            better = float(stats.t.sf(0, freedom, middle, wide))
        else:
            better = 0.5 if middle == 0 else float(middle > 0)
        return Difference(float(figure), *_bounds(middle, wide, freedom, (-top, top)), better)

    def _moments(
        self, figure: float, samples: np.ndarray, images: int
    ) -> tuple[float, float] | None:
        """Bias and spread."""
        known = samples[np.isfinite(samples)]
        if np.isnan(figure) or images < FEWEST_IMAGES or len(known) < 2:
            return None
        return float(known.mean() - figure), float(known.std()) * self.scale


def _freedom(influence: np.ndarray | None) -> float:
    """Degrees of freedom of the variance of influences."""
    if influence is None:
        return float('inf')
    images = len(influence)
    kurtosis = stats.kurtosis(influence) if np.ptp(influence) else 0.0
    return 2 / (max(float(kurtosis), 0.0) / images + 2 / (images - 1))


def _bounds(
    middle: float, wide: float, freedom: float, limits: tuple[float, float]
) -> tuple[float, float]:
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * wide
    return max(middle - reach, limits[0]), min(middle + reach, limits[1])


def _known(figure: float) -> float | None:
    return None if np.isnan(figure) else float(figure)
