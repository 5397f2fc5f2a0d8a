"""Recipes with mmcv's SyncBatchNorm, which needs its compiled operators and a process group."""

from __future__ import annotations

# mmcv's is for maps without pixels, which PyTorch's took badly before 1.9 (pytorch issue 36530).
_MMCVS, _PYTORCHS = 'MMSyncBN', 'SyncBN'


def use_torch_sync_bn(node: object) -> None:
    """Let all norms of a config that are mmcv's SyncBatchNorm be PyTorch's, which computes the same.

    Args:
        node: A dict, list or tuple of a config; changed in place.
    """
    if isinstance(node, dict):
        if node.get('type') == _MMCVS:
            node['type'] = _PYTORCHS
        for value in node.values():
            use_torch_sync_bn(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            use_torch_sync_bn(value)
