"""`tools/train.py ROW --data DIR` from the folder to figures, as a user runs it."""

import json
from pathlib import Path

import pytest

from tests.conftest import EXAMPLES, ROOT, read_metrics
from tests.support.real_data import COCO_PIPELINES, DATA, coco_images, needs_data

# The embedded example with the size of images of tests/tools/data/test_real_data.py.
RECIPE = """
_base_ = '{base}'
{pipelines}
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
"""


def recipe(folder: Path) -> Path:
    path = folder / 'recipe.py'
    path.write_text(RECIPE.format(base=ROOT / EXAMPLES['detection'], pipelines=COCO_PIPELINES))
    return path


def test_a_folder_trains_and_leaves_a_config_to_edit(tool, shapes, tmp_path):
    work_dir = tmp_path / 'run'
    words = (recipe(tmp_path), '--data', shapes, '--work-dir', work_dir)
    result = tool('train', *words, '--epochs', 1, '--batch-size', 2, '--image-size', 96)
    assert result.code == 0, result.err
    assert 'COCO' in result.out
    assert '1 epochs: given; 2 steps' in result.out
    config = (work_dir / 'run.py').read_text()
    assert 'resized(_base_.train_dataloader.dataset.pipeline, 96 / 384)' in config
    assert (work_dir / 'epoch_1.pth').is_file()
    complete = (work_dir / 'run.complete.py').read_text()  # beside the one to edit, which stays
    assert 'param_scheduler' in complete
    assert '_base_' not in complete


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs_data
def test_four_real_images_are_learned_by_heart_through_data(tool, tmp_path, capfd):
    subset = coco_images(4)
    folder = tmp_path / 'four'
    for part in ('train', 'val'):
        (folder / part).mkdir(parents=True)
        (folder / part / '_annotations.coco.json').write_text(json.dumps(subset))
        for image in subset['images']:
            (folder / part / image['file_name']).symlink_to(
                DATA / 'tiny_coco' / 'train2017' / image['file_name']
            )
    work_dir = tmp_path / 'run'
    settings = ('--epochs', 200, '--lr', 4e-4, '--batch-size', 2)
    result = tool('train', recipe(tmp_path), '--data', folder, '--work-dir', work_dir, *settings)
    assert result.code == 0, result.err
    words = (work_dir / 'run.py', work_dir / 'epoch_200.pth', '--work-dir', tmp_path / 'test')
    result = tool('test', *words)
    assert result.code == 0, result.err
    metrics = read_metrics(tmp_path / 'test')
    with capfd.disabled():
        for kind, row in metrics.items():
            print('\nCOCO', kind, {name: row[name] for name in row if name != 'per_class'})
    assert metrics['bbox']['AP50'] > 0.5
