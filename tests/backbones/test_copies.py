"""A model that has been trained can be copied and pickled; the copy shares nothing with it."""

import copy
import io

import pytest
import torch
from torch import nn

from backbones import ConvNeXt, ConvNeXtV2, TimmBackbone

ARCH = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
MODELS = {
    'V1': lambda: ConvNeXt(ARCH, drop_path_rate=0.2, frozen_stages=1),
    'V1, recomputed blocks': lambda: ConvNeXt(ARCH, with_cp=True),
    'V2': lambda: ConvNeXtV2(ARCH, drop_path_rate=0.2),
    'timm': lambda: TimmBackbone('test_resnet', size_divisor=32),
}


def train_step(model: nn.Module, image: torch.Tensor) -> None:
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    sum(m.square().mean() for m in model(image)).backward()
    optimizer.step()


def pickled(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def maps_of(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(model.eval()(image))


@pytest.mark.parametrize('kind', MODELS)
@pytest.mark.parametrize('duplicate', [copy.deepcopy, pickled])
def test_a_copy_of_a_trained_model_is_independent(kind, duplicate):
    torch.manual_seed(0)
    model, image = MODELS[kind](), torch.randn(2, 3, 64, 64)
    train_step(model, image)
    expected = maps_of(model, image)
    copied = duplicate(model)
    assert all(torch.equal(a, b) for a, b in zip(maps_of(copied, image), expected, strict=True))
    memory = {t.data_ptr() for t in (*model.parameters(), *model.buffers())}
    assert not memory & {t.data_ptr() for t in (*copied.parameters(), *copied.buffers())}
    train_step(copied, image)
    assert not torch.equal(maps_of(copied, image)[-1], expected[-1])
    assert all(torch.equal(a, b) for a, b in zip(maps_of(model, image), expected, strict=True))
