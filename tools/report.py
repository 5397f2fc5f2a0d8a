#!/usr/bin/env python
"""What a run means, or how several differ, as one page: python tools/report.py RUN [RUN ...]."""

import argparse
from pathlib import Path

import downstream  # noqa: F401  before mmdet and mmseg
from downstream.commands.line import run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'runs', nargs='+', metavar='RUN', help='a work dir, or a metrics.json of tools/test.py'
    )
    parser.add_argument(
        '--out', type=Path, metavar='FILE', help='the page (report.html in the folder of the run)'
    )
    parser.add_argument('--names', nargs='+', metavar='NAME', help='of the runs, for the page')
    args = parser.parse_args()
    if args.names and len(args.names) != len(args.runs):
        parser.error(f'--names: {len(args.names)} names for {len(args.runs)} runs.')
    if args.names and len(set(args.names)) != len(args.names):
        parser.error('--names: each run needs a name of its own.')
    return args


def main() -> None:
    args = vars(parse_args())

    def command() -> None:
        from downstream.commands.report import report

        report(**args)

    run(command)


if __name__ == '__main__':
    main()
