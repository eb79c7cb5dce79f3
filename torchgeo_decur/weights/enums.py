"""Published DeCUR weights, as weight enums in the style of TorchGeo."""

import re
from dataclasses import replace
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from types import new_class
from typing import Any

import torchgeo.models
from torch import nn
from torchgeo.models import api
from torchvision.models import WeightsEnum
from torchvision.models._api import Weights
from torchvision.transforms.v2 import Normalize

from ..modalities import MODALITIES
from ..published_weights import LICENCE, PUBLISHED, urls_of
from ..transforms import PerModality, ScaleToUnit
from .download import fetch
from .encoder_files import Checkpoint, read_checkpoint
from .metadata import EncoderMetadata
from .state_dict_layouts import State, fold_repeated, reorder_channels

# After scaling to [0, 1], photographs and HHA were standardized with ImageNet statistics in
# reverse order: blue and the HHA angle used the statistics of red.
_SUNRGBD_NORMALIZE = {'mean': [0.406, 0.456, 0.485], 'std': [0.225, 0.224, 0.229]}
_DATASETS = {'sentinel': 'SSL4EO-S12', 'geonrw': 'GeoNRW', 'sunrgbd': 'SUN RGB-D'}

ENUMS = (WeightsEnum, getattr(api, 'WeightsEnum', WeightsEnum))
"""Base classes of torchvision and TorchGeo weights, currently the same class."""


def join_enums(first: Any, second: Any) -> Any:
    """Return a common subclass of the weight enums of torchvision and TorchGeo."""
    if issubclass(first, second):
        return first
    if issubclass(second, first):
        return second
    return new_class('WeightsEnum', (first, second))


# Enum is explicit for mypy, because torchvision has no annotations.
class DeCURWeights(join_enums(*ENUMS), Enum):  # type: ignore[misc]
    """Base class for enums of published weights, with URL, transforms and metadata.

    The additional keys of ``meta`` are

    * ``modalities``: names of the encoders, in order;
    * ``sensors``: predefined modality of each encoder;
    * ``normalize``: mean and standard deviation applied after scaling, if any;
    * ``bands``: bands of the images;
    * ``channel_order``: bands in file order, before channels are reordered;
    * ``licence`` and ``epochs``.

    If there are several modalities, ``in_chans``, ``bands`` and ``channel_order`` are
    dictionaries by modality, and ``transforms`` expects a batch with ``image_<modality>``.

    ``transforms`` scales physical units to [0, 1], as in pretraining. TorchGeo's enum for
    the same files (``torchgeo.models.ResNet50_Weights``) has the transforms of the
    published transfer to BigEarthNet instead.
    """

    @property
    def urls(self) -> list[str]:
        """URLs of the downloaded files: one URL, or one per modality."""
        return urls_of(str(self))

    @property
    def encoders(self) -> dict[str, EncoderMetadata]:
        """Metadata of each encoder by modality, in file order."""
        return _encoders(str(self))

    def read(self, progress: bool = True) -> Checkpoint:
        """Read the encoders; files are downloaded on first use and always verified.

        Args:
            progress: whether to show a progress bar for the download.

        Returns:
            The encoders by modality; the key of a single encoder is ''. Their first
            convolutions expect the bands in ``meta['bands']``.

        Raises:
            FileNotFoundError: if a file is not in the cache and cannot be downloaded.
            ValueError: if a file fails verification.
        """
        if parts := self.meta.get('parts'):
            found = {m: type(self)[p].read(progress) for m, p in parts.items()}
            states = {m: part.states[''] for m, part in found.items()}
            return Checkpoint(str(self), states, self.encoders)

        def read(file: Path) -> Checkpoint:
            return self.interpret(read_checkpoint(file, str(self)))

        checkpoint: Checkpoint = fetch(self.url, read, progress)
        other = self.meta.get('attention')
        state = checkpoint.states.get('', {})
        if other and not any(k.startswith('da_') for k in state):
            attention = {
                k: v
                for k, v in type(self)[other].read(progress).states[''].items()
                if k.startswith('da_')
            }
            return replace(checkpoint, states={'': {**state, **attention}})
        return checkpoint

    def interpret(self, checkpoint: Checkpoint) -> Checkpoint:
        """Name the encoders of a published file and reorder their channels.

        Args:
            checkpoint: content of the published file.

        Returns:
            The encoders, as from :meth:`read`.

        Raises:
            ValueError: if the file lacks the encoders of this entry.
        """
        encoders = self.encoders
        expected = [f'backbone_{i + 1}' for i in range(len(encoders))]
        if len(encoders) == 1:
            encoders, expected = dict(zip([''], encoders.values(), strict=True)), ['']
        if sorted(checkpoint.states) != expected:
            raise ValueError(
                f'{self}: expected encoders for {self.meta["modalities"]} under the keys '
                f'{expected}, found {sorted(checkpoint.states)}; rename the file if it is not '
                'the published file'
            )
        states = {
            m: reorder_channels(checkpoint.states[key], e.channel_order, e.bands)
            for key, (m, e) in zip(expected, encoders.items(), strict=True)
        }
        return Checkpoint(checkpoint.name, states, encoders)

    def get_state_dict(self, *args: Any, **kwargs: Any) -> State:
        """Read the state dictionary of one encoder.

        Args:
            args: not used, because files are always verified, loaded on the CPU and
                unpickled safely.
            kwargs: ``modality``, which selects an encoder of a multimodal entry, and
                ``progress``; other arguments are ignored.

        Returns:
            Parameters by timm name, for ``meta['in_chans']`` channels.

        Raises:
            FileNotFoundError: if a file is not in the cache and cannot be downloaded.
            ValueError: if a file fails verification, or ``modality`` is not a modality of
                this entry.
        """
        names, modality = self.meta['modalities'], kwargs.get('modality', '')
        if modality not in (names if len(names) > 1 else ['', *names]):
            raise ValueError(
                f'modality must be one of {names}, the encoders of {self}, '
                f'got {modality!r}; load all encoders with '
                'torchgeo_decur.models.load_weights, or use weights of a single modality'
            )
        key = modality if len(names) > 1 else ''
        checkpoint = self.read(kwargs.get('progress', True))
        channels = checkpoint.metadata[key].in_chans
        return fold_repeated(checkpoint.states[key], channels)


def _encoders(name: str) -> dict[str, EncoderMetadata]:
    """Return the metadata of the encoders of an entry, by modality."""
    file = PUBLISHED[name]
    (dataset,) = {
        dataset
        for sensor in file.sensors.values()
        for prefix, dataset in _DATASETS.items()
        if sensor.startswith(prefix)
    }
    indoor = dataset == 'SUN RGB-D'
    training = {
        'task': 'DeCUR',
        'data': dataset,
        'epochs': 200 if indoor else 100,
        'weights': name,
        'licence': LICENCE,
        'publication': 'https://arxiv.org/abs/2309.05300',
    }
    found = {}
    for m, sensor in file.sensors.items():
        record = MODALITIES[sensor]
        encoder = EncoderMetadata.of(m, record.channels, record, training)
        # RGB and HHA images were read in the order blue, green, red.
        order = record.bands[::-1] if m in ('rgb', 'hha') else ()
        normalize = _SUNRGBD_NORMALIZE if indoor else {}
        found[m] = replace(
            encoder, model=file.model, channel_order=order, normalize=normalize
        )
    return found


def _weights(name: str) -> Weights:
    file, encoders = PUBLISHED[name], _encoders(name)

    def single_or_all[T](values: dict[str, T]) -> T | dict[str, T]:
        return next(iter(values.values())) if len(values) == 1 else values

    scales: dict[str, nn.Module] = {}
    for m, e in encoders.items():
        scale = ScaleToUnit(file.sensors[m])
        scales[m] = (
            nn.Sequential(scale, Normalize(**e.normalize)) if e.normalize else scale
        )
    normalize = {m: dict(e.normalize) for m, e in encoders.items() if e.normalize}
    training = next(iter(encoders.values())).training
    return Weights(
        url=file.url,
        transforms=PerModality(scales)
        if len(scales) > 1
        else next(iter(scales.values())),
        meta={
            'dataset': training['data'],
            'modalities': list(encoders),
            'sensors': dict(file.sensors),
            'in_chans': single_or_all({m: e.in_chans for m, e in encoders.items()}),
            'model': file.model,
            'publication': training['publication'],
            'repo': 'https://github.com/zhu-xlab/DeCUR',
            'ssl_method': 'decur',
            'bands': single_or_all({m: list(e.bands) for m, e in encoders.items()}),
            'channel_order': single_or_all(
                {m: list(e.channel_order or e.bands) for m, e in encoders.items()}
            ),
            **({'normalize': normalize} if normalize else {}),
            'licence': training['licence'],
            'epochs': training['epochs'],
            **({'parts': file.parts} if file.parts else {}),
            **({'attention': file.attention} if file.attention else {}),
        },
    )


class ResNet50_Weights(DeCURWeights):
    """Weights of ResNet-50; TorchGeo hosts the files for single Sentinel modalities."""

    SENTINEL1_GRD_DECUR = _weights('ResNet50_Weights.SENTINEL1_GRD_DECUR')
    SENTINEL2_ALL_DECUR = _weights('ResNet50_Weights.SENTINEL2_ALL_DECUR')
    SENTINEL1_2_DECUR = _weights('ResNet50_Weights.SENTINEL1_2_DECUR')
    GEONRW_RGB_DECUR = _weights('ResNet50_Weights.GEONRW_RGB_DECUR')
    GEONRW_DEM_DECUR = _weights('ResNet50_Weights.GEONRW_DEM_DECUR')
    GEONRW_RGB_DEM_DECUR = _weights('ResNet50_Weights.GEONRW_RGB_DEM_DECUR')


class ResNet50RDA_Weights(DeCURWeights):
    """Weights of ResNet-50 with residual deformable attention."""

    SENTINEL1_GRD_DECUR = _weights('ResNet50RDA_Weights.SENTINEL1_GRD_DECUR')
    SENTINEL2_ALL_DECUR = _weights('ResNet50RDA_Weights.SENTINEL2_ALL_DECUR')
    SENTINEL1_2_DECUR = _weights('ResNet50RDA_Weights.SENTINEL1_2_DECUR')
    GEONRW_RGB_DECUR = _weights('ResNet50RDA_Weights.GEONRW_RGB_DECUR')
    GEONRW_DEM_DECUR = _weights('ResNet50RDA_Weights.GEONRW_DEM_DECUR')
    GEONRW_RGB_DEM_DECUR = _weights('ResNet50RDA_Weights.GEONRW_RGB_DEM_DECUR')


class ViTSmall16_Weights(DeCURWeights):
    """Weights of ViT-S/16, the small vision transformer with 16-pixel patches."""

    SENTINEL1_GRD_DECUR = _weights('ViTSmall16_Weights.SENTINEL1_GRD_DECUR')
    SENTINEL2_ALL_DECUR = _weights('ViTSmall16_Weights.SENTINEL2_ALL_DECUR')
    SENTINEL1_2_DECUR = _weights('ViTSmall16_Weights.SENTINEL1_2_DECUR')
    GEONRW_RGB_DECUR = _weights('ViTSmall16_Weights.GEONRW_RGB_DECUR')
    GEONRW_DEM_DECUR = _weights('ViTSmall16_Weights.GEONRW_DEM_DECUR')
    GEONRW_RGB_DEM_DECUR = _weights('ViTSmall16_Weights.GEONRW_RGB_DEM_DECUR')


class MiTB2_Weights(DeCURWeights):
    """Weights of the SegFormer backbone MiT-B2, for indoor color and depth images."""

    SUNRGBD_RGB_DECUR = _weights('MiTB2_Weights.SUNRGBD_RGB_DECUR')
    SUNRGBD_HHA_DECUR = _weights('MiTB2_Weights.SUNRGBD_HHA_DECUR')
    SUNRGBD_RGB_HHA_DECUR = _weights('MiTB2_Weights.SUNRGBD_RGB_HHA_DECUR')


class MiTB5_Weights(DeCURWeights):
    """Weights of the SegFormer backbone MiT-B5, for indoor color and depth images."""

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
"""Enums of published weights."""


def list_weights() -> list[str]:
    """List the published weights.

    Returns:
        Names for :func:`get_weight` and ``weights`` options.

    Example:
        >>> list_weights()[2]
        'ResNet50_Weights.SENTINEL1_2_DECUR'
    """
    return [str(entry) for enum in WEIGHTS for entry in enum]


def get_weight(name: str) -> WeightsEnum:
    """Return weights from this package or TorchGeo by name.

    Args:
        name: name of the weights, such as ``ResNet50_Weights.SENTINEL1_2_DECUR``.

    Returns:
        The enum member.

    Raises:
        ValueError: if no enum member has this name.

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
            f'name must be a weight name from this package or TorchGeo, got {name!r}; {hint}'
        ) from None
    return found


def weights_of_file(file: str | Path) -> DeCURWeights | None:
    """Find the weight enum member of a published file by its file name, in any folder.

    Args:
        file: path of a file.

    Returns:
        The enum member, or None if the file is not a published file.

    Example:
        >>> weights_of_file('downloads/rn50_geonrw_joint_decur_ep100.pth')
        ResNet50_Weights.GEONRW_RGB_DEM_DECUR
    """
    names = {_file_name(e.url): e for enum in WEIGHTS for e in enum}
    return names.get(_file_name(file))


def _file_name(path: str | Path) -> str:
    return re.sub(r'-[0-9a-f]{8}(?=\.pth$)', '', str(path).rpartition('/')[2])
