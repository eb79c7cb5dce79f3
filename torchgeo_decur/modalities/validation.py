"""Check the unit, band order and layout of the images in a batch."""

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
# Number of training batches that must share a suspicion before it becomes an error.
_AGREE = 4
# Maximum number of batches to check per stage.
_MOST = 16


def invalid_pixels(x: Tensor, nodata: float | None) -> Tensor | None:
    """Compute the mask of missing pixels.

    Args:
        x: images of any shape.
        nodata: value that marks missing pixels, possibly NaN, or None.

    Returns:
        Boolean mask with the shape of ``x``, or None if ``nodata`` is None.
    """
    if nodata is None:
        return None
    if math.isnan(nodata):
        return x.isnan()
    if x.is_floating_point():
        # Convert to the dtype of the data: in half precision, -3.4e38 becomes infinite.
        nodata = torch.tensor(nodata, dtype=torch.float64).to(x.dtype).item()
    return x == nodata


def nodata_hint(modality: Modality) -> str:
    """Return a remedy for NaN and infinite values that are not declared as nodata.

    Args:
        modality: metadata of the modality.

    Returns:
        The last clause of an error message.
    """
    if modality.nodata is None:
        return 'fill them, or set the option nodata (`nodata: .nan` for NaN)'
    return f'fill them with the nodata value of the modality, {modality.nodata}'


def check(images: Mapping[str, Tensor], modalities: Mapping[str, Modality]) -> None:
    """Check the unit, band order and layout of a batch, which synchronizes the device.

    Args:
        images: raw images by modality, shape (B, C, H, W) or (B, T, C, H, W), in the
            unit of the modality.
        modalities: metadata of each modality.

    Raises:
        ValueError: if the number of channels is wrong, or if values are NaN or infinite.
            The error is also raised if the unit, band order, scale or nodata value is
            almost certainly wrong. With the environment variable
            ``TORCHGEO_DECUR_CHECK=warn``, this is only a warning.

    Warns:
        UserWarning: if the unit, band order, scale or nodata value may be wrong.
    """
    FirstBatches(modalities).look(images)


def sample_values(
    name: str,
    images: Mapping[str, Tensor],
    modality: Modality,
    numbers: int | None = None,
) -> Values | None:
    """Check and sample the values of a modality, which synchronizes the device.

    Args:
        name: name of the modality.
        images: images by modality, shape (..., C, H, W).
        modality: metadata of the modality.
        numbers: maximum number of values to keep, by default about two million.

    Returns:
        The sampled values, or None if all pixels are missing.

    Raises:
        ValueError: if the modality is absent, the number of channels is wrong, or values
            are NaN or infinite.
    """
    if name not in images:
        raise ValueError(
            f'{name}: expected image_{name} in the batch, found {sorted(images)}; use '
            'the same modality names in the task and the datamodule'
        )
    x = images[name].detach()
    if x.shape[-3] != modality.channels:
        raise ValueError(
            f'{name}: expected {modality.channels} '
            f'{"band" if modality.channels == 1 else "bands"} {list(modality.bands)}, '
            f'found {x.shape[-3]}; select or pad the bands'
        )
    # Compare in the dtype of the data: -3.4028235e38 differs between float32 and float64.
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
            f'{int((~finite).sum())} NaN or infinite values in bands {bad}; '
            f'{nodata_hint(modality)}'
        )
    options = {} if numbers is None else {'numbers': numbers}
    return Values.of(x, valid, modality, **options)


@dataclass
class _Stage:
    """Progress of the checks in one stage."""

    batches: int = 0
    done: bool = False
    seen: set[str] = field(default_factory=set)
    suspicions: set[tuple[str, str]] | None = None


class FirstBatches:
    """Checks of the first batches of each stage in a run.

    An almost certain error raises an exception. Any other finding causes one warning, but
    a suspicion that several training batches share is also an error. Checks end after 16
    batches, or when every modality has had values that are not constant.

    Args:
        modalities: metadata of each modality.
    """

    def __init__(self, modalities: Mapping[str, Modality]) -> None:
        """Initialize a new FirstBatches instance."""
        self.modalities = modalities
        self._stages: dict[str, _Stage] = {}
        self._warned: set[tuple[str, str]] = set()

    def done(self, stage: str = '') -> bool:
        """Check whether a stage needs no further checks.

        Args:
            stage: name of the stage.
        """
        state = self._stages.get(stage)
        return not self.modalities or (state is not None and state.done)

    def look(
        self, images: Mapping[str, Tensor], stage: str = '', training: bool = False
    ) -> None:
        """Check a batch, which synchronizes the device.

        Args:
            images: raw images by modality, shape (B, C, H, W) or (B, T, C, H, W). If no
                sample has a modality, its tensor is empty.
            stage: name of the stage.
            training: whether batches are shuffled training batches. If they are, a
                suspicion that several batches share is an error.

        Raises:
            ValueError: under the same conditions as :func:`check`.
        """
        state = self._stages.setdefault(stage, _Stage())
        state.batches += 1
        suspicions = {}
        for name, modality in self.modalities.items():
            if name in images and not len(images[name]):
                continue
            values = sample_values(name, images, modality)
            if values is None:
                self._warn(
                    name,
                    'empty',
                    'a batch has only nodata pixels; check the nodata value',
                )
                continue
            if values.varying.any():
                state.seen.add(name)
            for sign in inspect(values):
                if sign.topic == SHIFTED and stage and not training:
                    # Statistics are from the training split; other regions may differ.
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
    """Check whether the user has chosen warnings instead of errors.

    Raises:
        ValueError: if the environment variable has a value other than ``warn``.
    """
    value = os.environ.get(SWITCH, '')
    if value not in ('', 'warn'):
        raise ValueError(
            f"the environment variable {SWITCH} must be 'warn' or unset, got {value!r}"
        )
    return value == 'warn'


def check_unit_interval(images: Mapping[str, Tensor]) -> None:
    """Check that images are scaled to [0, 1], which synchronizes the device.

    Args:
        images: images by modality, shape (..., C, H, W).

    Raises:
        ValueError: if images have an integer dtype or values outside [0, 1]. With the
            environment variable ``TORCHGEO_DECUR_CHECK=warn``, values outside [0, 1] only
            cause a warning.
    """
    for name, x in images.items():
        if not x.is_floating_point():
            raise ValueError(
                f'{name}: expected floating-point images in [0, 1], found {x.dtype}; '
                'scale them with transforms.ScaleToUnit, or divide bytes by 255'
            )
        low, high = (float(v) for v in x.detach().aminmax())
        # Interpolation and half precision may exceed the interval slightly.
        if x.numel() and (low < -0.02 or high > 1.02):
            message = (
                f'{name}: expected images in [0, 1], found values in [{low:.4g}, '
                f'{high:.4g}]; use a datamodule from torchgeo_decur, or scale the images '
                'with transforms.ScaleToUnit'
            )
            if not only_warns():
                raise ValueError(f'{message}. {HINT}')
            warnings.warn(message, stacklevel=2)
