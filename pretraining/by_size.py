"""Network, length, batch and rate of a pre-training by the number of images.

The rule for n images, from the paper's recipe of N = 1,281,167 images, 800 or 1,600 epochs, batches of
4,096:

- The network: Atto below 10,000 images, Nano below 100,000, Tiny below a million, else Base.
- ``800 * (N / n) ** 0.3`` epochs, 1,600 at most, the longest that the paper has; a third of it from
  trained weights.
- The batch: 64 images a process, as the recipe, but at most an eighth of the images, so that an epoch
  has several steps; at least 8, and never more than there are images.
- The learning rate: the recipe's, in proportion to the square root of the batch, the rule for Adam
  (Malladi et al. 2022, arXiv 2205.10287). In proportion to the batch, as the recipe scales it among
  thousands of images, small batches would hardly learn.
- The warm-up: a twentieth of the run, as in 800 epochs.

No published run of FCMAE on a few thousand images is known to confirm it.
"""

from __future__ import annotations

from math import sqrt

from backbones.errors import ConfigError
from downstream.own.schedule import EXPONENT, FINE_TUNED, Choice
from downstream.running.settings import require_epochs, require_rate

IMAGES = 1_281_167
EPOCHS = 800
LONGEST = 1600
WARM_UP = 40 / EPOCHS
_SIZES = {'atto': 10_000, 'nano': 100_000, 'tiny': 1_000_000}
_LARGEST = 'base'
_STEPS_PER_EPOCH = 8
_SMALLEST_BATCH = 8


def size_for(images: int) -> tuple[str, str]:
    """The size of the network for ``images`` images, and why, as a phrase."""
    for size, below in _SIZES.items():
        if images < below:
            return size, f'for fewer than {below:,} images'
    return _LARGEST, f'for {max(_SIZES.values()):,} images and more'


def epochs_for(images: int, trained: bool, given: int | None = None) -> Choice:
    """How often each of ``images`` images is seen.

    Args:
        images: Their number.
        trained: Whether the network starts from trained weights.
        given: By the user.

    Raises:
        ConfigError: ``given`` is below 1.
    """
    if given is not None:
        require_epochs(given)
        return Choice(given, 'given')
    by_size = EPOCHS * (IMAGES / images) ** EXPONENT
    epochs = min(by_size, LONGEST)
    reason = (
        'the most that the paper has'
        if by_size > LONGEST
        else f'{EPOCHS} of the recipe x ({IMAGES:,} / {images:,} images) ^ {EXPONENT}'
    )
    if trained:
        reason = f'a third of {round(epochs)} ({reason}), from trained weights'
        epochs *= FINE_TUNED
    return Choice(round(epochs), reason)


def batch_for(images: int, processes: int, per_process: int, given: int | None = None) -> Choice:
    """Images a step, of all processes together.

    Args:
        images: How many there are.
        processes: How many train together.
        per_process: Images a step and process in the recipe.
        given: By the user.

    Raises:
        ConfigError: There are fewer images than processes, or ``given`` is not possible.
    """
    if images < processes:
        raise ConfigError(f'{images} images are fewer than {processes} processes: add images.')
    if given is not None:
        if given < 1 or given % processes or given > images:
            raise ConfigError(
                f'--batch-size {given}: give a multiple of the {processes} processes, at most the '
                f'{images} images.'
            )
        return Choice(given, 'given')
    wanted = per_process * processes
    part = max(images // _STEPS_PER_EPOCH, min(_SMALLEST_BATCH, images))
    if wanted <= part:
        return Choice(wanted, f'{per_process} in each process, as the recipe')
    batch = max(1, part // processes) * processes
    steps = images // batch
    return Choice(batch, f'for {steps} step{"" if steps == 1 else "s"} an epoch')


def rate_for(
    batch: int, recipe_rate: float, recipe_batch: int, given: float | None = None
) -> Choice:
    """The learning rate.

    Args:
        batch: Images a step.
        recipe_rate: That of the recipe.
        recipe_batch: The batch that it is meant for.
        given: By the user.

    Raises:
        ConfigError: ``given`` is not above 0.
    """
    if given is not None:
        require_rate(given)
        return Choice(given, 'given')
    rate = recipe_rate * sqrt(batch / recipe_batch)
    return Choice(
        float(f'{rate:.3g}'),
        f'{recipe_rate:g} of the recipe x sqrt({batch} / {recipe_batch} images)',
    )
