"""Curves: what a resumed run did again counts once, and what it logged last."""

from downstream.reporting.scalars import read_log

from .work_dirs import log_part


def test_a_resumed_run_is_one_curve(tmp_path):
    log_part(tmp_path, '20260101_000000', {10: 3.0, 20: 2.0, 30: 9.0}, {10: 0.1, 30: 0.9})
    log_part(tmp_path, '20260101_010000', {30: 1.5, 40: 1.0}, {40: 0.4}, resume=True)
    log = read_log(tmp_path)
    assert log.training['loss'].steps == (10, 20, 30, 40)
    assert log.training['loss'].values == (3.0, 2.0, 1.5, 1.0)
    assert log.validation['coco/bbox_mAP'].steps == (10, 40)
    assert log.validation['coco/bbox_mAP'].values == (0.1, 0.4)
    assert len(log.parts) == 2
    assert log.seconds == 40 * 0.5


def test_a_run_that_began_anew_replaces_the_former_one(tmp_path):
    log_part(tmp_path, '20260101_000000', {1: 3.0, 2: 2.0}, {})
    log_part(tmp_path, '20260101_010000', {10: 1.0}, {})
    log = read_log(tmp_path)
    assert log.training['loss'].steps == (10,)
    assert len(log.parts) == 1


def test_a_test_between_is_no_part(tmp_path):
    log_part(tmp_path, '20260101_000000', {10: 3.0}, {})
    log_part(tmp_path, '20260101_010000', {}, {5: 0.5})
    assert len(read_log(tmp_path).parts) == 1


def test_values_that_are_no_numbers_are_counted_and_a_cut_line_is_left_out(tmp_path):
    log_part(tmp_path, 'a', {1: 3.0, 2: float('nan'), 3: 1.0}, {}, end='{"loss": 3')
    log = read_log(tmp_path)
    assert log.training['loss'].steps == (1, 3)
    assert log.lost == 1


def test_without_logs_there_is_none(tmp_path):
    assert read_log(tmp_path) is None
