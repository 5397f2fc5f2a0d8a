#!/usr/bin/env python
"""Train a detector or a segmenter: python tools/train.py CONFIG, or det --data DIR on your own data."""

import argparse

import downstream  # noqa: F401  before mmdet and mmseg, in spawned workers as well
from downstream.commands.line import (
    add_amp,
    add_batch,
    add_data,
    add_log_to,
    add_resume,
    add_settings,
    parse_run_arguments,
    run,
    run_options,
    settings_options,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config', help='a file of configs/ or a row of the zoo; with --data also det or seg'
    )
    add_data(parser)
    add_settings(parser)
    add_amp(parser)
    add_resume(parser)
    add_batch(parser)
    parser.add_argument(
        '--check-data',
        choices=['quick', 'full', 'only', 'no'],
        default='quick',
        help='check of the data before training; full opens every file; only does that and stops',
    )
    add_log_to(parser)
    return parse_run_arguments(parser)


def main() -> None:
    args = parse_args()
    from backbones.errors import ConfigError
    from downstream.running.config import TrainOptions

    def command() -> None:
        options = TrainOptions(
            **run_options(args),
            **settings_options(args),
            amp=args.amp,
            resume=args.resume,
            auto_scale_lr=args.auto_scale_lr,
            keep_batch=args.keep_batch,
            log_to=tuple(args.log_to),
        )
        from downstream.running.train import check_data_only, train

        if args.objects and not args.data:
            raise ConfigError(f'--{args.objects} goes with --data.')
        if args.data:
            from downstream.own.prepare import DataOptions, prepare

            options = prepare(options, DataOptions(args.data, args.objects))

        if args.check_data == 'only':
            check_data_only(options)
        else:
            train(options, check_data=args.check_data)

    run(command)


if __name__ == '__main__':
    main()
