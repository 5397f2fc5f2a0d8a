"""The length of a run, and what moves with it: milestones, decays, intervals, last epochs."""

from __future__ import annotations

from mmengine.config import Config, ConfigDict

from downstream.data.pipelines import pipeline_switches

# Positions of a scheduler on the axis of the run.
_PLACES = ('begin', 'end', 'T_max')


def set_length(cfg: Config, length: int, steps_per_epoch: int | None = None) -> None:
    """Give a run ``length`` epochs or iterations, whichever its loop counts.

    Args:
        cfg: A config to train; changed in place.
        length: Of the run.
        steps_per_epoch: Of a loop that counts epochs; schedulers that mmengine converts to iterations
            are moved to the step.
    """
    by_epoch = 'max_epochs' in cfg.train_cfg
    key = 'max_epochs' if by_epoch else 'max_iters'
    former = cfg.train_cfg[key]
    factor = length / former
    cfg.train_cfg[key] = length
    cfg.train_cfg.val_interval = _interval(cfg.train_cfg.get('val_interval', 1), factor, length)
    if cfg.train_cfg.get('dynamic_intervals'):
        cfg.train_cfg.dynamic_intervals = [
            (max(1, round(begin * factor)), _interval(interval, factor, length))
            for begin, interval in cfg.train_cfg.dynamic_intervals
        ]
    if by_epoch:
        for hook in pipeline_switches(cfg):
            hook.switch_epoch = round(hook.switch_epoch * factor)
        for hook in cfg.get('custom_hooks') or ():
            if 'num_last_epochs' in hook:  # YOLOX's: it begins one epoch before these
                hook.num_last_epochs = round(hook.num_last_epochs * factor)
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
    if checkpoint and checkpoint.get('by_epoch', True) == by_epoch:
        checkpoint.interval = _interval(checkpoint.get('interval', 1), factor, length)
    listed = cfg.get('param_scheduler') or []
    schedulers = [listed] if isinstance(listed, dict) else listed
    for scheduler in schedulers:
        if scheduler.get('by_epoch', True) == by_epoch and 'start_factor' not in scheduler:
            _move(scheduler, former, length, steps_per_epoch)
    # Of a part of the recipe that is shorter than a step of this run nothing is left.
    cfg.param_scheduler = [s for s in schedulers if 'end' not in s or s.get('begin', 0) < s['end']]


def _move(scheduler: ConfigDict, former: int, length: int, steps_per_epoch: int | None) -> None:
    """Move a scheduler of a run of ``former`` epochs or iterations to one of ``length``."""
    factor = length / former
    if scheduler.get('convert_to_iter_based') and steps_per_epoch:
        exact = [scheduler[name] * factor for name in _PLACES if scheduler.get(name)]
        if not all(float(place).is_integer() for place in exact):
            scheduler.pop('convert_to_iter_based')
            scheduler.by_epoch = False
            for name in _PLACES:
                if scheduler.get(name):
                    scheduler[name] *= steps_per_epoch
            if 'milestones' in scheduler:
                scheduler.milestones = [one * steps_per_epoch for one in scheduler.milestones]
            former, length = former * steps_per_epoch, length * steps_per_epoch
    if 'end' in scheduler:
        # It ends with the run, a fixed number of steps after it, or at a part of it.
        after = scheduler.end - former
        scheduler.end = length + after if after >= 0 else round(scheduler.end * factor)
    for name in ('begin', 'T_max'):
        if scheduler.get(name):
            scheduler[name] = round(scheduler[name] * factor)
    if 'warm_up' in scheduler:
        scheduler.warm_up *= factor
    if 'milestones' in scheduler:
        moved = (round(milestone * factor) for milestone in scheduler.milestones)
        scheduler.milestones = sorted({m for m in moved if 0 < m < length})


def _interval(former: int, factor: float, length: int) -> int:
    return max(1, min(length, round(former * factor)))
