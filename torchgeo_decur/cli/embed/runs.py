"""Rebuild the task and the datamodule of a run from its files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchgeo.datamodules import BaseDataModule
from torchgeo.tasks import BaseTask

from ...config import build, read_config
from ...files import short_hash


def load_run(
    config: str | Path,
    ckpt_path: str | Path | None = None,
    data: str | Path | None = None,
    batch_size: int | None = None,
) -> tuple[BaseTask, BaseDataModule, dict[str, Any]]:
    """Build the task and the datamodule of a run and load a checkpoint.

    Args:
        config: config with ``model`` and ``data``, such as the ``config.yaml`` of a fit.
        ckpt_path: task checkpoint, by default ``checkpoints/last.ckpt`` next to the
            config, or the only checkpoint in that folder.
        data: config whose ``data`` section replaces the section in ``config``.
        batch_size: samples per batch, by default the batch size of the data.

    Returns:
        The task, the datamodule, and the ``model`` and ``data`` sections of the config
        without batch size and number of workers.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the config or ``batch_size`` is invalid, no checkpoint can be chosen
            by default, or the checkpoint belongs to another task.
    """
    _check_batch_size(batch_size)
    config = Path(config)
    read = read_config(config, ('model', 'data') if data is None else ('model',))
    if data is not None:
        read |= read_config(data, ('data',))
    # Copy, because the parser changes its argument.
    about: dict[str, Any] = json.loads(json.dumps(read, default=str))
    file = Path(ckpt_path) if ckpt_path else _checkpoint(config)
    # The checkpoint contains all parameters, and files of initial weights may be missing.
    options = dict(read['model'].get('init_args') or {})
    options.pop('weights', None)
    model = {**read['model'], 'init_args': options}
    built = build({'model': model, 'data': read['data']}, config)
    task: BaseTask = built['model']
    datamodule: BaseDataModule = built['data']
    _restore(task, datamodule, file)
    _set_batch_size(datamodule, batch_size, about)
    return task, datamodule, about


def load_encoders(
    config: str | Path, data: str | Path | None = None, batch_size: int | None = None
) -> tuple[dict[str, Any], BaseDataModule, dict[str, Any]] | None:
    """Read the frozen encoders of a config and build its datamodule.

    Args:
        config: config with ``encoders`` and ``data``.
        data: config whose ``data`` section replaces the section in ``config``.
        batch_size: samples per batch, by default the batch size of the data.

    Returns:
        None if the config has no ``encoders``. Otherwise, the arguments of the encoders by
        name, the datamodule, and the config without batch size and number of workers.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the ``data`` section is invalid, or ``batch_size`` is not positive.
    """
    try:
        encoders = read_config(config, ('encoders',))['encoders']
    except ValueError:
        return None
    _check_batch_size(batch_size)
    read = read_config(config if data is None else data, ('data',))
    about = json.loads(json.dumps({'encoders': encoders, **read}, default=str))
    datamodule = build(read, data or config)['data']
    _set_batch_size(datamodule, batch_size, about)
    return dict(encoders), datamodule, about


def identify(module: nn.Module, datamodule: BaseDataModule) -> dict[str, str]:
    """Hash the parameters and the image scaling to identify the outputs of a run.

    Args:
        module: module whose parameters are hashed.
        datamodule: datamodule that scales the images, after ``setup``.

    Returns:
        Hashes with the names ``weights`` and ``scaling``.
    """
    state = module.state_dict().values()
    return {
        'weights': short_hash(v.float().cpu().numpy().tobytes() for v in state),
        'scaling': short_hash([repr(getattr(datamodule, 'modalities', '')).encode()]),
    }


def _check_batch_size(batch_size: int | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f'batch_size must be positive, got {batch_size}')


def _set_batch_size(
    datamodule: BaseDataModule, batch_size: int | None, about: dict[str, Any]
) -> None:
    """Set the batch size and remove loader options from the config."""
    if batch_size is not None:
        datamodule.batch_size = batch_size
    for name in ('batch_size', 'num_workers'):
        about['data'].get('init_args', {}).pop(name, None)


def _checkpoint(config: Path) -> Path:
    folder = config.parent / 'checkpoints'
    found = sorted(folder.glob('*.ckpt'))
    last = folder / 'last.ckpt'
    if last in found:
        return last
    if len(found) != 1:
        raise ValueError(
            f'{folder} must contain last.ckpt or exactly one checkpoint, found '
            f'{[f.name for f in found]}; choose a checkpoint with --ckpt_path'
        )
    return found[0]


def _restore(task: BaseTask, datamodule: BaseDataModule, file: Path) -> None:
    if not file.exists():
        raise FileNotFoundError(f'checkpoint {file} does not exist; check the path')
    try:
        content: Any = torch.load(file, map_location='cpu', weights_only=True)
    # torch.load raises almost any error for a file that is not a checkpoint.
    except Exception as error:
        raise ValueError(
            f'{file}: expected a Lightning checkpoint, found an unreadable file '
            f'({type(error).__name__}); copy it again or choose another file'
        ) from error
    if not isinstance(content, Mapping) or 'state_dict' not in content:
        raise ValueError(
            f'{file}: expected a Lightning checkpoint, found a file without state_dict; '
            'choose another file'
        )
    checkpoint = dict(content)
    task.on_load_checkpoint(checkpoint)
    try:
        task.load_state_dict(checkpoint['state_dict'])
    except RuntimeError as error:
        raise ValueError(
            f'{file}: expected a checkpoint of the {type(task).__name__} in the config, '
            f'found other parameters; choose the config of the checkpoint ({error})'
        ) from error
    # Lightning stores the datamodule state, which includes statistics, by class name.
    state = checkpoint.get(type(datamodule).__qualname__)
    if state is not None:
        datamodule.load_state_dict(state)
