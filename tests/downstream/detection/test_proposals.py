"""The recall of proposals, beside pycocotools."""

import json

import numpy as np
import pytest
from mmengine.config import Config
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from downstream.detection.proposals import ProposalRecallMetric, greedy_overlaps
from downstream.running.stock.parts import use_proposal_recall

NUMBERS = (2, 5, 20)


def objects(count: int) -> np.ndarray:
    """Boxes of 40 pixels that do not touch, left, top, width and height."""
    return np.array([[60.0 * k, 50.0, 40.0, 40.0] for k in range(count)])


@pytest.fixture
def truth(tmp_path):
    """Three images with three, no and one object, and a crowd."""
    annotations = []
    for image, count in ((7, 3), (8, 0), (9, 1)):
        for box in objects(count).tolist():
            annotations.append(
                dict(id=len(annotations) + 1, image_id=image, bbox=box, area=1600, category_id=2)
            )
    annotations.append(dict(id=99, image_id=9, bbox=[200, 0, 9, 9], area=81, category_id=2))
    for one in annotations:
        one['iscrowd'] = int(one['id'] == 99)
    path = tmp_path / 'truth.json'
    images = [dict(id=i, file_name=f'{i}.png', width=300, height=200) for i in (7, 8, 9)]
    content = dict(images=images, annotations=annotations, categories=[dict(id=2, name='a')])
    path.write_text(json.dumps(content))
    return path


def proposals() -> list[dict]:
    """Boxes around objects, shifted by a few pixels, in another order of images than the file's."""
    random = np.random.default_rng(0)
    results = []
    for image, count in ((9, 1), (7, 3), (8, 2)):
        boxes = np.repeat(objects(count), 5, 0)
        boxes[:, :2] += random.uniform(-12, 12, (len(boxes), 2))
        boxes[:, 2:] += boxes[:, :2]
        scores = random.permutation(len(boxes)) / len(boxes)
        results.append(dict(img_id=image, bboxes=boxes.astype(np.float32), scores=scores))
    return results


def test_the_recall_is_that_of_pycocotools(truth):
    """Whose matching is the same where a proposal overlaps one object alone."""
    metric = ProposalRecallMetric(ann_file=str(truth), metric='proposal_fast')
    own = metric.fast_eval_recall(proposals(), NUMBERS, np.linspace(0.5, 0.95, 10))
    detections = [
        dict(
            image_id=result['img_id'],
            category_id=2,
            bbox=[*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            score=float(score),
        )
        for result in proposals()
        for box, score in zip(result['bboxes'], result['scores'])
    ]
    coco = COCO(str(truth))
    wanted = COCOeval(coco, coco.loadRes(detections), 'bbox')
    wanted.params.useCats, wanted.params.maxDets = 0, list(NUMBERS)
    wanted.evaluate()
    wanted.accumulate()
    recall = wanted.eval['recall'][:, 0, 0].mean(0)  # thresholds, all areas, numbers
    assert own == pytest.approx(recall)
    assert 0 < own[0] < own[1] < own[2] < 1


def test_a_missing_iscrowd_is_completed(truth):
    """As by the data set and by the check of the data."""
    whole = json.loads(truth.read_text())
    whole['annotations'] = [one for one in whole['annotations'] if not one.pop('iscrowd')]
    truth.write_text(json.dumps(whole))
    metric = ProposalRecallMetric(ann_file=str(truth), metric='proposal_fast')
    assert metric.fast_eval_recall(proposals(), (20,), [0.5]).tolist() == [1.0]


def test_a_proposal_finds_one_object():
    overlaps = np.array([[0.9, 0.2], [0.8, 0.6], [0.7, 0.5]], np.float32)
    assert greedy_overlaps(overlaps).tolist() == pytest.approx([0.9, 0.6, 0])
    assert greedy_overlaps(overlaps[:, :0]).tolist() == [0, 0, 0]


def test_it_takes_the_place_of_mmdets_alone():
    cfg = Config(
        dict(
            val_evaluator=dict(type='CocoMetric', metric='proposal_fast'),
            test_evaluator=[
                dict(type='DumpProposals'),
                dict(type='mmdet.CocoMetric', metric='proposal_fast'),
                dict(type='CocoMetric', metric='bbox'),
                dict(type='CocoMetric', metric=['bbox', 'proposal_fast']),
            ],
        )
    )
    use_proposal_recall(cfg)
    assert cfg.val_evaluator.type == 'ProposalRecallMetric'
    assert [metric.type for metric in cfg.test_evaluator] == [
        'DumpProposals',
        'ProposalRecallMetric',
        'CocoMetric',
        'ProposalRecallMetric',
    ]
