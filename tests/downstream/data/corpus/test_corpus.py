"""Broken, odd and misleading data sets: each is refused, repaired or warned of in a line of its own.

The whole examination (tools/data.py check) must name each, and the check before training must refuse what
would train on something else than is meant, or say it.
"""

import json
import re
import shutil

import pytest
from mmengine.config import Config

from backbones.errors import UserError
from downstream.data.checks import coco, datasets, masks
from downstream.data.checks.datasets import check_datasets
from downstream.data.doctor.examine import examine
from downstream.data.doctor.parts import parts_of_config
from downstream.data.findings.finding import Finding

from . import detection_cases, segmentation_cases
from .sets import DetectionSet, SegmentationSet

ALL = [
    pytest.param(make, case, id=f'{task}-{name}')
    for task, make, cases in (
        ('detection', DetectionSet, detection_cases.CASES),
        ('segmentation', SegmentationSet, segmentation_cases.CASES),
    )
    for name, case in cases.items()
]


@pytest.fixture(scope='session')
def sound(tmp_path_factory) -> dict:
    """A sound set of either task, to be copied."""
    folder = tmp_path_factory.mktemp('corpus')
    return {kind: kind(folder / kind.__name__) for kind in (DetectionSet, SegmentationSet)}


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """What the check before training logs."""
    messages: list[str] = []
    for module in (datasets, coco, masks):
        monkeypatch.setattr(
            module, 'print_log', lambda message, *args, **kwargs: messages.append(message)
        )
    return messages


def examined(cfg: Config) -> list[Finding]:
    """Findings of the whole examination; what training alone refuses as ``run``."""
    found = examine(parts_of_config(cfg), workers=1)
    if not any(finding.severity == 'error' for finding in found):
        try:
            check_datasets(cfg, ('train', 'val'))
        except UserError as error:
            found.append(Finding('run', '', str(error)))
    return found


def training(cfg: Config, logged: list[str]) -> tuple[str, str]:
    """Whether the check before training refuses, says something or is silent; and its words."""
    logged.clear()
    try:
        check_datasets(cfg, ('train', 'val'))
    except UserError as error:
        return 'refuses', str(error)
    return ('says', '\n'.join(logged)) if logged else ('silent', '')


def test_there_are_many_cases():
    assert len(ALL) >= 100


@pytest.mark.parametrize('kind', [DetectionSet, SegmentationSet])
def test_a_sound_set_has_no_findings(kind, sound, logged, tmp_path):
    cfg = copied(sound[kind], tmp_path).config()
    assert examined(cfg) == []
    assert training(cfg, logged) == ('silent', '')


def copied(data, folder):
    """A copy of a set, to be spoiled."""
    copy = object.__new__(type(data))
    copy.__dict__.update(json.loads(json.dumps({**vars(data), 'root': str(data.root)})))
    copy.classes = tuple(data.classes)
    copy.root = shutil.copytree(data.root, folder / 'set')
    return copy


@pytest.mark.parametrize(('kind', 'case'), ALL)
def test_it_is_named(kind, case, sound, logged, tmp_path):
    data = copied(sound[kind], tmp_path)
    case.spoil(data)
    cfg = data.config()
    found = [finding for finding in examined(cfg) if finding.kind == case.kind]
    assert found, 'not found'
    assert re.search(case.words, ' '.join(finding.message for finding in found))
    how, words = training(cfg, logged)
    assert how == case.training, words
    if how != 'silent':
        assert re.search(case.words, words)
