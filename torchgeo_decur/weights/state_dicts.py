"""State dictionaries of encoders: their layouts, names and first convolutions."""

import re
from collections.abc import Mapping, Sequence

import timm
from torch import Tensor, nn

type State = dict[str, Tensor]

# Parameters that an encoder without a classifier does not have.
HEADS = ('fc.', 'head.', 'classifier.', 'projector')

# Our checkpoints hold encoders.encoders.<m>, a MultimodalEncoder holds encoders.<m>.
_OURS = re.compile(r'^(?:(?:\w+\.)*encoders\.)?encoders\.([^.]+)\.(.+)$')
_PUBLISHED = re.compile(r'^backbone_(\d+)\.(.+)$')
_ATTENTION = re.compile(r'^da(\d+)_(l\d+\..+)$')
# TorchGeo's tasks come first: BYOL, segmentation with encoders of timm and of smp.
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
    """Find the encoders in a state dictionary of any known layout.

    - Ours: ``encoders.encoders.<m>.``, with or without the prefix of a task.
    - DeCUR as published: ``module.backbone_1.``, ``module.backbone_2.``, and deformable
      attention beside them. In training ``da1_*`` served every modality and the others
      never changed, so every encoder gets ``da1_*`` as ``da_*``.
    - One encoder: bare, under ``model.`` or ``backbone.``, or where TorchGeo's tasks of
      BYOL and segmentation keep it.

    Prefixes of DDP and of ``torch.compile`` are removed.

    Args:
        state: tensors by name.

    Returns:
        State dictionary of each modality. Published encoders are called ``backbone_1``
        and ``backbone_2``, a single encoder ''. Untrained attention is removed.
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
    """Select the parameters with a prefix, and replace it.

    Args:
        state: tensors by name.
        old: prefix of the parameters to keep.
        new: prefix to give them instead.

    Returns:
        The selected tensors by their new names.
    """
    return {f'{new}{k[len(old) :]}': v for k, v in state.items() if k.startswith(old)}


def normalize_key(key: str) -> str:
    """Normalize the name of a parameter that an encoder and its pyramid share.

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


def restore_keys(state: State, model: str) -> tuple[State, tuple[str, ...]]:
    """Give the parameters of a pyramid the names of its encoder.

    Args:
        state: state dictionary of a pyramid.
        model: name of the timm model.

    Returns:
        The state dictionary, unchanged if timm does not know the model, and the
        parameters of the encoder that the pyramid lacks.
    """
    if not timm.is_model(model):
        return state, ()
    keys = timm.create_model(model, num_classes=0).state_dict()
    names = {normalize_key(k): k for k in keys}
    renamed = {names.get(normalize_key(k), k): v for k, v in state.items()}
    return renamed, tuple(k for k in keys if k not in renamed)


def check_finite(name: str, state: Mapping[str, Tensor]) -> None:
    """Check that all parameters are finite; a fit that diverged leaves NaN.

    Args:
        name: file and modality, for the message.
        state: tensors by name.

    Raises:
        ValueError: if parameters are NaN or infinite.
    """
    bad = [k for k, v in state.items() if not v.isfinite().all()]
    if bad:
        raise ValueError(
            f'{name}: expected finite parameters, found NaN or infinite ones in {len(bad)} '
            f'of {len(state)}, {bad[:3]}; take a checkpoint from before the fit diverged'
        )


def plain_state(encoder: nn.Module | Mapping[str, Tensor]) -> State:
    """Copy the tensors of a model to the CPU, each with its own storage.

    Args:
        encoder: a model, or its state dictionary.

    Returns:
        The tensors by name, as safetensors takes them.
    """
    tensors = encoder.state_dict() if isinstance(encoder, nn.Module) else dict(encoder)
    return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}


def first_convolution(state: Mapping[str, Tensor]) -> str:
    """Find the parameter that is applied to the bands of an image.

    Args:
        state: state dictionary of an encoder, in the order of its modules.

    Returns:
        Name of the first kernel of four dimensions, '' if there is none.

    Example:
        >>> import timm
        >>> first_convolution(timm.create_model('resnet18').state_dict())
        'conv1.weight'
    """
    return next((k for k, v in state.items() if v.ndim == 4), '')


def count_channels(state: Mapping[str, Tensor]) -> int:
    """Count the channels that an encoder takes.

    Args:
        state: state dictionary of an encoder, in the order of its modules.

    Returns:
        Number of channels of the first kernel, 0 without one.
    """
    kernel = state.get(first_convolution(state))
    return 0 if kernel is None else kernel.shape[1]


def fold_repeated(state: State, channels: int) -> State:
    """Let an encoder of one repeated band take the band once.

    The kernels are summed over their channels, so the response to the band equals the
    response to an image of equal channels.

    Args:
        state: state dictionary of an encoder.
        channels: number of channels of its future images.

    Returns:
        The state dictionary, unchanged if ``channels`` is not 1 or the first convolution
        has one channel already.
    """
    key = first_convolution(state)
    if channels != 1 or not key or state[key].shape[1] == 1:
        return state
    return {**state, key: state[key].sum(1, keepdim=True)}


def reorder_channels(state: State, order: Sequence[str], bands: Sequence[str]) -> State:
    """Put the channels of the first convolution in the order of the bands.

    Args:
        state: state dictionary of an encoder.
        order: bands in the order of the kernel; if empty, that of ``bands``.
        bands: bands in the wanted order.

    Returns:
        The state dictionary, unchanged if its kernel has another number of channels.
    """
    key = first_convolution(state)
    if not order or not key or state[key].shape[1] != len(bands):
        return state
    return {**state, key: state[key][:, [order.index(b) for b in bands]]}
