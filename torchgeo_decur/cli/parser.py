"""Parse the command `torchgeo-decur` and report its errors."""

import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from inspect import signature
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..files import UnreadableFileError

_SUMMARIES = {
    'config': 'Print a config for `torchgeo fit --config`; without a name, list all configs.',
    'weights': 'List the published weights, and show which are cached.',
    'convert': 'Convert the encoders of a file to another format.',
    'export': 'Export the encoders of a checkpoint, as at the end of a fit.',
    'map': 'Predict each pixel of a scene, and write a Cloud-Optimized GeoTIFF.',
    'embed': 'Write the embedding of each window, sample or cell to (Geo)Parquet or GeoTIFF.',
    'report': 'Analyse a checkpoint, and write a page of figures and numbers.',
    'probe': 'Fit probes on the features and on each part of the embeddings of a pretraining.',
    'value': 'Measure how much each modality adds to the prediction of labels.',
    'shared': 'Count the directions that the features of two encoders share.',
    'pack': 'Pack the datasets of a config into shards for streaming.',
    'doctor': 'Examine the data of a config before a fit, and print findings with fixes.',
    'plan': 'Estimate steps, communication, device memory and hours of a fit.',
}


def main(args: list[str] | None = None) -> None:
    """Run the command.

    Args:
        args: arguments; by default, the arguments of the process.

    Raises:
        SystemExit: if the command fails, with a message for the user.
    """
    try:
        chosen = _parse(sys.argv[1:] if args is None else args)
        written = _command(chosen.subcommand)(**chosen[chosen.subcommand])
        if written is not None:
            print(written)
    except KeyboardInterrupt:
        # As in shells, the exit status is 128 plus the number of the signal.
        print(
            'torchgeo-decur: stopped; run the command again to resume', file=sys.stderr
        )
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ImportError, UnreadableFileError) as error:
        raise SystemExit(f'torchgeo-decur: {error}') from error


def _parse(args: list[str]) -> Namespace:
    # Not jsonargparse.auto_cli, which reserves --config, an option of `report`.
    parser = ArgumentParser(prog='torchgeo-decur', version=version('torchgeo-decur'))
    subcommands = parser.add_subcommands()
    for name, summary in _SUMMARIES.items():
        subparser = ArgumentParser(description=summary)
        # Import only the chosen command, because most take seconds to import.
        if name in args[:1]:
            _add_options(subparser, name)
        subcommands.add_subcommand(name, subparser, help=summary)
    chosen: Namespace = parser.instantiate_classes(parser.parse_args(args))
    return chosen


def _command(name: str) -> Callable[..., Path | None]:
    """Import a command, which returns the path of its output, if any."""
    if name in ('config', 'weights'):
        from . import listing

        listed: Callable[..., None] = getattr(listing, name)
        return listed
    if name == 'doctor':
        from .doctor import doctor

        return doctor
    if name == 'report':
        from .report import report_checkpoint

        return report_checkpoint
    if name == 'map':
        from .maps import map_scene

        return map_scene
    from . import commands

    command: Callable[..., Path | None] = getattr(commands, name)
    return command


def _add_options(parser: ArgumentParser, name: str) -> None:
    """Add the parameters of a command to its parser."""
    command = _command(name)
    # Switches have no value: `--onnx`, not `--onnx true`.
    options = signature(command).parameters.values()
    switches = {option.name for option in options if option.default is False}
    skip: set[str | int] = {*switches, *(['name'] if name == 'config' else [])}
    parser.add_function_arguments(
        command, as_group=False, as_positional=True, skip=skip
    )
    if name == 'config':
        # Positional, but jsonargparse makes an option of a parameter with a default.
        parser.add_argument('name', nargs='?', help='such as quickstart')
    for switch in sorted(switches):
        text = re.search(rf'^ +{switch}: (.+)', str(command.__doc__), re.M)
        parser.add_argument(f'--{switch}', action='store_true', help=text and text[1])
