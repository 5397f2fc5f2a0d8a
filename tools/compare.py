#!/usr/bin/env python
"""Train and test backbones under one recipe: python tools/compare.py CONFIG --backbones A B C."""

import argparse
import sys

import downstream  # noqa: F401  before mmdet and mmseg
from downstream.commands.line import (
    RecordedKeyValueAction,
    add_amp,
    add_bands,
    add_batch,
    add_changes,
    add_data,
    add_settings,
    run,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config', help='a file of configs/ or a row of the zoo; with --data also det or seg'
    )
    parser.add_argument(
        '--backbones',
        nargs='+',
        required=True,
        metavar='NAME',
        help='what --backbone of tools/train.py takes, NAME=WEIGHTS to start from what its --weights '
        'takes; differences are to the first',
    )
    parser.add_argument('--seeds', type=int, default=1, metavar='N', help='runs of each (1)')
    parser.add_argument('--work-dir', help='where all of it goes (work_dirs/compare_<config name>)')
    parser.add_argument('--jobs', type=int, default=1, metavar='J', help='runs at a time (1)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument(
        '--gpus', type=int, default=1, metavar='N', help='processes of each run (1)'
    )
    parser.add_argument('--partition', metavar='NAME', help='of Slurm, with --launcher slurm')
    parser.add_argument(
        '--dry-run', action='store_true', help='print the commands and what is done, train nothing'
    )
    add_data(parser)
    add_settings(parser, of_any_backbone=True)
    add_amp(parser)
    add_bands(parser)
    add_changes(parser, RecordedKeyValueAction)
    add_batch(parser)
    parser.add_argument(
        '--check-data',
        choices=['quick', 'full', 'no'],
        default='quick',
        help='check of the data before the first run; full opens every file',
    )
    parser.set_defaults(cfg_words=())
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    def command() -> None:
        from downstream.commands.compare import run_comparison

        sys.exit(run_comparison(args))

    run(command)


if __name__ == '__main__':
    main()
