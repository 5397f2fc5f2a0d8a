"""Annotations that look wrong, the most suspicious first."""

from __future__ import annotations

from collections.abc import Sequence

from downstream.analysis.suspects import KINDS, Suspect, suspects_of
from downstream.markup import Markup, element, html

from ..drawn import DetectionPictures
from ..gallery import Shown, gallery, share
from ..parts import Section, column, figure, none, panels, scrolled, soft, words
from ..runs import Run

_PART = 0.4
_MOST_LISTED = 200


def section(runs: Sequence[Run]) -> Section:
    """Pictures of the first suspects of each run, and a list of more."""
    tested = [run for run in runs if run.test]
    most = share(len(tested), _PART)
    bodies = [(run.name, _of(f'suspects-{place}', run, most)) for place, run in enumerate(tested)]
    body = panels('suspects', bodies) if bodies else none('No test with detections.')
    return Section('suspects', 'Suspect annotations', body)


def _of(name: str, run: Run, most: int) -> Markup:
    if run.test is None or not isinstance(run.pictures, DetectionPictures):
        return none(str(run.pictures))
    found = suspects_of(run.test)
    if not found:
        return none('No annotation contradicts a detection.')
    shown, missing = [], 0
    for one in found[:most]:
        picture = _picture(run.pictures, one)
        if picture is None:
            missing += 1
            continue
        classes = [text for text in (one.annotated, one.predicted) if text is not None]
        suspicion = round(one.suspicion, 4)
        shown.append(
            Shown(
                picture,
                one.file_name,
                {'all': suspicion, one.kind: suspicion},
                list(dict.fromkeys(classes)),
                [KINDS[one.kind], *_facts(one), f'suspicion {one.suspicion:.2f}'],
            )
        )
    kinds = {'all': 'suspicious'} | {kind: f'suspicious: {text}' for kind, text in KINDS.items()}
    note = soft(
        'Where sure detections and annotations contradict each other. A model that was trained on these '
        'images has learned their faults: look at images that it has not seen. The place in question '
        'is framed.'
    )
    return html(note, gallery(name, shown, kinds, missing), _listed(found))


def _picture(pictures: DetectionPictures, one: Suspect) -> str | None:
    boxes = [box for box in (one.predicted_box, one.annotated_box) if box is not None]
    # The detection in question is drawn, whatever the threshold; one of little score hides nothing.
    return pictures.pair(one.image, min(0.3, one.score if one.score is not None else 0.3), boxes)


def _facts(one: Suspect) -> list[str]:
    facts = [f'annotated {one.annotated}'] if one.annotated is not None else []
    if one.predicted is not None:
        facts.append(f'detected {one.predicted} {one.score:.2f}')
    return facts


def _listed(found: Sequence[Suspect]) -> Markup:
    rows = [
        [
            element('td', one.file_name),
            KINDS[one.kind],
            one.annotation,
            one.annotated,
            one.predicted,
            figure(one.score),
            figure(one.iou),
            figure(one.suspicion),
        ]
        for one in found[:_MOST_LISTED]
    ]
    heads = [
        *(words(head) for head in ('file', 'what it seems', 'annotation', 'annotated', 'detected')),
        *(column(head) for head in ('score', 'IoU', 'suspicion')),
    ]
    summary = f'the first {len(rows)} of {len(found)} as a list'
    return element('details', element('summary', summary), scrolled(heads, rows))
