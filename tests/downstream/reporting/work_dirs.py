"""Work dirs as runs leave them, made by hand."""

import json
from pathlib import Path

CONFIG = """
default_scope = 'mmdet'
{resume}
model = dict(backbone=dict(type='ConvNeXt', arch='atto'))
randomness = dict(seed={seed})
"""


def log_part(
    work_dir: Path, name: str, losses: dict[int, float], validations: dict[int, float], **options
) -> Path:
    """The logs of one part of a training: losses by iteration, validations after an iteration."""
    folder = work_dir / name / 'vis_data'
    folder.mkdir(parents=True)
    lines = []
    for step in sorted({*losses, *validations}):
        if step in losses:
            lines.append({'lr': 0.1, 'loss': losses[step], 'time': 0.5, 'iter': step, 'step': step})
        if step in validations:  # counted in epochs, as mmengine does
            lines.append({'coco/bbox_mAP': validations[step], 'time': 9.0, 'step': 1})
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'scalars.json').write_text(text + options.get('end', ''))
    resume = f'resume = {options["resume"]!r}' if 'resume' in options else 'resume = False'
    (folder / 'config.py').write_text(CONFIG.format(resume=resume, seed=options.get('seed', 0)))
    (work_dir / name / f'{name}.log').write_text(
        f'System environment:\n    Python: 3.12\n    seed: {options.get("seed", 0)}\n'
        ' - Config:\n    x: y\n'
    )
    return work_dir


def test_part(
    work_dir: Path, name: str, ap: float | None, classes: dict[str, float | None], **more
) -> Path:
    """The report of a test of detection."""
    folder = work_dir / name
    folder.mkdir(parents=True)
    row = dict.fromkeys(('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR'), ap)
    report = {
        'task': 'detection',
        'config': 'mine.py',
        'checkpoint': str(work_dir / 'epoch_1.pth'),
        'tta': False,
        'metrics': {'bbox': {**row, 'per_class': classes}},
        **more,
    }
    (folder / 'metrics.json').write_text(json.dumps(report))
    return work_dir


test_part.__test__ = False
