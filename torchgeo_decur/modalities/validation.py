"""Check unit, order and layout of the values of a batch."""

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .modality import Modality
from .sampled_values import Values
from .unit_errors import SHIFTED, Severity, Sign, inspect

SWITCH = 'TORCHGEO_DECUR_CHECK'
# Training batches that must agree before a suspicion becomes an error.
_AGREE = 4
# Largest number of batches of a stage to check.
_MOST = 16


def invalid_pixels(x: Tensor, nodata: float | None) -> Tensor | None:
    """Return a mask of missing pixels.

    Args:
        x: images of any shape.
        nodata: value of missing pixels, which can be NaN, or None.

    Returns:
        Boolean tensor of the shape of ``x``, or None if ``nodata`` is None.
    """
    if nodata is None:
        return None
    if math.isnan(nodata):
        return x.isnan()
    if x.is_floating_point():
        # Convert to the type of the data: in half precision, -3.4e38 is infinite.
        nodata = torch.tensor(nodata, dtype=torch.float64).to(x.dtype).item()
    return x == nodata


def nodata_hint(modality: Modality) -> str:
    """Return the advice for NaN and infinite values that are not nodata.

    Args:
        modality: record of the modality.

    Returns:
        The end of an error message.
    """
    if modality.nodata is None:
        return 'fill them, or set nodata of the modality (nodata: .nan for NaN)'
    return f"fill them with the modality's nodata value, {modality.nodata}"


def check(images: Mapping[str, Tensor], modalities: Mapping[str, Modality]) -> None:
    """Check unit, order and layout of one batch; this synchronises with the device.

    Args:
        images: raw images by modality, shape (B, C, H, W) or (B, T, C, H, W), in the
            unit of the modality.
        modalities: record of each modality.

    Raises:
        ValueError: if the number of channels is wrong, or values are NaN or infinite.
            Also if the unit, the order of bands, the scale or nodata is almost certainly
            wrong, unless the environment variable ``TORCHGEO_DECUR_CHECK`` is ``warn``.

    Warns:
        UserWarning: if the unit, the order of bands, the scale or nodata may be wrong.
    """
    FirstBatches(modalities).look(images)


def sample_values(
    name: str,
    images: Mapping[str, Tensor],
    modality: Modality,
    numbers: int | None = None,
) -> Values | None:
    """Sample the values of a modality; this synchronises with the device.

    Args:
        name: name of the modality.
        images: images by modality, shape (..., C, H, W).
        modality: record of the modality.
        numbers: largest number of values to keep, by default about two million.

    Returns:
        The values, or None if all are missing.

    Raises:
        ValueError: if the modality is absent, the number of channels is wrong, or values
            are NaN or infinite.
    """
    if name not in images:
        raise ValueError(
            f'{name}: expected image_{name} in the batch, found {sorted(images)}'
        )
    x = images[name].detach()
    if x.shape[-3] != modality.channels:
        raise ValueError(
            f'{name}: expected {modality.channels} bands {list(modality.bands)}, '
            f'found {x.shape[-3]}; select or pad the bands'
        )
    # Compare in the precision of the data: -3.4028235e38 differs in float32 and float64.
    invalid = invalid_pixels(x, modality.nodata)
    valid = torch.ones_like(x, dtype=torch.bool) if invalid is None else ~invalid
    if not valid.any():
        return None
    finite = x.isfinite() | ~valid
    if not finite.all():
        per_band = finite.transpose(-3, 0).flatten(1).all(1).tolist()
        bad = [b for b, ok in zip(modality.bands, per_band, strict=True) if not ok]
        raise ValueError(
            f'{name}: expected finite values, found '
            f'{int((~finite).sum())} NaN or infinite in bands {bad}; '
            f'{nodata_hint(modality)}'
        )
    options = {} if numbers is None else {'numbers': numbers}
    return Values.of(x, valid, modality, **options)


@dataclass
class _Stage:
    """State of the checks of a stage."""

    batches: int = 0
    done: bool = False
    seen: set[str] = field(default_factory=set)
    suspicions: set[tuple[str, str]] | None = None


class FirstBatches:
    """Check the first batches of each stage of a run.

    An almost certain error raises an exception; each other finding gives one warning.
    Batches are checked until each modality had values that are not constant. A suspicion
    that several training batches share is also an error.

    Args:
        modalities: record of each modality.
    """

    def __init__(self, modalities: Mapping[str, Modality]) -> None:
        """Initialize a new FirstBatches instance."""
        self.modalities = modalities
        self._stages: dict[str, _Stage] = {}
        self._warned: set[tuple[str, str]] = set()

    def done(self, stage: str = '') -> bool:
        """Return whether a stage needs no further checks.

        Args:
            stage: name of the stage.
        """
        state = self._stages.get(stage)
        return not self.modalities or (state is not None and state.done)

    def look(
        self, images: Mapping[str, Tensor], stage: str = '', training: bool = False
    ) -> None:
        """Check a batch; this synchronises with the device.

        Args:
            images: raw images by modality, shape (B, C, H, W) or (B, T, C, H, W); an
                empty tensor if no sample has the modality.
            stage: name of the stage.
            training: whether batches are random, so that a suspicion shared by several
                batches is an error.

        Raises:
            ValueError: under the conditions of :func:`check`.
        """
        state = self._stages.setdefault(stage, _Stage())
        state.batches += 1
        suspicions = {}
        for name, modality in self.modalities.items():
            if name in images and not len(images[name]):
                continue
            values = sample_values(name, images, modality)
            if values is None:
                self._warn(name, 'empty', 'the first batch has only nodata')
                continue
            if values.varying.any():
                state.seen.add(name)
            for sign in inspect(values):
                if sign.topic == SHIFTED and stage and not training:
                    # Statistics are of the training split; other places may differ.
                    continue
                if sign.severity is Severity.ERROR:
                    self._refuse(name, sign)
                elif sign.severity is Severity.SUSPICION:
                    suspicions[name, sign.topic] = sign
                    self._warn(name, sign.topic, sign.message)
                else:
                    self._warn(name, sign.topic, sign.message)
        shared = set(suspicions) & (state.suspicions or set(suspicions))
        first = state.suspicions is None
        state.suspicions = shared if first or state.suspicions else set()
        agree = training and bool(state.suspicions)
        if agree and state.batches >= _AGREE:
            for name, topic in sorted(state.suspicions):
                self._refuse(name, suspicions[name, topic])
        state.done = state.batches >= _MOST or (
            state.seen == set(self.modalities)
            and (not agree or state.batches >= _AGREE)
        )

    def _warn(self, name: str, topic: str, message: str) -> None:
        if (name, topic) not in self._warned:
            self._warned.add((name, topic))
            warnings.warn(f'{name}: {message}', stacklevel=4)

    def _refuse(self, name: str, sign: Sign) -> None:
        if only_warns():
            self._warn(name, f'{sign.topic}, certain', sign.message)
        else:
            raise ValueError(f'{name}: {sign.message}. {HINT}')


HINT = f'If the data are correct, set the environment variable {SWITCH}=warn'


def only_warns() -> bool:
    """Return whether the user has chosen warnings instead of errors.

    Raises:
        ValueError: if the environment variable has another value.
    """
    value = os.environ.get(SWITCH, '')
    if value not in ('', 'warn'):
        raise ValueError(
            f"the environment variable {SWITCH} must be 'warn' or not set, got {value!r}"
        )
    return value == 'warn'


def check_unit_interval(images: Mapping[str, Tensor]) -> None:
    """Check that images are scaled to [0, 1]; this synchronises with the device.

    Args:
        images: images by modality, shape (..., C, H, W).

    Raises:
        ValueError: if images are integers, or values are outside [0, 1]. With the
            environment variable ``TORCHGEO_DECUR_CHECK=warn``, the latter is a warning.
    """
    for name, x in images.items():
        if not x.is_floating_point():
            raise ValueError(
                f'{name}: expected images in [0, 1], floating point, found {x.dtype}; '
                'scale them with transforms.ScaleToUnit, or divide bytes by 255'
            )
        low, high = (float(v) for v in x.detach().aminmax())
        # Interpolation and half precision may exceed the interval slightly.
        if x.numel() and (low < -0.02 or high > 1.02):
            message = (
                f'{name}: expected images in [0, 1], found values in [{low:.4g}, '
                f'{high:.4g}]; use a datamodule of torchgeo_decur, or scale them with '
                'transforms.ScaleToUnit'
            )
            if not only_warns():
                raise ValueError(f'{message}. {HINT}')
            warnings.warn(message, stacklevel=2)
