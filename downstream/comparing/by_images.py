"""Two single runs compared on the images of their tests."""

from __future__ import annotations

from collections.abc import Sequence

from backbones.errors import DataError
from downstream.analysis.bootstrap import difference
from downstream.analysis.kept import TestRun, find_tests
from downstream.analysis.same import refuse_different

from .state import Run

# Name of a figure in tables -> what :func:`difference` calls it, and what makes it percent.
_KINDS = {'box AP': ('bbox', 100.0), 'mask AP': ('segm', 100.0), 'mIoU': ('bbox', 1.0)}


def interval_over_images(first: Run, other: Run, name: str) -> tuple[float | None, float | None]:
    """Ends of the 95 % interval of a figure of ``other`` less that of ``first``, in percent.

    It says what other images of the same kind might have shown, not what other seeds would have.

    Args:
        first: A run that is done.
        other: Likewise.
        name: Of the figure in tables.

    Returns:
        None for both ends where the tests have not kept what is needed.
    """
    kind, factor = _KINDS[name]
    try:
        found = difference(_test_of(first), _test_of(other), kind=kind)
    except DataError:
        return None, None
    if found.low is None or found.high is None:
        return None, None
    return factor * found.low, factor * found.high


def refuse_mixed(runs: Sequence[Run]) -> None:
    """Refuse runs that were tested on different data, or by different protocols.

    Raises:
        DataError: The first difference.
    """
    tests = [_test_of(run) for run in runs if run.done]
    # Tests of before it was recorded say nothing of their data.
    tests = [test for test in tests if test.data.get('digest')]
    for test in tests[1:]:
        refuse_different(tests[0], test)


def _test_of(run: Run) -> TestRun:
    return find_tests(run.report)[0]
