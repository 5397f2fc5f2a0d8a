"""The card of a published model: for readers in Markdown, for the Hugging Face Hub in its header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from mmengine.config import Config

from downstream.analysis.kept import TestRun
from downstream.data.pipelines import innermost

from .figures import Figures, figures_of, test_words
from .licence import Licence

LIBRARY = 'convnext-dense'
# Packages that are there wherever this suite is installed.
_KNOWN = ('backbones', 'downstream', 'pretraining', 'mmdet', 'mmseg', 'mmengine', 'mmcv')
_SHOWN_CLASSES = 20


@dataclass(frozen=True)
class Published:
    """What a card is about.

    Attributes:
        name: Of the model.
        cfg: The config of its training.
        classes: Their names.
        parameters: How many numbers it learns.
        iterations: Of the training; None: the checkpoint does not say.
        licence: Of the weights.
        test: The kept test of the checkpoint, None without one.
        digest: SHA-256 of the file of weights.
        weights: What tools take as CHECKPOINT: a file's name, or ``hf:USER/REPO``.
        config: The name of the file of the config.
        exported: Names of files of tools/export.py.
        repo: ``USER/REPO`` on the Hub; None: a folder.
    """

    name: str
    cfg: Config
    classes: Sequence[str]
    parameters: int
    iterations: int | None
    licence: Licence
    test: TestRun | None
    digest: str
    weights: str
    config: str
    exported: Sequence[str] = ()
    repo: str | None = None


def model_card(model: Published) -> str:
    """The whole card: header, then Markdown."""
    figures = figures_of(model.test) if model.test else []
    parts = [
        ['---', _header(model, figures), '---', '', f'# {model.name}', ''],
        _summary(model),
        _usage(model),
        _figures(model, figures),
        ['## Config', '', '```python', model.cfg.pretty_text.strip(), '```', ''],
    ]
    return '\n'.join(line for part in parts for line in part)


def _header(model: Published, figures: Sequence[Figures]) -> str:
    licence = model.licence.of_hub
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=_task(model.cfg),
        tags=_tags(model.cfg),
        base_model=model.licence.base,
        model_name=model.name,
        eval_results=_results(model, figures) or None,
        license=licence.get('license'),
        license_name=licence.get('license_name'),
        license_link=licence.get('license_link'),
    )
    return data.to_yaml()


def _task(cfg: Config) -> str:
    """The task as the Hub names it; its image segmentation includes that of objects."""
    if cfg.default_scope == 'mmseg':
        return 'image-segmentation'
    evaluators = cfg.get('test_evaluator') or []
    evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    has_masks = any('segm' in (one.get('metric') or ()) for one in evaluators)
    return 'image-segmentation' if has_masks else 'object-detection'


def _tags(cfg: Config) -> list[str]:
    kinds = (cfg.model.type, (cfg.model.get('backbone') or {}).get('type'))
    names = [str(kind).rpartition('.')[2].rpartition(':')[2].lower() for kind in kinds if kind]
    return ['mmdetection' if cfg.default_scope == 'mmdet' else 'mmsegmentation', *names]


def _results(model: Published, figures: Sequence[Figures]) -> list[EvalResult]:
    if model.test is None:
        return []
    name = _data_name(model.cfg, 'test_dataloader')
    return [
        EvalResult(
            task_type=kind.task,
            task_name=kind.title,
            dataset_type=name.lower().replace(' ', '-'),
            dataset_name=name,
            dataset_split=_split(model.test),
            metric_type='mean_iou' if figure == 'mIoU' else figure.replace(' ', '_').lower(),
            metric_name=figure,
            metric_value=round(value, 2),
        )
        for kind in figures
        for figure, value in kind.values.items()
        if value is not None
    ]


def _data_name(cfg: Config, loader: str) -> str:
    """The folder of a data set, or its class where it has none."""
    data = innermost(cfg[loader].dataset)
    return Path(data.get('data_root') or '').name or str(data.type).removesuffix('Dataset')


def _split(test: TestRun) -> str | None:
    """The file of the annotations, or the folder of the images, that were tested."""
    place = test.data.get('annotations') or test.data.get('folder')
    return Path(place).stem if place else None


def _summary(model: Published) -> list[str]:
    data = innermost(model.cfg.train_dataloader.dataset)
    steps = '' if model.iterations is None else f', {model.iterations:,} iterations'
    shown = ', '.join(map(str, model.classes[:_SHOWN_CLASSES]))
    more = ', ...' if len(model.classes) > _SHOWN_CLASSES else ''
    lines = [
        f'- licence of the weights: {model.licence.text}',
        f'- parameters: {model.parameters:,}',
        f'- trained on: {data.type} in `{data.get("data_root") or ""}`{steps}',
        f'- classes ({len(model.classes)}): {shown}{more}',
        f'- SHA-256 of the weights: `{model.digest}`',
        '',
    ]
    foreign = _foreign_modules(model.cfg)
    if foreign:
        lines += [f'Its config imports {", ".join(foreign)}, which is not published here.', '']
    return lines


def _foreign_modules(cfg: Config) -> list[str]:
    wanted = (cfg.get('custom_imports') or {}).get('imports') or []
    modules = [wanted] if isinstance(wanted, str) else list(wanted)
    kind = str((cfg.model.get('backbone') or {}).get('type') or '')
    if '.' in kind:
        modules.append(kind.rpartition('.')[0])
    return sorted({f'`{name}`' for name in modules if name.partition('.')[0] not in _KNOWN})


def _usage(model: Published) -> list[str]:
    fetch = [f'hf download {model.repo} {model.config} --local-dir .'] if model.repo else []
    prefix = f'{model.weights}/' if model.repo else ''
    lines = ['## Use', '', '```sh', *fetch]
    for file in (model.weights, *(f'{prefix}{name}' for name in model.exported)):
        lines.append(f'python tools/predict.py {model.config} {file} photos/')
    return [
        *lines,
        '```',
        '',
        f'The tools are those of {LIBRARY}. A config is a program: read it before you run it.',
        '',
    ]


def _figures(model: Published, figures: Sequence[Figures]) -> list[str]:
    lines = ['## Figures', '']
    if model.test is None:
        return [*lines, 'Not tested.', '']
    for kind in figures:
        lines += [f'{kind.title}, in percent:', '', *_table([kind.values]), '']
        if kind.per_class:
            lines += [*_table(list(kind.per_class.values()), list(kind.per_class)), '']
    words = ' '.join([model.config, model.weights, *test_words(model.test)])
    return [
        *lines,
        'Measured by',
        '',
        '```sh',
        f'python tools/test.py {words}',
        '```',
        '',
        *_conditions(model.test),
        '',
    ]


def _conditions(test: TestRun) -> list[str]:
    """On what data and with what versions a test was run."""
    data = test.data
    lines = []
    if place := data.get('annotations') or data.get('folder'):
        lines.append(f'- data: `{Path(place).name}`, {data.get("images", "?")} images')
    if digest := data.get('digest'):
        lines.append(f'- SHA-256 of the annotations: `{digest}`')
    environment = data['environment']
    versions = ', '.join(f'{name} {value}' for name, value in environment['versions'].items())
    return [
        *lines,
        f'- on {environment["device"]}, {data["time"]}',
        f'- versions: Python {environment["python"]}, {versions}',
    ]


def _table(rows: Sequence[dict[str, float | None]], names: Sequence[str] = ()) -> list[str]:
    """A table in Markdown; with names of rows, the first column."""
    columns = list(rows[0])
    first = ['class'] if names else []
    lines = [_row([*first, *columns]), _row(['---'] * (len(columns) + len(first)))]
    for place, row in enumerate(rows):
        cells = ['-' if row[key] is None else f'{row[key]:.2f}' for key in columns]
        lines.append(_row([*([names[place]] if names else []), *cells]))
    return lines


def _row(cells: Sequence[str]) -> str:
    # A class may have a bar in its name, which would end the cell.
    return f'| {" | ".join(str(cell).replace("|", chr(92) + "|") for cell in cells)} |'
