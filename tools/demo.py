#!/usr/bin/env python
"""Run an embedded example: python tools/demo.py detection|segmentation|pretraining."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('task', choices=['detection', 'segmentation', 'pretraining'])
    args = parser.parse_args()
    print('Loading ...', flush=True)
    from downstream.commands.line import run

    if args.task == 'pretraining':
        from pretraining.demo import demo as pretraining_demo

        run(pretraining_demo)
        return
    from downstream.commands.demo import demo

    run(lambda: demo(args.task))


if __name__ == '__main__':
    main()
