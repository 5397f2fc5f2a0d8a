"""Fine-tuning on other classes: rows of the same names move, all others stay as initialised."""

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from downstream.drop_in import num_classes
from downstream.running.checkpoint.classes import with_rows_of_same_classes
from downstream.running.checkpoint.read import matching_tensors
from tests.conftest import EXAMPLES, ROOT

OLD = ('circle', 'square', 'triangle')
NEW = ('star', 'triangle', 'circle', 'cross')


def model(task: str, classes: int, seed: int):
    cfg = Config.fromfile(ROOT / EXAMPLES[task])
    cfg.merge_from_dict(dict(model=num_classes(cfg.model, classes)))
    init_default_scope(cfg.default_scope)
    torch.manual_seed(seed)
    built = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    for parameter in built.parameters():  # biases are zero in all models before
        torch.nn.init.normal_(parameter, std=0.02)
    return built


def loaded(old, new, former, classes):
    state = matching_tensors(old.state_dict(), new, 'a.pth', True, former, classes)
    new.load_state_dict(state, strict=False)
    return new


def test_a_detector_scores_the_same_classes_as_before():
    """Through the heads themselves: scores, boxes and masks of a class are those of the old model."""
    old, new = model('detection', 3, 0), model('detection', 4, 1)
    fresh = {k: v.clone() for k, v in new.state_dict().items()}
    loaded(old, new, OLD, NEW)
    places = {1: 2, 2: 0}  # new -> old: triangle, circle
    features = torch.randn(5, 64, 7, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for stage in range(3):
            scores, boxes = old.roi_head.bbox_head[stage](features)
            new_scores, new_boxes = new.roi_head.bbox_head[stage](features)
            for target, origin in [*places.items(), (4, 3)]:  # and the background
                torch.testing.assert_close(new_scores[:, target], scores[:, origin])
            for target, origin in places.items():
                torch.testing.assert_close(
                    new_boxes[:, 4 * target : 4 * target + 4], boxes[:, 4 * origin : 4 * origin + 4]
                )
            maps = torch.randn(2, 64, 14, 14, generator=torch.Generator().manual_seed(1))
            masks = old.roi_head.mask_head[stage](maps)
            new_masks = new.roi_head.mask_head[stage](maps)
            for target, origin in places.items():
                torch.testing.assert_close(new_masks[:, target], masks[:, origin])
    state = new.state_dict()
    for key, rows in (('fc_cls.weight', [0, 3]), ('fc_reg.bias', [0, 1, 2, 3, 12, 13, 14, 15])):
        name = f'roi_head.bbox_head.0.{key}'
        assert torch.equal(state[name][rows], fresh[name][rows])


def test_a_segmenter_scores_the_same_classes_as_before():
    old, new = model('segmentation', 3, 0), model('segmentation', 4, 1)
    loaded(old, new, OLD, NEW)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = old.backbone(image)
        for head in ('decode_head', 'auxiliary_head'):
            before, after = getattr(old, head)(maps), getattr(new, head)(new.backbone(image))
            assert after.shape[1] == 4
            torch.testing.assert_close(after[:, [1, 2]], before[:, [2, 0]])


def test_the_same_number_of_other_classes_is_no_reason_to_keep_rows():
    state = {'decode_head.conv_seg.bias': torch.tensor([1.0, 2.0, 3.0])}
    expected = {'decode_head.conv_seg.bias': torch.zeros(3)}
    moved = with_rows_of_same_classes(state, expected, OLD, ('square', 'star', 'circle'), 'a.pth')
    assert moved['decode_head.conv_seg.bias'].tolist() == [2.0, 0.0, 1.0]
    same = with_rows_of_same_classes(state, expected, OLD, OLD, 'a.pth')
    assert same['decode_head.conv_seg.bias'].tolist() == [1.0, 2.0, 3.0]


def test_files_that_state_no_classes_are_cocos_if_they_have_as_many_rows():
    state = {'roi_head.bbox_head.fc_cls.bias': torch.arange(81.0)}
    expected = {'roi_head.bbox_head.fc_cls.bias': torch.full((3,), -1.0)}
    moved = with_rows_of_same_classes(state, expected, None, ('dog', 'bolt'), 'a.pth')
    assert moved['roi_head.bbox_head.fc_cls.bias'].tolist() == [
        16.0,
        -1.0,
        80.0,
    ]  # dog is COCO's 17th


@pytest.mark.parametrize('classes', [None, ('a', 'b')])
def test_without_names_nothing_moves(classes):
    state = {'decode_head.conv_seg.bias': torch.arange(7.0)}
    expected = {'decode_head.conv_seg.bias': torch.zeros(2)}
    assert with_rows_of_same_classes(state, expected, None, classes, 'a.pth') == state
