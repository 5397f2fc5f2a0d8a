#!/usr/bin/env python
"""How fast models are: python tools/benchmark.py CONFIG [CHECKPOINT | EXPORTED ...] [--against ...]."""

import argparse

import downstream  # noqa: F401  before mmdet and mmseg
from downstream.commands.line import add_amp, add_model, model_options, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config', help='a file of configs/, the name of a row, or one of a work dir'
    )
    parser.add_argument(
        'files',
        nargs='*',
        metavar='CHECKPOINT|EXPORTED',
        help='trained models of the config and files of tools/export.py, each timed; none: the config '
        'with random weights',
    )
    parser.add_argument(
        '--against',
        nargs='+',
        default=[],
        metavar='CONFIG|CHECKPOINT|EXPORTED',
        help='what to compare with; speeds are relative to the first',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='of the pictures in pixels (as in the test of the config)',
    )
    parser.add_argument('--batch', type=int, default=1, metavar='N', help='pictures at once (1)')
    parser.add_argument('--device', metavar='NAME', help='cpu, cuda, cuda:1; a GPU if there is one')
    parser.add_argument('--threads', type=int, metavar='N', help='of the CPU')
    parser.add_argument('--rounds', type=int, default=30, metavar='N', help='timed (30)')
    parser.add_argument('--warm-up', type=int, default=5, metavar='N', help='rounds before (5)')
    parser.add_argument(
        '--images',
        nargs='+',
        default=[],
        metavar='SOURCE',
        help='pictures, a folder or a pattern, resized to --size; else noise',
    )
    parser.add_argument(
        '--fps-as-papers',
        action='store_true',
        help="the papers' protocol: single pictures of 1280 x 800, all of them by all seconds",
    )
    parser.add_argument(
        '--cpu-time',
        action='store_true',
        help='seconds that this process computes, in all threads, beside others that need the machine',
    )
    parser.add_argument('--out', metavar='DIR', help='where benchmark.json and benchmark.md go')
    add_amp(parser)
    add_model(parser)
    return parser.parse_intermixed_args()  # files may follow options


def main() -> None:
    args = parse_args()

    def command() -> None:
        from downstream.benchmarking.run import BenchmarkOptions
        from downstream.commands.benchmark import run_benchmark
        from downstream.running.config import RunOptions

        options = BenchmarkOptions(
            RunOptions(**model_options(args)),
            tuple(args.files),
            tuple(args.against),
            tuple(args.size) if args.size else None,
            args.batch,
            args.device,
            args.amp,
            args.threads,
            args.rounds,
            args.warm_up,
            tuple(args.images),
            args.fps_as_papers,
            args.cpu_time,
        )
        run_benchmark(options, args.out)

    run(command)


if __name__ == '__main__':
    main()
