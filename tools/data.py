#!/usr/bin/env python
"""Your data: python tools/data.py check | show."""

import argparse
from pathlib import Path

import downstream  # noqa: F401  before mmdet and mmseg
from downstream.commands.line import run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument('source', help='a folder or file of a data set, or a config')
    source.add_argument('--task', choices=['detection', 'segmentation'], help='if it could be both')

    command = commands.add_parser(
        'check', parents=[source], help='find what is wrong; exit code 1: errors'
    )
    command.add_argument('--out', type=Path, help='folder for the page and the list')
    command.add_argument('--workers', type=int, help='processes to open files (one for each core)')
    command = commands.add_parser('show', parents=[source], help='pictures with annotations')
    command.add_argument('--out', type=Path, help='folder for the pictures')
    command.add_argument('--count', type=int, default=24, help='pictures of each part (24)')
    command.add_argument('--class', dest='only', metavar='NAME', help='a class to be seen in them')
    return parser.parse_args()


def main() -> None:
    args = vars(parse_args())

    def command() -> None:
        from downstream.commands import data

        functions = {'check': data.check, 'show': data.show}
        functions[args.pop('command')](**args)

    run(command)


if __name__ == '__main__':
    main()
