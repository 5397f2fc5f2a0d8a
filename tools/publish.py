#!/usr/bin/env python
"""Publish a trained model: python tools/publish.py WORK_DIR OUT."""

import argparse
from pathlib import Path

from downstream.commands.line import run
from downstream.commands.publish import publish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('out', type=Path, help='folder for the published files')
    parser.add_argument('--checkpoint', type=Path, help='default: the newest one')
    args = parser.parse_args()

    def command() -> None:
        for path in publish(args.work_dir, args.out, args.checkpoint):
            print(path)

    run(command)


if __name__ == '__main__':
    main()
