"""Models of many families of timm train a step and infer, in a detector and in a segmenter."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from timm.models.resnet import ResNet

from downstream.drop_in import drop_in
from tests.conftest import EXAMPLES, ROOT

# Of each kind one: norms, windows, attention, pyramids made of one map, patches of 14 pixels.
FEW = (
    'convnextv2_atto',
    'resnet18',
    'efficientnet_lite0',
    'swin_tiny_patch4_window7_224',
    'maxvit_rmlp_pico_rw_256',
    'pvt_v2_b0',
    'mobilevit_xxs',
    'vit_tiny_patch16_224',
    'vit_small_patch14_dinov2',
    'efficientvit_m0',
)
MORE = (
    'convnext_atto',
    'convnext_tiny',  # that of DINOv3, too
    'seresnet18',
    'resnetv2_18d',
    'regnety_002',
    'tf_efficientnetv2_b0',
    'mobilenetv3_small_050',
    'mobilenetv4_conv_small_050',
    'repvgg_a0',
    'ghostnet_050',
    'dla34',
    'vovnet39a',
    'hrnet_w18_small',
    'swinv2_tiny_window8_256',
    'davit_tiny',
    'mambaout_femto',
    'inception_next_atto',
    'convformer_s18',
    'fastvit_t8',
    'tiny_vit_5m_224',
    'vit_small_patch16_dinov3',
    'eva02_tiny_patch14_224',
    'resnext50_32x4d',
    'res2net50_26w_4s',
    'mobileone_s0',
    'densenet121',
    'cspdarknet53',
    'swinv2_cr_tiny_ns_224',
    'twins_svt_small',
    'poolformerv2_s12',
    'edgenext_xx_small',
    'efficientvit_b0',
    'xcit_nano_12_p8_224',
    'deit3_small_patch16_224',
    'mobilenetv4_hybrid_medium',
    'convnextv2_base',
    'resnext101_64x4d',
    'swin_large_patch4_window7_224',
    'vit_base_patch16_224',
    'maxvit_tiny_tf_224',
)
SIDE = 128


def model_of(task: str, name: str) -> tuple[Config, torch.nn.Module]:
    """The embedded example of ``task`` with another backbone."""
    cfg = Config.fromfile(ROOT / EXAMPLES[task])
    cfg.optim_wrapper.paramwise_cfg.decay_rate = 0.8
    init_default_scope(cfg.default_scope)
    drop_in(cfg, name, drop_path_rate=0.0)
    torch.manual_seed(0)
    return cfg, revert_sync_batchnorm(MODELS.build(cfg.model))


def batch(task: str, count: int = 2) -> dict:
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, SIDE, SIDE), generator=generator).to(torch.uint8)
        for _ in range(count)
    ]
    meta = {
        'img_shape': (SIDE, SIDE),
        'ori_shape': (SIDE, SIDE),
        'scale_factor': (1.0, 1.0),
        'pad_shape': (SIDE, SIDE),
    }
    samples = []
    for _ in images:
        if task == 'detection':
            masks = np.zeros((1, SIDE, SIDE), np.uint8)
            masks[0, 20:90, 30:100] = 1
            sample = DetDataSample(metainfo=meta)
            sample.gt_instances = InstanceData(
                bboxes=torch.tensor([[30.0, 20.0, 100.0, 90.0]]),
                labels=torch.tensor([1]),
                masks=BitmapMasks(masks, SIDE, SIDE),
            )
        else:
            labels = torch.randint(0, 4, (1, SIDE, SIDE), generator=generator)
            sample = SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels))
        samples.append(sample)
    return {'inputs': images, 'data_samples': samples}


def optimizer_of(cfg: Config, model: torch.nn.Module) -> OptimWrapper:
    """The optimizer of ``cfg``, in whose groups every parameter is once."""
    wrapper = OPTIM_WRAPPER_CONSTRUCTORS.build(
        {
            'type': cfg.optim_wrapper.constructor,
            'optim_wrapper_cfg': {'type': 'OptimWrapper', 'optimizer': cfg.optim_wrapper.optimizer},
            'paramwise_cfg': cfg.optim_wrapper.paramwise_cfg,
        }
    )(model)
    names = sorted(
        name for group in wrapper.optimizer.param_groups for name in group['param_names']
    )
    assert names == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    return wrapper


def require_rates_fall_to_the_stem(backbone, groups: list[dict]) -> None:
    rates = {n: group['lr'] for group in groups for n in group['param_names']}
    own = [rates[f'backbone.{n}'] for n, p in backbone.named_parameters() if p.requires_grad]
    if isinstance(backbone.model, ResNet):
        assert len(set(own)) == 1  # their recipes know no decay
        return
    first, *_, last = (n for n, _ in backbone.model.named_parameters())
    assert rates[f'backbone.model.{first}'] == min(own)
    assert rates[f'backbone.model.{last}'] > 1.2 * min(own)
    assert len(set(own)) >= 4
    assert rates[f'backbone.model.{last}'] < max(group['lr'] for group in groups)


def step_and_infer(task: str, name: str) -> None:
    cfg, model = model_of(task, f'timm:{name}')
    optimizer = optimizer_of(cfg, model)
    require_rates_fall_to_the_stem(model.backbone, optimizer.optimizer.param_groups)

    model.train()
    data = model.data_preprocessor(batch(task), training=True)
    maps = model.backbone(data['inputs'])
    assert tuple(m.shape[1] for m in maps) == model.backbone.out_channels
    side = data['inputs'].shape[-1]
    assert [tuple(m.shape[-2:]) for m in maps] == [(side // s,) * 2 for s in (4, 8, 16, 32)]
    before = {n: p.detach().clone() for n, p in model.backbone.named_parameters()}
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    assert torch.isfinite(loss)
    loss.backward()
    assert not [n for n, p in model.backbone.named_parameters() if p.grad is None]
    optimizer.step()
    # A ResNet's blocks begin as identities (zero_init_last): not every gradient is more than zero.
    assert not torch.equal(next(model.backbone.parameters()), next(iter(before.values())))

    model.eval()
    with torch.no_grad():
        found = model.test_step(batch(task, 1))[0]
    if task == 'detection':
        assert len(found.pred_instances.bboxes) == len(found.pred_instances.masks)
    else:
        assert found.pred_sem_seg.shape == (SIDE, SIDE)


@pytest.mark.parametrize('task', EXAMPLES)
@pytest.mark.parametrize('name', FEW)
def test_a_model_of_each_kind(task, name):
    step_and_infer(task, name)


@pytest.mark.slow
@pytest.mark.parametrize('task', EXAMPLES)
@pytest.mark.parametrize('name', MORE)
def test_one_more_model(task, name):
    step_and_infer(task, name)
