#!/usr/bin/env python
"""Predict on pictures and videos: python tools/predict.py CONFIG CHECKPOINT SOURCE..."""

import argparse

import downstream  # noqa: F401  before mmdet and mmseg
from downstream.commands.line import add_amp, add_model, add_tiles, model_options, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a file of configs/, or the one in a work dir')
    parser.add_argument(
        'checkpoint', help='a checkpoint that training wrote, or a file of tools/export.py'
    )
    parser.add_argument(
        'sources',
        nargs='+',
        metavar='SOURCE',
        help='a picture, a folder, a pattern in quotes, a .txt list of paths, a video or a URL',
    )
    parser.add_argument('--out', metavar='DIR', default='predictions', help='where results go')
    parser.add_argument(
        '--score',
        type=float,
        metavar='T',
        help='least score of objects (all in predictions.json, 0.3 elsewhere)',
    )
    parser.add_argument('--batch', type=int, default=1, metavar='N', help='pictures at once (1)')
    parser.add_argument('--device', metavar='NAME', help='cpu, cuda, cuda:1; a GPU if there is one')
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation: several scales and flips'
    )
    add_amp(parser)
    parser.add_argument(
        '--as-dataset',
        nargs='?',
        const='link',
        choices=['link', 'copy'],
        help='also write a data set that can be trained on, with links to the pictures or copies',
    )
    add_tiles(parser)
    add_model(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    def command() -> None:
        from downstream.commands.predict import predict

        predict(
            args.sources,
            args.out,
            args.score,
            args.as_dataset,
            **model_options(args),
            checkpoint=args.checkpoint,
            device=args.device,
            tta=args.tta,
            amp=args.amp,
            tile=args.tile,
            overlap=args.overlap,
            batch_size=args.batch,
        )

    run(command)


if __name__ == '__main__':
    main()
