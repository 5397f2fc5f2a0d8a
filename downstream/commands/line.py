"""What the command lines share: arguments, and one clear message for what a user can mend."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable

from downstream.distributed.processes import (
    complete_environment,
    have_met,
    is_first_process,
    leave_process_group,
)


def parse_run_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line, with the arguments that training and testing have in common."""
    parser.add_argument(
        '--backbone',
        metavar='NAME',
        help='another backbone in the same model: convnext-tiny_in1k, swin-base_in22k, '
        'resnet-50_in1k, timm:MODEL[.TAG], my_module:MyClass',
    )
    parser.add_argument('--work-dir', help='where logs and results go (work_dirs/<config name>)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='changes of the config, e.g. train_dataloader.batch_size=4',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # Older launchers pass the rank as an argument, torchrun in the environment.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    complete_environment(args.launcher, args.local_rank)
    return args


def run_options(args: argparse.Namespace) -> dict:
    """The arguments of :func:`parse_run_arguments` as those of ``RunOptions``."""
    from downstream.running.config import parse_cfg_options

    return {
        'config': args.config,
        'work_dir': args.work_dir,
        'cfg_options': parse_cfg_options(args.cfg_options),
        'launcher': args.launcher,
        'backbone': args.backbone,
    }


def run(command: Callable[[], object]) -> None:
    """Run ``command``; what a user can mend is one line on stderr and exit code 2, no traceback."""
    # Heavy imports wait until the command line has been understood.
    from backbones.errors import UserError
    from downstream.quiet import ignore_known_warnings

    ignore_known_warnings()
    try:
        command()
    except UserError as error:
        # All processes meet a bad config alike, before they meet each other; one of them says it.
        if is_first_process() or have_met():
            # A worker of a data loader sends its whole traceback along.
            text = re.split(rf'{type(error).__name__}: ', str(error).rstrip())[-1]
            who = '' if is_first_process() else f'rank {os.environ.get("RANK", "?")}: '
            print(f'error: {who}{text}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from downstream.running.hooks.preemption import EXIT_CODE, PreemptedError

        if not isinstance(error, PreemptedError):
            raise
        if is_first_process():
            print(error, file=sys.stderr)
        leave_process_group(EXIT_CODE)
        sys.exit(EXIT_CODE)
    leave_process_group()
