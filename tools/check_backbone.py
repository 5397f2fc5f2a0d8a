#!/usr/bin/env python
"""Check a backbone against the contract: python tools/check_backbone.py NAME."""

import argparse

import downstream  # noqa: F401  before mmdet and mmseg
from downstream.commands.line import KeyValueAction, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'name', help='convnext-tiny, swin-base, resnet-50, timm:MODEL, my_module:MyClass'
    )
    parser.add_argument(
        '--args',
        nargs='+',
        action=KeyValueAction,
        default={},
        metavar='KEY=VALUE',
        help="arguments of the backbone's class, e.g. depth=50",
    )
    parser.add_argument('--weights', action='store_true', help='load its pretrained weights')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:1, ...')
    parser.add_argument('--no-speed', action='store_true', help='leave out time and memory')
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    def command() -> None:
        from downstream.contract import check_backbone, require_all_passed

        findings = []
        for finding in check_backbone(
            args.name,
            weights=args.weights,
            device=args.device,
            speed=not args.no_speed,
            **args.args,
        ):
            print(finding, flush=True)
            findings.append(finding)
        require_all_passed(findings, args.name)
        print(f'{args.name} fulfils the contract.')

    run(command)


if __name__ == '__main__':
    main()
