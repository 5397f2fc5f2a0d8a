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
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
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

    try:
        command()
    except UserError as error:
        # All processes meet a bad config alike, before they meet each other; one of them says it.
        if is_first_process() or _have_met():
            # A worker of a data loader sends its whole traceback along.
            text = re.split(rf'{type(error).__name__}: ', str(error).rstrip())[-1]
            who = '' if is_first_process() else f'rank {os.environ.get("RANK", "?")}: '
            print(f'error: {who}{text}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from downstream.running.preemption import EXIT_CODE, PreemptedError

        if not isinstance(error, PreemptedError):
            raise
        if is_first_process():
            print(error, file=sys.stderr)
        _leave_process_group(EXIT_CODE)
        sys.exit(EXIT_CODE)
    _leave_process_group()


def is_first_process() -> bool:
    """Whether this is rank 0, also before the processes have met."""
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))) == 0


def _have_met() -> bool:
    import torch.distributed as dist

    return dist.is_initialized()


def process_count(launcher: str) -> int:
    """How many processes ``launcher`` has started, also before they have met."""
    variables = {'pytorch': 'WORLD_SIZE', 'slurm': 'SLURM_NTASKS', 'mpi': 'OMPI_COMM_WORLD_SIZE'}
    return int(os.environ.get(variables.get(launcher, ''), 1))


def was_restarted() -> bool:
    """Whether torchrun or Slurm has started this very run before."""
    counts = (os.environ.get(f'{who}_RESTART_COUNT', 0) for who in ('TORCHELASTIC', 'SLURM'))
    return any(int(count) > 0 for count in counts)


def _leave_process_group(code: int = 0) -> None:
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
    os._exit(code)
