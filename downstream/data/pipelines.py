"""Parts of data pipelines that several configs share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import overload

from mmengine.config import Config, ConfigDict

from backbones.weights.timm_catalog import IMAGENET_MEAN, IMAGENET_STD

# What a detector's data samples must carry for the metric and for pictures.
_DETECTION_META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
_LOAD_INSTANCES = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
# What merging the views of an image needs besides.
_TTA_META_KEYS = ('flip', 'flip_direction')
_FLIPS = (dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0))


def detection_test_pipeline(scale: tuple[int, int]) -> list[dict]:
    """A pipeline that tests an image at one scale.

    Args:
        scale: Long and short side that the image is fitted into, in pixels.
    """
    return [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=scale, keep_ratio=True),
        dict(_LOAD_INSTANCES),
        dict(type='PackDetInputs', meta_keys=_DETECTION_META_KEYS),
    ]


def detection_tta_pipeline(scales: Iterable[tuple[int, int]]) -> list[dict]:
    """A pipeline that tests an image at several scales, each also flipped.

    Args:
        scales: Long and short sides that the image is fitted into, in pixels.
    """
    meta_keys = (*_DETECTION_META_KEYS, *_TTA_META_KEYS)
    resizes = [dict(type='Resize', scale=scale, keep_ratio=True) for scale in scales]
    pack = dict(type='PackDetInputs', meta_keys=meta_keys)
    return _test_time_augmentation(resizes, dict(_LOAD_INSTANCES), pack)


def segmentation_tta_pipeline(scale: tuple[int, int], ratios: Sequence[float]) -> list[dict]:
    """A pipeline that tests an image at several scales, each also flipped.

    Args:
        scale: Long and short side that the image is fitted into at ratio 1, in pixels.
        ratios: Scales of the views relative to ``scale``.
    """
    sizes = [(int(scale[0] * ratio), int(scale[1] * ratio)) for ratio in ratios]
    resizes = [dict(type='Resize', scale=size, keep_ratio=True) for size in sizes]
    return _test_time_augmentation(
        resizes, dict(type='LoadAnnotations'), dict(type='PackSegInputs')
    )


def segmentation_tta_pipeline_of_ratios(ratios: Sequence[float]) -> list[dict]:
    """The same for images that are tested at their own size."""
    resizes = [dict(type='Resize', scale_factor=ratio, keep_ratio=True) for ratio in ratios]
    return _test_time_augmentation(
        resizes, dict(type='LoadAnnotations'), dict(type='PackSegInputs')
    )


def short_side_crops(side: int) -> list[dict]:
    """The training pipeline of Mask2Former's segmenters: crops of images resized by their short side.

    The short side is 0.5 to 2 times ``side`` in steps of a tenth, the long side at most four times. What
    a crop of ``side x side`` lacks is grey (128) and ignored.

    Source: facebookresearch/Mask2Former, MaskFormerSemanticDatasetMapper and its ADE20K configs.
    """
    scales = [(4 * side, int(side * 0.1 * tenths)) for tenths in range(5, 21)]
    size = (side, side)
    return [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='RandomChoiceResize', scales=scales, keep_ratio=True, backend='pillow'),
        dict(type='RandomCrop', crop_size=size),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
        dict(type='Pad', size=size, pad_val=dict(img=(128, 128, 128), seg=255)),
        dict(type='PackSegInputs'),
    ]


def flip_tta_pipeline(pipeline: Sequence[dict]) -> list[dict]:
    """A pipeline that tests an image unflipped and flipped.

    Args:
        pipeline: A test pipeline, whose last transform packs the inputs.
    """
    *steps, pack = (dict(step) for step in pipeline)
    if 'meta_keys' in pack:
        pack['meta_keys'] = (*pack['meta_keys'], *_TTA_META_KEYS)
    flips = [dict(flip) for flip in _FLIPS]
    return [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]


def _test_time_augmentation(resizes: list[dict], load: dict, pack: dict) -> list[dict]:
    flips = [dict(flip) for flip in _FLIPS]
    transforms = [resizes, flips, [load], [pack]]
    return [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=transforms)]


def innermost(dataset: ConfigDict) -> ConfigDict:
    """The config of a data set without what repeats or mixes it."""
    while isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset['dataset']
    return dataset


def steps_of(pipeline: Iterable) -> Iterator[Mapping]:
    """The transforms of a pipeline, and those nested in them."""
    for step in pipeline:
        if isinstance(step, Mapping):
            yield step
            yield from steps_of(step.get('transforms') or ())
        elif isinstance(step, (list, tuple)):
            yield from steps_of(step)


def steps_of_dataset(dataset: Mapping) -> Iterator[Mapping]:
    """The transforms of a data set, and of those that it repeats, mixes or joins, the innermost first."""
    for inner in (dataset.get('dataset'), *(dataset.get('datasets') or ())):
        if isinstance(inner, Mapping):
            yield from steps_of_dataset(inner)
    yield from steps_of(dataset.get('pipeline') or ())


def is_annotation_loader(step: Mapping) -> bool:
    """Whether a transform loads annotations, by the name of its class."""
    name = str(step.get('type')).rpartition('.')[2]
    return name.startswith('Load') and not is_image_loader(step)


def is_image_loader(step: Mapping) -> bool:
    """Whether a transform loads an image, by the name of its class."""
    name = str(step.get('type')).rpartition('.')[2]
    return name.startswith('Load') and ('Image' in name or name == 'LoadBands')


def without_annotations(pipeline: Iterable) -> list:
    """A test pipeline that loads images alone.

    Args:
        pipeline: Its transforms, which stay as they are.
    """
    kept: list = []
    for step in pipeline:
        if isinstance(step, (list, tuple)):
            # one of the alternatives of a TestTimeAug, none of which may be empty
            if inner := without_annotations(step):
                kept.append(inner)
        elif not is_annotation_loader(step):
            step = dict(step)
            if isinstance(step.get('transforms'), (list, tuple)):
                step['transforms'] = without_annotations(step['transforms'])
            kept.append(step)
    return kept


def boxes_only(pipeline: Iterable) -> list:
    """A detection pipeline that loads no masks, for data without them.

    Args:
        pipeline: Its transforms, which stay as they are.
    """
    return _each_step(
        pipeline, lambda step: {**step, 'with_mask': False} if step.get('with_mask') else {**step}
    )


def labels_as_the_data_set_has_them(pipeline: Iterable) -> list:
    """A pipeline whose loaders of masks leave it to their data set whether 0 stands for no class.

    Args:
        pipeline: Its transforms, which stay as they are.
    """
    return _each_step(
        pipeline,
        lambda step: {key: value for key, value in step.items() if key != 'reduce_zero_label'},
    )


def _each_step(pipeline: Iterable, change: Callable[[Mapping], dict]) -> list:
    """A pipeline of what ``change`` makes of each step, also of those within others."""
    changed: list = []
    for step in pipeline:
        if isinstance(step, (list, tuple)):
            changed.append(_each_step(step, change))
            continue
        step = change(step)
        if isinstance(step.get('transforms'), (list, tuple)):
            step['transforms'] = _each_step(step['transforms'], change)
        changed.append(step)
    return changed


def resized_by_pillow(pipeline: Iterable) -> list:
    """A pipeline that resizes by Pillow, as detectron2 does, and not by OpenCV.

    Pillow's bilinear filter averages over all pixels that a pixel of a smaller image stands for; OpenCV's
    takes four of them.

    Args:
        pipeline: Its transforms, which stay as they are.
    """
    resizes = ('Resize', 'RandomChoiceResize')
    return _each_step(
        pipeline,
        lambda step: {**step, 'backend': 'pillow'} if step['type'] in resizes else {**step},
    )


def imagenet_normalization() -> Mapping[str, list[float]]:
    """``mean`` and ``std`` of ImageNet's pixels, RGB from 0 to 255, for a data preprocessor."""
    return dict(mean=list(IMAGENET_MEAN), std=list(IMAGENET_STD))


def pipeline_switches(cfg: Config) -> list[ConfigDict]:
    """The hooks of ``cfg`` that change the training pipeline in the last epochs (``switch_pipeline``)."""
    return [hook for hook in cfg.get('custom_hooks') or () if hook.get('switch_pipeline')]


# What of a transform, a preprocessor or a config is a size in pixels.
_SIZES = (
    'scale',
    'scales',
    'crop_size',
    'size',
    'stride',
    'img_scale',
    'image_scale',
    'image_size',
    'border',
    'random_size_range',
)


@overload
def resized(part: Mapping, factor: float) -> dict: ...
@overload
def resized(part: list, factor: float) -> list: ...
@overload
def resized(part: tuple, factor: float) -> tuple: ...
@overload
def resized(part: object, factor: float) -> object: ...
def resized(part: object, factor: float) -> object:
    """A pipeline, or another part of a config, with every size in pixels times ``factor``.

    Args:
        part: Transforms or a mapping, which stay as they are. Fractions of an image stay fractions.
        factor: New size over old one.
    """
    if isinstance(part, Mapping):
        return {
            key: _times(value, factor) if key in _SIZES else resized(value, factor)
            for key, value in part.items()
        }
    if isinstance(part, (list, tuple)):
        return type(part)(resized(value, factor) for value in part)
    return part


def _times(value: object, factor: float) -> object:
    if isinstance(value, (list, tuple)):
        return type(value)(_times(side, factor) for side in value)
    if isinstance(value, int) and not isinstance(value, bool) and value not in (0, -1):
        size = max(1, int(abs(value) * factor + 0.5))
        return size if value > 0 else -size  # a border that is cut off; -1 stands for any size
    return value


def padded_size(size: tuple[int, int], preprocessor: Mapping) -> tuple[int, int]:
    """Height and width of an image of ``size`` as a model's ``data_preprocessor`` pads it."""
    divisor = preprocessor.get('pad_size_divisor') or 1
    height, width = size
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def resize_scales(part: object) -> list[tuple[int, int]]:
    """Every size that a pipeline resizes to."""
    if isinstance(part, (list, tuple)):
        return [scale for step in part for scale in resize_scales(step)]
    if not isinstance(part, dict):
        return []
    one = part.get('scale') or ()
    is_pair = isinstance(one, int) or not any(isinstance(side, (list, tuple)) for side in one)
    given = part.get('scales') or ([one] if one and is_pair else one)
    factor = max(part.get('ratio_range') or (1,))
    own = [
        (int(scale[0] * factor), int(scale[1] * factor))
        for scale in given
        if not isinstance(scale, int)
    ]
    return own + resize_scales(part.get('transforms') or ())
