"""The processes of a run, as the environment of their launcher describes them, and their end."""

from __future__ import annotations

import logging
import os
import sys

# The variables of each launcher for rank, rank on its machine, and number of processes.
_VARIABLES = {
    'pytorch': ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'),
    'slurm': ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE'),
}
# Ports of Slurm jobs: below those that Linux gives to outgoing connections (32768 and more).
_FIRST_PORT, _PORTS = 20000, 10000


def is_first_process() -> bool:
    """Whether this is rank 0; it needs no process group."""
    ranks = (os.environ[rank] for rank, _, _ in _VARIABLES.values() if rank in os.environ)
    return int(next(ranks, 0)) == 0


def is_first_of_machine() -> bool:
    """Whether this is the first of the processes on its machine; it needs no process group."""
    ranks = (os.environ[rank] for _, rank, _ in _VARIABLES.values() if rank in os.environ)
    return int(next(ranks, 0)) == 0


def have_met() -> bool:
    """Whether the processes have formed a process group."""
    import torch.distributed as dist

    return dist.is_initialized()


def process_count(launcher: str) -> int:
    """How many processes ``launcher`` has started; it needs no process group."""
    if launcher not in _VARIABLES:
        return 1
    return int(os.environ.get(_VARIABLES[launcher][2], 1))


def was_restarted() -> bool:
    """Whether torchrun or Slurm has started this same run before."""
    names = ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT')
    counts = (os.environ.get(name, 0) for name in names)
    return any(int(count) > 0 for count in counts)


def complete_environment(launcher: str, local_rank: int = 0) -> None:
    """Set ``LOCAL_RANK``, and ``MASTER_PORT`` under Slurm, unless they are set.

    mmengine chooses the GPU by the launcher's own variable and passes ``LOCAL_RANK`` to
    DistributedDataParallel, so the two must agree. Its port under Slurm is always 29500, for which two
    jobs on one machine would compete; here it follows from the numbers of job and step.

    Args:
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        local_rank: The argument that older launchers pass.
    """
    environment = os.environ
    if launcher in _VARIABLES:
        local_rank = int(environment.get(_VARIABLES[launcher][1], local_rank))
    environment.setdefault('LOCAL_RANK', str(local_rank))
    if launcher == 'slurm' and 'SLURM_JOB_ID' in environment:
        job, step = (int(environment.get(f'SLURM_{name}_ID', 0)) for name in ('JOB', 'STEP'))
        port = _FIRST_PORT + (job + 101 * step) % _PORTS
        environment.setdefault('MASTER_PORT', str(port))


def leave_process_group(code: int = 0) -> None:
    """Leave the process group once all processes have come here; with gloo, end this process.

    Args:
        code: The exit code with which it ends.
    """
    import torch.distributed as dist

    if not dist.is_initialized():
        return
    from .flags import maximum

    # A launcher may kill the others when the first process leaves.
    maximum(0)
    if 'gloo' not in dist.get_backend():
        dist.destroy_process_group()
        return
    # gloo's threads sometimes abort the interpreter at its exit ("terminate called without an active
    # exception"), and torchrun reports a finished run as failed. So nothing is destroyed.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
