#!/usr/bin/env python
"""Publish a trained model: python tools/publish.py WORK_DIR OUT [--to hf:USER/REPO]."""

import argparse
from pathlib import Path

import downstream  # noqa: F401  before mmdet and mmseg
from downstream.commands.line import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('out', type=Path, help='folder for the published files')
    parser.add_argument('--checkpoint', type=Path, help='default: the newest one')
    parser.add_argument(
        '--export',
        nargs='+',
        choices=['onnx', 'openvino', 'torch'],
        default=[],
        metavar='FORMAT',
        help='also as files of tools/export.py: onnx, openvino, torch',
    )
    parser.add_argument(
        '--licence',
        metavar='NAME',
        help='of the weights, where none is inherited or it is not known, e.g. Apache-2.0',
    )
    parser.add_argument(
        '--to', metavar='hf:USER/REPO', help='push the files to this repository of the Hub'
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='write what --to would push; needs no token'
    )
    parser.add_argument('--private', action='store_true', help='make a new repository private')
    args = vars(parser.parse_args())
    args['formats'] = tuple(dict.fromkeys(args.pop('export')))

    def command() -> None:
        from downstream.commands.publish import PublishOptions, publish

        for path in publish(PublishOptions(**args)):
            print(path)

    run(command)


if __name__ == '__main__':
    main()
