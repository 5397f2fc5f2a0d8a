"""Models too large for one GPU's memory: parameters, gradients and optimizer sharded over processes.

``sharded=True`` in a config. It is PyTorch's ``fully_shard`` (FSDP2), which leaves the names of the
parameters as they are, so learning rates per layer, hooks and checkpoints need no translation.
Checkpoints hold the whole model: the first process writes them, and they load into any number of
processes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from backbones.errors import ConfigError

# torch.distributed.checkpoint is imported in the functions: it is slow, and few runs are sharded.
_DTYPES = {None: None, 'bfloat16': torch.bfloat16}


@dataclass(frozen=True)
class ShardingOptions:
    """What a config may say as ``sharded=dict(...)``; ``sharded=True`` is the default of all.

    Attributes:
        param_dtype: None or ``'bfloat16'``: the dtype in which the parameters of the backbone's blocks
            are gathered, and in which blocks compute. It halves what processes exchange. Blocks take and
            return float32; gradients are reduced in float32; the rest of the model is as without it.
            Validations of the training run compute the blocks in bfloat16 as well.
        sync_every_pass: Whether gradients that are accumulated are reduced after each pass. Without it
            they are reduced in the last pass only, and every process keeps the gradients of the whole
            model until then.
    """

    param_dtype: str | None = None
    sync_every_pass: bool = True

    def __post_init__(self) -> None:
        if self.param_dtype not in _DTYPES:
            raise ConfigError(
                f"sharded.param_dtype={self.param_dtype!r} must be 'bfloat16' or None."
            )

    @classmethod
    def from_config(cls, value: bool | Mapping | None) -> ShardingOptions | None:
        """The options of ``sharded`` in a config; None where the model is not to be sharded.

        Raises:
            ConfigError: ``value`` is neither True, False, None nor a dict of known options.
        """
        if isinstance(value, Mapping):
            known = [field.name for field in fields(cls)]
            unknown = sorted(set(value) - set(known))
            if unknown:
                raise ConfigError(
                    f'sharded has no option {", ".join(unknown)}; it has {", ".join(known)}.'
                )
            return cls(**value)
        if value not in (True, False, None):
            raise ConfigError(f'sharded={value!r} must be True, False or a dict of options.')
        return cls() if value else None


def shard(model: nn.Module, options: ShardingOptions | None = None) -> None:
    """Shard the parameters of ``model`` over all processes; its weights become the first process's.

    The units are what a method ``blocks()`` of the model returns, or of ``model.backbone``
    (:meth:`backbones.base.Backbone.blocks`), and all the rest of the model as one more unit. The
    parameters of a unit are whole only while the unit runs.

    Args:
        model: What is trained, on the device that it is trained on.
        options: None: the default of each.

    Raises:
        ConfigError: ``param_dtype`` is set, and the backbone has no blocks, or blocks with running
            statistics, which must stay in float32. Or PyTorch is too old.
    """
    if not hasattr(FSDPModule, 'set_reshard_after_forward'):
        raise ConfigError(
            f'sharded=True needs a newer PyTorch than {torch.__version__}, whose FSDPModule has no '
            'set_reshard_after_forward; constraints.txt names the tested version.'
        )
    policy = _policy(model, options or ShardingOptions())
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), 0)
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for block in blocks_of(model):
        if any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)


def _policy(model: nn.Module, options: ShardingOptions) -> MixedPrecisionPolicy:
    """The dtypes of the backbone's blocks."""
    dtype = _DTYPES[options.param_dtype]
    if dtype is None:
        return MixedPrecisionPolicy()
    name = f'sharded.param_dtype={options.param_dtype!r}'
    blocks = blocks_of(model)
    if not blocks:
        raise ConfigError(
            f'{name} needs a backbone with a method blocks(); {type(model).__name__} has none.'
        )
    if any(b.is_floating_point() for block in blocks for b in block.buffers()):
        raise ConfigError(
            f'{name} is not for a backbone whose blocks have buffers, such as the running statistics '
            'of BatchNorm; leave it out.'
        )
    return MixedPrecisionPolicy(dtype, torch.float32, output_dtype=torch.float32)


def gather_parameters(model: nn.Module) -> None:
    """Make the parameters of a sharded model whole on every process, until :func:`reshard`.

    Every process must call this. Afterwards forward passes without gradients need no communication, so
    that processes may run different numbers of them.
    """
    for unit in _units(model):
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()


def reshard(model: nn.Module) -> None:
    """Undo :func:`gather_parameters`."""
    for unit in _units(model):
        # As fully_shard does: the outermost unit is needed again at once, in the backward pass.
        unit.set_reshard_after_forward(unit is not model, recurse=False)
        unit.reshard()


def _units(model: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in model.modules() if isinstance(module, FSDPModule))


def blocks_of(model: nn.Module) -> Iterable[nn.Module]:
    """What ``blocks()`` of a model or of its backbone returns; nothing where neither has it."""
    for owner in (model, getattr(model, 'backbone', None)):
        blocks = getattr(owner, 'blocks', None)
        # A user's class may have an attribute of this name, e.g. an nn.ModuleList, which is callable too.
        if inspect.ismethod(blocks):
            return tuple(blocks())
    return ()


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` was called with ``model``."""
    # Not by the type of the parameters: those of a unit are plain tensors while it is gathered.
    return isinstance(model, FSDPModule)


def gather_model(model: nn.Module) -> dict[str, Any]:
    """The whole state dict in host memory on the first process, an empty one on all others.

    Every process must call this. On the others one tensor at a time is whole.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    whole = get_model_state_dict(model, options=options)
    for name, _ in model.named_buffers():
        if isinstance(value := whole.get(name), Tensor):
            whole[name] = value.clone()  # not sharded, so on a CPU this is the buffer itself
    return whole


def load_model(model: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """Load whole tensors into a sharded model; every process calls this and copies its own part."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    options = StateDictOptions(full_state_dict=True, strict=strict)
    set_model_state_dict(model, dict(state), options=options)


def gather_optimizer(wrapper: OptimWrapper) -> dict:
    """Like :func:`gather_model` for the state dict of an optimizer wrapper.

    ``torch.distributed.checkpoint`` has a function for this, but that one calls the optimizer's
    ``step`` and gives a state to parameters that have had no gradient, so a resumed run would differ.
    """
    whole = _gathered(wrapper.state_dict(), dist.get_rank() == 0)
    return whole if isinstance(whole, dict) else {}


def _gathered(content: object, keep: bool) -> object:
    if isinstance(content, DTensor):
        whole = content.full_tensor()
        return whole.cpu() if keep else None
    if isinstance(content, dict):
        parts = {key: _gathered(value, keep) for key, value in content.items()}
        return parts if keep else None
    if isinstance(content, (list, tuple)):
        items = [_gathered(value, keep) for value in content]
        return type(content)(items) if keep else None
    return content.cpu().clone() if keep and isinstance(content, Tensor) else content


def shard_optimizer_state(state: dict, optimizer: torch.optim.Optimizer) -> dict:
    """The whole state dict of an optimizer with averages sharded as the parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    sharded = {
        index: {
            name: _shard_like(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in values.items()
        }
        for index, values in state['state'].items()
    }
    return {**state, 'state': sharded}


def _shard_like(whole: Tensor, example: Tensor) -> Tensor:
    if not isinstance(example, DTensor):
        return whole
    whole = whole.to(example.device, example.dtype)
    return distribute_tensor(whole, example.device_mesh, example.placements)


def local(gradient: Tensor) -> Tensor:
    """This process's part of a gradient."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
