"""What the command lines share: arguments, and one clear message for what a user can mend."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable


def parse_run_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line, with the arguments that training and testing have in common."""
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
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def run(command: Callable[[], object]) -> None:
    """Run ``command``; what a user can mend is one line on stderr and exit code 2, no traceback."""
    # Heavy imports wait until the command line has been understood.
    from backbones.errors import UserError

    try:
        command()
    except UserError as error:
        # All processes meet a bad config alike; one of them says it.
        if int(os.environ.get('RANK', 0)) == 0:
            print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    except AssertionError as error:
        # mmcv's message, at the end of the traceback that a worker of a data loader sends along.
        unreadable = re.findall(r'failed to load image: (.+)', str(error))
        if not unreadable:
            raise
        print(f'error: {unreadable[-1]} cannot be read as an image.', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    _leave_process_group()


def _leave_process_group() -> None:
    """End a process of several cleanly, all work being done."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return
    if dist.get_backend() != 'gloo':
        dist.destroy_process_group()
        return
    # Now and then gloo's threads abort the interpreter on its way out ("terminate called without an
    # active exception"), and torchrun reports a finished run as failed. So nothing is torn down.
    dist.barrier()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
