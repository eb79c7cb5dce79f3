"""Published weights of DeCUR, in TorchGeo's idiom."""

import re
from difflib import get_close_matches
from pathlib import Path

import torchgeo.models
from torch import nn
from torchvision.models import WeightsEnum
from torchvision.models._api import Weights
from torchvision.transforms.v2 import Normalize

from ..catalog import LICENCE, PUBLISHED
from ..modalities import MODALITIES
from ..transforms import PerModality, ScaleToUnit
from .published import DeCURWeights

# Photographs and coded depth were standardised like ImageNet after they were mapped to
# [0, 1], but read in reverse: what ImageNet has for red met blue, and the angle.
_SUNRGBD_NORMALIZE = {'mean': [0.406, 0.456, 0.485], 'std': [0.225, 0.224, 0.229]}
_DATASETS = {'sentinel': 'SSL4EO-S12', 'geonrw': 'GeoNRW', 'sunrgbd': 'SUN RGB-D'}


def _weights(name: str) -> Weights:
    file = PUBLISHED[name]
    sensors = file.sensors
    only = next(iter(sensors)) if len(sensors) == 1 else ''
    scales: dict[str, nn.Module] = {m: ScaleToUnit(n) for m, n in sensors.items()}
    bands = {m: list(MODALITIES[name].bands) for m, name in sensors.items()}
    # Files of three bytes were read as blue, green, red, those of coded depth too.
    order = {m: b[::-1] if m in ('rgb', 'hha') else b for m, b in bands.items()}
    (dataset,) = {
        text
        for name in sensors.values()
        for start, text in _DATASETS.items()
        if name.startswith(start)
    }
    normalize = dict.fromkeys(sensors, _SUNRGBD_NORMALIZE)
    if dataset == 'SUN RGB-D':
        scales = {
            m: nn.Sequential(scale, Normalize(**normalize[m]))
            for m, scale in scales.items()
        }
    channels = {m: len(b) for m, b in bands.items()}
    return Weights(
        url=file.url,
        transforms=scales[only] if only else PerModality(scales),
        meta={
            'dataset': dataset,
            'modalities': list(sensors),
            'sensors': dict(sensors),
            'in_chans': channels[only] if only else channels,
            'model': file.model,
            'publication': 'https://arxiv.org/abs/2309.05300',
            'repo': 'https://github.com/zhu-xlab/DeCUR',
            'ssl_method': 'decur',
            'bands': bands[only] if only else bands,
            'channel_order': order[only] if only else order,
            **({'normalize': normalize} if dataset == 'SUN RGB-D' else {}),
            'licence': LICENCE,
            'epochs': 200 if dataset == 'SUN RGB-D' else 100,
            **({'parts': file.parts} if file.parts else {}),
            **({'attention': file.attention} if file.attention else {}),
        },
    )


class ResNet50_Weights(DeCURWeights):
    """ResNet-50. The Sentinel files are those that TorchGeo hosts, with their hash."""

    SENTINEL1_GRD_DECUR = _weights('ResNet50_Weights.SENTINEL1_GRD_DECUR')
    SENTINEL2_ALL_DECUR = _weights('ResNet50_Weights.SENTINEL2_ALL_DECUR')
    SENTINEL1_2_DECUR = _weights('ResNet50_Weights.SENTINEL1_2_DECUR')
    GEONRW_RGB_DECUR = _weights('ResNet50_Weights.GEONRW_RGB_DECUR')
    GEONRW_DEM_DECUR = _weights('ResNet50_Weights.GEONRW_DEM_DECUR')
    GEONRW_RGB_DEM_DECUR = _weights('ResNet50_Weights.GEONRW_RGB_DEM_DECUR')


class ResNet50RDA_Weights(DeCURWeights):
    """ResNet-50 with residual deformable attention."""

    SENTINEL1_GRD_DECUR = _weights('ResNet50RDA_Weights.SENTINEL1_GRD_DECUR')
    SENTINEL2_ALL_DECUR = _weights('ResNet50RDA_Weights.SENTINEL2_ALL_DECUR')
    SENTINEL1_2_DECUR = _weights('ResNet50RDA_Weights.SENTINEL1_2_DECUR')
    GEONRW_RGB_DECUR = _weights('ResNet50RDA_Weights.GEONRW_RGB_DECUR')
    GEONRW_DEM_DECUR = _weights('ResNet50RDA_Weights.GEONRW_DEM_DECUR')
    GEONRW_RGB_DEM_DECUR = _weights('ResNet50RDA_Weights.GEONRW_RGB_DEM_DECUR')


class ViTSmall16_Weights(DeCURWeights):
    """Vision transformer, small, patches of 16 pixels."""

    SENTINEL1_GRD_DECUR = _weights('ViTSmall16_Weights.SENTINEL1_GRD_DECUR')
    SENTINEL2_ALL_DECUR = _weights('ViTSmall16_Weights.SENTINEL2_ALL_DECUR')
    SENTINEL1_2_DECUR = _weights('ViTSmall16_Weights.SENTINEL1_2_DECUR')
    GEONRW_RGB_DECUR = _weights('ViTSmall16_Weights.GEONRW_RGB_DECUR')
    GEONRW_DEM_DECUR = _weights('ViTSmall16_Weights.GEONRW_DEM_DECUR')
    GEONRW_RGB_DEM_DECUR = _weights('ViTSmall16_Weights.GEONRW_RGB_DEM_DECUR')


class MiTB2_Weights(DeCURWeights):
    """Mix transformer B2 of SegFormer, indoor colour and depth."""

    SUNRGBD_RGB_DECUR = _weights('MiTB2_Weights.SUNRGBD_RGB_DECUR')
    SUNRGBD_HHA_DECUR = _weights('MiTB2_Weights.SUNRGBD_HHA_DECUR')
    SUNRGBD_RGB_HHA_DECUR = _weights('MiTB2_Weights.SUNRGBD_RGB_HHA_DECUR')


class MiTB5_Weights(DeCURWeights):
    """Mix transformer B5 of SegFormer, indoor colour and depth."""

    SUNRGBD_RGB_DECUR = _weights('MiTB5_Weights.SUNRGBD_RGB_DECUR')
    SUNRGBD_HHA_DECUR = _weights('MiTB5_Weights.SUNRGBD_HHA_DECUR')
    SUNRGBD_RGB_HHA_DECUR = _weights('MiTB5_Weights.SUNRGBD_RGB_HHA_DECUR')


WEIGHTS: tuple[type[DeCURWeights], ...] = (
    ResNet50_Weights,
    ResNet50RDA_Weights,
    ViTSmall16_Weights,
    MiTB2_Weights,
    MiTB5_Weights,
)
"""The enums of published weights."""


def list_weights() -> list[str]:
    """List the published weights.

    Returns:
        Names for :func:`get_weight`, and wherever weights are asked for.

    Example:
        >>> list_weights()[2]
        'ResNet50_Weights.SENTINEL1_2_DECUR'
    """
    return [str(entry) for enum in WEIGHTS for entry in enum]


def get_weight(name: str) -> WeightsEnum:
    """Get weights by name: ours, or TorchGeo's.

    Args:
        name: name such as ``ResNet50_Weights.SENTINEL1_2_DECUR``.

    Returns:
        The entry of an enum.

    Raises:
        ValueError: if no entry has this name.

    Example:
        >>> get_weight('ResNet50_Weights.GEONRW_RGB_DECUR').meta['bands']
        ['R', 'G', 'B']
    """
    ours: dict[str, WeightsEnum] = {str(e): e for enum in WEIGHTS for e in enum}
    if name in ours:
        return ours[name]
    try:
        found: WeightsEnum = torchgeo.models.get_weight(name)
    except ValueError:
        close = get_close_matches(name, ours, n=3)
        hint = f'did you mean one of {close}?' if close else 'see list_weights()'
        raise ValueError(
            f'name must be that of weights, got {name!r}; {hint}'
        ) from None
    return found


def weights_of_file(file: str | Path) -> DeCURWeights | None:
    """Recognise a published file by its name, wherever it lies.

    Args:
        file: path of a file.

    Returns:
        The entry whose file it is, or None.

    Example:
        >>> weights_of_file('downloads/rn50_geonrw_joint_decur_ep100.pth')
        ResNet50_Weights.GEONRW_RGB_DEM_DECUR
    """
    names = {_file_name(e.url): e for enum in WEIGHTS for e in enum}
    return names.get(_file_name(file))


def _file_name(path: str | Path) -> str:
    return re.sub(r'-[0-9a-f]{8}(?=\.pth$)', '', str(path).rpartition('/')[2])
