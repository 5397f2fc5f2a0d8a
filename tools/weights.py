#!/usr/bin/env python
"""List, download, inspect, convert and check pretrained weights."""

import argparse
from collections.abc import Callable
from pathlib import Path

from downstream.commands.line import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    source = 'a name in the table, a path, a URL, timm:<model.tag> or hf:<repo>'
    trusting = argparse.ArgumentParser(add_help=False)
    trusting.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='unpickle a file that holds more than data: it can run any program',
    )

    command = commands.add_parser('list', help='the table of weights')
    command.add_argument('pattern', nargs='?', default='*', help="e.g. 'convnextv2-*'")
    command = commands.add_parser('show', help='one row of the table')
    command.add_argument('name')
    command = commands.add_parser('fetch', help='download and verify')
    command.add_argument('name', help=source)
    command = commands.add_parser(
        'inspect', parents=[trusting], help='layout, architecture and licence of a file'
    )
    command.add_argument('name', metavar='FILE', help=source)
    command = commands.add_parser(
        'convert', parents=[trusting], help='write a file under the official names'
    )
    command.add_argument('name', metavar='FILE', help=source)
    command.add_argument('out', type=Path, help='.safetensors, .pth or .pt')
    command = commands.add_parser(
        'check', parents=[trusting], help='top five classes of an image, or features'
    )
    command.add_argument('names', metavar='FILE', nargs='+', help=f'{source}; several are compared')
    command.add_argument('--image', type=Path, help='default: random values')
    command.add_argument('--resolution', type=int, default=224)
    command.add_argument(
        '--backbone',
        metavar='NAME',
        help='roadmap-<step> whose files these are; ConvNeXts are recognised by themselves',
    )
    args = vars(parser.parse_args())
    from downstream.commands import weights

    functions: dict[str, Callable[..., object]] = {
        'list': weights.list_weights,
        'show': weights.show,
        'fetch': weights.fetch,
        'inspect': weights.inspect,
        'convert': weights.convert,
        'check': weights.check,
    }
    function = functions[args.pop('command')]
    if 'trust_checkpoint' in args:
        args['trust'] = args.pop('trust_checkpoint')
    run(lambda: function(**args))


if __name__ == '__main__':
    main()
