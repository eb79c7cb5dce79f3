"""Find and read configs of `torchgeo`, and build their tasks and datamodules.

Torch and TorchGeo are imported late, because finding configs does not need them.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

# The wheel contains a copy of the folder; in the repository, it is next to the package.
_INSIDE = Path(__file__).parent / 'experiments'
_BESIDE = Path(__file__).parents[1] / 'experiments'


def find_experiments() -> dict[str, Path]:
    """Find the configs of this package.

    Returns:
        Files by name. A name is the path in the folder of experiments, without suffix.

    Example:
        >>> find_experiments()['transfer/rasters'].name
        'rasters.yaml'
    """
    folder = _INSIDE if _INSIDE.exists() else _BESIDE
    # Tables are for a script of the repository, not for `torchgeo`.
    files = [p for p in folder.rglob('*.yaml') if p.parent.name != 'tables']
    files.sort(key=lambda path: (len(path.parts), path))
    return {p.relative_to(folder).with_suffix('').as_posix(): p for p in files}


def summarize(text: str) -> str:
    r"""Return the first sentence of the comment at the start of a file.

    Args:
        text: content of the file.

    Returns:
        The sentence on one line, without its full stop.

    Example:
        >>> summarize('# Radar and optics,\n# on a CPU. Six epochs.\ntrainer: {}')
        'Radar and optics, on a CPU'
    """
    comment = re.match(r'(?:#.*\n)*', text)
    lines = comment[0].splitlines() if comment else []
    joined = ' '.join(line.lstrip('# ') for line in lines)
    return re.split(r'(?<!\.)\.(?:\s|$)', joined)[0]


def read_config(
    config: str | Path,
    parts: Sequence[str],
    overlays: Sequence[str | Path] = (),
    optional: Sequence[str] = (),
) -> dict[str, Any]:
    """Read parts of a config of ``torchgeo``, such as the ``config.yaml`` of a fit.

    Args:
        config: the file.
        parts: names of the required parts, such as 'model' and 'data'.
        overlays: configs that override values of the first; later ones take precedence.
        optional: names of parts to read if they are present, such as 'trainer'.

    Returns:
        Content of each part, by name.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the files lack a required part.
    """
    from lightning.pytorch.core.saving import load_hparams_from_yaml

    content: dict[str, Any] = {}
    for file in map(Path, (config, *overlays)):
        if not file.exists():
            raise FileNotFoundError(f'config must exist, but {file} does not')
        content = _merge(content, load_hparams_from_yaml(file, use_omegaconf=False))
    read = {part: content.get(part) for part in parts}
    if not all(isinstance(value, Mapping) for value in read.values()):
        raise ValueError(
            f'{config}: expected a config of torchgeo with {" and ".join(parts)}, found '
            f'{sorted(content)}'
        )
    return read | {name: content[name] for name in optional if name in content}


def override_options(
    part: Mapping[str, Any], options: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return a part of a config with other values of some ``init_args``.

    Args:
        part: ``class_path`` and ``init_args``.
        options: values by name.

    Example:
        >>> override_options({'class_path': 'GeoNRW'}, {'root': 'data'})
        {'class_path': 'GeoNRW', 'init_args': {'root': 'data'}}
    """
    return {**part, 'init_args': {**(part.get('init_args') or {}), **(options or {})}}


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def build(parts: Mapping[str, Any], config: str | Path) -> dict[str, Any]:
    """Build the task and the datamodule of a config.

    Args:
        parts: ``class_path`` and ``init_args`` of 'model', 'data' or both.
        config: file of the parts, for error messages.

    Returns:
        The objects, by the name of their part.

    Raises:
        ValueError: if a part is not valid.
    """
    from torchgeo.datamodules import BaseDataModule
    from torchgeo.tasks import BaseTask

    bases = {'model': BaseTask, 'data': BaseDataModule}
    parser = ArgumentParser(exit_on_error=False)
    for name in parts:
        parser.add_subclass_arguments(bases[name], name, required=True)
    try:
        parsed = parser.parse_object(dict(parts))
        built = parser.instantiate_classes(parsed)
    except ArgumentError as error:
        raise ValueError(f'{config}: {error}') from error
    return {name: built[name] for name in parts}
