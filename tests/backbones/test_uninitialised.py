"""What is not initialised has no values; all else is as usual."""

import pytest
import timm
import torch
from torch import nn

from backbones.uninitialised import on_meta, without_initialisation


@pytest.mark.parametrize('name', ['test_vit', 'test_resnet', 'swin_tiny_patch4_window7_224'])
def test_names_shapes_and_buffers_are_those_of_the_network(name):
    usual = timm.create_model(name)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with without_initialisation():
        found = timm.create_model(name)
    assert torch.equal(torch.get_rng_state(), state)  # where no number was drawn for a parameter
    with on_meta():
        on_device = timm.create_model(name)
    for model in (found, on_device):
        shapes = {k: v.shape for k, v in model.state_dict().items()}
        assert shapes == {k: v.shape for k, v in usual.state_dict().items()}
    assert {t.device.type for t in on_device.state_dict().values()} == {'meta'}
    for (key, own), (_, other) in zip(usual.named_buffers(), found.named_buffers(), strict=True):
        assert torch.equal(own, other), key


def test_only_initial_values_of_parameters_are_left_out():
    parameter = nn.Parameter(torch.ones(2, 3), requires_grad=False)
    tensor = torch.ones(3)
    with without_initialisation():
        assert nn.init.constant_(parameter, 5) is parameter
        assert parameter.zero_() is parameter
        assert torch.equal(parameter, torch.ones(2, 3))
        parameter.mul_(2 * tensor)  # computed from something
        tensor.fill_(7)
    assert torch.equal(parameter, torch.full((2, 3), 2.0))
    assert torch.equal(tensor, torch.full((3,), 7.0))
    with on_meta():
        parameter = nn.Parameter(torch.zeros(2), requires_grad=False)
        with pytest.raises(RuntimeError, match='broadcast'):
            parameter.mul_(torch.zeros(3))
