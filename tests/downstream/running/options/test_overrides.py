"""--cfg-options that would do nothing, or end in a traceback, are one line."""

import pytest

from backbones import ConfigError
from downstream.paths import CONFIGS
from downstream.running.config import TrainOptions, read_config

CASCADE = str(CONFIGS / 'det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py')


def changed(**changes):
    return read_config(
        TrainOptions(CASCADE, cfg_options={k.replace('__', '.'): v for k, v in changes.items()})
    )


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(lr=1e-3), "no 'lr', so it would do nothing. Did you mean optim_wrapper.optimizer.lr"),
        (dict(train_dataloder__batch_size=4), 'Did you mean train_dataloader'),
        (dict(optim_wrapper__optimiser__lr=1e-3), "has no 'optimiser'. Did you mean optimizer"),
        (dict(optim_wrapper__optimizer__weight_deacy=0.1), 'Did you mean weight_decay'),
        (dict(model__backbone__drop_path=0.1), 'Did you mean drop_path_rate'),
        (dict(visualizer__vis_backends__1__type='WandbVisBackend'), 'is a list of 1'),
        (dict(train_dataloader__batch_size='all'), "batch_size='all': give a whole number"),
        (dict(visualizer__vis_backends=["dict(type='X')"]), 'give a list of dicts'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_what_would_do_nothing_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words.replace('(', r'\(')):
        changed(**changes)


def test_what_is_read_is_taken():
    cfg = changed(
        model__backbone__with_cp=True,
        randomness__seed=3,
        sharded=True,
        default_hooks__stop__type='EarlyStoppingHook',
        default_hooks__stop__monitor='coco/bbox_mAP',
        model__roi_head__bbox_head__0__loss_cls__loss_weight=2.0,
        find_unused_parameters=True,
        train_dataloader__pin_memory=False,
    )
    assert cfg.model.backbone.with_cp
    assert cfg.randomness.seed == 3
    assert cfg.default_hooks.stop.monitor == 'coco/bbox_mAP'
    assert cfg.model.roi_head.bbox_head[0].loss_cls.loss_weight == 2.0


def test_another_optimizer_does_not_get_arguments_it_does_not_take():
    optimizer = changed(
        optim_wrapper__optimizer__type='SGD', optim_wrapper__optimizer__momentum=0.9
    ).optim_wrapper.optimizer
    assert optimizer == {'type': 'SGD', 'lr': 2e-4, 'weight_decay': 0.05, 'momentum': 0.9}


def test_a_logger_that_is_not_installed_is_named(monkeypatch):
    from downstream.running.options import overrides

    monkeypatch.setattr(overrides, 'find_spec', lambda name: None)
    with pytest.raises(
        ConfigError, match='TensorboardVisBackend needs tensorboard, .* pip install'
    ):
        changed(visualizer__vis_backends__0__type='TensorboardVisBackend')
