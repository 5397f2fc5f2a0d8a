"""The parts (training, validation, ...) of a data set or of a config, in one form to be examined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config, ConfigDict

from backbones.errors import ConfigError, DataError
from downstream.data.checks.bands import Loading
from downstream.data.checks.coco import classes_of, read_annotations
from downstream.data.checks.datasets import COCO_TYPES, data_sets, place_of
from downstream.data.checks.masks import image_of_mask, mask_options
from downstream.data.findings.classes import class_list_findings
from downstream.data.findings.finding import Finding
from downstream.data.findings.masks import index_values
from downstream.data.findings.records import sound_records
from downstream.data.formats.found import Found, Instances, Masks
from downstream.data.formats.mask_pixels import packed
from downstream.data.json_files import read_coco
from downstream.data.pipelines import steps_of

# Where a data set is examined without a config: the sizes of the suite's default recipes.
DEFAULT_SCALES = {'detection': (1333, 800), 'segmentation': (2048, 512)}
FINEST_STRIDE = 4


@dataclass
class Part:
    """A part of a data set.

    Attributes:
        name: ``'train'``, ``'val'``, ``'test'`` or ``'all'``.
        file: What findings name: the annotation file, or the folder of masks.
        folder: That of the images.
        classes: Their names, in the order of their indices.
        images: Paths of all images, listed once.
        content: COCO's records that can be used; None for masks.
        image_of: The image of every mask.
        values: Value of a mask's pixel -> class index; a colour is the number 0xRRGGBB.
        coloured: Whether masks are colour-coded.
        unlabelled: Values of masks that may occur beside those of ``values``; None: any.
        scale: Long and short side that images are fitted into when they are trained; None: they are
            trained at their own size.
        stride: Of the finest feature map.
        loading: What a run loads of the images.
        turns: Whether images are loaded as their EXIF orientation shows them.
        findings: What was found when the part was read.
    """

    name: str
    file: str
    folder: Path
    classes: tuple[str, ...] = ()
    images: tuple[Path, ...] = ()
    content: dict | None = None
    image_of: dict[Path, Path] = field(default_factory=dict)
    values: Mapping[int, int] = field(default_factory=dict)
    coloured: bool = False
    unlabelled: frozenset[int] | None = None
    scale: tuple[int, int] | None = None
    stride: int = FINEST_STRIDE
    loading: Loading = field(default_factory=Loading)
    turns: bool = True
    findings: list[Finding] = field(default_factory=list)

    @property
    def trained(self) -> bool:
        """Whether a model may learn from it."""
        return self.name in ('train', 'all')

    @property
    def holds(self) -> str:
        """How many annotations it has, in words."""
        if self.content is not None:
            return f'{len(self.content["annotations"])} objects'
        return f'{len(self.image_of)} masks'


def failed(name: str, error: Exception) -> Part:
    """A part that could not be read."""
    return Part(name, '', Path(), findings=[Finding('set', '', _open(str(error)))])


def parts_of_found(found: Found, source: Path, bands: tuple[int, ...] | None = None) -> list[Part]:
    """The parts of a data set that was found in ``source``.

    Args:
        found: The set.
        source: Its folder or file, for messages.
        bands: Of its images, that a run is to load; None: 8-bit R, G and B.
    """
    parts = []
    for name, part in found.parts.items():
        if isinstance(part, Instances):
            made = _instances(name, part, found.classes, source)
        elif part.instances is not None:
            made = _instances(name, part.instances, found.classes, source)
        else:
            made = _masks(name, part, found.classes)
        made.scale = DEFAULT_SCALES[found.task]
        made.loading = Loading(bands, rgb=bands is None)
        parts.append(made)
    if parts:
        parts[0].findings += [
            Finding('reader', str(source), _open(note), 'note:') for note in found.notes
        ]
    return parts


def _open(sentence: str) -> str:
    """A sentence without its full stop."""
    return sentence if sentence.endswith('...') else sentence.removesuffix('.')


def _instances(name: str, part: Instances, classes: tuple[str, ...], source: Path) -> Part:
    file = str(part.file or source)
    content, findings = sound_records(file, part.coco)
    return _with_content(Part(name, file, part.root, classes, findings=findings), content)


def _with_content(part: Part, content: dict) -> Part:
    part.content = content
    part.images = tuple(
        dict.fromkeys(part.folder / image['file_name'] for image in content['images'])
    )
    return part


def _masks(name: str, part: Masks, classes: tuple[str, ...]) -> Part:
    coloured = any(isinstance(value, tuple) for value in part.values)
    values = {
        packed(value) if isinstance(value, tuple) else value: index
        for value, index in part.values.items()
        if index < len(classes)
    }
    image_of = {part.root / mask: part.root / image for image, mask in part.pairs if mask}
    folder = next(iter(image_of)).parent if image_of else part.root
    images = tuple(part.root / image for image, _ in part.pairs)
    return Part(name, str(folder), part.root, classes, images, None, image_of, values, coloured)


def raw_coco_parts(folder: Path) -> list[Part]:
    """The COCO files in ``folder``, or the one file that it is, whatever is wrong with them."""
    files = [folder] if folder.is_file() else sorted(folder.rglob('*.json'))
    parts = []
    for file in files:
        try:
            content = read_coco(file, bom=True)
        except (DataError, OSError):
            continue
        sound, findings = sound_records(str(file), content)
        names = tuple(str(category['name']) for category in sound['categories'])
        part = Part(file.stem, str(file), file.parent, names, content=sound)
        part.findings = findings
        parts.append(part)
    return parts


def parts_of_config(cfg: Config) -> list[Part]:
    """The data sets that the loaders of a complete config read, each once."""
    parts: list[Part] = []
    place_to_part: list[tuple[dict, Part]] = []
    for name in ('train', 'val', 'test'):
        for where, dataset in data_sets(cfg, name):
            place = place_of(dataset)
            former = next((part for known, part in place_to_part if known == place), None)
            if former is None:
                parts.append(_part(cfg, name, where, dataset))
                place_to_part.append((place, parts[-1]))
            elif former.trained and name != 'train':
                detail = 'reads the data that are trained on'
                former.findings.append(Finding('leak', where, detail))
    return parts


def _part(cfg: Config, name: str, where: str, dataset: ConfigDict) -> Part:
    try:
        if dataset.type in COCO_TYPES:
            part = _coco_part(name, where, dataset)
        elif cfg.get('default_scope') == 'mmseg':
            part = _mask_part(name, where, dataset)
        else:
            detail = f'is a {dataset.type}, of which training checks nothing either'
            part = Part(name, where, Path(), findings=[Finding('unknown-type', where, detail)])
    except (DataError, ConfigError) as error:
        part = failed(name, error)
    steps = list(steps_of(dataset.get('pipeline') or ()))
    part.scale = _trained_scale(steps)
    part.stride = _finest_stride(cfg.model)
    part.loading = Loading.of(steps)
    part.turns = not any(
        str(step.get('color_type')).endswith(('unchanged', 'ignore_orientation')) for step in steps
    )
    return part


def _coco_part(name: str, where: str, dataset: ConfigDict) -> Part:
    root = Path(dataset.get('data_root') or '')
    ann_file = root / dataset.ann_file
    if not ann_file.is_file():
        raise DataError(f'{where}: the annotation file {ann_file} (ann_file) does not exist.')
    _, read = read_annotations(ann_file, full=True)
    assert read is not None  # for it is asked in full
    content, findings = sound_records(str(ann_file), read)
    given = (dataset.get('metainfo') or {}).get('classes')
    folder = root / dataset.data_prefix.get('img', '')
    part = Part(name, str(ann_file), folder, classes_of(given))
    part.findings = [*class_list_findings(where, given), *findings]
    known = {category['name'] for category in content['categories']}
    lost = [one for one in part.classes if one not in known]
    if lost:
        detail = f'lists no category {", ".join(lost[:8])}'
        part.findings.append(Finding('class-unknown', str(ann_file), detail))
    return _with_content(part, content)


def _mask_part(name: str, where: str, dataset: ConfigDict) -> Part:
    options, classes = mask_options(where, dataset)
    root = Path(dataset.get('data_root') or '')
    image_of = image_of_mask(where, root, dataset, options)
    folder = root / dataset.data_prefix['seg_map_path']
    reduced = bool(options['reduce_zero_label'])
    part = Part(name, str(folder), root / dataset.data_prefix['img_path'], classes)
    part.images, part.image_of = tuple(image_of.values()), image_of
    part.values = index_values(len(classes), reduced)
    part.unlabelled = frozenset({0, 255} if reduced else {255})
    return part


def _trained_scale(steps: list[Mapping]) -> tuple[int, int] | None:
    """The largest size that the transforms of a pipeline fit an image into."""
    scales = []
    for step in steps:
        if 'Resize' in str(step.get('type')):
            given = step.get('scales') or [step.get('scale')]
            scales += [tuple(scale) for scale in given if isinstance(scale, (list, tuple))]
    return max(scales, key=lambda scale: (min(scale), max(scale)), default=None)


def _finest_stride(model: Mapping) -> int:
    """Stride of the finest feature map that a model predicts from."""
    head = model.get('rpn_head') or model.get('bbox_head') or {}
    generator = head.get('anchor_generator') or {} if isinstance(head, Mapping) else {}
    strides = generator.get('strides') or [FINEST_STRIDE]
    return int(min(strides)) if all(isinstance(one, int) for one in strides) else FINEST_STRIDE
