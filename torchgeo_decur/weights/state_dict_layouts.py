"""Layouts, parameter names and first convolutions of encoder state dictionaries."""

import re
from collections.abc import Mapping, Sequence

import timm
from torch import Tensor, nn

type State = dict[str, Tensor]

# Prefixes of parameters that an encoder without a classifier does not have.
HEADS = ('fc.', 'head.', 'classifier.', 'projector')

# encoders.encoders.<m> in our checkpoints, encoders.<m> in a MultimodalEncoder.
_OURS = re.compile(r'^(?:(?:\w+\.)*encoders\.)?encoders\.([^.]+)\.(.+)$')
_PUBLISHED = re.compile(r'^backbone_(\d+)\.(.+)$')
_ATTENTION = re.compile(r'^da(\d+)_(l\d+\..+)$')
# The first three prefixes are from TorchGeo: BYOL, and segmentation with timm and smp.
_PREFIXES = (
    'model.backbone.model.',
    'model.encoder.model.',
    'model.encoder.',
    'model.',
    'backbone.',
    '',
)
# Prefixes of torch.compile, DDP and DataParallel.
_WRAPPERS = re.compile(r'^(?:module\.)+|\b_orig_mod\.(?:module\.)?')


def split_states(state: Mapping[str, Tensor]) -> dict[str, State]:
    """Split a state dictionary of any known layout into encoders.

    - This package: ``encoders.encoders.<m>.``, with or without a task prefix.
    - Published DeCUR files: ``module.backbone_1.``, ``module.backbone_2.`` and deformable
      attention. Only ``da1_*`` was trained, for all modalities, so every encoder gets
      ``da1_*`` as ``da_*``.
    - Single encoder: no prefix, ``model.``, ``backbone.``, or a prefix of TorchGeo's tasks.

    Prefixes added by DDP and ``torch.compile`` are removed.

    Args:
        state: state dict.

    Returns:
        State dictionaries by modality, without untrained attention. The keys of published
        encoders are ``backbone_1`` and ``backbone_2``; the key of a single encoder is ''.
    """
    state = {_WRAPPERS.sub('', k): v for k, v in state.items()}
    attention = {k: v for k, v in state.items() if _ATTENTION.match(k)}
    trained = replace_prefix(attention, 'da1_', 'da_')
    found: dict[str, State] = {}
    for key, value in state.items():
        if match := _OURS.match(key):
            found.setdefault(match[1], {})[match[2]] = value
        elif match := _PUBLISHED.match(key):
            found.setdefault(f'backbone_{match[1]}', {})[match[2]] = value
    if found:
        return {m: {**s, **trained} for m, s in found.items()}
    for prefix in _PREFIXES:
        single = replace_prefix(state, prefix, '')
        if single:
            break
    rest = {k: v for k, v in single.items() if not _ATTENTION.match(k)}
    return {'': {**rest, **trained}}


def replace_prefix(state: Mapping[str, Tensor], old: str, new: str) -> State:
    """Select the parameters whose names start with a prefix and replace this prefix.

    Args:
        state: state dict.
        old: prefix of the selected parameters.
        new: new prefix.

    Returns:
        The selected tensors by new name.
    """
    return {f'{new}{k[len(old) :]}': v for k, v in state.items() if k.startswith(old)}


def normalize_key(key: str) -> str:
    """Normalize a parameter name so that it is the same in an encoder and its pyramid.

    timm's pyramids rename ``stages.0`` to ``stages_0``, or add the prefix ``model.``.

    Args:
        key: parameter name in an encoder or a pyramid.

    Example:
        >>> normalize_key('stages.0.blocks.1.weight')
        'stages_0_blocks_1_weight'
        >>> normalize_key('model.stages_0.blocks.1.weight')
        'stages_0_blocks_1_weight'
    """
    return key.removeprefix('model.').replace('.', '_')


def restore_keys(state: State, model: str) -> tuple[State, tuple[str, ...]]:
    """Rename the parameters of a pyramid to their names in the encoder.

    Args:
        state: state dictionary of a pyramid.
        model: name of the timm model.

    Returns:
        The renamed state dictionary, and the names of encoder parameters that are absent
        from the pyramid. If timm does not know the model, the state dictionary is
        unchanged.
    """
    if not timm.is_model(model):
        return state, ()
    keys = timm.create_model(model, num_classes=0).state_dict()
    names = {normalize_key(k): k for k in keys}
    renamed = {names.get(normalize_key(k), k): v for k, v in state.items()}
    return renamed, tuple(k for k in keys if k not in renamed)


def check_finite(name: str, state: Mapping[str, Tensor]) -> None:
    """Check that all parameters are finite.

    Args:
        name: file and modality, for the message.
        state: state dict.

    Raises:
        ValueError: if parameters are NaN or infinite.
    """
    bad = [k for k, v in state.items() if not v.isfinite().all()]
    if bad:
        raise ValueError(
            f'{name}: expected finite parameters, found NaN or infinity in {len(bad)} of '
            f'{len(state)} parameters, such as {bad[:3]}; use a checkpoint from before the '
            'fit diverged'
        )


def plain_state(encoder: nn.Module | Mapping[str, Tensor]) -> State:
    """Copy the tensors of a model to the CPU, each with its own storage.

    Args:
        encoder: a model, or its state dictionary.

    Returns:
        Tensors by name, as safetensors requires them.
    """
    tensors = encoder.state_dict() if isinstance(encoder, nn.Module) else dict(encoder)
    return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}


def first_convolution(state: Mapping[str, Tensor]) -> str:
    """Return the name of the first convolution of an encoder.

    Args:
        state: state dictionary of an encoder, in the order of its modules.

    Returns:
        Name of the first four-dimensional parameter, or '' if there is none.

    Example:
        >>> import timm
        >>> first_convolution(timm.create_model('resnet18').state_dict())
        'conv1.weight'
    """
    return next((k for k, v in state.items() if v.ndim == 4), '')


def count_channels(state: Mapping[str, Tensor]) -> int:
    """Return the number of input channels of an encoder.

    Args:
        state: state dictionary of an encoder, in the order of its modules.

    Returns:
        Number of input channels of the first convolution, or 0 if there is none.
    """
    kernel = state.get(first_convolution(state))
    return 0 if kernel is None else kernel.shape[1]


def fold_repeated(state: State, channels: int) -> State:
    """Reduce an encoder whose input channels are copies of one band to one channel.

    The kernels of the first convolution are summed over their channels. One band then
    gives the same features as its copies in all channels.

    Args:
        state: state dictionary of an encoder.
        channels: number of image channels.

    Returns:
        The state dictionary, unchanged if ``channels`` is not 1 or the first convolution
        already has one channel.
    """
    key = first_convolution(state)
    if channels != 1 or not key or state[key].shape[1] == 1:
        return state
    return {**state, key: state[key].sum(1, keepdim=True)}


def reorder_channels(state: State, order: Sequence[str], bands: Sequence[str]) -> State:
    """Reorder the channels of the first convolution.

    Args:
        state: state dictionary of an encoder.
        order: bands in the channel order of the kernel; if empty, the order is kept.
        bands: bands in the new order.

    Returns:
        The state dictionary. It is unchanged if its first convolution has a different
        number of channels.
    """
    key = first_convolution(state)
    if not order or not key or state[key].shape[1] != len(bands):
        return state
    return {**state, key: state[key][:, [order.index(b) for b in bands]]}
