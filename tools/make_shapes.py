#!/usr/bin/env python
"""Make the embedded data set of coloured shapes: python tools/make_shapes.py [FOLDER]."""

import argparse
from pathlib import Path

from downstream.commands.line import run
from downstream.data.shapes import make_shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', nargs='?', type=Path, default=Path('data/shapes'))
    for name, count in (('training', 64), ('validation', 24)):
        parser.add_argument(
            f'--{name}', type=int, default=count, metavar='N', help=f'images ({count})'
        )
    parser.add_argument('--seed', type=int, default=0, help='another one gives other images (0)')
    args = parser.parse_args()

    def command() -> None:

        made = make_shapes(args.folder, args.training, args.validation, args.seed)
        print(f'{args.folder}: {"made" if made else "already there"}')

    run(command)


if __name__ == '__main__':
    main()
