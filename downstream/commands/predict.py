"""The command of tools/predict.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from downstream.atomic import require_folder
from downstream.predicting.predictor import Predictor
from downstream.predicting.run import PredictionRun, Summary
from downstream.predicting.sources import find_sources
from downstream.running.checkpoint.files import raise_on_full_disk

# What a shell gets where some sources could not be predicted.
SOME_BROKEN = 1


def predict(
    words: Sequence[str],
    out: str,
    score: float | None = None,
    as_dataset: str | None = None,
    **model: Any,
) -> Summary:
    """Predict on sources, write the results, and say what came of it.

    Args:
        words: As :func:`~downstream.predicting.sources.find_sources` takes them.
        out: As for :class:`~downstream.predicting.run.PredictionRun`.
        score: Likewise.
        as_dataset: Likewise.
        model: Arguments of :class:`~downstream.predicting.Predictor`.

    Raises:
        UserError: A source, the config or the checkpoint cannot be used.
        SystemExit: Some sources could not be predicted; all others were predicted. Exit code 1.
    """
    sources = find_sources(words)  # before the model is built
    require_folder(Path(out))
    with raise_on_full_disk(out, 'make room and start again.'):
        run = PredictionRun(Predictor(score=score, **model), Path(out), score, as_dataset)
        summary = run.predict(sources)
    _report(summary)
    if summary.broken:
        sys.exit(SOME_BROKEN)
    return summary


def _report(summary: Summary) -> None:
    counts = [f'{summary.pictures} pictures'] if summary.pictures else []
    if summary.videos:
        counts.append(f'{summary.videos} videos of {summary.frames} frames')
    print(f'Predicted: {", ".join(counts)}.')
    for path in summary.files:
        print(f'  {path}')
    if summary.broken:
        print(f'Skipped, see above: {len(summary.broken)}.', file=sys.stderr)
