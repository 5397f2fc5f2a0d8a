"""What the command lines share: arguments, and one clear line for an error that a user can fix."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from mmengine.config import DictAction

from downstream.distributed.processes import (
    complete_environment,
    have_met,
    is_first_of_machine,
    is_first_process,
    leave_process_group,
)


class KeyValueAction(DictAction):
    """mmengine's ``KEY=VALUE`` words; a word that is none is an error of the command line.

    A value is a number, true, false, None, a text, or a list (``1,2`` or ``[1,2]``) or tuple
    (``(1,2)``) of values.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        for word in values:
            key, equals, _ = word.partition('=')
            if not equals or not key:
                parser.error(
                    f'{option_string} {word!r}: write key=value, e.g. model.backbone.arch=tiny.'
                )
            try:
                super().__call__(parser, namespace, [word], option_string)
            # mmengine asserts that brackets are balanced, and calls itself for ever for a dict.
            except (AssertionError, RecursionError):
                parser.error(
                    f'{option_string} {word!r}: the value is no number, text, list or tuple of them.'
                )


class RecordedKeyValueAction(KeyValueAction):
    """Also records the words as they were given, in ``cfg_words``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        super().__call__(parser, namespace, values, option_string)
        namespace.cfg_words = (*getattr(namespace, 'cfg_words', ()), *values)


def parse_run_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line, with the arguments that training and testing have in common."""
    add_model(parser)
    add_launcher(parser)
    return parse_launched(parser)


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add the work dir, and what starts several processes."""
    parser.add_argument('--work-dir', help='where logs and results go (work_dirs/<config name>)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # Older launchers pass the rank as an argument, torchrun in the environment.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def parse_launched(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line of a process, of which there may be others (:func:`add_launcher`)."""
    args = parser.parse_args()
    complete_environment(args.launcher, args.local_rank)
    return args


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that change the config of a model."""
    parser.add_argument(
        '--backbone',
        metavar='NAME',
        help='another backbone in the same model: convnext-tiny_in1k, swin-base_in22k, '
        'resnet-50_in1k, timm:MODEL[.TAG], my_module:MyClass',
    )
    add_bands(parser)
    add_changes(parser)


def add_changes(
    parser: argparse.ArgumentParser, action: type[argparse.Action] = KeyValueAction
) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=action,
        default={},
        metavar='KEY=VALUE',
        help='changes of the config, e.g. train_dataloader.batch_size=4 or a.b=[1,2]',
    )


def add_amp(parser: argparse.ArgumentParser) -> None:
    """Add the argument of mixed precision."""
    parser.add_argument(
        '--amp',
        nargs='?',
        const='auto',
        choices=['auto', 'fp16', 'bf16'],
        help='mixed precision; bare: fp16 on CUDA, bf16 on the CPU',
    )


def add_batch(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that keep a recipe right on other hardware."""
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate to the real batch size',
    )
    parser.add_argument(
        '--keep-batch',
        action='store_true',
        help="accumulate gradients up to the recipe's batch, on fewer or smaller GPUs",
    )


def add_resume(parser: argparse.ArgumentParser) -> None:
    """Add the argument that goes on with a run."""
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint; bare: from the newest one of the work dir',
    )


def add_log_to(parser: argparse.ArgumentParser) -> None:
    """Add the argument of loggers."""
    parser.add_argument(
        '--log-to',
        nargs='+',
        choices=['tensorboard', 'wandb', 'mlflow', 'trackio'],
        default=[],
        help='figures, pictures and the config also there; docs/settings.md#loggers',
    )


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of tests in tiles."""
    parser.add_argument(
        '--tile',
        type=int,
        metavar='PIXELS',
        help='pictures that are larger in tiles of this side, merged across seams',
    )
    parser.add_argument(
        '--overlap',
        type=float,
        metavar='PART',
        help='what a tile shares with the next one, 0 to 0.5 (0.2)',
    )


def add_bands(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of images that are not 8-bit RGB."""
    parser.add_argument(
        '--channels',
        type=int,
        metavar='N',
        help='images of N channels, 8-bit, 16-bit or float: the first N bands of every file',
    )
    parser.add_argument(
        '--bands',
        type=int,
        nargs='+',
        metavar='BAND',
        help='these bands of every file, counted from 1, in this order, e.g. 3 2 1 7',
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a data set of one's own."""
    group = parser.add_argument_group('your own data', 'docs/own_data.md')
    group.add_argument(
        '--data',
        metavar='DIR',
        help='a folder, a COCO file or a data.yaml; a config is written into the work dir',
    )
    kinds = group.add_mutually_exclusive_group()
    for kind, meaning in (
        ('boxes', 'train boxes alone'),
        ('masks', 'train masks, on images whose objects all have one'),
    ):
        kinds.add_argument(
            f'--{kind}', dest='objects', action='store_const', const=kind, help=meaning
        )


def add_settings(parser: argparse.ArgumentParser, of_any_backbone: bool = False) -> None:
    """Add the everyday settings of training. Each changes all of a config that depends on it.

    Args:
        parser: What they are added to.
        of_any_backbone: Only those that give every backbone the same budget and the same start.
    """
    group = parser.add_argument_group('everyday settings', 'docs/settings.md')
    group.add_argument('--epochs', type=int, metavar='N', help='how often every image is seen')
    group.add_argument('--lr', type=float, metavar='RATE', help='learning rate for this batch')
    group.add_argument(
        '--batch-size',
        type=_batch_size,
        metavar='N',
        help='images a step, of all processes; auto: as many as fit',
    )
    group.add_argument(
        '--image-size',
        type=int,
        metavar='PIXELS',
        help='short side of a detector, crop of a segmenter; all scales follow',
    )
    if of_any_backbone:
        return
    group.add_argument(
        '--patience',
        type=int,
        metavar='N',
        help='stop after N evaluations without a better figure',
    )
    group.add_argument(
        '--from',
        dest='start_from',
        metavar='CHECKPOINT',
        help='start from a trained model; classes of the same name keep what it learned of them',
    )
    group.add_argument(
        '--weights',
        metavar='FILE',
        help='of the backbone alone: a file, e.g. of tools/pretrain.py, or a name of the table',
    )


def _batch_size(word: str) -> int | str:
    return word if word == 'auto' else int(word)


def settings_options(args: argparse.Namespace) -> dict:
    """The arguments of :func:`add_settings` as those of ``TrainOptions``."""
    names = ('epochs', 'lr', 'batch_size', 'image_size', 'patience', 'start_from', 'weights')
    return {name: getattr(args, name) for name in names}


def run_options(args: argparse.Namespace) -> dict:
    """The arguments of :func:`parse_run_arguments` as those of ``RunOptions``."""
    return {**model_options(args), 'work_dir': args.work_dir, 'launcher': args.launcher}


def model_options(args: argparse.Namespace) -> dict:
    """The config and the arguments of :func:`add_model`, for ``RunOptions`` and ``Predictor``."""
    return {
        'config': args.config,
        'cfg_options': args.cfg_options,
        'backbone': args.backbone,
        'channels': args.channels,
        'bands': tuple(args.bands) if args.bands else None,
    }


_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
# How libraries say that an optional package is missing; some raise a RuntimeError.
_MISSING = re.compile(r'is not installed|pip install|[Pp]lease install|No module named')
_OWN = ('backbones', 'downstream', 'pretraining', 'tools')


def run(command: Callable[[], object]) -> None:
    """Run ``command``; a UserError is one line on stderr and exit code 2, without a traceback.

    So is a file or folder that this user may not read or write, or that is on a read-only file system,
    and a package that a config needs and that is not installed.
    """
    # Heavy imports wait until the command line has been understood.
    from backbones.errors import UserError
    from downstream.quiet import ignore_known_warnings

    ignore_known_warnings()
    try:
        command()
    except UserError as error:
        # A worker of a data loader sends its whole traceback along.
        _fail(re.split(rf'{type(error).__name__}: ', str(error).rstrip())[-1], is_first_process())
    except OSError as error:
        if error.errno not in _NOT_ALLOWED or not error.filename:
            raise
        _fail(
            f'{error.filename}: {error.strerror}. Give another place, or change its permissions.',
            is_first_of_machine(),
        )
    except (ImportError, RuntimeError) as error:
        own = str(getattr(error, 'name', None)).partition('.')[0] in _OWN
        if own or not _MISSING.search(str(error)):
            raise
        words = ' '.join(re.split(r'\w+Error: ', str(error))[-1].split())
        _fail(
            f'{words.rstrip(".")}. Install it, or take a config that does without it.',
            is_first_of_machine(),
        )
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from downstream.running.hooks.preemption import EXIT_CODE, PreemptedError

        if not isinstance(error, PreemptedError):
            raise
        if is_first_process():
            print(error, file=sys.stderr)
        leave_process_group(EXIT_CODE)
        sys.exit(EXIT_CODE)
    leave_process_group()


def _fail(text: str, speaks: bool) -> NoReturn:
    """Print an error and exit with code 2.

    Args:
        text: What is wrong.
        speaks: Whether this process says it before the processes have met, when others raise the same.
    """
    if speaks or have_met():
        source = '' if is_first_process() else f'rank {os.environ.get("RANK", "?")}: '
        print(f'error: {source}{text}', file=sys.stderr)
    sys.exit(2)
