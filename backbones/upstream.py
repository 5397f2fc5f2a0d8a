"""Names that torch, timm, mmengine and mmdet do not promise to keep, and what needs each of them.

Every private name that this suite uses stands here once and is resolved once, when what needs it is
imported. So an upgrade that renames one either stops the import with a clear error or turns one feature
off, and nothing fails, or silently changes, in the middle of a run.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from backbones.openmmlab import DISTRIBUTIONS

_FUSED = 'fused blocks'
# Dotted path of the name -> the feature that needs it.
PRIVATE_NAMES: dict[str, str] = {
    'mmdet.models.detectors.BaseDetector._forward': 'testing exported detectors',
    'mmdet.models.detectors.dino.DINO._init_layers': 'DINO with the published decoder',
    'mmdet.models.test_time_augs.DetTTAModel._merge_single_sample': 'merging views with masks',
    'mmengine.hooks.CheckpointHook._init_rule': 'SafeCheckpointHook',
    'mmengine.hooks.CheckpointHook._save_best_checkpoint': 'SafeCheckpointHook',
    'mmengine.hooks.CheckpointHook._save_checkpoint_with_step': 'SafeCheckpointHook',
    'mmengine.model.BaseModule._dump_init_info': 'a log without a line per initialised parameter',
    'mmengine.optim.CosineAnnealingLR._get_value': 'the learning rate of pre-training',
    'mmengine.optim.DefaultOptimWrapperConstructor._validate_cfg': 'checking the options of layer decay',
    'mmengine.runner.Runner._init_model_weights': 'loading pretrained weights completely',
    'mmengine.runner.checkpoint._safe_torch_load': 'reading checkpoints without running code in them',
    'mmengine.visualization.BaseVisBackend._init_env': 'loggers that begin with a training',
    'timm.models.swin_transformer.SwinTransformerBlock._attn': 'Swin on maps of any size',
    'timm.models.swin_transformer_v2.SwinTransformerV2Block._attn': 'Swin V2 on maps of any size',
    'torch._C._functorch.peek_interpreter_stack': _FUSED,
    'torch._C._len_torch_dispatch_stack': _FUSED,
    'torch._C._len_torch_function_stack': _FUSED,
    'torch._dynamo.exc.TorchDynamoException': 'one line where torch.compile fails',
    'torch._prims_common.is_contiguous_or_false': "exported ViTs' files for any number of pictures",
    'torch.autograd.forward_ad._current_level': _FUSED,
    'torch.distributed.Reducer.prepare_for_backward': 'exact resume on several processes',
    'torch.distributed.distributed_c10d._get_default_store': 'HangHook',
    'torch.fx.experimental._config.patch': 'exported files for pictures of every size',
    'torch.nn.Module._backward_hooks': _FUSED,
    'torch.nn.Module._backward_pre_hooks': _FUSED,
    'torch.nn.Module._compiled_call_impl': _FUSED,
    'torch.nn.Module._forward_hooks': _FUSED,
    'torch.nn.Module._forward_pre_hooks': _FUSED,
    'torch.nn.modules.module._global_backward_hooks': _FUSED,
    'torch.nn.modules.module._global_backward_pre_hooks': _FUSED,
    'torch.nn.modules.module._global_forward_hooks': _FUSED,
    'torch.nn.modules.module._global_forward_pre_hooks': _FUSED,
    'torch.ops.mkldnn._linear_pointwise': 'linear layers through oneDNN on CPUs with AVX-512',
    'torch.ops.torchvision._deform_conv2d_backward': "deformable convolutions' gradients",
    'torch.ops.torchvision._roi_align_backward': "RoIAlign's gradient",
}
# Attributes that these classes set on themselves, and the feature that reads them.
PRIVATE_ATTRIBUTES = {
    'mmengine.runner.EpochBasedTrainLoop._iter': 'resuming within an epoch',
    'mmengine.runner.EpochBasedTrainLoop._epoch': 'resuming within an epoch',
    'mmengine.runner.IterBasedTrainLoop._iter': 'seeding every step',
    'mmengine.runner.Runner._train_loop': 'telling a training from a test',
    'mmengine.visualization.Visualizer._vis_backends': 'finding the loggers of a run',
}
_DISTRIBUTIONS = {
    **DISTRIBUTIONS,
    'torch': ('torch',),
    'timm': ('timm',),
    'numpy': ('numpy',),
}
LIBRARIES = tuple(_DISTRIBUTIONS)


class UpstreamError(ImportError):
    """A library no longer has a name that the suite cannot do without."""


def optional(path: str) -> Any:
    """The object that a name of :data:`PRIVATE_NAMES` stands for, or None where there is none.

    For an attribute that only instances have, the result is its annotation in the class.
    """
    if path not in PRIVATE_NAMES:
        raise KeyError(f'{path} is not listed in backbones.upstream.PRIVATE_NAMES.')
    parts = path.split('.')
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module('.'.join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            # A class declares by annotation what its instances have.
            declared = getattr(found, '__annotations__', {})
            value = getattr(found, part, None)
            found = declared.get(part) if value is None else value
            if found is None:
                return None
        return found
    return None


def required(path: str) -> Any:
    """Like :func:`optional`, for what the suite cannot do without.

    Raises:
        UpstreamError: There is no such name; the message says which version is installed.
    """
    found = optional(path)
    if found is None:
        library = path.partition('.')[0]
        raise UpstreamError(
            f'{library} {_version(library)} has no {path}, which {PRIVATE_NAMES[path]} needs; '
            'constraints.txt lists the versions that are tested together.'
        )
    return found


def _version(library: str) -> str:
    for distribution in _DISTRIBUTIONS[library]:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return '(version unknown)'
