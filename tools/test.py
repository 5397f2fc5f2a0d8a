#!/usr/bin/env python
"""Test a detector or a segmenter: python tools/test.py CONFIG CHECKPOINT."""

import argparse

import downstream  # noqa: F401  before mmdet and mmseg, in spawned workers as well
from downstream.commands.line import add_tiles, parse_run_arguments, run, run_options


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a file of configs/')
    parser.add_argument(
        'checkpoint', help='a checkpoint that training wrote, or a file of tools/export.py'
    )
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='save the predictions: into a folder, in the form of the data set (COCO results, mask '
        'PNGs), or into a .pkl file',
    )
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='save pictures, ground truth beside prediction')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds per window')
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation: several scales and flips'
    )
    add_tiles(parser)
    return parse_run_arguments(parser)


def main() -> None:
    args = parse_args()
    from downstream.running.config import TestOptions

    def command() -> None:
        options = TestOptions(
            **run_options(args),
            checkpoint=args.checkpoint,
            out=args.out,
            show=args.show,
            show_dir=args.show_dir,
            wait_time=args.wait_time,
            tta=args.tta,
            tile=args.tile,
            overlap=args.overlap,
        )
        from downstream.running.test import evaluate

        evaluate(options)

    run(command)


if __name__ == '__main__':
    main()
