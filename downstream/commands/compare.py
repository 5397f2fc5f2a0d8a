"""The command line of a comparison of backbones."""

from __future__ import annotations

import argparse

from backbones.errors import ConfigError
from downstream.comparing.compare import CompareOptions, compare, show_commands
from downstream.own.prepare import DataOptions
from downstream.running.config import TrainOptions


def compare_options(args: argparse.Namespace) -> CompareOptions:
    """The options of a comparison by its parsed arguments.

    Raises:
        ConfigError: ``--boxes`` or ``--masks`` without ``--data``.
    """
    if args.objects and not args.data:
        raise ConfigError(f'--{args.objects} goes with --data.')
    recipe = TrainOptions(
        config=args.config,
        cfg_options=args.cfg_options,
        channels=args.channels,
        bands=tuple(args.bands) if args.bands else None,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        keep_batch=args.keep_batch,
        epochs=args.epochs,
        lr=args.lr,
        batch_size=args.batch_size,
        image_size=args.image_size,
    )
    return CompareOptions(
        recipe,
        tuple(args.backbones),
        args.seeds,
        args.work_dir,
        args.cfg_words,
        DataOptions(args.data, args.objects) if args.data else None,
        args.check_data,
        args.launcher,
        args.gpus,
        args.partition,
        args.jobs,
    )


def run_comparison(args: argparse.Namespace) -> int:
    """Show the commands or run them; the exit code."""
    options = compare_options(args)
    if args.dry_run:
        show_commands(options)
        return 0
    return compare(options).code
