"""Necks, heads and preprocessors are configured from any backbone."""

from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from backbones import ConfigError, LayerDecayOptimWrapperConstructor, WeightsError, load_pretrained
from backbones.weights.load import load_state
from downstream.drop_in import detector, drop_in, linear_segmentor, num_classes, segmentor
from downstream.drop_in.facts import inspect_backbone
from downstream.drop_in.pretrained import with_init_cfg
from downstream.running.config import TrainOptions, training_config
from downstream.running.weights.initialise import initialise
from tests.conftest import EXAMPLES, ROOT
from tests.support.plain import FourStages

from .test_timm_families import batch

CASCADE = 'configs/det/cascade-mask-rcnn_convnext-tiny_in1k_3x_coco.py'
FROZEN = 'configs/seg/linear_convnext-tiny_dinov3-lvd1689m_40k-frozen_ade20k-512x512.py'
UPERNET = 'configs/seg/upernet_convnext-tiny_in1k_160k_ade20k-512x512.py'


def read(path: str) -> Config:
    cfg = Config.fromfile(ROOT / path)
    init_default_scope(cfg.default_scope)
    return cfg


def test_detector_and_segmentor_know_the_channels():
    assert detector('convnextv2-pico')['neck'] == {'in_channels': [64, 128, 256, 512]}
    fields = segmentor('convnext-base_in22k', drop_path_rate=0.4)
    assert fields['decode_head'] == {'in_channels': [128, 256, 512, 1024], 'in_index': [0, 1, 2, 3]}
    assert fields['auxiliary_head'] == {'in_channels': 512, 'in_index': 2}
    assert fields['backbone'] == {
        'type': 'ConvNeXt',
        'arch': 'base',
        'drop_path_rate': 0.4,
        'init_cfg': {'type': 'Pretrained', 'checkpoint': 'convnext-base_in22k'},
    }


def test_fewer_outputs_mean_fewer_channels():
    assert detector('convnext-atto', out_indices=(1, 2, 3))['neck']['in_channels'] == [80, 160, 320]


def test_preprocessors_know_what_the_weights_were_trained_on():
    fields = detector('timm:vit_tiny_patch16_224.augreg_in21k')['data_preprocessor']
    assert fields['mean'] == fields['std'] == [127.5] * 3
    assert fields['pad_size_divisor'] == 32
    imagenet = Config.fromfile(ROOT / CASCADE).model.data_preprocessor
    for name in ('convnext-atto', 'resnet-18', 'swin-tiny'):
        found = detector(name)['data_preprocessor']
        assert found['mean'] == imagenet.mean
        assert found['std'] == imagenet.std


def test_batch_norm_is_frozen_in_detectors_and_synchronised_in_segmenters():
    args = detector('resnet-18_in1k')['backbone']
    assert (args['norm_eval'], args['frozen_stages']) == (True, 1)
    assert 'sync_bn' not in args
    assert detector('timm:regnety_002.pycls_in1k')['backbone']['norm_eval']
    assert 'frozen_stages' not in detector('timm:regnety_002.pycls_in1k')['backbone']
    # random values have no statistics worth keeping
    assert detector('resnet-18')['backbone']['sync_bn']
    assert 'norm_eval' not in detector('resnet-18')['backbone']
    assert segmentor('resnet-18_in1k')['backbone']['sync_bn']
    assert 'norm_eval' not in segmentor('swin-tiny_in1k')['backbone']
    assert detector('resnet-18_in1k', norm_eval=False)['backbone']['norm_eval'] is False


def test_weights_of_the_command_line_freeze_what_named_ones_freeze(tmp_path, capsys):
    file = str(tmp_path / 'resnet.pth')
    torch.save({}, file)

    def backbone(name: str, weights: str | None = None):
        return training_config(
            TrainOptions(str(CASCADE), backbone=name, weights=weights)
        ).model.backbone

    assert backbone('resnet-18').sync_bn
    capsys.readouterr()
    found = backbone('resnet-18', file)
    assert f'weights  {file}\n' in (printed := capsys.readouterr().out)
    assert 'in the place of these weights' not in printed
    assert (found.norm_eval, found.frozen_stages) == (True, 1)
    assert found == backbone('resnet-18_in1k', file)
    assert f'{file} (--weights), in the place of these weights' in capsys.readouterr().out


def test_weights_of_the_command_line_reach_a_detector_inside(tmp_path):
    file = str(tmp_path / 'resnet.pth')
    torch.save({}, file)
    teacher = 'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    cfg = training_config(TrainOptions(teacher, weights=file))
    assert cfg.model.detector.backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': file}


def test_the_recipe_stays_and_the_backbone_changes():
    cfg, before = read(CASCADE), read(CASCADE)
    report = drop_in(cfg, 'timm:swin_tiny_patch4_window7_224.ms_in1k')
    assert cfg.model.backbone == {
        'type': 'TimmBackbone',
        'model': 'swin_tiny_patch4_window7_224',
        'init_cfg': {
            'type': 'Pretrained',
            'checkpoint': 'timm:swin_tiny_patch4_window7_224.ms_in1k',
        },
        'drop_path_rate': 0.4,
        'size_divisor': 4,
    }
    assert cfg.optim_wrapper == before.optim_wrapper
    assert cfg.param_scheduler == before.param_scheduler
    assert cfg.model.roi_head == before.model.roi_head
    for word in ('96, 192, 384, 768', 'mit', '123.675', 'multiples of 32', '0.4', '12 groups'):
        assert word in report


def test_resnets_come_without_drop_path_and_layer_decay():
    cfg = read(CASCADE)
    report = drop_in(cfg, 'resnet-50_in1k')
    assert 'drop_path_rate' not in cfg.model.backbone
    assert 'layer decay  off' in report
    assert 'statistics frozen, stem and stages up to 1 do not train' in report
    assert 'BSD-3-Clause' in report


def test_a_config_with_a_backbone_dropped_in_is_standard(tmp_path):
    for path in (CASCADE, UPERNET):
        cfg = read(path)
        drop_in(cfg, 'timm:convnextv2_atto')
        cfg.dump(tmp_path / 'dumped.py')
        again = Config.fromfile(tmp_path / 'dumped.py')
        assert again.to_dict() == cfg.to_dict()
        init_default_scope(again.default_scope)
        with torch.device('meta'):
            assert MODELS.build(again.model).backbone.out_channels == (40, 80, 160, 320)


def test_heads_that_read_one_map_are_told_its_channels():
    cfg = read(UPERNET)
    cfg.model.decode_head = dict(cfg.model.auxiliary_head, in_index=3)
    drop_in(cfg, 'resnet-18')
    assert cfg.model.decode_head.in_channels == 512
    assert cfg.model.auxiliary_head.in_channels == 256


def test_a_detector_that_reads_three_maps_gets_the_last_three():
    cfg = read(CASCADE)
    cfg.model.neck.in_channels = cfg.model.neck.in_channels[1:]
    cfg.model.pop('rpn_head')
    drop_in(cfg, 'resnet-18')
    assert cfg.model.neck.in_channels == [128, 256, 512]
    assert cfg.model.backbone.out_indices == (1, 2, 3)


class Small(FourStages):
    """Somebody's class, which fulfils the contract and derives from nothing here."""

    factor = 1
    strides = (4, 2, 2, 2)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        channels = 3
        for i, stride in enumerate(self.strides):
            self.stages.append(nn.Conv2d(channels, width * 2**i, stride, stride))
            channels = width * 2**i


class StatesTooMuch(Small):
    out_channels = (8, 16, 32, 63)


class OneTensor(Small):
    def forward(self, x):
        return super().forward(x)[-1]


class CoarseFirst(Small):
    def forward(self, x):
        return super().forward(x)[::-1]


class Cropped(Small):
    def forward(self, x):
        return tuple(m[..., 1:] for m in super().forward(x))


class Finer(Small):
    strides = (2, 2, 2, 2)


class OfPatches(Small):
    """One map of stride 16, as a plain ViT has it."""

    strides = (16,)


class TooNarrow(OfPatches):
    def __init__(self) -> None:
        super().__init__(width=2)  # a map of stride 4 would have half a channel


class Broken(Small):
    def forward(self, x):
        return self.nothing(x)


class NeedsArguments(Small):
    def __init__(self, depth) -> None:
        super().__init__()


class Windows(Small):
    size_divisor = 64

    def forward(self, x):
        assert x.shape[-1] % 64 == x.shape[-2] % 64 == 0
        return super().forward(x)


class WindowsOf224(Small):
    size_divisor = 224

    def forward(self, x):
        assert x.shape[-1] % 224 == x.shape[-2] % 224 == 0, 'windows of 7 at stride 32'
        return super().forward(x)


class HidesItsWindows(WindowsOf224):
    size_divisor = None


class StatesMore(Small):
    """Fails where it is tried at odd sizes, which takes_any_size makes needless."""

    takes_any_size = True
    takes_drop_path_rate = False
    recipe_frozen_stages = 2
    input_mean, input_std = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)

    def __init__(
        self, drop_path_rate=0.0, frozen_stages=-1, norm_eval=False, init_cfg=None
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        assert x.shape[-1] % 2 == 0
        return super().forward(self.norm(x))


class FreezesUncounted(Small):
    def __init__(self, frozen_stages=-1) -> None:
        super().__init__()


class Freezes(FreezesUncounted):
    num_stages = 4

    def __init__(self, frozen_stages=-1) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 * 2**i) for i in range(4))

    def forward(self, x):
        return tuple(norm(m) for norm, m in zip(self.norms, super().forward(x)))


ME = 'tests.downstream.drop_in.test_apply'


def test_anybodys_class_will_do():
    cfg = read(CASCADE)
    report = drop_in(cfg, f'{ME}:Small', width=4)
    assert cfg.model.backbone == {'type': f'{ME}.Small', 'width': 4}
    assert cfg.model.neck.in_channels == [4, 8, 16, 32]
    assert 'random values' in report
    with torch.device('meta'):
        assert type(MODELS.build(cfg.model).backbone) is Small


def test_a_class_says_what_sides_it_needs():
    assert detector(f'{ME}:Windows')['data_preprocessor'] == {'pad_size_divisor': 64}
    assert segmentor(f'{ME}:Windows')['data_preprocessor'] == {'test_cfg': {'size_divisor': 64}}
    assert segmentor(f'{ME}:Small')['data_preprocessor'] == {}
    cfg = read(UPERNET)
    drop_in(cfg, f'{ME}:Windows')
    cfg.model.data_preprocessor.size = (500, 500)
    with pytest.raises(ConfigError, match=r'multiples of 64; the crops .*\(500, 500\)'):
        drop_in(cfg, f'{ME}:Windows')


def test_trial_images_are_multiples_of_the_stated_size():
    assert detector(f'{ME}:WindowsOf224')['data_preprocessor'] == {'pad_size_divisor': 224}


def test_what_an_object_states_is_used():
    cfg = read(CASCADE)
    init_cfg = {'type': 'Pretrained', 'checkpoint': 'mine.pth'}
    facts = inspect_backbone(f'{ME}:StatesMore', 'detection', 0.4, init_cfg=init_cfg)
    assert facts.divisor == 1
    assert (facts.mean, facts.std) == (StatesMore.input_mean, StatesMore.input_std)
    assert facts.config['frozen_stages'] == 2
    assert facts.config['norm_eval']
    assert 'drop_path_rate' not in facts.config
    assert cfg.model.backbone.drop_path_rate == 0.4


def test_weights_of_a_class_that_knows_of_none_load_whole(tmp_path):
    torch.manual_seed(1)
    trained = Small(width=4)
    torch.save({'state_dict': trained.state_dict()}, tmp_path / 'mine.pth')
    init_cfg = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'mine.pth')}
    cfg = read(UPERNET)
    drop_in(cfg, f'{ME}:Small', width=4, init_cfg=init_cfg)
    model = MODELS.build(cfg.model)
    initialise(model)
    assert type(model.backbone) is Small
    for name, value in trained.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], value)

    torch.save({'stages.0.weight': torch.zeros(1)}, tmp_path / 'mine.pth')
    with pytest.raises(WeightsError, match=r'mine\.pth does not match this Small'):
        initialise(MODELS.build(cfg.model))

    cfg.model.backbone = with_init_cfg(cfg.model.backbone, None)  # as a test does
    assert cfg.model.backbone == {'type': f'{ME}.Small', 'width': 4}


@pytest.mark.parametrize(('name', 'own'), [('OfPatches', (16,)), ('Finer', (2, 4, 8, 16))])
def test_strides_that_a_class_lacks_are_made(name, own, tmp_path):
    cfg = read(CASCADE)
    report = drop_in(cfg, f'{ME}:{name}', width=32)
    assert f'its strides  {", ".join(map(str, own))}; made from the nearest: ' in report
    model = MODELS.build(cfg.model)
    maps = model.backbone(torch.randn(1, 3, 75, 107))
    assert [m.shape[1] for m in maps] == cfg.model.neck.in_channels
    for m, stride in zip(maps, (4, 8, 16, 32)):
        assert tuple(m.shape[-2:]) == (-(-75 // stride), -(-107 // stride))
    sum(m.sum() for m in maps).backward()
    without = [n for n, p in model.backbone.named_parameters() if p.grad is None]
    assert not without

    torch.manual_seed(2)
    alone = {'OfPatches': OfPatches, 'Finer': Finer}[name](width=32)
    torch.save(alone.state_dict(), tmp_path / 'alone.pth')
    load_pretrained(model.backbone, str(tmp_path / 'alone.pth'))
    for key, value in alone.state_dict().items():
        assert torch.equal(model.backbone.net.state_dict()[key], value)


@pytest.mark.parametrize(
    'path', ['deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024']
)
def test_a_segmenter_of_mmseg_as_it_is(path):
    """Its config names pretrained weights beside the backbone, and the head reads map 0 as well."""
    cfg = Config.fromfile(Path(mmseg.__file__).parent / '.mim' / 'configs' / f'{path}.py')
    init_default_scope('mmseg')
    drop_in(cfg, 'convnext-atto')
    assert 'pretrained' not in cfg.model
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        maps = model.backbone(torch.zeros(2, 3, 128, 128))
        assert model.decode_head(maps).shape[:2] == (2, 19)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        (f'{ME}:HidesItsWindows', 'AssertionError: windows of 7 .*state it as size_divisor'),
        (f'{ME}:StatesTooMuch', r'out_channels is \(8, 16, 32, 63\), but the maps have \(8, 16'),
        (f'{ME}:OneTensor', r'returns \(1, 64, 4, 6\); it must return a tuple'),
        (f'{ME}:CoarseFirst', 'the finest map must be first'),
        (f'{ME}:Cropped', 'one integer stride'),
        (f'{ME}:TooNarrow', r'strides \(16,\); this detector reads 4 maps'),
        (f'{ME}:Broken', "fails on images of 128 x 192: AttributeError: .*'nothing'"),
        (f'{ME}:NeedsArguments', "cannot be built with {}: TypeError: .*'depth'"),
        ('timm:coatnet_0_rw_224', 'made for images of 224 x 224'),
        ('timm:sequencer2d_s', 'feature maps have stride 7, 14'),
        ('mmdet.RPNHead', 'cannot be built'),
    ],
)
def test_what_breaks_the_contract_is_one_clear_error(name, message):
    cfg = read(CASCADE)
    before = cfg.to_dict()
    with pytest.raises(ConfigError, match=message):
        drop_in(cfg, name)
    assert cfg.to_dict() == before


@pytest.mark.parametrize('name', ['convnextv2-atto', 'timm:vit_tiny_patch16_224', 'timm:resnet18'])
def test_a_recipe_for_frozen_features_stays_one(name):
    cfg = read(FROZEN)
    drop_in(cfg, name)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    own = {n.split('.')[0] for n, p in model.backbone.named_parameters() if p.requires_grad}
    # norms of maps that no head reads would train without gradients
    assert own <= {'norm3', 'pyramid'}
    assert model.backbone.out_strides == (32,)
    assert model.decode_head.in_index == 0
    assert model.decode_head.in_channels == model.decode_head.channels
    with pytest.raises(ConfigError, match='takes no frozen_stages'):
        drop_in(read(FROZEN), f'{ME}:Small')
    with pytest.raises(ConfigError, match='states no num_stages'):
        drop_in(read(FROZEN), f'{ME}:FreezesUncounted')
    with pytest.raises(ConfigError, match='returns 4 maps, but this model reads 1; give Freezes'):
        drop_in(read(FROZEN), f'{ME}:Freezes')


def test_every_parameter_that_trains_in_a_linear_segmenter_gets_a_gradient():
    """Parameters without gradients stop distributed training at the second step."""
    for fields in (linear_segmentor('convnext-atto'), linear_segmentor('timm:resnet18')):
        backbone = MODELS.build(fields['backbone'])
        maps = backbone(torch.zeros(1, 3, 64, 64))
        maps[fields['decode_head']['in_index']].sum().backward()
        assert (
            fields['decode_head']['in_channels'] == backbone.out_channels[-1] == maps[-1].shape[1]
        )
        assert not [n for n, p in backbone.named_parameters() if p.grad is None]
    fields = linear_segmentor(f'{ME}:Small')  # returns four maps and has no choice
    assert fields['decode_head'] == {'in_channels': 64, 'channels': 64, 'in_index': 3}


def test_three_maps_do_not_fit_anchors_of_four():
    with pytest.raises(ConfigError, match='one map each at strides 4, 8, 16 and 32'):
        drop_in(read(CASCADE), 'resnet-18', out_indices=(1, 2, 3))
    with pytest.raises(ConfigError, match='decode_head of this config reads maps'):
        drop_in(read(UPERNET), 'resnet-18', out_indices=(0, 1))


def test_timms_convnext_is_ours_in_a_whole_detector():
    """Same weights, same batch: equal losses, and equal rates and decays of every parameter."""
    models = []
    for name in ('convnext-tiny', 'timm:convnext_tiny'):
        cfg = read(EXAMPLES['detection'])
        drop_in(cfg, name)
        models.append(MODELS.build(cfg.model))
    ours, theirs = models
    torch.manual_seed(0)
    load_state(ours.backbone, theirs.backbone.model.state_dict())
    rest = {k: v for k, v in ours.state_dict().items() if not k.startswith('backbone.')}
    theirs.load_state_dict(rest, strict=False)

    losses = []
    for model in models:
        model.train()
        torch.manual_seed(0)
        data = model.data_preprocessor(batch('detection'), training=True)
        losses.append(model(**data, mode='loss'))
    assert losses[0].keys() == losses[1].keys()
    for key, value in losses[0].items():
        ours_, theirs_ = (
            sum(part.detach().double().sum() for part in (v if isinstance(v, list) else [v]))
            for v in (value, losses[1][key])
        )
        torch.testing.assert_close(ours_, theirs_, rtol=1e-5, atol=1e-5, msg=key)

    for decay_type in ('layer_wise', 'stage_wise'):
        rates = [rates_by_tensor(model, decay_type) for model in models]
        assert rates[0] == rates[1]


def rates_by_tensor(model: nn.Module, decay_type: str) -> dict[tuple, list]:
    """Rates and decays by the values of the tensors they are for: names differ, weights do not."""
    constructor = LayerDecayOptimWrapperConstructor(
        {'optimizer': {'type': 'AdamW', 'lr': 2e-4, 'weight_decay': 0.05}},
        {'decay_rate': 0.7, 'decay_type': decay_type},
    )
    found: dict[tuple, list] = {}
    for group in constructor.param_groups(model):
        for parameter in group['params']:
            key = (tuple(parameter.shape), parameter.double().sum().item())
            found.setdefault(key, []).append((group['lr'], group['weight_decay']))
    return {key: sorted(values) for key, values in found.items()}


def test_num_classes_reaches_every_head():
    cascade = {'roi_head': {'bbox_head': [{'a': 1}, {'a': 2}], 'mask_head': {'b': 1}}}
    assert num_classes(cascade, 7) == {
        'roi_head': {
            'bbox_head': [{'a': 1, 'num_classes': 7}, {'a': 2, 'num_classes': 7}],
            'mask_head': {'num_classes': 7},
        }
    }
    assert num_classes(cascade, 7, {'neck': 1})['neck'] == 1
    upernet = {'decode_head': {'x': 1}, 'auxiliary_head': {'x': 1}}
    assert num_classes(upernet, 2) == {
        'decode_head': {'num_classes': 2},
        'auxiliary_head': {'num_classes': 2},
    }
    widths = {'decode_head': {'in_channels': [1, 2]}}
    assert num_classes(upernet, 2, widths) == {
        'decode_head': {'in_channels': [1, 2], 'num_classes': 2},
        'auxiliary_head': {'num_classes': 2},
    }
    queries = {'loss_cls': {'class_weight': [1.0, 1.0, 1.0, 0.1]}}
    weights = {'loss_cls': {'class_weight': [1.0, 1.0, 0.1]}}
    assert num_classes({'decode_head': queries}, 2) == {
        'decode_head': {'num_classes': 2, **weights}
    }
    things = {'num_things_classes': 2, 'num_stuff_classes': 0}
    assert num_classes({'panoptic_head': queries, 'panoptic_fusion_head': {}}, 2) == {
        'panoptic_head': {**things, **weights},
        'panoptic_fusion_head': things,
    }
