#!/usr/bin/env python
"""Your data: python tools/data.py check | show | split | convert | classes."""

import argparse
from collections.abc import Callable
from pathlib import Path

import downstream  # noqa: F401  before mmdet and mmseg
from downstream.commands.line import add_bands, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument('source', help='a folder or file of a data set, or a config')
    source.add_argument('--task', choices=['detection', 'segmentation'], help='if it could be both')

    examined = argparse.ArgumentParser(add_help=False, parents=[source])
    add_bands(examined)
    command = commands.add_parser(
        'check', parents=[examined], help='find what is wrong; exit code 1: errors'
    )
    command.add_argument('--out', type=Path, help='folder for the page and the list')
    command.add_argument('--workers', type=int, help='processes to open files (one for each core)')
    command = commands.add_parser('show', parents=[examined], help='pictures with annotations')
    command.add_argument('--out', type=Path, help='folder for the pictures')
    command.add_argument('--count', type=int, default=24, help='pictures of each part (24)')
    command.add_argument('--class', dest='only', metavar='NAME', help='a class to be seen in them')
    _add_file_commands(commands)
    return parser.parse_args()


def _add_file_commands(commands: argparse._SubParsersAction) -> None:
    formats = 'coco, yolo, voc, labelme or masks (class indices)'
    found = argparse.ArgumentParser(add_help=False)
    found.add_argument('source', type=Path, help='a folder or file of a data set')
    found.add_argument('--task', choices=['detection', 'segmentation'], help='if it could be both')

    command = commands.add_parser('split', parents=[found], help='training and validation parts')
    command.add_argument('--out', type=Path, help='folder for annotations and lists')
    command.add_argument('--val-share', dest='share', type=float, default=0.2, help='default 0.2')
    command.add_argument('--seed', type=int, default=0, help='of the choice')
    command = commands.add_parser('convert', parents=[found], help='write in another format')
    command.add_argument('target', type=Path, help='a new folder')
    command.add_argument('--to', dest='form', required=True, metavar='FORMAT', help=formats)
    command.add_argument('--copy', action='store_true', help='copy images instead of links')
    commands.add_parser('classes', parents=[found], help='classes and how much there is of each')


def main() -> None:
    args = vars(parse_args())

    def command() -> None:
        from downstream.commands import data, formats

        functions: dict[str, Callable[..., object]] = {
            'check': data.check,
            'show': data.show,
            'split': formats.split,
            'convert': formats.convert,
            'classes': formats.classes,
        }
        functions[args.pop('command')](**args)

    run(command)


if __name__ == '__main__':
    main()
