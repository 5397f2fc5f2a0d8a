"""A pytest fixture for the tests of your own backbone.

In your ``conftest.py``: ``pytest_plugins = ['downstream.pytest_plugin']``; then a test is

    def test_my_backbone(check_backbone):
        check_backbone('my_module:MyBackbone', depth=50)
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import downstream  # noqa: F401  before mmdet and mmseg


@pytest.fixture
def check_backbone() -> Callable:
    """Fails the test unless a backbone fulfils the contract.

    ``check_backbone(name_or_class, weights=False, device='cpu', **backbone_args)`` returns the
    findings of :func:`downstream.contract.check_backbone`, without time and memory.
    """

    def check(name: str | type, **options) -> list:
        from .contract.checks import check_backbone

        findings = list(check_backbone(name, **{'speed': False, **options}))
        failed = [str(finding) for finding in findings if finding.passed is False]
        assert not failed, '\n' + '\n'.join(failed)
        return findings

    return check
