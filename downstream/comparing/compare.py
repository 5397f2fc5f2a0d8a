"""A comparison from its command line to its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.errors import UserError
from downstream.reporting.page import write_page
from downstream.running.hooks.preemption import EXIT_CODE

from .by_images import refuse_mixed
from .children import Children, locked
from .figures import Row, rows
from .picture import draw
from .plan import CompareOptions, Plan, plan, record_recipe
from .progress import Progress
from .state import RECIPE, Run
from .table import print_table, write_tables
from .words import Commands

__all__ = ['CompareOptions', 'Outcome', 'compare', 'show_commands']

_PAGE = 'page.html'


@dataclass(frozen=True)
class Outcome:
    """What a comparison has come to.

    Attributes:
        plan: Its runs.
        rows: Its table.
        failed: Runs that have failed.
        stopped: Whether a signal has ended it before its end.
    """

    plan: Plan
    rows: tuple[Row, ...]
    failed: tuple[Run, ...]
    stopped: bool

    @property
    def code(self) -> int:
        """The exit code: 0, 1 if a run has failed, 75 ("try again") if it was stopped."""
        if self.stopped:
            return EXIT_CODE
        return int(bool(self.failed))


def compare(options: CompareOptions) -> Outcome:
    """Train and test every backbone with every seed; leave tables and a picture in the folder.

    Runs that are done are not repeated, and one that was stopped goes on. One that fails does not end
    the others.

    Raises:
        UserError: Recipe, data, a backbone or the folder is not possible; nothing has been trained.
        DataError: Runs were tested on different data.
    """
    made = plan(options)
    commands = Commands(made, options)
    with locked(made.folder) as lock:
        record_recipe(made, options)
        todo = [run for run in made.runs if not run.done]
        done = len(made.runs) - len(todo)
        print(
            f'{len(made.runs)} runs in {made.folder}: {len(made.candidates)} backbones, '
            f'{options.seeds} seeds' + (f'; {done} are done' if done else ''),
            flush=True,
        )
        children = Children(commands, options.jobs, lock, Progress(made.runs, options.jobs))
        children.finish(todo)
        refuse_mixed(made.runs)
        table = rows(made)
        write_tables(made, options, table)
        draw(table, made.folder)
        write_comparison_page(made)
    print_table(table)
    print(f'In {made.folder}: {", ".join(sorted(_left(made.folder)))}')
    failed = tuple(run for run in todo if run.failure) if not children.stopped_by else ()
    outcome = Outcome(made, tuple(table), failed, bool(children.stopped_by))
    _print_end(outcome, todo)
    return outcome


def write_comparison_page(made: Plan) -> None:
    """Write ``page.html``: each backbone's run of the first seed that is done, side by side."""
    firsts = [next((r for r in made.runs_of(c) if r.done), None) for c in made.candidates]
    chosen = [run for run in firsts if run is not None]
    if not chosen:
        return
    try:
        write_page(
            [run.report for run in chosen],
            made.folder / _PAGE,
            names=[run.name for run in chosen],
        )
    except UserError as error:  # the tables are there all the same
        print(f'no {_PAGE}: {error}')


def _left(folder: Path) -> list[str]:
    """Names of what a comparison has written there for people."""
    return [path.name for path in folder.glob('[!.]*.*') if path.name != RECIPE]


def _print_end(outcome: Outcome, todo: Sequence[Run]) -> None:
    if outcome.stopped:
        left = sum(not run.done for run in todo)
        print(f'Stopped: {left} runs are not done; the same command continues.')
    elif outcome.failed:
        print(f'{len(outcome.failed)} of {len(outcome.plan.runs)} runs failed:')
        for run in outcome.failed:
            print(f'  {run.name}: {run.failure}\n    {run.log}')
        print('The same command tries them again.')


def show_commands(options: CompareOptions) -> Plan:
    """Print the commands that :func:`compare` would run, and which runs are done; train nothing.

    Raises:
        UserError: As :func:`compare`.
    """
    made = plan(options)
    commands = Commands(made, options)
    for number, run in enumerate(made.runs, 1):
        state = 'done' if run.done else 'trained' if run.checkpoint else ''
        state = state or ('begun' if run.started else 'to do')
        print(f'# {number}/{len(made.runs)} {run.name}: {state}')
        slot = (number - 1) % options.jobs
        if not run.done and not run.checkpoint:
            print(commands.train(run, slot))
        if not run.done:
            print(commands.test(run, slot))
    return made
