"""Find and read `torchgeo` configs, and build their tasks and datamodules.

Torch and TorchGeo are imported lazily, because finding configs does not need them.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

# The wheel contains a copy of the experiments folder. In the repository, this folder is
# next to the package.
_INSIDE = Path(__file__).parent / 'experiments'
_BESIDE = Path(__file__).parents[1] / 'experiments'


def find_experiments() -> dict[str, Path]:
    """Return the configs that ship with this package.

    Returns:
        Config files by name. A name is the path below the experiments folder, without
        the suffix.

    Example:
        >>> find_experiments()['transfer/rasters'].name
        'rasters.yaml'
    """
    folder = _INSIDE if _INSIDE.exists() else _BESIDE
    # Table definitions are read by a repository script, not by `torchgeo`.
    files = [p for p in folder.rglob('*.yaml') if p.parent.name != 'tables']
    files.sort(key=lambda path: (len(path.parts), path))
    return {p.relative_to(folder).with_suffix('').as_posix(): p for p in files}


def summarize(text: str) -> str:
    r"""Return the first sentence of the comment that opens a file.

    Args:
        text: content of the file.

    Returns:
        The sentence on one line, without its period.

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
    """Read sections of a ``torchgeo`` config, such as the ``config.yaml`` of a fit.

    Args:
        config: path of the config file.
        parts: names of the required sections, such as 'model' and 'data'.
        overlays: paths of configs that override values. Later configs take precedence.
        optional: names of sections to read if they are present, such as 'trainer'.

    Returns:
        Content of each section, by name.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the files lack a required section.
    """
    from lightning.pytorch.core.saving import load_hparams_from_yaml

    content: dict[str, Any] = {}
    for file in map(Path, (config, *overlays)):
        if not file.exists():
            raise FileNotFoundError(f'config {file} does not exist; check the path')
        content = _merge(content, load_hparams_from_yaml(file, use_omegaconf=False))
    read = {part: content.get(part) for part in parts}
    if not all(isinstance(value, Mapping) for value in read.values()):
        raise ValueError(
            f'{config}: expected a torchgeo config with {" and ".join(parts)}, found '
            f'{sorted(content)}; choose a config that torchgeo fit has written'
        )
    return read | {name: content[name] for name in optional if name in content}


def override_options(
    part: Mapping[str, Any], options: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Override some ``init_args`` in a section of a config.

    Args:
        part: section with ``class_path`` and ``init_args``.
        options: new values, by argument name.

    Returns:
        A copy of the section with the new values.

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
    """Build the task, the datamodule or both from sections of a config.

    Args:
        parts: ``class_path`` and ``init_args`` of 'model', 'data' or both.
        config: path of the config file, for error messages.

    Returns:
        The built objects, by section name.

    Raises:
        ValueError: if a section is not valid.
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
