#!/usr/bin/env python
"""Pre-train a backbone without labels: python tools/pretrain.py CONFIG, or own, --data DIR [DIR ...]."""

import argparse

import downstream  # noqa: F401  before mmdet and mmseg, in spawned workers as well
from downstream.commands.line import (
    add_amp,
    add_batch,
    add_changes,
    add_launcher,
    add_log_to,
    add_resume,
    add_settings,
    parse_launched,
    run,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config', help='a file of configs/pretrain/, or own: chosen by the number of your images'
    )
    parser.add_argument(
        '--data',
        nargs='+',
        default=(),
        metavar='DIR',
        help='folders of images of any depth, data sets of any known format, or configs (their '
        'training images)',
    )
    add_settings(parser, of_any_backbone=True)
    parser.add_argument(
        '--weights',
        metavar='NAME',
        help='start from a file, with its decoder if it has one, a name of the table, e.g. '
        'convnextv2-atto_fcmae, or none: from random weights',
    )
    add_amp(parser)
    add_resume(parser)
    add_batch(parser)
    add_log_to(parser)
    add_changes(parser)
    add_launcher(parser)
    return parse_launched(parser)


def main() -> None:
    args = parse_args()

    def command() -> None:
        from pretraining.own import WORD, prepare
        from pretraining.train import PretrainOptions, pretrain

        words = {key: value for key, value in vars(args).items() if key != 'local_rank'}
        options = PretrainOptions(
            **words | {'data': tuple(args.data), 'log_to': tuple(args.log_to)}
        )
        pretrain(prepare(options) if options.config == WORD else options)

    run(command)


if __name__ == '__main__':
    main()
