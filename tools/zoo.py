#!/usr/bin/env python
"""Papers' rows: python tools/zoo.py list | show | check | compare | plan | sweep | roadmap | pages."""

import argparse

import downstream  # noqa: F401  before mmdet and mmseg
from downstream.commands.line import run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    listing = commands.add_parser('list', help='rows and their published figures')
    listing.add_argument('pattern', nargs='?', default='*', help='pattern of names, e.g. "*lsj*"')
    listing.add_argument('--task', choices=['det', 'seg'])
    listing.add_argument('--family', help='convnext, convnextv2, swin, resnet, resnext101')
    listing.add_argument('--size', help='tiny, base, 50, ...')
    listing.add_argument('--licence', help='part of the licence, e.g. MIT')
    commands.add_parser('show', help='every field of a row').add_argument('row')
    checking = commands.add_parser('check', help='check rows against the papers')
    checking.add_argument(
        'rows', nargs='*', help='default: all rows and the steps; roadmap: the steps'
    )
    comparing = commands.add_parser('compare', help='compare a run with the published figures')
    comparing.add_argument('result', help='a metrics.json of tools/test.py')
    comparing.add_argument('row')
    planning = commands.add_parser('plan', help='batch, accumulation, steps and memory')
    planning.add_argument('row')
    planning.add_argument('--gpus', type=int, required=True)
    planning.add_argument('--memory', type=float, help='GiB of each GPU')
    commands.add_parser(
        'sweep', help="the commands of a paper's hyperparameter search"
    ).add_argument('row')
    stepping = commands.add_parser('roadmap', help='figures of all steps into docs/roadmap.md')
    stepping.add_argument(
        'folders', nargs='+', help='of a tools/compare.py of all steps, one a task'
    )
    stepping.add_argument('--regime', default='atto', help='of the steps; default: atto')
    commands.add_parser(
        'pages', help="write docs/model_zoo.md, docs/roadmap.md and the README's table"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    def command() -> None:
        from downstream.zoo import commands, pages

        words = {key: value for key, value in vars(args).items() if key != 'command'}
        {
            'list': lambda: commands.list_rows(**words),
            'show': lambda: commands.show(args.row),
            'check': lambda: commands.check(args.rows),
            'compare': lambda: commands.compare(args.result, args.row),
            'plan': lambda: commands.plan(args.row, args.gpus, args.memory),
            'sweep': lambda: commands.sweep(args.row),
            'roadmap': lambda: pages.write_roadmap(args.folders, args.regime),
            'pages': pages.write,
        }[args.command]()

    run(command)


if __name__ == '__main__':
    main()
