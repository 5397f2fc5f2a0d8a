#!/usr/bin/env python
"""Methods of mmdet and mmseg with other backbones: python tools/methods.py try | page."""

import argparse

import downstream  # noqa: F401  before mmdet and mmseg
from downstream.commands.line import run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    trying = commands.add_parser(
        'try', help='train a step and predict, on random images; no data and no network needed'
    )
    trying.add_argument('patterns', nargs='*', default=['*'], help='e.g. "mmdet::d*" mmseg::fcn')
    trying.add_argument(
        '--backbones', nargs='+', metavar='NAME', help='default: the two of the page'
    )
    trying.add_argument('--keep', metavar='FILE', help='add the results to this JSON file')
    trying.add_argument(
        '--missing', action='store_true', help='only what --keep has no result of yet'
    )
    paging = commands.add_parser('page', help='write docs/methods.md from kept results')
    paging.add_argument('kept', nargs='?', metavar='FILE', help="default: the suite's own")
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    def command() -> None:
        from downstream.methods import commands

        if args.command == 'try':
            commands.try_methods(args.patterns, args.backbones, args.keep, args.missing)
        else:
            commands.write_page(args.kept)

    run(command)


if __name__ == '__main__':
    main()
