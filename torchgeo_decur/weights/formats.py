"""Files of encoders: the layouts in which others write them, and those we write."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from ..files import Write, atomic_write, atomic_write_all, check_writable

type State = dict[str, Tensor]

# Where a task keeps its options in Lightning's checkpoint. Under Lightning's own key they
# would take the place of what a command is given beside ``--ckpt_path``, without a word.
TASK_OPTIONS = 'task_hyper_parameters'

# Parameters that an encoder without a classifier does not have.
HEADS = ('fc.', 'head.', 'classifier.', 'projector')

# Our checkpoints hold encoders.encoders.<m>, a MultimodalEncoder holds encoders.<m>.
_OURS = re.compile(r'^(?:(?:\w+\.)*encoders\.)?encoders\.([^.]+)\.(.+)$')
_PUBLISHED = re.compile(r'^backbone_(\d+)\.(.+)$')
_ATTENTION = re.compile(r'^da(\d+)_(l\d+\..+)$')
# What a file of torch.load may say besides tensors.
_ABOUT = (
    *('hyper_parameters', TASK_OPTIONS, 'epoch', 'global_step'),
    *('encoder_modalities', 'encoder_training', 'fusion'),
)
# Those of TorchGeo's tasks first: BYOL, segmentation with timm's and smp's encoders.
_PREFIXES = (
    'model.backbone.model.',
    'model.encoder.model.',
    'model.encoder.',
    'model.',
    'backbone.',
    '',
)
# What torch.compile, DDP and DataParallel put before the names of a module.
_WRAPPERS = re.compile(r'^(?:module\.)+|\b_orig_mod\.(?:module\.)?')


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds of encoders.

    Args:
        name: name of the file or of the weights, for messages.
        states: timm state dictionary of each modality, by name; one encoder of a file
            that does not say of what is called ''.
        bands: names of the bands of each modality, where the file says.
        model: name of the timm model of each modality, where the file says.
        left_out: parameters of the encoder of each modality that were never there, since
            the encoder was a pyramid.
        metadata: what else the file says: ``modality`` of a single encoder,
            ``hyper_parameters``, ``epoch``, ...
        fusion: state dictionary of the fusion head, where there is one.
    """

    name: str
    states: dict[str, State]
    bands: dict[str, tuple[str, ...]] = field(default_factory=dict)
    model: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    fusion: State = field(default_factory=dict)


def read_checkpoint(file: str | Path, name: str = '') -> Checkpoint:
    """Read a file of encoders; nothing but tensors and plain types is ever unpickled.

    Args:
        file: path of a safetensors file or of anything that :func:`torch.load` reads.
        name: name for messages; by default the path.

    Returns:
        The encoders, without projectors and classifiers of one modality.

    Raises:
        ValueError: if the file cannot be read as a checkpoint, holds no tensors, or
            parameters that are NaN or infinite.
    """
    name = name or str(file)
    content: Any
    text: dict[str, Any] = {}
    try:
        if str(file).endswith('.safetensors'):
            content = safetensors.torch.load_file(file)
            with safetensors.safe_open(file, framework='pt') as opened:
                text = {k: _plain(v) for k, v in (opened.metadata() or {}).items()}
        else:
            content = torch.load(file, map_location='cpu', weights_only=True)
    # On bytes that are no checkpoint, torch.load raises nearly anything.
    except Exception as error:
        raise ValueError(
            f'{name}: expected a checkpoint of tensors, found a file that cannot be '
            f'read as one ({type(error).__name__}); it may be truncated, of another '
            'format, or hold code, which is never run'
        ) from error
    if isinstance(content, Mapping):
        text |= {k: content[k] for k in _ABOUT if k in content}
    if TASK_OPTIONS in text:
        text['hyper_parameters'] = text.pop(TASK_OPTIONS)
    tensors = _tensors(name, content)
    states = split_states(tensors)
    options = text.get('hyper_parameters')
    options = options if isinstance(options, Mapping) else {}
    # In a task of segmentation the model is the decoder.
    model = text.get('model') or options.get('backbone') or options.get('model')
    if isinstance(model, str):
        model = model.removeprefix('tu-')  # smp's prefix of timm's encoders
    models = model if isinstance(model, Mapping) else dict.fromkeys(states, model)
    known, named = text.get('encoder_modalities', {}), options.get('bands') or {}
    bands = {m: known.get(m, text).get('bands') or named.get(m) for m in states}
    left_out = dict.fromkeys(states, tuple(text.get('left_out', ())))
    if 'backbone' in options:
        for m in states:
            states[m], left_out[m] = _whole(states[m], str(models.get(m)))
    for m, found in states.items():
        check_finite(f'{name}{f", {m}" if m else ""}', found)
    return Checkpoint(
        name,
        states,
        {m: tuple(b) for m, b in bands.items() if isinstance(b, list | tuple)},
        {m: str(v) for m, v in models.items() if v},
        left_out,
        text,
        _renamed(tensors, r'fusion\.', '') if 'fusion' in text else {},
    )


def check_finite(name: str, state: Mapping[str, Tensor]) -> None:
    """Refuse parameters of a fit that diverged.

    Args:
        name: what they are of, for the message.
        state: tensors by name.

    Raises:
        ValueError: naming those that are NaN or infinite.
    """
    bad = [k for k, v in state.items() if not v.isfinite().all()]
    if bad:
        raise ValueError(
            f'{name}: expected finite parameters, found NaN or infinite ones in {len(bad)} '
            f'of {len(state)}, {bad[:3]}; take a checkpoint from before the fit diverged'
        )


def split_states(state: Mapping[str, Tensor]) -> dict[str, State]:
    """Find the encoders in a state dictionary of any known layout.

    - ours: ``encoders.encoders.<m>.``, with or without what a task puts before;
    - DeCUR as published: ``module.backbone_1.``, ``module.backbone_2.``. Deformable
      attention stands beside them; in training ``da1_*`` served every modality and the
      others never changed, so every encoder gets ``da1_*`` as ``da_*``;
    - one encoder, bare or under ``model.`` or ``backbone.``, or where TorchGeo's BYOL
      and segmentation keep it.

    Prefixes of DDP and of ``torch.compile`` are left out.

    Args:
        state: tensors by name.

    Returns:
        State dictionary of each modality; published ones are called ``backbone_1``,
        ``backbone_2``, a single one ''. Deformable attention that was never trained is
        left out.
    """
    state = {_WRAPPERS.sub('', k): v for k, v in state.items()}
    attention = {k: v for k, v in state.items() if _ATTENTION.match(k)}
    trained = _renamed(attention, r'da1_', 'da_')
    found: dict[str, State] = {}
    for key, value in state.items():
        if match := _OURS.match(key):
            found.setdefault(match[1], {})[match[2]] = value
        elif match := _PUBLISHED.match(key):
            found.setdefault(f'backbone_{match[1]}', {})[match[2]] = value
    if found:
        return {m: {**s, **trained} for m, s in found.items()}
    for prefix in _PREFIXES:
        single = _renamed(state, re.escape(prefix), '')
        if single:
            break
    rest = {k: v for k, v in single.items() if not _ATTENTION.match(k)}
    return {'': {**rest, **trained}}


def save_encoder(
    encoder: nn.Module | Mapping[str, Tensor],
    path: Path,
    model: str,
    metadata: Mapping[str, Any],
    suffixes: Iterable[str] = ('pt', 'safetensors'),
) -> list[Path]:
    """Write an encoder in the layouts that others load, all files or none.

    ``<path>.pt`` is what TorchGeo's own tasks take as ``weights=``; ``<path>.safetensors``
    has the bare timm state dictionary, with ``metadata`` beside the tensors;
    ``<path>.pth`` has the bare timm state dictionary alone.

    Args:
        encoder: a timm model, or its state dictionary.
        path: path of the files without suffix; its folder is made.
        model: name of the timm model.
        metadata: plain values that say what the encoder expects, stored as JSON.
        suffixes: which of 'pt', 'safetensors' and 'pth' to write.

    Returns:
        Paths of the files.

    Raises:
        ValueError: if the folder cannot be written.
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
    said = {'model': model, **metadata}
    atomic_write_all(
        {
            file: _tensor_writer(state, said)
            if suffix == 'safetensors'
            else partial(torch.save, contents[suffix])
            for suffix, file in files.items()
        }
    )
    return list(files.values())


def plain_state(encoder: nn.Module | Mapping[str, Tensor]) -> State:
    """Copy the tensors of a model to the CPU, each with a storage of its own.

    Args:
        encoder: a model, or its state dictionary.

    Returns:
        The tensors by name, as safetensors takes them.
    """
    tensors = encoder.state_dict() if isinstance(encoder, nn.Module) else dict(encoder)
    return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}


def save_tensors(state: State, file: Path, metadata: Mapping[str, Any]) -> None:
    """Write tensors and what is known of them as safetensors.

    Args:
        state: what :func:`plain_state` returns.
        file: the file.
        metadata: plain values.
    """
    atomic_write(file, _tensor_writer(state, metadata))


def as_text(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Write plain values as text, for formats whose metadata are text.

    Args:
        metadata: plain values by name.

    Returns:
        Text as it is, everything else as JSON.

    Example:
        >>> as_text({'unit': 'dB', 'bands': ['VV', 'VH']})
        {'unit': 'dB', 'bands': '["VV", "VH"]'}
    """
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}


def normalize_key(key: str) -> str:
    """Name of a parameter that an encoder and its pyramid share.

    Args:
        key: name in either; timm's pyramids rename ``stages.0`` to ``stages_0``, or put
            ``model.`` before all names.

    Returns:
        The same text for both.

    Example:
        >>> normalize_key('stages.0.blocks.1.weight')
        'stages_0_blocks_1_weight'
        >>> normalize_key('model.stages_0.blocks.1.weight')
        'stages_0_blocks_1_weight'
    """
    return key.removeprefix('model.').replace('.', '_')


def _tensor_writer(state: State, metadata: Mapping[str, Any]) -> Write:
    text = as_text({'format': 'pt', **metadata})
    return partial(safetensors.torch.save_file, state, metadata=text)


def _whole(state: State, model: str) -> tuple[State, tuple[str, ...]]:
    """Give the parameters of a pyramid the names of its encoder; say which it lacks."""
    if not timm.is_model(model):
        return state, ()
    keys = timm.create_model(model, num_classes=0).state_dict()
    names = {normalize_key(k): k for k in keys}
    renamed = {names.get(normalize_key(k), k): v for k, v in state.items()}
    return renamed, tuple(k for k in keys if k not in renamed)


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
        raise ValueError(f'{name}: expected a checkpoint of tensors, found none in it')
    return tensors


def _renamed(state: Mapping[str, Tensor], prefix: str, by: str) -> State:
    """Those whose names begin with a prefix, with another one instead."""
    return {
        re.sub(f'^{prefix}', by, k): v for k, v in state.items() if re.match(prefix, k)
    }


def _plain(text: str) -> Any:
    """What a value of safetensors' metadata was, before it became JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text
