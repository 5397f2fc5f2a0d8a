"""Which backend carries what: with ``cpu:gloo,cuda:nccl`` small messages need no NCCL communicator."""

import importlib
import os

import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import get_comm_device

from downstream.distributed import flags, gather
from tests.conftest import ROOT
from tests.support import processes


def exchange_all(folder) -> None:
    """All that the suite exchanges besides gradients; torch's fake backend for CUDA exchanges nothing."""
    importlib.import_module('torch.testing._internal.distributed.fake_pg')
    cfg = Config.fromfile(ROOT / 'configs' / '_base_' / 'runtime' / 'default.py')
    backend = cfg.env_cfg.dist_cfg.backend
    assert backend == 'cpu:gloo,cuda:nccl'
    dist.init_process_group(backend.replace('nccl', 'fake'))
    assert get_comm_device().type == 'cpu'
    rank = dist.get_rank()
    assert gather.broadcast({'seed': 7} if rank == 0 else None) == {'seed': 7}
    parts = gather.gather(rank)
    assert parts == ([0, 1, 2] if rank == 0 else None)
    assert flags.maximum(rank, -rank) == [2, 0]
    (folder / f'done{rank}').touch()
    os._exit(0)


def test_small_messages_go_through_the_host(tmp_path):
    for process in processes.start(exchange_all, tmp_path, [{'folder': tmp_path}] * 3):
        process.join(60)
        assert process.exitcode == 0, (tmp_path / 'out0').read_text()
    assert len(list(tmp_path.glob('done*'))) == 3
