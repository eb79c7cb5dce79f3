"""Load weights into encoders."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from ..modalities import normalize_band
from .download import fetch
from .encoder_files import Checkpoint, read_checkpoint
from .enums import ENUMS, DeCURWeights, get_weight, weights_of_file
from .metadata import EncoderMetadata
from .state_dict_layouts import (
    HEADS,
    State,
    count_channels,
    first_convolution,
    fold_repeated,
    split_states,
)

type Source = WeightsEnum | str | Path


@dataclass(frozen=True)
class LoadReport:
    """Result of :func:`load_weights` for one encoder.

    Args:
        weights: name of the weights or file.
        loaded: number of loaded parameters and buffers.
        missing: encoder parameters that are absent from the weights.
        unexpected: parameters in the weights that the encoder does not have.
        changes: changes to the first convolution or position embeddings.
    """

    weights: str
    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    changes: tuple[str, ...]


def load_weights(
    encoder: nn.Module | Mapping[str, nn.Module],
    weights: Source | Mapping[str, Source],
    modality: str = '',
    bands: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    strict: bool = True,
) -> dict[str, LoadReport]:
    """Load weights into one or more encoders; an error leaves all encoders unchanged.

    Weights can be a weight enum from this package or TorchGeo, its name, or a file. Valid
    files are published DeCUR files, exports from
    :class:`~torchgeo_decur.callbacks.ExportEncoders`, checkpoints of tasks in this package,
    and state dictionaries from timm or torchvision. Downloads are verified, and only
    tensors and plain types are unpickled. Classifiers and projectors are ignored.

    If ``bands`` is set, the channels of the first convolution are selected and ordered by
    band name. New bands are initialized with zeros, and unused bands are dropped. Position
    embeddings of vision transformers are interpolated to the grid of the encoder.

    Args:
        encoder: a timm model without classifier, a mapping from modality to such models, a
            :class:`~torchgeo_decur.models.MultimodalEncoder`, or a task from this package.
            It is changed in place.
        weights: weight enum, its name or a file path. For several encoders, also a mapping
            by modality.
        modality: modality to load into a single encoder, if the weights have several.
        bands: band names of the images, in order. For several encoders, a mapping by
            modality.
        strict: whether to raise an error if a parameter is missing or unexpected.
            Otherwise, matching parameters are loaded, with a warning.

    Returns:
        Reports by modality; the key of a single encoder is ``modality``.

    Raises:
        FileNotFoundError: if weights are not in the cache and cannot be downloaded.
        ValueError: if ``weights`` is neither a known name nor a checkpoint, lacks the
            modality, or does not match the encoder.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from torchgeo_decur.models import MultimodalEncoder
        >>> encoder = MultimodalEncoder({'s1': 2, 'dem': 1}, model='resnet18')
        >>> with TemporaryDirectory() as folder:
        ...     torch.save(encoder.state_dict(), Path(folder) / 'encoder.pt')
        ...     reports = load_weights(encoder, Path(folder) / 'encoder.pt')
        >>> reports['dem'].loaded
        120
    """
    encoders = _encoders(encoder, modality)
    many = not (isinstance(encoder, nn.Module) and encoders.get(modality) is encoder)
    sources = dict(weights) if isinstance(weights, Mapping) else {}
    names = dict(bands) if isinstance(bands, Mapping) else {}
    for option, given in (('weights', sources), ('bands', names)):
        if unknown := sorted(set(given) - set(encoders)):
            raise ValueError(
                f'keys of {option} must be among the encoders {list(encoders)}, '
                f'got {unknown}'
            )
    if many and bands is not None and not isinstance(bands, Mapping):
        raise ValueError(
            f'bands for several encoders must be a mapping with the keys '
            f'{list(encoders)}, got {bands!r}'
        )
    read: dict[str, Checkpoint] = {}
    ready: dict[str, tuple[nn.Module, State, LoadReport]] = {}
    for m, target in encoders.items():
        if sources and m not in sources:
            continue
        source = sources.get(m, weights)
        key = f'{type(source)} {source}'
        checkpoint = read[key] = read.get(key) or read_weights(source)
        wanted = names.get(m) if isinstance(bands, Mapping) else bands
        ready[m] = (target, *match_parameters(target, checkpoint, m, wanted, strict))
    for m, (target, state, report) in ready.items():
        target.load_state_dict(state, strict=False)
        for change in report.changes:
            # Import late, because Lightning doubles the import time of the package.
            from lightning.pytorch.utilities import rank_zero_info

            rank_zero_info(f'{report.weights}{f", {m}" if m else ""}: {change}')
    return {m: report for m, (_, _, report) in ready.items()}


def read_weights(weights: Any) -> Checkpoint:
    """Read encoders from a weight enum or a file.

    Args:
        weights: weight enum, its name or a file path.

    Returns:
        The encoders. Published files are recognized by name, and their channels are
        reordered.

    Raises:
        FileNotFoundError: if weights are not in the cache and cannot be downloaded.
        ValueError: if ``weights`` is neither a known name nor a file, or the file is not a
            checkpoint.
    """
    if isinstance(weights, str) and not os.path.exists(weights):
        try:
            weights = get_weight(weights)
        except ValueError as error:
            raise ValueError(
                'weights must be a weight enum, its name (such as '
                f'ResNet50_Weights.SENTINEL1_2_DECUR) or a file, got {weights!r}; '
                f'{str(error).rpartition("; ")[2]}'
            ) from None
    if isinstance(weights, DeCURWeights):
        return weights.read()
    if isinstance(weights, ENUMS):
        return _read_foreign(weights)
    if not isinstance(weights, str | Path):
        raise ValueError(
            'weights must be a weight enum, its name or a file, '
            f'got {type(weights).__name__}'
        )
    checkpoint = read_checkpoint(weights)
    entry = weights_of_file(weights)
    return entry.interpret(checkpoint) if entry else checkpoint


def _read_foreign(weights: WeightsEnum) -> Checkpoint:
    """Read weights from TorchGeo or torchvision."""
    name, bands = str(weights), weights.meta.get('bands')
    if type(weights).get_state_dict is WeightsEnum.get_state_dict:
        states = fetch(weights.url, lambda f: read_checkpoint(f, name)).states
    else:
        options = {'progress': True, 'check_hash': True, 'weights_only': True}
        states = split_states(weights.get_state_dict(map_location='cpu', **options))
    metadata = {
        m: EncoderMetadata(
            in_chans=len(bands or ()) or count_channels(state),
            model=weights.meta.get('model') or '',
            images={'bands': tuple(bands)} if bands else {},
        )
        for m, state in states.items()
    }
    return Checkpoint(name, states, metadata)


def _encoders(
    encoder: nn.Module | Mapping[str, nn.Module], modality: str
) -> dict[str, nn.Module]:
    if isinstance(encoder, Mapping):
        return dict(encoder)
    # Transfer tasks have encoders in their model; MultimodalEncoder has a dictionary.
    inside: Any = encoder
    while not isinstance(inside, nn.ModuleDict):
        holders = [x for x in (inside, getattr(inside, 'model', None)) if x is not None]
        found = [x.encoders for x in holders if hasattr(x, 'encoders')]
        if not found:
            break
        inside = found[0]
    # timm feature pyramids are also module dictionaries, but of a single encoder.
    if isinstance(inside, nn.ModuleDict) and not hasattr(inside, 'feature_info'):
        return dict(inside.items())
    return {modality: encoder}


def match_parameters(
    encoder: nn.Module,
    checkpoint: Checkpoint,
    modality: str,
    bands: Sequence[str] | None = None,
    strict: bool = True,
) -> tuple[State, LoadReport]:
    """Select the parameters to load into one encoder, without changing the encoder.

    Args:
        encoder: a timm model.
        checkpoint: encoders from a file.
        modality: modality of the encoder in the checkpoint.
        bands: band names of the images, in order.
        strict: whether a missing or unexpected parameter is an error; see
            :func:`load_weights`.

    Returns:
        Parameters by their name in the encoder, and a report.

    Raises:
        ValueError: if the parameters do not match the encoder.
    """
    held = list(checkpoint.states)
    key = '' if held == [''] else modality
    if key not in held and (modality or len(held) > 1):
        raise ValueError(
            f'{checkpoint.name}: expected an encoder for {modality or "one modality"}, '
            f'found encoders for {held}; set the argument modality, or use the same '
            'modality names'
        )
    key = key if key in held else held[0]
    where = f'{checkpoint.name}{f", {modality}" if modality else ""}'
    expected = encoder.state_dict()
    about = checkpoint.metadata.get(key, EncoderMetadata())
    known = about.bands
    state, changes = _fit_bands(where, checkpoint.states[key], expected, known, bands)
    state, resized = _fit_positions(state, encoder)
    absent = sorted(set(expected) - set(state))
    kept = [k for k in absent if k in about.left_out]
    missing = [k for k in absent if k not in kept]
    if kept:
        changes.append(
            f'kept the initial values of {kept[:3]}, which a pyramid does not store'
        )
    unexpected = sorted(set(state) - set(expected))
    wrong = [k for k in unexpected if not k.startswith(HEADS)]
    shapes = {
        k: (tuple(expected[k].shape), tuple(state[k].shape))
        for k in sorted(set(expected) & set(state))
        if expected[k].shape != state[k].shape
    }
    fitting = {k: state[k] for k in expected if k in state and k not in shapes}
    # A different shape is always an error, because the model or the bands differ.
    if shapes or not fitting or (strict and (missing or wrong)):
        channels = first_convolution(expected) in shapes and known
        hint = (
            ', or set the argument bands to the bands of the images (the weights have '
            f'{list(known)})'
        )
        untrained = any(k.startswith('da_') for k in missing)
        raise ValueError(
            f'{checkpoint.name}: expected the parameters of the encoder'
            f'{f" for {modality}" if modality else ""}, found another model with '
            f'{len(missing)} missing parameters {missing[:3]}, {len(wrong)} unexpected '
            f'{wrong[:3]}, and {len(shapes)} of another shape '
            f'{dict(list(shapes.items())[:3])}; use the same model and number of channels '
            f'as the weights{hint if channels else ""}'
            f'{_UNTRAINED if untrained else ""}'
        )
    if missing or wrong:
        warnings.warn(
            f'{where}: loaded {len(fitting)} parameters; {len(missing)} are missing '
            f'{missing[:3]} and {len(wrong)} are unexpected {wrong[:3]}',
            stacklevel=3,
        )
    report = LoadReport(
        checkpoint.name,
        len(fitting),
        tuple(missing),
        tuple(unexpected),
        (*changes, *resized),
    )
    return fitting, report


_UNTRAINED = (
    '; weights of a plain ResNet have no attention and load with strict=False. In published '
    'files, the attention da2_* was never trained; use ResNet50RDA_Weights, or the file '
    'with both modalities'
)


def _fit_bands(
    where: str,
    state: State,
    expected: Mapping[str, Tensor],
    known: Sequence[str],
    wanted: Sequence[str] | None,
) -> tuple[State, list[str]]:
    """Adapt the first convolution to named bands and list the changes."""
    key = first_convolution(expected)
    changes: list[str] = []
    if wanted is not None and (not key or len(wanted) != expected[key].shape[1]):
        rule = (
            f'name the {expected[key].shape[1]} channels of the encoder'
            if key
            else 'be None, because the encoder has no convolution'
        )
        raise ValueError(f'{where}: bands must {rule}, got {list(wanted)}')
    if key not in state or state[key].ndim != 4:
        return state, changes
    channels, own = expected[key].shape[1], state[key].shape[1]
    if len(known) == 1 and own > 1 and channels != own:
        state = fold_repeated(state, 1)
        changes.append(f'summed the {own} equal channels of {known[0]}')
        own = 1
    if wanted is None:
        return state, changes
    if len(known) != own:
        raise ValueError(
            f'{where}: expected weights that name their {own} bands, found '
            f'{list(known) if known else "no names"}; remove the argument bands, and use '
            'images with the same bands as the weights'
        )
    sources = [normalize_band(b) for b in known]
    targets = [normalize_band(b) for b in wanted]
    if not set(sources) & set(targets):
        raise ValueError(
            f'{where}: bands must include at least one band of the weights '
            f'{list(known)}, got {list(wanted)}'
        )
    kernel = state[key].new_zeros(
        state[key].shape[0], len(targets), *state[key].shape[2:]
    )
    for i, band in enumerate(targets):
        if band in sources:
            kernel[:, i] = state[key][:, sources.index(band)]
    new = [w for w, t in zip(wanted, targets, strict=True) if t not in sources]
    lost = [k for k, s in zip(known, sources, strict=True) if s not in targets]
    kept = [s for s in sources if s in targets]
    if kept != [t for t in targets if t in sources]:
        changes.append(f'reordered the bands {list(known)} to {list(wanted)}')
    if new:
        changes.append(f'initialized the new bands {new} with zeros')
    if lost:
        changes.append(f'dropped the unused bands {lost}')
    return {**state, key: kernel}, changes


def _fit_positions(state: State, encoder: Any) -> tuple[State, list[str]]:
    """Interpolate position embeddings to the patch grid of a vision transformer."""
    given, own = state.get('pos_embed'), getattr(encoder, 'pos_embed', None)
    grid = getattr(getattr(encoder, 'patch_embed', None), 'grid_size', None)
    if given is None or own is None or grid is None or given.shape == own.shape:
        return state, []
    # The first position embeddings belong to the class token and registers.
    prefix = own.shape[1] - grid[0] * grid[1]
    side = isqrt(max(given.shape[1] - prefix, 0)) if given.ndim == 3 else 0
    if not side or side**2 + prefix != given.shape[1]:
        return state, []
    resized = resample_abs_pos_embed(given, list(grid), [side, side], prefix)
    change = (
        f'resized position embeddings from {side} x {side} to {grid[0]} x {grid[1]}'
    )
    return {**state, 'pos_embed': resized}, [change]
