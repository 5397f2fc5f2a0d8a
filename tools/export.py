#!/usr/bin/env python
"""Export a trained model as a file: python tools/export.py CONFIG CHECKPOINT."""

import argparse

import downstream  # noqa: F401  before mmdet and mmseg
from downstream.commands.line import add_model, model_options, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a file of configs/, or the one in a work dir')
    parser.add_argument('checkpoint', help='a checkpoint that training wrote')
    parser.add_argument(
        '--format',
        choices=['onnx', 'openvino', 'torch'],
        help='by the name of --out, else ONNX; torch: a program of torch.export',
    )
    parser.add_argument(
        '--precision',
        choices=['fp32', 'fp16', 'bf16'],
        default='fp32',
        help='fp32; bf16: for OpenVINO, on CPUs that compute in it',
    )
    parser.add_argument(
        '--size',
        nargs='+',
        default=['dynamic'],
        metavar=('H', 'W'),
        help='height and width of all pictures, or: dynamic (the default)',
    )
    parser.add_argument(
        '--batch',
        metavar='N',
        help='pictures at once, or: dynamic (the default of segmenters; detectors take 1)',
    )
    parser.add_argument(
        '--output',
        choices=['logits', 'classes'],
        default='logits',
        help='what a segmenter returns for each pixel (logits)',
    )
    parser.add_argument(
        '--out',
        metavar='FILE',
        help='the file; without it beside the checkpoint, of a remote one in the current folder',
    )
    add_model(parser)
    args = parser.parse_args()
    args.size = _numbers(parser, '--size', args.size, 2)
    if args.batch is not None:
        args.batch = (_numbers(parser, '--batch', [args.batch], 1) or (0,))[0]
    return args


def _numbers(
    parser: argparse.ArgumentParser, option: str, words: list[str], count: int
) -> tuple[int, ...] | None:
    """``count`` positive numbers, or None for the word dynamic."""
    if words == ['dynamic']:
        return None
    if len(words) != count or not all(word.isdecimal() and int(word) for word in words):
        wanted = 'HEIGHT WIDTH' if count == 2 else 'a number'
        parser.error(f'{option} {" ".join(words)}: give {wanted} of 1 or more, or: dynamic.')
    return tuple(map(int, words))


def main() -> None:
    args = parse_args()

    def command() -> None:
        from downstream.commands.export import ExportOptions, export
        from downstream.running.config import TestOptions

        export(
            TestOptions(**model_options(args), checkpoint=args.checkpoint),
            ExportOptions(
                args.format, args.precision, args.size, args.batch, args.output, args.out
            ),
        )

    run(command)


if __name__ == '__main__':
    main()
