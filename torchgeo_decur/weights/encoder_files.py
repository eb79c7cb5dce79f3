"""Read and write files of encoders."""

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

# Key of a task's options in Lightning's checkpoint. With Lightning's own key, they would
# silently override the options of a command with ``--ckpt_path``.
TASK_OPTIONS = 'task_hyper_parameters'

# Entries of a file of torch.load, besides tensors.
_ENTRIES = (
    *('hyper_parameters', TASK_OPTIONS, 'epoch', 'global_step'),
    *('encoder_modalities', 'encoder_training', 'fusion'),
)


@dataclass(frozen=True)
class Checkpoint:
    """Encoders read from a file.

    Args:
        name: name of the file or of the weights, for messages.
        states: timm state dictionary of each modality, by name; '' if a file of one
            encoder does not name its modality.
        metadata: metadata of each encoder, by the same keys.
        options: hyperparameters of the task that wrote the file, if any.
        fusion: description of the fusion head, if there is one.
        fusion_state: its state dictionary.
    """

    name: str
    states: dict[str, State]
    metadata: dict[str, EncoderMetadata] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    fusion: Mapping[str, Any] = field(default_factory=dict)
    fusion_state: State = field(default_factory=dict)


def read_checkpoint(file: str | Path, name: str = '') -> Checkpoint:
    """Read a file of encoders; only tensors and plain types are unpickled.

    Args:
        file: path of a safetensors file or of any file that :func:`torch.load` reads.
        name: name for messages; by default the path.

    Returns:
        The encoders, without projectors and classifiers.

    Raises:
        ValueError: if the file is not a checkpoint, has no tensors, or has parameters
            that are NaN or infinite.
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
    # torch.load raises almost any error for other files.
    except Exception as error:
        raise ValueError(
            f'{name}: expected a checkpoint of tensors, found an unreadable file '
            f'({type(error).__name__}); it may be truncated, have another format, or '
            'contain code, which is never run'
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
        # The model of a segmentation task is the decoder.
        model = entries.get('model') or options.get('backbone') or options.get('model')
        model = str((model.get(m) if isinstance(model, Mapping) else model) or '')
        model = model.removeprefix('tu-')  # smp's prefix of timm's encoders
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

    ``<path>.pt`` is for ``weights=`` of TorchGeo's tasks. ``<path>.safetensors`` has the
    timm state dictionary and ``metadata``. ``<path>.pth`` has only the timm state
    dictionary.

    Args:
        encoder: a timm model, or its state dictionary.
        path: path of the files without suffix; its folder is created.
        model: name of the timm model.
        metadata: plain values that describe the images, stored as JSON.
        suffixes: one or more of 'pt', 'safetensors' and 'pth'.

    Returns:
        Paths of the files.

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
        state: tensors of :func:`~torchgeo_decur.weights.state_dict_layouts.plain_state`.
        file: path of the file.
        metadata: plain values.
    """
    atomic_write(file, _tensor_writer(state, metadata))


def as_text(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Convert plain values to text, for formats with text metadata.

    Args:
        metadata: plain values by name.

    Returns:
        Text unchanged, everything else as JSON.

    Example:
        >>> as_text({'unit': 'dB', 'bands': ['VV', 'VH']})
        {'unit': 'dB', 'bands': '["VV", "VH"]'}
    """
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}


def _from_text(text: str) -> Any:
    """Return the plain value of a text from :func:`as_text`."""
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
    # Metadata are by modality in a file of several encoders, else at the top level.
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
            f'{name}: expected a checkpoint of tensors, found none; choose another file'
        )
    return tensors
