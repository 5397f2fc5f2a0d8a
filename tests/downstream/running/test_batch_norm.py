"""A BatchNorm that would be trained on one value is one line of error, as with one image a process."""

import pytest
import torch
from mmengine.registry import MODELS

from backbones import ConfigError
from tests.downstream.running.tiny_run import TinyRegressor, tiny_run


@MODELS.register_module()
class OneImage(TinyRegressor):
    """Reads one sample of each batch; or fails otherwise."""

    def __init__(self, error: str = '') -> None:
        super().__init__()
        self.error = error

    def forward(self, inputs, mode='loss'):
        if self.error:
            raise ValueError(self.error)
        return {'loss': self.net(torch.stack(inputs[:1])).mean()}


def test_the_message_says_what_to_change(tmp_path):
    with pytest.raises(
        ConfigError, match=r'BatchNorm .* gets one: torch.Size\(\[1, 32\]\)\. .*--batch-size 2'
    ):
        tiny_run(tmp_path, model=dict(type='OneImage'))


def test_other_errors_of_values_stay(tmp_path):
    with pytest.raises(ValueError, match='another'):
        tiny_run(tmp_path, model=dict(type='OneImage', error='another'))
