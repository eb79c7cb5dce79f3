"""The command `torchgeo-decur`: its parser, and its errors."""

import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from inspect import signature
from pathlib import Path

from jsonargparse import ArgumentParser

from .commands import config, convert, embed, export, pack, plan, probe, weights
from .datasets.reading import UnreadableFileError
from .report import report_checkpoint

# What a command returns is the file that it wrote.
_COMMANDS: dict[str, Callable[..., Path | None]] = {
    'config': config,
    'weights': weights,
    'convert': convert,
    'export': export,
    'embed': embed,
    'report': report_checkpoint,
    'probe': probe,
    'pack': pack,
    'plan': plan,
}


def main(args: list[str] | None = None) -> None:
    """Run the command.

    Args:
        args: arguments; by default those of the process.

    Raises:
        SystemExit: if the command fails, with a message for the user.
    """
    # Not jsonargparse.auto_cli: it keeps --config, which `report` has, to itself.
    parser = ArgumentParser(prog='torchgeo-decur', version=version('torchgeo-decur'))
    subcommands = parser.add_subcommands()
    for name, command in _COMMANDS.items():
        subparser = ArgumentParser(description=_summary(command))
        # A switch that is off takes no value: `--onnx`, not `--onnx true`.
        options = signature(command).parameters.values()
        switches = {option.name for option in options if option.default is False}
        skip: set[str | int] = {*switches, *(['name'] if name == 'config' else [])}
        subparser.add_function_arguments(
            command, as_group=False, as_positional=True, skip=skip
        )
        if name == 'config':
            # jsonargparse makes an option of what has a default; this one needs no dash.
            subparser.add_argument('name', nargs='?', help='such as quickstart')
        for switch in sorted(switches):
            text = re.search(rf'^ +{switch}: (.+)', str(command.__doc__), re.M)
            subparser.add_argument(
                f'--{switch}', action='store_true', help=text and text[1]
            )
        subcommands.add_subcommand(name, subparser, help=_summary(command))
    try:
        chosen = parser.instantiate_classes(parser.parse_args(args))
        written = _COMMANDS[chosen.subcommand](**chosen[chosen.subcommand])
        if written is not None:
            print(written)
    except KeyboardInterrupt:
        # As a shell tells it: 128 and the number of the signal.
        print(
            'torchgeo-decur: stopped; run the command again to resume', file=sys.stderr
        )
        raise SystemExit(130) from None
    except BrokenPipeError:
        # Whoever read what was printed, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ImportError, UnreadableFileError) as error:
        raise SystemExit(f'torchgeo-decur: {error}') from error


def _summary(command: Callable[..., Path | None]) -> str:
    return str(command.__doc__).partition('\n')[0]
