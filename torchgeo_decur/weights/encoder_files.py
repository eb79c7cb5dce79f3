"""Read and write encoder files."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..files import Write, atomic_write, atomic_write_all, check_writable
from .metadata import EncoderMetadata
from .state_dict_layouts import (
    State,
    check_finite,
    count_channels,
    plain_state,
    replace_prefix,
    restore_keys,
    split_states,
)

# Key for the hyperparameters of a task in a Lightning checkpoint. Under Lightning's own
# key, they would silently override the options of a command with ``--ckpt_path``.
TASK_OPTIONS = 'task_hyper_parameters'

# Entries of a torch.save file that are read in addition to the tensors.
_ENTRIES = (
    *('hyper_parameters', TASK_OPTIONS, 'epoch', 'global_step'),
    *('encoder_modalities', 'encoder_training', 'fusion'),
)


@dataclass(frozen=True)
class Checkpoint:
    """Encoders from a file, with their metadata.

    Args:
        name: name of the file or weights, for messages.
        states: timm state dictionaries by modality. The key is '' if a file with a single
            encoder does not name its modality.
        metadata: metadata of each encoder, with the same keys as ``states``.
        options: hyperparameters of the task that wrote the file, if any.
        fusion: description of the fusion head, if any.
        fusion_state: state dictionary of the fusion head.
    """

    name: str
    states: dict[str, State]
    metadata: dict[str, EncoderMetadata] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    fusion: Mapping[str, Any] = field(default_factory=dict)
    fusion_state: State = field(default_factory=dict)


def read_checkpoint(file: str | Path, name: str = '') -> Checkpoint:
    """Read an encoder file; only tensors and plain types are unpickled.

    Args:
        file: path of a safetensors file or of any file that :func:`torch.load` can read.
        name: name for messages, by default the path.

    Returns:
        The encoders, without projectors and classifiers.

    Raises:
        ValueError: if the file is not a checkpoint, contains no tensors, or has NaN or
            infinite parameters.
    """
    name = name or str(file)
    content: Any
    entries: dict[str, Any] = {}
    try:
        if str(file).endswith('.safetensors'):
            content = safetensors.torch.load_file(file)
            with safetensors.safe_open(file, framework='pt') as opened:
                texts = opened.metadata() or {}
            entries = {k: _from_text(v) for k, v in texts.items()}
        else:
            content = torch.load(file, map_location='cpu', weights_only=True)
    # For other files, torch.load raises almost any type of error.
    except Exception as error:
        raise ValueError(
            f'{name}: expected a checkpoint with tensors, found an unreadable file '
            f'({type(error).__name__}); it may be truncated, be in another format or '
            'contain code, which is never executed'
        ) from error
    if isinstance(content, Mapping):
        entries |= {k: content[k] for k in _ENTRIES if k in content}
    if TASK_OPTIONS in entries:
        entries['hyper_parameters'] = entries.pop(TASK_OPTIONS)
    options = entries.get('hyper_parameters')
    options = options if isinstance(options, Mapping) else {}
    tensors = _tensors(name, content)
    states = split_states(tensors)
    metadata = {}
    for m, state in states.items():
        # In a segmentation task, the option 'model' names the decoder.
        model = entries.get('model') or options.get('backbone') or options.get('model')
        model = str((model.get(m) if isinstance(model, Mapping) else model) or '')
        model = model.removeprefix('tu-')  # smp's prefix for timm encoders
        known = {'left_out': entries.get('left_out', ())}
        if 'backbone' in options:
            states[m], known['left_out'] = restore_keys(state, model)
        check_finite(f'{name}{f", {m}" if m else ""}', states[m])
        metadata[m] = _describe(m, states[m], model, {**entries, **known}, options)
    fusion = entries.get('fusion') or {}
    fused = replace_prefix(tensors, 'fusion.', '') if fusion else {}
    return Checkpoint(name, states, metadata, options, fusion, fused)


def save_encoder(
    encoder: nn.Module | Mapping[str, Tensor],
    path: Path,
    model: str,
    metadata: Mapping[str, Any],
    suffixes: Iterable[str] = ('pt', 'safetensors'),
) -> list[Path]:
    """Write an encoder in one or more formats, atomically: all files or none.

    ``<path>.pt`` can be passed to TorchGeo's tasks as ``weights=``. ``<path>.safetensors``
    contains the timm state dictionary and ``metadata``. ``<path>.pth`` contains only the
    timm state dictionary.

    Args:
        encoder: a timm model, or its state dictionary.
        path: path of the files without suffix; its folder is created.
        model: name of the timm model.
        metadata: plain values that describe the images, stored only in the safetensors
            file.
        suffixes: one or more of 'pt', 'safetensors' and 'pth'.

    Returns:
        Paths of the written files.

    Raises:
        ValueError: if the folder is not writable.
    """
    check_writable(path.parent)
    state = plain_state(encoder)
    files = {suffix: path.with_name(f'{path.name}.{suffix}') for suffix in suffixes}
    contents: dict[str, Any] = {
        'pt': {
            'hyper_parameters': {'model': model},
            'state_dict': {f'model.{k}': v for k, v in state.items()},
        },
        'pth': state,
    }
    atomic_write_all(
        {
            file: _tensor_writer(state, {'model': model, **metadata})
            if suffix == 'safetensors'
            else partial(torch.save, contents[suffix])
            for suffix, file in files.items()
        }
    )
    return list(files.values())


def save_tensors(state: State, file: Path, metadata: Mapping[str, Any]) -> None:
    """Write tensors and their metadata as safetensors, atomically.

    Args:
        state: tensors from
            :func:`~torchgeo_decur.weights.state_dict_layouts.plain_state`.
        file: path of the file.
        metadata: plain values by name.
    """
    atomic_write(file, _tensor_writer(state, metadata))


def as_text(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Convert plain values to strings, for formats with text metadata.

    Args:
        metadata: plain values by name.

    Returns:
        Strings by name, with strings unchanged and other values as JSON.

    Example:
        >>> as_text({'unit': 'dB', 'bands': ['VV', 'VH']})
        {'unit': 'dB', 'bands': '["VV", "VH"]'}
    """
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}


def _from_text(text: str) -> Any:
    """Convert a string from :func:`as_text` back to a plain value."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _tensor_writer(state: State, metadata: Mapping[str, Any]) -> Write:
    text = as_text({'format': 'pt', **metadata})
    return partial(safetensors.torch.save_file, state, metadata=text)


def _describe(
    modality: str,
    state: State,
    model: str,
    entries: Mapping[str, Any],
    options: Mapping[str, Any],
) -> EncoderMetadata:
    """Gather the metadata of one encoder from the entries of its file."""
    # Files with several encoders store metadata by modality, other files at the top level.
    named = modality or str(entries.get('modality', 'encoder'))
    own = dict(entries.get('encoder_modalities', {}).get(named, {}))
    values = {**own, **entries, **entries.get('encoder_training', {})}
    bands = values.pop('bands', None) or (options.get('bands') or {}).get(modality)
    if isinstance(bands, list | tuple):
        values['bands'] = bands
    # Lightning counts epochs from 0.
    if 'epoch' in entries:
        values['epochs'] = entries['epoch'] + 1
        values['steps'] = entries.get('global_step', 0)
    channels = len(values.get('bands') or ()) or count_channels(state)
    return EncoderMetadata.from_dict(
        values, modality=named, in_chans=channels, model=model
    )


def _tensors(name: str, content: Any) -> State:
    for key in ('state_dict', 'model'):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = (
        {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise ValueError(
            f'{name}: expected a checkpoint with tensors, found none; choose another file'
        )
    return tensors
