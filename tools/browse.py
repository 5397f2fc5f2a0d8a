#!/usr/bin/env python
"""Draw what a model would see, before any training: python tools/browse.py CONFIG [--val] [--n N]."""

import argparse
from pathlib import Path

import downstream  # noqa: F401  before mmdet and mmseg
from downstream.commands.line import parse_run_arguments, run, run_options


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a file of configs/, or one that --data wrote')
    part = parser.add_mutually_exclusive_group()
    for name, what in (
        ('train', 'augmented'),
        ('val', 'as in a validation'),
        ('test', 'as tested'),
    ):
        part.add_argument(
            f'--{name}',
            dest='part',
            action='store_const',
            const=name,
            help=f'{name} images, {what}',
        )
    parser.add_argument('--n', dest='count', type=int, default=16, help='pictures (16)')
    parser.add_argument('--seed', type=int, default=0, help='of order and augmentation (0)')
    parser.add_argument('--out', type=Path, help='folder for the pictures')
    parser.set_defaults(part='train')
    args = parse_run_arguments(parser)
    if args.count < 1:
        parser.error('--n: at least one picture')
    return args


def main() -> None:
    args = parse_args()

    def command() -> None:
        from downstream.commands.browse import browse
        from downstream.running.config import RunOptions

        browse(RunOptions(**run_options(args)), args.part, args.count, args.out, args.seed)

    run(command)


if __name__ == '__main__':
    main()
