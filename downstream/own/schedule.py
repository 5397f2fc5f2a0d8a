"""A schedule for a data set of any size, derived from a recipe for a large one.

The rule, with the recipe's number of images N, its epochs E and n images of one's own:

- ``E * (N / n) ** 0.3`` epochs, 300 at most: a set a tenth as large is seen twice as often. A set so
  small that this makes fewer than 1,000 steps of the recipe's batch takes these 1,000 steps: the heads
  start from random weights. A third of it where training starts from a detector or segmenter.
- The batch is the recipe's per process, and never more than there are images. The learning rate is in
  proportion to the batch.
- Warm-up as in the recipe, but at most a tenth of the run. Milestones move with the length of the run.
- 20 evaluations, fewer where they would see more images than training does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from backbones.errors import ConfigError
from downstream.running.settings import longest_warm_up, require_epochs, require_rate

EXPONENT = 0.3
LONGEST = 300
FEWEST_STEPS = 1000
FINE_TUNED = 1 / 3
_EVALUATIONS = 20
_LOG_LINES = 200
_LARGEST_LOG_INTERVAL = 50


@dataclass(frozen=True)
class RecipeSchedule:
    """What a recipe says.

    Attributes:
        images: Of its training set.
        epochs: How often it sees each.
        batch: Images a step that its learning rate is meant for.
        batch_per_process: Images a step and process.
        rate: Learning rate.
        warm_up: Steps.
        smallest_batch: Fewest images a step that it can learn from.
    """

    images: int
    epochs: float
    batch: int
    batch_per_process: int
    rate: float
    warm_up: int
    smallest_batch: int = 1


@dataclass(frozen=True)
class Choice:
    """A value and why it was chosen, as a phrase."""

    value: int | float
    reason: str


@dataclass(frozen=True)
class Schedule:
    """A run's schedule.

    Attributes:
        epochs: How often every image is seen.
        steps: Steps of the run.
        steps_per_epoch: Of these.
        batch: Images a step, of all processes.
        rate: Learning rate.
        warm_up: Steps.
        evaluate_every: Epochs between evaluations.
        log_every: Steps between lines of the log.
    """

    epochs: Choice
    steps: int
    steps_per_epoch: int
    batch: Choice
    rate: Choice
    warm_up: Choice
    evaluate_every: Choice
    log_every: int


def schedule(
    recipe: RecipeSchedule,
    images: int,
    val_images: int,
    processes: int = 1,
    *,
    fine_tuned: bool = False,
    epochs: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
) -> Schedule:
    """The schedule for a set; see the module for the rule.

    Args:
        recipe: What to derive it from.
        images: Number of training images.
        val_images: Number of validation images.
        processes: How many train together.
        fine_tuned: Whether training starts from a trained detector or segmenter.
        epochs: Given by the user.
        batch: Given by the user, of all processes together.
        rate: Given by the user.

    Raises:
        ConfigError: There are too few images, or a given value is not possible.
    """
    chosen_batch = _batch(recipe, images, processes, batch)
    total = int(chosen_batch.value)
    steps_per_epoch = ceil(images / total)
    chosen = _epochs(recipe, images, fine_tuned, epochs)
    count = int(chosen.value)
    steps = count * steps_per_epoch
    return Schedule(
        epochs=chosen,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        batch=chosen_batch,
        rate=_rate(recipe, total, rate),
        warm_up=_warm_up(recipe, steps),
        evaluate_every=_evaluations(count, images, val_images),
        log_every=max(1, min(_LARGEST_LOG_INTERVAL, steps // _LOG_LINES)),
    )


def _batch(recipe: RecipeSchedule, images: int, processes: int, given: int | None) -> Choice:
    smallest = max(recipe.smallest_batch, processes)
    if images < smallest:
        raise ConfigError(
            f'{images} training images are fewer than a step takes ({smallest}); add images, or train '
            'with fewer processes.'
        )
    if given is not None:
        if given % processes or given < smallest:
            raise ConfigError(
                f'--batch-size {given}: give a multiple of {processes}, at least {smallest}.'
            )
        if given > images:
            raise ConfigError(
                f'--batch-size {given} is more than the {images} training images; give at most that.'
            )
        return Choice(given, 'given')
    wanted = recipe.batch_per_process * processes
    if wanted <= images:
        return Choice(wanted, f'{recipe.batch_per_process} in each process, as the recipe')
    return Choice(images // processes * processes, 'no more than there are images')


def _epochs(recipe: RecipeSchedule, images: int, fine_tuned: bool, given: int | None) -> Choice:
    if given is not None:
        require_epochs(given)
        return Choice(given, 'given')
    by_size = min(LONGEST, recipe.epochs * (recipe.images / images) ** EXPONENT)
    fewest = FEWEST_STEPS * recipe.batch / images
    if fewest > by_size:
        wanted = fewest
        reason = f'{FEWEST_STEPS} steps of {recipe.batch} images, the fewest for new heads'
    elif by_size == LONGEST:
        wanted, reason = by_size, 'the most for a small set'
    else:
        wanted = by_size
        reason = (
            f'{recipe.epochs:.3g} of the recipe x ({recipe.images:,} / {images:,} images) '
            f'^ {EXPONENT}'
        )
    if fine_tuned:
        reason = f'a third of {round(wanted)} ({reason}), as the heads are trained'
        wanted *= FINE_TUNED
    return Choice(max(1, round(wanted)), reason)


def _rate(recipe: RecipeSchedule, batch: int, given: float | None) -> Choice:
    if given is not None:
        require_rate(given)
        return Choice(given, 'given')
    if batch == recipe.batch:
        return Choice(recipe.rate, 'as the recipe')
    value = recipe.rate * batch / recipe.batch
    return Choice(value, f'{recipe.rate:g} of the recipe x {batch} / {recipe.batch} images a step')


def _warm_up(recipe: RecipeSchedule, steps: int) -> Choice:
    longest = longest_warm_up(steps)
    if recipe.warm_up <= longest:
        return Choice(recipe.warm_up, 'as the recipe')
    return Choice(longest, f'a tenth of {steps:,} steps; the recipe has {recipe.warm_up:,}')


def _evaluations(epochs: int, images: int, val_images: int) -> Choice:
    by_number = ceil(epochs / _EVALUATIONS)
    by_cost = ceil(val_images / images)
    every = min(epochs, max(1, by_number, by_cost))
    if by_cost > by_number:
        return Choice(
            every, f'{val_images:,} validation images are more than {images:,} of training'
        )
    return Choice(every, f'{ceil(epochs / every)} evaluations')
