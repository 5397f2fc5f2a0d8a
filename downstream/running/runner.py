"""mmengine's Runner, made to run on a CPU in several processes and to log what a person reads."""

from __future__ import annotations

import logging
import os.path as osp
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, is_model_wrapper, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from backbones.errors import ConfigError
from backbones.weights.load import load_pretrained
from downstream.data.reading import check_reading
from downstream.distributed.gather import broadcast, gather
from downstream.quiet import KNOWN_LOG_MESSAGES, without_coco_output
from downstream.running.hooks.unreadable import UnreadableImagesHook
from downstream.running.resume.loops import EXACT_LOOPS, ExactEpochLoop
from downstream.running.resume.seeded_data import exact_dataloader

from .checkpoint import files as saving
from .checkpoint import read as checkpoints
from .checkpoint import sharding
from .checkpoint import writer as writing

# mmengine logs these at the start of every run; they are in the log file and in the dumped config.
_FILE_ONLY = (
    'Config:\n',
    '\n-----',
    'Hooks will be executed',
    'Distributed training is not used',
    'Exp name:',
    *KNOWN_LOG_MESSAGES,
)


def load_backbone_whole(backbone: nn.Module | None) -> None:
    """Load the pretrained weights of somebody's own class completely, or raise WeightsError.

    mmengine's ``Pretrained`` loads what happens to fit. The classes of this suite load whole by
    themselves, those of OpenMMLab know the names of their own files.
    """
    init_cfg = getattr(backbone, 'init_cfg', None)
    if (
        not isinstance(init_cfg, Mapping)
        or init_cfg.get('type') != 'Pretrained'
        or type(backbone).init_weights is not BaseModule.init_weights
        or type(backbone).__module__.split('.')[0] in ('mmcv', 'mmdet', 'mmseg', 'mmpretrain')
    ):
        return
    load_pretrained(backbone, **{k: v for k, v in init_cfg.items() if k != 'type'})
    backbone.init_cfg = None


@RUNNERS.register_module()
class SuiteRunner(Runner):
    """A Runner whose differences from mmengine's are these:

    - Without CUDA, several processes talk through gloo and SyncBN is BN.
    - A backbone's pretrained weights load whole, whoever wrote its class.
    - A resumed run repeats what an undisturbed one does, to the last bit on a CPU.
    - Checkpoints are whole or not there.
    - Files of the data set that cannot be read are named.
    - A checkpoint to test or to resume from must fit the model, and nothing in it is executed.
    - The terminal shows neither the whole config nor a line per parameter; the log file does not
      lack the former.
    """

    def __init__(
        self,
        model: nn.Module | dict,
        work_dir: str,
        *args,
        resume: bool = False,
        load_from: str | None = None,
        **kwargs,
    ) -> None:
        self._plan: tuple | None = (resume, load_from)
        with saving.full_disk_told(work_dir):
            super().__init__(model, work_dir, *args, resume=resume, load_from=load_from, **kwargs)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """A loop whose order and random numbers are those of the seed and the iteration alone."""
        cfg = self._train_dataloader
        exact = isinstance(loop, dict) and loop.get('type') in EXACT_LOOPS
        if not exact or not isinstance(cfg, dict) or 'num_batch_per_epoch' in cfg:
            return super().build_train_loop(loop)
        stand_in = any(isinstance(hook, UnreadableImagesHook) and hook.skips for hook in self.hooks)
        with without_coco_output():
            self._train_dataloader = exact_dataloader(cfg, self.seed, stand_in)
        try:
            return super().build_train_loop({**loop, 'type': EXACT_LOOPS[loop['type']].__name__})
        finally:
            self._train_dataloader = cfg  # whose batch size scale_lr reads

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args, **kwargs) -> DataLoader:
        """A loader that names the files it cannot read, and opens none outside of its data set."""
        with without_coco_output():
            loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        check_reading(loader.dataset)
        return loader

    def train(self) -> nn.Module:
        try:
            with saving.full_disk_told(self.work_dir):
                model = super().train()
        except BaseException:
            # what is being written is worth finishing, and the first error is the one to tell
            with suppress(saving.SavingError):
                self.writer.wait()
            raise
        finally:
            # Signal handlers and threads must not outlive a failed run.
            for hook in self.hooks:
                getattr(hook, 'close', lambda: None)()
        self.writer.wait()
        return model

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        *args,
        then: Callable[[], None] = lambda: None,
        wait: bool = False,
        **kwargs,
    ) -> None:
        """Save a checkpoint whole or not at all, with what an exact resume needs.

        It is written beside the training, from a copy in host memory, where that has room.

        Args:
            out_dir: A folder.
            filename: Of the checkpoint.
            args: Those of mmengine's.
            then: Called when it is whole.
            wait: Return after that.
            kwargs: Those of mmengine's.
        """
        model = self.model.module if is_model_wrapper(self.model) else self.model
        whole = {}
        if sharding.is_sharded(model):
            whole['state_dict'] = sharding.gathered(model.state_dict())
            if kwargs.get('save_optimizer', True):
                whole['optimizer'] = sharding.gathered(self.optim_wrapper.state_dict())
        if not is_main_process():
            return
        loop, meta = self._train_loop, kwargs.setdefault('meta', {})
        begin = getattr(loop, 'epoch_begin', 0)
        in_epoch = isinstance(loop, ExactEpochLoop) and meta.get('epoch') == self.epoch
        meta['batches_done'] = meta.get('iter', self.iter + 1) - begin if in_epoch else 0
        meta['processes'] = self.world_size
        with mock.patch('mmengine.runner.runner.save_checkpoint') as save:
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            collected = save.call_args.args[0] | whole
        self.writer.wait()
        copied = None if wait else writing.snapshot(collected)
        job = partial(self._write, copied or collected, Path(out_dir), filename, then)
        if copied is None:
            job()
        else:
            self.writer.submit(job)

    @staticmethod
    def _write(content: dict, folder: Path, filename: str, then: Callable[[], None]) -> None:
        try:
            writing.write(content, folder / saving.unfinished(filename))
            saving.publish(folder, filename)
            then()
        except OSError as error:
            (folder / saving.unfinished(filename)).unlink(missing_ok=True)
            raise saving.cannot_be_written(folder / filename, error) from error

    @cached_property
    def writer(self) -> writing.Writer:
        """What writes the checkpoints of this run."""
        return writing.Writer()

    def resume(self, filename: str, *args, **kwargs) -> None:
        super().resume(filename, *args, **kwargs)
        meta, loop = self._resumed_meta, self.train_loop
        self._require_same(filename)
        processes = meta.get('processes', self.world_size)
        if isinstance(loop, ExactEpochLoop):
            loop.batches_done = meta.get('batches_done', 0) * processes // self.world_size
        if processes != self.world_size:
            self.logger.warning(
                f'The checkpoint is of {processes} processes, this run has {self.world_size}: batch, '
                'order of the data and random numbers are not what they would have been.'
            )
        former = meta.get('cfg')
        if former:
            self._tell_changes(former)

    def _require_same(self, filename: str) -> None:
        """ConfigError unless all processes go on from the same step."""
        parts = gather([self.iter, str(filename), socket.gethostname()])
        different = broadcast(len({part[0] for part in parts}) > 1 if parts else None)
        if different:
            shown = '; '.join(
                f'rank {rank} on {host}: {file}, iteration {step}'
                for rank, (step, file, host) in enumerate(parts or [])
            )
            raise ConfigError(
                f'the processes would go on from different checkpoints: {shown}. The work dir must be on '
                'a disk that all machines share.'
            )

    def _tell_changes(self, former: str) -> None:
        """Log in which lines the config differs from the one in the checkpoint."""
        old, new = (set(text.splitlines()) for text in (former, self.cfg.pretty_text))
        own = ('resume', 'load_from', 'work_dir', 'launcher', 'randomness')
        lines = [f'- {line}' for line in sorted(old - new) if not line.startswith(own)]
        lines += [f'+ {line}' for line in sorted(new - old) if not line.startswith(own)]
        if lines:
            shown = '\n'.join(lines[:20])
            self.logger.warning(f'The config has changed since the checkpoint:\n{shown}')

    def setup_env(self, env_cfg: dict) -> None:
        if self.distributed and not torch.cuda.is_available() and not dist.is_initialized():
            if self.launcher != 'pytorch':
                raise ConfigError(
                    f'--launcher {self.launcher} needs CUDA; without it use tools/dist_train.sh or '
                    'torchrun (--launcher pytorch).'
                )
            dist.init_process_group('gloo')
        super().setup_env(env_cfg)

    def set_randomness(self, seed: int | None = None, *args, **kwargs) -> None:
        """Seed this process; at the first time all agree on what they go on from, and on its seed.

        A machine that joins a run again does not know that the run was started again.
        """
        if self._plan is not None:
            plans = gather([*self._plan, seed])
            if plans is not None:
                plans = next((plan for plan in plans if plan[0]), plans[0])
            *self._agreed, seed = broadcast(plans)
            self._plan = None
        super().set_randomness(seed, *args, **kwargs)

    def load_or_resume(self) -> None:
        self._resume, self._load_from = self._agreed
        super().load_or_resume()

    def build_logger(self, log_level='INFO', log_file=None, **kwargs) -> MMLogger:
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.addFilter(lambda record: not str(record.msg).startswith(_FILE_ONLY))
        return logger

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        if self._shards:
            # Later: weights are loaded into whole tensors.
            model = model if torch.cuda.is_available() else revert_sync_batchnorm(model)
            return model.to(get_device())
        if self.distributed and not torch.cuda.is_available():
            model = revert_sync_batchnorm(model)
            if model_wrapper_cfg is None:
                model_wrapper_cfg = {
                    'type': 'MMDistributedDataParallel',
                    'device_ids': None,
                    'broadcast_buffers': False,
                    'find_unused_parameters': self.cfg.get('find_unused_parameters', False),
                }
        return super().wrap_model(model_wrapper_cfg, model)

    @property
    def _shards(self) -> bool:
        return self.distributed and self.cfg.get('sharded', False)

    def build_optim_wrapper(self, optim_wrapper: dict | OptimWrapper) -> OptimWrapper:
        if self._shards and not sharding.is_sharded(self.model):
            if any(isinstance(hook, EMAHook) for hook in self.hooks):
                raise ConfigError('sharded=True and EMAHook do not go together; leave one out.')
            self._init_model_weights()
            sharding.shard(self.model)
        return super().build_optim_wrapper(optim_wrapper)

    def _init_model_weights(self) -> None:
        if sharding.is_sharded(self.model):
            return  # it was done before
        model = self.model.module if is_model_wrapper(self.model) else self.model
        load_backbone_whole(getattr(model, 'backbone', None))
        # Two lines per parameter say how it was initialised: thousands that nobody reads.
        with mock.patch.object(BaseModule, '_dump_init_info'):
            super()._init_model_weights()

    def dump_config(self) -> None:
        """Into the work dir; that of a test, which may share it with a training, into its log's."""
        if self._train_loop is None:
            self.cfg.dump(osp.join(self.log_dir, 'config.py'))
        else:
            super().dump_config()

    def load_checkpoint(self, filename: str, map_location='cpu', **kwargs) -> dict:
        """Load a whole model's checkpoint; see :func:`.checkpoints.fitted` for what it may be."""
        checkpoint = checkpoints.read(filename)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        # A TTA model holds the trained one as `module`; fine-tuning may change heads.
        model = getattr(model, 'module', model)
        fine_tuning = not self._resume and isinstance(self._train_loop, BaseLoop)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        state = checkpoints.fitted(checkpoint['state_dict'], model, filename, fine_tuning)
        expected = model.state_dict()
        state = {name: sharding.like(value, expected[name]) for name, value in state.items()}
        model.load_state_dict(state, strict=not fine_tuning)
        if sharding.is_sharded(model) and 'optimizer' in checkpoint:
            checkpoint['optimizer'] = sharding.spread_optimizer(
                checkpoint['optimizer'], self.optim_wrapper.optimizer
            )
        self._has_loaded = True
        self.logger.info(f'Checkpoint {filename}: {len(state)} tensors loaded')
        self._resumed_meta = checkpoint.get('meta', {})
        # Runner.resume would execute this text as Python.
        checkpoint.get('meta', {}).pop('config', None)
        return checkpoint
