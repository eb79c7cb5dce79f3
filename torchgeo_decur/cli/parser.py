"""Parse the `torchgeo-decur` command line, run the command and report errors."""

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
    'weights': 'List the published weights and show which are cached.',
    'convert': 'Convert the encoders in a file to another format.',
    'export': 'Export the encoders of a checkpoint, or the whole model as one file.',
    'map': 'Predict each pixel of a scene and write a Cloud-Optimized GeoTIFF.',
    'embed': 'Write embeddings of samples, windows or cells to (Geo)Parquet or GeoTIFF.',
    'report': 'Analyze a checkpoint and write a page of figures and tables.',
    'probe': 'Fit probes on the features and embeddings of a pretrained model.',
    'value': 'Measure how much each modality improves the prediction of labels.',
    'shared': 'Count the feature directions that two encoders share.',
    'pack': 'Pack the datasets of a config into shards for streaming.',
    'doctor': 'Check the data of a config before a fit and suggest fixes.',
    'plan': 'Estimate the steps, communication, device memory and hours of a fit.',
}


def main(args: list[str] | None = None) -> None:
    """Run the command line ``torchgeo-decur``.

    Args:
        args: command-line arguments, by default ``sys.argv[1:]``.

    Raises:
        SystemExit: if the command fails, with an error message.
    """
    try:
        chosen = _parse(sys.argv[1:] if args is None else args)
        written = _command(chosen.subcommand)(**chosen[chosen.subcommand])
        if written is not None:
            print(written)
    except KeyboardInterrupt:
        # By shell convention, the exit status is 128 plus the signal number.
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
    # jsonargparse.auto_cli would reserve --config, which is an option of `report`.
    parser = ArgumentParser(prog='torchgeo-decur', version=version('torchgeo-decur'))
    subcommands = parser.add_subcommands()
    for name, summary in _SUMMARIES.items():
        subparser = ArgumentParser(description=summary)
        # Import only the chosen command: most take seconds to import.
        if name in args[:1]:
            _add_options(subparser, name)
        subcommands.add_subcommand(name, subparser, help=summary)
    chosen: Namespace = parser.instantiate_classes(parser.parse_args(args))
    return chosen


def _command(name: str) -> Callable[..., Path | None]:
    """Import and return a command, which returns the path of its output, if any."""
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
    # Boolean flags have no value: `--onnx`, not `--onnx true`.
    options = signature(command).parameters.values()
    switches = {option.name for option in options if option.default is False}
    skip: set[str | int] = {*switches, *(['name'] if name == 'config' else [])}
    parser.add_function_arguments(
        command, as_group=False, as_positional=True, skip=skip
    )
    if name == 'config':
        # jsonargparse would turn a parameter with a default into an option.
        parser.add_argument('name', nargs='?', help='config name, such as quickstart')
    for switch in sorted(switches):
        text = re.search(rf'^ +{switch}: (.+)', str(command.__doc__), re.M)
        parser.add_argument(f'--{switch}', action='store_true', help=text and text[1])
