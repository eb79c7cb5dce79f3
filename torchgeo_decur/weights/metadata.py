"""What is known of an encoder, in the words of the files that hold one."""

from dataclasses import asdict
from typing import Any

from ..modalities import Modality
from .formats import Checkpoint
from .published import first_convolution

# What a file of one encoder, or published weights, say themselves.
_SAID = (
    *('kind', 'unit', 'mean', 'std', 'nodata', 'wavelengths', 'limits'),
    *('task', 'data', 'hyper_parameters', 'epochs', 'steps'),
    *('weights', 'licence', 'publication'),
)


def encoder_metadata(
    modality: str, in_chans: int, record: Modality | None
) -> dict[str, Any]:
    """Say what images an encoder expects.

    Args:
        modality: name of the modality.
        in_chans: number of channels of its images.
        record: what the modality is, where known.

    Returns:
        Plain values, for :func:`~torchgeo_decur.models.save_encoder`: ``limits`` are the
        values of each band that map to 0 and 1, None where they are not known or each
        image has its own.
    """
    return {
        'modality': modality,
        'in_chans': in_chans,
        **(asdict(record) if record else {}),
        'limits': record.limits if record else None,
    }


def describe(checkpoint: Checkpoint, modality: str) -> dict[str, Any]:
    """Gather what a file says of one encoder and of its training.

    Args:
        checkpoint: what a file holds.
        modality: name of an encoder in it, or how the single one is called.

    Returns:
        Plain values as of :func:`encoder_metadata`, and where known ``task``, ``data``,
        ``hyper_parameters``, ``epochs``, ``steps``, ``licence``, ``publication``,
        ``weights`` (name of published ones), ``normalize`` (mean and standard deviation
        that images are standardised with after scaling) and ``left_out``.
    """
    said, key = checkpoint.metadata, _key(checkpoint, modality)
    record = said.get('encoder_modalities', {}).get(modality)
    known = encoder_metadata(
        modality,
        count_channels(checkpoint, modality),
        Modality.of(record) if record else None,
    )
    known |= {k: said[k] for k in _SAID if k in said}
    known |= said.get('encoder_training', {})
    normalize = said.get('normalize', {})
    # Published weights say it by modality.
    if normalize := normalize if 'mean' in normalize else normalize.get(modality):
        known['normalize'] = normalize
    # Lightning counts epochs from 0.
    if 'epoch' in said:
        known |= {'epochs': said['epoch'] + 1, 'steps': said.get('global_step', 0)}
    found = {
        'bands': checkpoint.bands.get(key),
        'left_out': checkpoint.left_out.get(key),
    }
    return known | {k: list(v) for k, v in found.items() if v}


def count_channels(checkpoint: Checkpoint, modality: str) -> int:
    """Count the channels of the images of an encoder.

    Args:
        checkpoint: what a file holds.
        modality: name of an encoder in it, or how the single one is called.

    Returns:
        Number of its bands where the file names them, else that of the first kernel, 0
        without one.
    """
    key = _key(checkpoint, modality)
    state = checkpoint.states[key]
    kernel = state.get(first_convolution(state))
    inputs = 0 if kernel is None else kernel.shape[1]
    return len(checkpoint.bands.get(key, ())) or inputs


def label(checkpoint: Checkpoint, modality: str) -> str:
    """Name an encoder of a file for people and for other files.

    Args:
        checkpoint: what a file holds.
        modality: name of an encoder in it, '' for a single one.

    Returns:
        The modality, 'encoder' where nobody said it.
    """
    return modality or str(checkpoint.metadata.get('modality', 'encoder'))


def _key(checkpoint: Checkpoint, modality: str) -> str:
    return modality if modality in checkpoint.states else ''
