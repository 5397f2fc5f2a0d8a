"""The pictures that a run is worst at, ground truth beside prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from backbones.errors import DataError
from downstream.analysis import kept
from downstream.analysis.kept import TestRun
from downstream.analysis.segmentation import mean_scores, per_image, worst_images
from downstream.analysis.worst import KINDS, worst, worst_of
from downstream.markup import Markup, html

from ..drawn import DetectionPictures, SegmentationPictures
from ..gallery import Shown, gallery, share
from ..parts import Section, none, panels, soft
from ..runs import Run

_PART = 0.6


def segmentation_section(runs: Sequence[Run]) -> Section:
    """The images of the lowest mean IoU, and those with most wrong pixels of each class."""
    tested = [(run.name, run.test) for run in runs if run.test]
    bodies = [
        (name, _segmented(f'worst-{place}', test, share(len(tested), _PART)))
        for place, (name, test) in enumerate(tested)
    ]
    body = panels('pictures', bodies) if bodies else none('No test with pictures.')
    return Section('pictures', 'Worst pictures', body)


def detection_section(runs: Sequence[Run]) -> Section:
    """The images with most errors, in all and of each kind."""
    tested = [run for run in runs if run.test]
    most = share(len(tested), _PART)
    bodies = [
        (run.name, _detected(f'worst-{place}', run, most)) for place, run in enumerate(tested)
    ]
    body = panels('pictures', bodies) if bodies else none('No test with pictures.')
    return Section('pictures', 'Worst pictures', body)


def _detected(name: str, run: Run, most: int) -> Markup:
    if run.test is None or not isinstance(run.pictures, DetectionPictures):
        return none(str(run.pictures))
    images = worst_of(run.test)
    chosen = {one.image: one for one in images[: most // 4] if one.total}
    for kind in KINDS:
        for one in worst(images, kind, most // 8):
            chosen.setdefault(one.image, one)
    min_score = run.best_score
    shown, missing = [], 0
    for one in sorted(list(chosen.values())[:most], key=lambda one: -one.total):
        picture = run.pictures.pair(one.image, min_score)
        if picture is None:
            missing += 1
            continue
        tags = [f'{kind} {number}' for kind, number in one.errors.items() if number]
        shown.append(
            Shown(
                picture,
                one.file_name,
                {'all': one.total, **one.errors},
                run.pictures.classes_in(one.image, min_score),
                [f'{one.right} of {one.objects} found', *tags],
            )
        )
    orders = {'all': 'errors'} | {kind: f'{kind}: {text}' for kind, text in KINDS.items()}
    note = soft(
        f'Detections with a score of at least {min_score:.3f}, the best threshold for all classes '
        'together. A click enlarges.'
    )
    return html(note, gallery(name, shown, orders, missing))


def _segmented(name: str, test: TestRun, most: int) -> Markup:
    try:
        counts = kept.counts_of(test)
        pictures = SegmentationPictures(test)
    except DataError as error:
        return none(str(error))
    places = _some(counts, most)
    right, annotated, predicted = per_image(counts)
    wrong = annotated + predicted - 2 * right
    scores = mean_scores(counts)
    shown, missing, kinds = [], 0, {'all': 'errors, by mean IoU'}
    for place in places:
        picture = pictures.pair(place)
        if picture is None:
            missing += 1
            continue
        own = {
            counts.classes[label]: int(wrong[place, label])
            for label in np.flatnonzero(wrong[place])
        }
        kinds |= {f'of {one}': f'wrong pixels of {one}' for one in own}
        present = (annotated[place] + predicted[place]) > 0
        worst = sorted(own, key=lambda one: -own[one])[:3]
        shown.append(
            Shown(
                picture,
                counts.names[place],
                {'all': round(100 - float(scores[place]), 4)}
                | {f'of {one}': pixels for one, pixels in own.items()},
                [counts.classes[label] for label in np.flatnonzero(present)],
                [f'mean IoU {scores[place]:.1f}', *(f'{one} {_pixels(own[one])}' for one in worst)],
            )
        )
    note = soft(
        'Tags: the mean IoU of the classes in the image, and the classes with most pixels too many or '
        'too few. A click enlarges.'
    )
    return html(note, gallery(name, shown, _ordered(kinds, counts.classes), missing))


def _pixels(count: int) -> str:
    return f'{count:,} px'


def _ordered(kinds: Mapping[str, str], classes: Sequence[str]) -> dict[str, str]:
    known = ['all', *(f'of {one}' for one in classes)]
    return {kind: kinds[kind] for kind in known if kind in kinds}


def _some(counts: kept.KeptCounts, most: int) -> list[int]:
    """Half by their mean IoU, then in turn the worst of each class."""
    chosen = dict.fromkeys(worst_images(counts)[: (most + 1) // 2].tolist())
    by_class = [worst_images(counts, label).tolist() for label in range(len(counts.classes))]
    for rank in range(most):
        for places in by_class:
            if len(chosen) < most and rank < len(places):
                chosen[places[rank]] = None
    return list(chosen)
