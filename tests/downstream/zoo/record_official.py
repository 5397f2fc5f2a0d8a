"""Write official_files.json anew from clones of the official repositories:

    python -m tests.downstream.zoo.record_official CONVNEXT CONVNEXT_V2 SWIN

The three folders are clones of facebookresearch/ConvNeXt, facebookresearch/ConvNeXt-V2 and
microsoft/Swin-Transformer. The record has, for every network without its final norm, head and
computed tables: the numbers of tensors and of values, and the SHA-256 of the
sorted lines ``name 96x3x4x4``.
"""

import hashlib
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

RECORD = Path(__file__).with_name('official_files.json')
LEFT_OUT = re.compile(r'(norm|head)\..*|.*(relative_position_index|attn_mask)')
V1 = ('tiny', 'small', 'base', 'large', 'xlarge')
# The training commands of TRAINING.md: layer scale in the large one alone.
ISOTROPIC = {'small': 0.0, 'base': 0.0, 'large': 1e-6}
V2 = ('atto', 'femto', 'pico', 'nano', 'tiny', 'base', 'large', 'huge')
# configs/swin/swin_<size>_patch4_window<window>_<side>*.yaml: EMBED_DIM, DEPTHS, NUM_HEADS, WINDOW_SIZE,
# IMG_SIZE
SWIN = {
    'tiny': (96, [2, 2, 6, 2], [3, 6, 12, 24], 7, 224),
    'small': (96, [2, 2, 18, 2], [3, 6, 12, 24], 7, 224),
    'base': (128, [2, 2, 18, 2], [4, 8, 16, 32], 7, 224),
    'large': (192, [2, 2, 18, 2], [6, 12, 24, 48], 7, 224),
    'base-384': (128, [2, 2, 18, 2], [4, 8, 16, 32], 12, 384),
    'large-384': (192, [2, 2, 18, 2], [6, 12, 24, 48], 12, 384),
}


def module_of(folder: str, name: str) -> ModuleType:
    """``models/<name>.py`` of a clone."""
    path = Path(folder) / 'models' / f'{name}.py'
    package = f'official_{name}'
    parent = ModuleType(package)
    parent.__path__ = [str(path.parent)]
    sys.modules[package] = parent
    spec = importlib.util.spec_from_file_location(f'{package}.{name}', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # timm looks up the module of the models that it registers
    spec.loader.exec_module(module)
    return module


def record_of(model: nn.Module) -> dict:
    body = {k: v for k, v in model.state_dict().items() if not LEFT_OUT.fullmatch(k)}
    lines = sorted(f'{k} {"x".join(map(str, v.shape))}' for k, v in body.items())
    return {
        'tensors': len(lines),
        'values': sum(v.numel() for v in body.values()),
        'sha256': hashlib.sha256('\n'.join(lines).encode()).hexdigest(),
    }


def main(convnext: str, convnext_v2: str, swin: str) -> None:
    # imported by the sparse networks' part of ConvNeXt V2, which is not built here
    sys.modules['MinkowskiEngine'] = SimpleNamespace(SparseTensor=object)
    v1, v2 = module_of(convnext, 'convnext'), module_of(convnext_v2, 'convnextv2')
    found = {f'convnext-{size}': record_of(getattr(v1, f'convnext_{size}')()) for size in V1}
    isotropic = module_of(convnext, 'convnext_isotropic')
    for size, scale in ISOTROPIC.items():
        build = getattr(isotropic, f'convnext_isotropic_{size}')
        found[f'convnext-iso-{size}'] = record_of(build(layer_scale_init_value=scale))
    for size in V2:
        build = getattr(v2, f'convnextv2_{size}', None) or getattr(v2, f'convnext_{size}')
        found[f'convnextv2-{size}'] = record_of(build())
    transformer = module_of(swin, 'swin_transformer').SwinTransformer
    for size, (width, depths, heads, window, side) in SWIN.items():
        model = transformer(
            img_size=side, embed_dim=width, depths=depths, num_heads=heads, window_size=window
        )
        found[f'swin-{size}'] = record_of(model)
    lines = [f'  {json.dumps(name)}: {json.dumps(row)}' for name, row in found.items()]
    RECORD.write_text('{\n' + ',\n'.join(lines) + '\n}\n')


if __name__ == '__main__':
    torch.set_grad_enabled(False)
    main(*sys.argv[1:])
