"""Start an encoder from weights that were trained elsewhere, and write such files."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torchgeo.models import get_weight
from torchvision.models import WeightsEnum

# A checkpoint holds an encoder under one of these, or bare.
_PREFIXES = ('encoders.encoders.{modality}.', 'model.', 'backbone.', '')
# Parameters that an encoder without a classifier does not have.
_HEADS = ('fc.', 'head.', 'classifier.')


def load_weights(
    encoder: nn.Module, weights: WeightsEnum | str | Path, modality: str = ''
) -> None:
    """Load weights into an encoder, all of it or an error.

    Reads weight enums and their names (downloaded and verified by TorchGeo), files that
    :class:`~torchgeo_decur.callbacks.ExportEncoders` writes (``.pt`` and
    ``.safetensors``), checkpoints of our tasks, and plain timm or torchvision state
    dictionaries. Nothing but tensors and plain types is ever unpickled.

    Args:
        encoder: a timm model without classifier; changed in place.
        weights: enum, name of an enum, or path of a file.
        modality: whose encoder to take from a checkpoint of several.

    Raises:
        ValueError: if the name is unknown and no file, the file is no checkpoint, or
            its parameters are not those of ``encoder``.
    """
    name, state = _read(weights)
    state = _select(state, modality)
    expected = encoder.state_dict()
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(
        k for k in set(state) - set(expected) if not k.startswith(_HEADS)
    )
    shapes = {
        k: (tuple(expected[k].shape), tuple(state[k].shape))
        for k in sorted(set(expected) & set(state))
        if expected[k].shape != state[k].shape
    }
    if missing or unexpected or shapes:
        raise ValueError(
            f'{name}: expected the parameters of the encoder'
            f'{f" of {modality}" if modality else ""}, found another model: '
            f'{len(missing)} missing {missing[:3]}, {len(unexpected)} unexpected '
            f'{unexpected[:3]}, {len(shapes)} of another shape '
            f'{dict(list(shapes.items())[:3])}; set model and number of channels to '
            'those of the weights'
        )
    encoder.load_state_dict({k: state[k] for k in expected})


def save_encoder(
    encoder: nn.Module, path: Path, model: str, metadata: Mapping[str, Any]
) -> list[Path]:
    """Write an encoder in the two layouts that others load, each file atomically.

    ``<path>.pt`` is what TorchGeo's own tasks take as ``weights=``; ``<path>.safetensors``
    has the bare timm state dictionary, with ``metadata`` beside the tensors.

    Args:
        encoder: a timm model.
        path: path of the files without suffix; its folder is made.
        model: name of the timm model.
        metadata: plain values that say what the encoder expects, stored as JSON.

    Returns:
        Paths of the two files.

    Raises:
        ValueError: if the folder cannot be written.
    """
    writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    checkpoint = {
        'hyper_parameters': {'model': model},
        'state_dict': {f'model.{k}': v for k, v in state.items()},
    }
    text = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    text = {'format': 'pt', 'model': model, **text}
    files = [
        path.with_name(f'{path.name}.{suffix}') for suffix in ('pt', 'safetensors')
    ]
    partial = [file.with_name(f'.{file.name}.partial') for file in files]
    try:
        torch.save(checkpoint, partial[0])
        safetensors.torch.save_file(state, partial[1], metadata=text)
        for source, target in zip(partial, files, strict=True):
            os.replace(source, target)
    finally:
        for file in partial:
            file.unlink(missing_ok=True)
    return files


def writable(folder: Path) -> None:
    """See that a folder can be made and a file be written there; leaves no trace.

    Args:
        folder: the folder.

    Raises:
        ValueError: if not.
    """
    folder = folder.absolute()
    try:
        existing = next(f for f in (folder, *folder.parents) if f.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(
            f'output folder must be writable, got {folder} ({error.strerror}); choose '
            'another, for example with --trainer.default_root_dir'
        ) from error


def _read(weights: WeightsEnum | str | Path) -> tuple[str, dict[str, Tensor]]:
    if isinstance(weights, str) and not os.path.exists(weights):
        try:
            weights = get_weight(weights)
        except ValueError:
            raise ValueError(
                'weights must be a weight enum, the name of one such as '
                f'ResNet50_Weights.SENTINEL1_GRD_DECUR, or a file, got {weights!r}'
            ) from None
    if isinstance(weights, WeightsEnum):
        state = weights.get_state_dict(
            progress=True, check_hash=True, map_location='cpu', weights_only=True
        )
        return str(weights), dict(state)
    try:
        if str(weights).endswith('.safetensors'):
            return str(weights), safetensors.torch.load_file(weights)
        checkpoint: Any = torch.load(weights, map_location='cpu', weights_only=True)
    # On bytes that are no checkpoint, torch.load raises nearly anything.
    except Exception as error:
        raise ValueError(
            f'{weights}: expected a checkpoint of tensors, found a file that cannot be '
            f'read as one ({type(error).__name__}); it may be truncated, of another '
            'format, or hold code, which is never run'
        ) from error
    for key in ('state_dict', 'model'):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    tensors = isinstance(checkpoint, Mapping) and {
        str(k): v for k, v in checkpoint.items() if isinstance(v, Tensor)
    }
    if not tensors:
        raise ValueError(
            f'{weights}: expected a checkpoint of tensors, found none in it'
        )
    return str(weights), tensors


def _select(state: dict[str, Tensor], modality: str) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        prefix = prefix.format(modality=modality)
        found = {
            k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)
        }
        if found:
            return found
    return state
