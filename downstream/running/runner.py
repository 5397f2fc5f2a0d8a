"""mmengine's Runner, made to run on a CPU in several processes and to log what a person reads."""

from __future__ import annotations

import logging
import os
import os.path as osp
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import cached_property, partial
from pathlib import Path

import mmengine
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from backbones.errors import ConfigError
from backbones.upstream import required
from downstream.data.reading import check_reading
from downstream.distributed.wrapping import trained_part, unwrapped
from downstream.operators.ops import hide_from_compiler
from downstream.quiet import KNOWN_LOG_MESSAGES, without_coco_output
from downstream.running.checkpoint import files, sharding, writer
from downstream.running.checkpoint.read import matching_tensors, read
from downstream.running.hooks.sharded import ShardedModelHook
from downstream.running.hooks.unreadable import UnreadableImagesHook
from downstream.running.loggers.hook import LoggersHook, background_loggers
from downstream.running.resume.gradient_order import GradientOrder
from downstream.running.resume.loops import EXACT_LOOPS, ExactEpochLoop
from downstream.running.resume.seeded_data import exact_dataloader
from downstream.running.resume.start import Start, agree_on_start

from .batch_norm import explain_single_values
from .compiler import explain_compiler, leave_uncompiled
from .config_text import FormattedOnce
from .gpu_memory import TRAINING, explain_full_gpu
from .optimizer_kernels import keep_implementation
from .schedule.fit import misfits
from .weights.initialise import initialise

required('mmengine.runner.Runner._init_model_weights')  # which is overridden

# mmengine logs these at the start of every run; they are in the log file and in the dumped config.
_FILE_ONLY = (
    'Config:\n',
    '\n-----',
    'Hooks will be executed',
    'paramwise_options -- ',
    'Distributed training is not used',
    'Exp name:',
    *KNOWN_LOG_MESSAGES,
)


def _states(schedulers: dict | list) -> dict | list:
    if isinstance(schedulers, dict):  # of several optimizers
        return {name: _states(some) for name, some in schedulers.items()}
    return [scheduler.state_dict() for scheduler in schedulers]


_TIMESTAMPS: Counter[str] = Counter()


def _unique(timestamp: str) -> str:
    """Runs of one process get folders and loggers of their own, also within one second."""
    _TIMESTAMPS[timestamp] += 1
    count = _TIMESTAMPS[timestamp]
    return timestamp if count == 1 else f'{timestamp}_{count}'


@RUNNERS.register_module()
class SuiteRunner(Runner):
    """A Runner that differs from mmengine's in these points:

    - Without CUDA, several processes communicate through gloo, and SyncBN is BN.
    - The pretrained weights of a backbone are loaded completely, whoever wrote its class.
    - All processes start from the same checkpoint, which the first one has compared with its digest.
    - A resumed run repeats what an undisturbed one does, bit for bit on a CPU.
    - Checkpoints are written atomically; the text of the config in them is formatted once.
    - Files of the data set that cannot be read are named.
    - A checkpoint to test or to resume from must match the model, and no code in it is executed.
    - The terminal shows neither the whole config nor a line per parameter.

    Args:
        model: As in mmengine's.
        work_dir: As in mmengine's.
        args: Those of mmengine's.
        resume: True, False or ``'auto'``; see :func:`.resume.start.agree_on_start`.
        load_from: A checkpoint.
        randomness: As in mmengine's. A checkpoint to resume from replaces its seed.
        cfg: As in mmengine's.
        kwargs: Those of mmengine's.
    """

    # Of mmengine's Runner, which does not say their types.
    _train_dataloader: DataLoader | dict
    _timestamp: str

    def __init__(
        self,
        model: nn.Module | dict,
        work_dir: str,
        *args,
        resume: bool | str = False,
        load_from: str | None = None,
        randomness: dict | None = None,
        cfg: Config | dict | None = None,
        **kwargs,
    ) -> None:
        self._request = (resume, load_from)
        # The seed is replaced in this very dict, when the processes have met (setup_env).
        self._randomness = {'seed': None, **(randomness or {})}
        self._former_order: Sequence[str] = ()  # of the run to resume
        self._gradient_order: GradientOrder | None = None
        # The start of a test is in the hands of its caller, which has another advice.
        training = kwargs.get('train_cfg') is not None
        with files.raise_on_full_disk(work_dir) if training else nullcontext():
            super().__init__(
                model,
                work_dir,
                *args,
                resume=bool(resume),
                load_from=load_from,
                randomness=self._randomness,
                cfg=FormattedOnce.of(cfg),
                **kwargs,
            )

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """As mmengine's; an argument that a class of the model does not have is a ConfigError."""
        try:
            return super().build_model(model)
        except TypeError as error:
            if 'unexpected keyword argument' not in str(error):
                raise
            raise ConfigError(f'model of the config: {error}.') from error

    @property
    def unwrapped_model(self) -> nn.Module:
        """The model without DistributedDataParallel around it."""
        return unwrapped(self.model)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """A loop whose order and random numbers are those of the seed and the iteration alone."""
        cfg = self._train_dataloader
        exact = isinstance(loop, dict) and loop.get('type') in EXACT_LOOPS
        if not exact or not isinstance(cfg, dict) or 'num_batch_per_epoch' in cfg:
            return super().build_train_loop(loop)
        replace_unreadable = any(
            isinstance(hook, UnreadableImagesHook) and hook.skips for hook in self.hooks
        )
        with without_coco_output():
            self._train_dataloader = exact_dataloader(cfg, self.seed, replace_unreadable)
        try:
            return super().build_train_loop({**loop, 'type': EXACT_LOOPS[loop['type']].__name__})
        finally:
            self._train_dataloader = cfg  # whose batch size scale_lr reads

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args, **kwargs) -> DataLoader:
        """A loader that names the files it cannot read, and opens none outside of its data set."""
        if isinstance(dataloader, dict) and torch.cuda.is_available():
            # Copies to the device are asynchronous from pinned memory alone.
            dataloader = {'pin_memory': True, **dataloader}
        with without_coco_output():
            loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        check_reading(loader.dataset)
        return loader

    def train(self) -> nn.Module:
        loggers = background_loggers(self.visualizer)
        if loggers and is_main_process():
            self.register_hook(LoggersHook(loggers))
        try:
            with (
                files.raise_on_full_disk(self.work_dir),
                explain_full_gpu(TRAINING),
                explain_single_values(),
                explain_compiler() if self.cfg.get('compile') else nullcontext(),
            ):
                model = super().train()
        except BaseException:
            # Finish what is being written. Of two errors the first one matters.
            with suppress(files.SavingError):
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
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        then: Callable[[], None] = lambda: None,
        wait: bool = False,
        **ignored,
    ) -> None:
        """Save a checkpoint atomically, with what an exact resume needs.

        It is written while training goes on, from a copy in host memory, if there is room for one.

        Args:
            out_dir: A folder.
            filename: Of the checkpoint.
            file_client_args: As mmengine's hook gives it, for storage that is not a disk; not used.
            save_optimizer: Whether to save the state of the optimizer.
            save_param_scheduler: Whether to save that of learning rates and the like.
            meta: Of the checkpoint.
            by_epoch: Whether it is saved after an epoch, rather than after an iteration.
            then: Called when the file is complete.
            wait: Return after that.
            ignored: Other arguments of mmengine's, for storage that is not a disk.
        """
        whole = {}
        if sharding.is_sharded(self.unwrapped_model):
            whole['state_dict'] = sharding.gather_model(self.unwrapped_model)
            if save_optimizer:
                whole['optimizer'] = sharding.gather_optimizer(self.optim_wrapper)
        if not is_main_process():
            return
        content = {'meta': self._meta(meta or {}, by_epoch)} | whole
        content['message_hub'] = self.message_hub.state_dict()
        if 'state_dict' not in content:
            content['state_dict'] = self.unwrapped_model.state_dict()
        if save_optimizer and 'optimizer' not in content:
            content['optimizer'] = self.optim_wrapper.state_dict()
        if save_param_scheduler and self.param_schedulers is not None:
            content['param_schedulers'] = _states(self.param_schedulers)
        self.call_hook('before_save_checkpoint', checkpoint=content)
        self.writer.wait()
        copied = None if wait else writer.snapshot(content, copied=whole)
        job = partial(self._write, copied or writer.on_host(content), Path(out_dir), filename, then)
        if copied is None:
            job()
        else:
            self.writer.submit(job)

    def _meta(self, meta: dict, by_epoch: bool) -> dict:
        """What mmengine records of a run, and how far it is within its epoch."""
        # Hooks save an epoch's checkpoint before its number goes up, and an iteration's as well.
        position = (self.epoch + 1, self.iter) if by_epoch else (self.epoch, self.iter + 1)
        meta = {'epoch': position[0], 'iter': position[1], **meta}
        loop = self._train_loop
        in_epoch = isinstance(loop, ExactEpochLoop) and meta['epoch'] == self.epoch
        dataset_meta = getattr(self.train_dataloader.dataset, 'metainfo', None)
        return {
            **meta,
            'batches_done': meta['iter'] - loop.epoch_begin if in_epoch else 0,
            'gradient_order': self._gradient_order.names if self._gradient_order else [],
            'processes': self.world_size,
            'cfg': self.cfg.pretty_text,
            'seed': self.seed,
            'experiment_name': self.experiment_name,
            'time': time.strftime('%Y%m%d_%H%M%S', time.localtime()),
            'mmengine_version': mmengine.__version__,
            **({} if dataset_meta is None else {'dataset_meta': dataset_meta}),
        }

    @staticmethod
    def _write(content: dict, folder: Path, filename: str, then: Callable[[], None]) -> None:
        try:
            writer.write(content, folder / files.unfinished(filename))
            files.publish(folder, filename)
            then()
        except OSError as error:
            (folder / files.unfinished(filename)).unlink(missing_ok=True)
            raise files.cannot_be_written(folder / filename, error) from error

    @cached_property
    def writer(self) -> writer.Writer:
        """What writes the checkpoints of this run."""
        return writer.Writer()

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Go on from a checkpoint, also in the middle of an epoch."""
        self._resume = True  # hooks and load_checkpoint depend on it
        super().resume(filename, *args, **kwargs)

    def _continue_from(self, meta: dict) -> None:
        """Continue where the run was that wrote a checkpoint with ``meta``."""
        loop = self.train_loop
        processes = meta.get('processes', self.world_size)
        self._former_order = meta.get('gradient_order', ())
        if isinstance(loop, ExactEpochLoop):
            loop.batches_done = meta.get('batches_done', 0) * processes // self.world_size
        if processes != self.world_size:
            self.logger.warning(
                f'The checkpoint is of {processes} processes, this run has {self.world_size}: batch, '
                'order of the data and random numbers are not what they would have been.'
            )
        if meta.get('cfg'):
            self._log_config_changes(meta['cfg'])

    def _log_config_changes(self, former: str) -> None:
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
        self._timestamp = _unique(self._timestamp)
        if env_cfg.get('tf32') and self._train_loop is not None:
            torch.backends.cuda.matmul.allow_tf32 = True
        self._start = self._agree_on_start()

    def _agree_on_start(self) -> Start:
        """What all processes start from; its seed is that of the run."""
        start = agree_on_start(self.work_dir, *self._request, self._randomness['seed'])
        self._randomness['seed'] = start.seed
        return start

    def set_randomness(
        self, seed: int | None = None, diff_rank_seed: bool = False, deterministic: bool = False
    ) -> None:
        """Seed this process.

        ``deterministic`` takes deterministic kernels where there are some and warns of the others.
        mmengine's raises an error then, at the loss of every segmenter on CUDA.
        """
        if deterministic:
            # cuBLAS reads it when it is first used.
            os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        super().set_randomness(seed, diff_rank_seed, deterministic)
        if deterministic:
            torch.use_deterministic_algorithms(True, warn_only=True)

    def load_or_resume(self) -> None:
        """Load what the processes have agreed on when they met."""
        requested, _ = self._request
        if requested and not self._start.resume:
            self.logger.warning(
                f'--resume: {self.work_dir} has no intact checkpoint; training starts from iteration 0.'
            )
        self._resume, self._load_from = self._start.resume, self._start.checkpoint
        super().load_or_resume()
        if self._train_loop is not None:
            self._gradient_order = GradientOrder(self.model, self._former_order)
        if self._train_loop is not None and torch.backends.cuda.matmul.allow_tf32:
            self.logger.info('Matrix products in float32 use TF32 on CUDA (env_cfg.tf32).')

    def build_logger(self, log_level='INFO', log_file=None, **kwargs) -> MMLogger:
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.addFilter(lambda record: not str(record.msg).startswith(_FILE_ONLY))
        return logger

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        if self._sharding:
            # Later: weights are loaded into whole tensors.
            model = model if torch.cuda.is_available() else revert_sync_batchnorm(model)
            return model.to(get_device())
        if self.distributed:
            model_wrapper_cfg = self._complete_wrapper(model_wrapper_cfg or {})
            if not torch.cuda.is_available():
                model = revert_sync_batchnorm(model)
        return super().wrap_model(model_wrapper_cfg, model)

    def _complete_wrapper(self, cfg: dict) -> dict:
        """mmengine's defaults of DistributedDataParallel, and gradients that are views of its buckets."""
        if cfg.get('type', 'MMDistributedDataParallel') != 'MMDistributedDataParallel':
            return cfg
        return {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': self.cfg.get('find_unused_parameters', False),
            # Otherwise the buckets hold a second copy of all gradients.
            'gradient_as_bucket_view': True,
            **({} if torch.cuda.is_available() else {'device_ids': None}),
            **cfg,
        }

    @cached_property
    def _sharding(self) -> sharding.ShardingOptions | None:
        options = sharding.ShardingOptions.from_config(self.cfg.get('sharded'))
        return options if self.distributed else None

    def build_optim_wrapper(self, optim_wrapper: dict | OptimWrapper) -> OptimWrapper:
        if self._sharding and not sharding.is_sharded(self.model):
            if any(isinstance(hook, EMAHook) for hook in self.hooks):
                raise ConfigError('sharded=True and EMAHook do not go together; leave one out.')
            self._init_model_weights()
            sharding.shard(self.model, self._sharding)
            self.register_hook(ShardedModelHook(self._sharding.sync_every_pass))
        built = super().build_optim_wrapper(optim_wrapper)
        if self.cfg.get('compile') and isinstance(built, OptimWrapper):
            leave_uncompiled(built)
            hide_from_compiler()
        return built

    def build_param_scheduler(self, scheduler: dict | list) -> dict | list:
        loop = self._train_loop
        listed = [scheduler] if isinstance(scheduler, dict) else scheduler or ()
        if isinstance(loop, BaseLoop) and all(isinstance(one, dict) for one in listed):
            epochs = loop.max_epochs if isinstance(loop, EpochBasedTrainLoop) else None
            for sentence in misfits(listed, epochs, loop.max_iters):
                self.logger.warning(sentence)
        return super().build_param_scheduler(scheduler)

    def _init_model_weights(self) -> None:
        if not sharding.is_sharded(self.model):  # else it was done before
            by_model = bool((self.cfg.get('model') or {}).get('pretrained'))
            initialise(self.unwrapped_model, by_model)

    def dump_config(self) -> None:
        """Into the work dir; that of a test, which may share it with a training, into its log's."""
        source = self.cfg.filename and Path(self.cfg.filename).resolve()
        if self._train_loop is None:
            self.cfg.dump(osp.join(self.log_dir, 'config.py'))
        elif source and source.parent == Path(self.work_dir).resolve():
            # The config that a user wrote is there, and stays.
            if is_main_process():
                self.cfg.dump(osp.join(self.work_dir, f'{source.stem}.complete.py'))
        else:
            super().dump_config()

    def load_checkpoint(self, filename: str, map_location: str = 'cpu', **kwargs) -> dict:
        """Load the checkpoint of a whole model.

        Which ones can be loaded: see :func:`.checkpoint.read.matching_tensors`.
        """
        checkpoint = read(filename, mmap=True)
        model = trained_part(self.model)
        # Fine-tuning may change heads.
        fine_tuning = not self._resume and isinstance(self._train_loop, BaseLoop)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        former, classes = None, None
        if fine_tuning:
            former = (checkpoint.get('meta', {}).get('dataset_meta') or {}).get('classes')
            classes = getattr(self.train_dataloader.dataset, 'metainfo', {}).get('classes')
        state = matching_tensors(
            checkpoint['state_dict'], model, filename, fine_tuning, former, classes
        )
        if sharding.is_sharded(model):
            sharding.load_model(model, state, strict=not fine_tuning)
        else:
            model.load_state_dict(state, strict=not fine_tuning)
        if self._resume and 'optimizer' in checkpoint:
            # An optimizer on the CPU takes the tensors themselves, which must not be views of the file.
            optimizer = writer.on_host(
                checkpoint['optimizer'], copy_host_tensors=get_device() == 'cpu'
            )
            if sharding.is_sharded(model):
                optimizer = sharding.shard_optimizer_state(optimizer, self.optim_wrapper.optimizer)
            if isinstance(self.optim_wrapper, OptimWrapper):  # not a dict of several
                keep_implementation(optimizer, self.optim_wrapper.optimizer)
            checkpoint['optimizer'] = optimizer
        self._has_loaded = True
        self.logger.info(f'Checkpoint {filename}: {len(state)} tensors loaded')
        if self._resume:
            self._continue_from(checkpoint.get('meta', {}))
        # Runner.resume would execute this text as Python.
        checkpoint.get('meta', {}).pop('config', None)
        return checkpoint
