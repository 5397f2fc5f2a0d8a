"""The processes of a run, as the environment of their launcher describes them."""

from __future__ import annotations

import logging
import os
import sys


def is_first_process() -> bool:
    """Whether this is rank 0, also before the processes have met."""
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))) == 0


def have_met() -> bool:
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


def leave_process_group(code: int = 0) -> None:
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
