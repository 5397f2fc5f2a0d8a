#!/usr/bin/env python
"""Train and test the embedded example: python tools/demo.py detection|segmentation."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('task', choices=['detection', 'segmentation'])
    args = parser.parse_args()
    print('Loading ...', flush=True)
    from downstream.commands.demo import demo
    from downstream.commands.line import run

    run(lambda: demo(args.task))


if __name__ == '__main__':
    main()
