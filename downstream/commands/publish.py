"""Publish a trained model: its weights without the state of the training, and a model card."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor

from backbones.errors import WeightsError
from backbones.weights.download import sha256
from backbones.weights.sources import find
from downstream.atomic import atomic_path
from downstream.running.checkpoint.read import read

from .weights import save


def publish(work_dir: Path, out: Path, checkpoint: Path | None = None) -> list[Path]:
    """Write the trained model of ``work_dir`` into the folder ``out``.

    Args:
        work_dir: The work dir of tools/train.py, with a checkpoint and the config.
        out: The folder for ``<config>-<digest>.safetensors``, ``.pth`` and ``.md``, where ``digest`` is
            the first eight digits of the SHA-256 of the ``.safetensors`` file.
        checkpoint: The checkpoint to publish. None: the newest one.

    Returns:
        The paths of the three files.

    Raises:
        WeightsError: The checkpoint or the config is missing or cannot be read.
    """
    work_dir, out = Path(work_dir), Path(out)
    if not work_dir.is_dir():
        raise WeightsError(f'{work_dir} is not a folder.')
    checkpoint = checkpoint or _newest(work_dir)
    config_path = _config_of(work_dir)
    content = read(checkpoint)
    tensors = {key: value.contiguous() for key, value in content['state_dict'].items()}
    meta = content.get('meta', {})
    cfg = Config.fromfile(config_path)
    facts = {
        'name': config_path.stem,
        'classes': list(meta.get('dataset_meta', {}).get('classes', ())),
        'epoch': meta.get('epoch'),
        'iterations': meta.get('iter'),
        'licence': inherited_licence(cfg),
        'metrics': _metrics(work_dir),
        'config': cfg.pretty_text,
    }
    out.mkdir(parents=True, exist_ok=True)
    unnamed = out / f'.{config_path.stem}.safetensors'  # its name needs its digest
    save(tensors, unnamed, metadata={key: json.dumps(value) for key, value in facts.items()})
    name = f'{config_path.stem}-{sha256(unnamed)[:8]}'
    files = [out / f'{name}{suffix}' for suffix in ('.safetensors', '.pth', '.md')]
    unnamed.replace(files[0])
    _save_pickle(tensors, facts, files[1])
    files[2].write_text(model_card(facts, tensors, cfg))
    return files


def _newest(work_dir: Path) -> Path:
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file():
        # Only its name: the folder may have been moved since the path was written.
        return work_dir / Path(pointer.read_text().strip()).name
    raise WeightsError(
        f'{work_dir} has no file last_checkpoint: no run has saved a checkpoint there.'
    )


def _config_of(work_dir: Path) -> Path:
    configs = sorted(work_dir.glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise WeightsError(
            f'{work_dir} has no config; tools/train.py writes one into its work dir.'
        )
    return configs[-1]


def _metrics(work_dir: Path) -> dict | None:
    files = sorted(work_dir.glob('*/metrics.json'), key=lambda path: path.stat().st_mtime)
    return json.loads(files[-1].read_text())['metrics'] if files else None


def inherited_licence(cfg: Config) -> str:
    """The licence that the trained weights inherit from the pretrained ones, for the model card."""
    init = cfg.model.backbone.get('init_cfg') or {}
    if cfg.get('load_from'):
        return f'that of {cfg.load_from}, from which training started'
    if not init.get('checkpoint'):
        return 'none inherited: trained from random weights'
    try:
        source = find(init['checkpoint'])
    except WeightsError:
        return f'that of {init["checkpoint"]}, from which training started'
    return f'{source.licence} (inherited from {source.name})'


def _save_pickle(tensors: dict[str, Tensor], facts: dict, path: Path) -> None:
    meta = {'dataset_meta': {'classes': facts['classes']}, 'cfg': facts['config']}
    with atomic_path(path) as aside:
        torch.save({'state_dict': tensors, 'meta': meta}, aside)


def model_card(facts: dict, tensors: dict[str, Tensor], cfg: Config) -> str:
    """The model card in Markdown."""
    data = cfg.train_dataloader.dataset
    lines = [
        f'# {facts["name"]}',
        '',
        f'- licence of the weights: {facts["licence"]}',
        f'- parameters: {sum(value.numel() for value in tensors.values()):,}',
        f'- trained on: {data.get("type")} in `{data.get("data_root", "")}`, '
        f'{facts["iterations"]} iterations',
        f'- classes ({len(facts["classes"])}): {", ".join(map(str, facts["classes"][:20]))}'
        + (', ...' if len(facts['classes']) > 20 else ''),
        '',
        '## Metrics',
        '',
    ]
    metrics = facts['metrics']
    if metrics is None:
        lines.append('Not tested: tools/test.py writes metrics.json into the work dir.')
    elif 'mIoU' in metrics:
        lines += [f'- {name}: {metrics[name]:.2f}' for name in ('mIoU', 'aAcc', 'mAcc')]
    else:
        for kind, row in metrics.items():
            figures = (f'{k} {v:.4f}' for k, v in row.items() if isinstance(v, float))
            lines.append(f'- {kind}: {", ".join(figures)}')
    return '\n'.join([*lines, '', '## Config', '', '```python', facts['config'].strip(), '```', ''])
