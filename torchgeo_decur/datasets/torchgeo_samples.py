"""Adapter of TorchGeo datasets with several modalities per sample."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import geopandas as gpd
import pandas as pd
import shapely
import torch
from rasterio.errors import RasterioError
from torch import Tensor
from torch.utils.data import IterableDataset
from torchgeo.datasets import GeoDataset, NonGeoDataset
from torchgeo.datasets.utils import Sample

from ..modalities import Conversion, Modality
from .base import FileDataset, UnreadableFileError
from .class_paths import import_class
from .entry_validation import check_keys, record_of, typed

_KEYS = (
    *('key', 'modality', 'bands', 'kind', 'unit', 'mean', 'std'),
    *('scale', 'offset', 'nodata'),
)
_TARGETS = ('label', 'mask')


class TorchGeoSamples(FileDataset):
    """Adapter of a TorchGeo dataset whose samples contain several modalities.

    A modality is the image of a sample key or some channels of it.

    Args:
        source: TorchGeo dataset with a length and integer indices.
        modalities: entry of each modality by name. See
            :class:`~torchgeo_decur.datamodules.TorchGeoDataModule`.
        targets: source keys of ``label`` and ``mask``. By default, the keys have the same
            names and are optional in a sample.
        transforms: function that transforms each sample and returns a new one.
        skip_unreadable: whether to replace a sample that has a damaged file or lacks a
            key with the next one.

    Raises:
        ValueError: if the source requires a sampler or has no samples, or its first sample
            lacks keys or channels that the entries name.
    """

    has_position: bool = False

    def __init__(
        self,
        source: NonGeoDataset,
        modalities: Mapping[str, Mapping[str, Any]],
        targets: Mapping[str, str] | None = None,
        *,
        transforms: Callable[[Sample], Sample] | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        """Initialize a new TorchGeoSamples instance."""
        self.source = check_source(source)
        self.name = type(source).__name__
        self.entries = {
            m: _selection(m, entry.get('key')) for m, entry in modalities.items()
        }
        self.targets = check_targets(targets)
        self.required = targets is not None
        self.transforms = transforms
        self.skip_unreadable = skip_unreadable
        self.modalities = sample_modalities(modalities)
        self.conversions = {
            m: Conversion.of(m, typed(m, modalities[m]), record.bands)
            for m, record in self.modalities.items()
        }
        self.classes = tuple(str(c) for c in getattr(source, 'classes', ()))
        # A range uses no memory, even for millions of samples.
        self.samples: Sequence[int] = range(len(cast(Any, source)))
        self._check_first()

    def load(self, item: int) -> Sample:
        """Read one sample.

        Args:
            item: index of the sample in the source.

        Returns:
            The sample, before ``transforms``.

        Raises:
            UnreadableFileError: if a file is unreadable or a key is missing.
            ValueError: if an image lacks channels that its entry names.
        """
        found = self._read(item)
        sample: Sample = {}
        for m, (key, channels) in self.entries.items():
            sample[f'image_{m}'] = self._select(m, item, found, key, channels)
        for name, key in self.targets.items():
            if key in found:
                sample[name] = _target(found[key])
            elif self.required:
                raise UnreadableFileError(self._no_key(name, item, found, key))
        return sample

    @property
    def places(self) -> Callable[[], gpd.GeoDataFrame]:
        """Function that returns the position and date of each sample.

        Raises:
            AttributeError: if samples do not have ``lat`` and ``lon``.
        """
        if not self.has_position:
            raise AttributeError(f'samples of {self.name} have no lat and lon')
        return self._places

    def origin(self, item: int, key: str) -> str:
        """Return the dataset class and index of a sample for error messages.

        Args:
            item: index of the sample in the source.
            key: sample key, which is not used.

        Returns:
            Text such as 'sample 3 of SEN12MS'.
        """
        return f'sample {item} of {self.name}'

    def _places(self) -> gpd.GeoDataFrame:
        """Return the position and, if known, the date of each sample."""
        points, dates = [], []
        for item in self.samples:
            found: Sample = self.source[item]
            points.append(shapely.Point(float(found['lon']), float(found['lat'])))
            dates.append(float(found['date']) if 'date' in found else None)
        columns = {'date': pd.to_datetime(dates, unit='s')}
        return gpd.GeoDataFrame(columns, geometry=points, crs='OGC:CRS84')

    def _check_first(self) -> None:
        """Check the first sample to detect wrong entries early."""
        if not len(self):
            raise ValueError(
                f'{self.name}: expected samples, found none; check the option root'
            )
        try:
            found = self._read(0)
        except UnreadableFileError:
            # Other samples may be readable.
            return
        self.has_position = {'lat', 'lon'} <= set(found)
        try:
            self.load(0)
        except UnreadableFileError as error:
            raise ValueError(str(error)) from error

    def _read(self, item: int) -> Sample:
        try:
            found: Sample = self.source[item]
        except (OSError, RasterioError) as error:
            raise UnreadableFileError(
                f'sample {item} of {self.name} cannot be read ({error}); restore its '
                'files, or set skip_unreadable=True'
            ) from error
        return found

    def _select(
        self,
        modality: str,
        item: int,
        found: Mapping[str, Any],
        key: str,
        channels: slice | list[int],
    ) -> Tensor:
        if key not in found:
            raise UnreadableFileError(self._no_key(modality, item, found, key))
        image = torch.as_tensor(found[key]).float()
        # A single band may have no channel dimension.
        image = image[None] if image.ndim == 2 else image
        if image.ndim not in (3, 4):
            raise ValueError(
                f'{modality}: expected an image of shape (C, H, W) or (T, C, H, W) in '
                f'{key} of {self.origin(item, key)}, found shape {tuple(image.shape)}; '
                'choose another key'
            )
        count = image.shape[-3]
        bands = self.modalities[modality].bands
        chosen = (
            list(range(count))[channels] if isinstance(channels, slice) else channels
        )
        if len(chosen) != len(bands) or any(not 0 <= c < count for c in chosen):
            raise ValueError(
                f'{modality}: expected {len(bands)} channels for bands {list(bands)}, '
                f'found selected channels {chosen} of {count} in {key} of '
                f'{self.origin(item, key)}; correct the option bands, or the channels in '
                'the option key'
            )
        return image[..., channels, :, :]

    def _no_key(self, name: str, item: int, found: Mapping[str, Any], key: str) -> str:
        shapes = {
            k: tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
            for k, v in found.items()
        }
        return (
            f'{name}: expected key {key!r} in {self.origin(item, key)}, found keys '
            f'{shapes}; correct the key'
        )


def sample_modalities(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Modality]:
    """Create the modalities of entries without reading samples.

    Args:
        entries: entry of each modality by name. Its ``key`` is the sample key of the
            image, optionally with channels as in 'image[0:2]' or 'image[3, 1, 2]'. Either
            ``modality`` names a predefined modality, or ``bands``, ``kind``, ``unit``,
            ``mean`` and ``std`` define a new one. ``scale``, ``offset`` and ``nodata``
            convert the values.

    Returns:
        The modalities by name.

    Raises:
        ValueError: if an entry is invalid.

    Example:
        >>> entry = {'key': 'image[0:2]', 'modality': 'sentinel1_grd'}
        >>> sample_modalities({'s1': entry})['s1'].bands
        ('VV', 'VH')
    """
    return {name: _modality(name, entry) for name, entry in entries.items()}


def dataset_class(path: str) -> type[Any]:
    """Import a dataset class.

    Args:
        path: import path of the class, such as ``torchgeo.datasets.SEN12MS``.

    Returns:
        The class.

    Raises:
        ValueError: if the class does not exist or requires a sampler.
    """
    example = 'torchgeo.datasets.SEN12MS'
    found = import_class('dataset: class_path', path, example)
    _check_class(found)
    return found


def has_split(cls: type[Any]) -> bool:
    """Return whether a dataset class has an argument ``split``."""
    return 'split' in inspect.signature(cls).parameters


def check_source(source: Any) -> Any:
    """Check that a dataset has integer indices.

    Args:
        source: dataset to check.

    Returns:
        The dataset.

    Raises:
        ValueError: if the dataset requires a sampler or has no indices.
    """
    _check_class(type(source))
    return source


def check_targets(targets: Mapping[str, str] | None) -> dict[str, str]:
    """Check the target names and return the source key of each target.

    Args:
        targets: source keys of ``label`` and ``mask``, or None for the same names.

    Returns:
        Source keys by target name.

    Raises:
        ValueError: if a target name is unknown.
    """
    found = dict(targets) if targets is not None else {t: t for t in _TARGETS}
    if unknown := sorted(set(found) - set(_TARGETS)):
        raise ValueError(
            f'targets must have only the keys {list(_TARGETS)}, got {unknown}'
        )
    return found


def _check_class(cls: type[Any]) -> None:
    if issubclass(cls, GeoDataset):
        raise ValueError(
            f'dataset must have integer indices, but {cls.__name__} requires a sampler of '
            'windows; use RasterPairDataModule'
        )
    if issubclass(cls, IterableDataset) or not hasattr(cls, '__getitem__'):
        raise ValueError(
            f'dataset must have integer indices, but {cls.__name__} is an iterable '
            'dataset, with which a fit cannot resume exactly; write its images to files '
            'and use PairedFoldersDataModule'
        )


def _modality(name: str, entry: Mapping[str, Any]) -> Modality:
    entry = typed(name, entry)
    check_keys(name, entry, _KEYS)
    _selection(name, entry.get('key'))
    fields = ('bands', 'kind', 'unit', 'mean', 'std')
    own: dict[str, Any] = {k: entry[k] for k in fields if k in entry}
    known = entry.get('modality')
    if known is None and 'bands' not in own:
        raise ValueError(
            f'{name}: the entry must have the option modality or bands, got {dict(entry)}'
        )
    record = {} if known is None else vars(Modality.of(str(known)))
    modality = record_of(name, {**record, **own})
    return Conversion.of(name, entry, modality.bands).record(modality)


def _selection(name: str, value: Any) -> tuple[str, slice | list[int]]:
    """Parse an image key with optional channels, such as 'image[0:2]'."""
    match = re.fullmatch(r'([^\[\]]+)(?:\[([\d:, ]+)\])?', str(value or ''))
    if match is None:
        raise ValueError(
            f"{name}: key must be a sample key such as 'image', optionally with channels "
            f"as in 'image[0:2]' or 'image[3, 1, 2]', got {value!r}"
        )
    key, channels = match.groups()
    if channels is None:
        return key, slice(None)
    if ':' in channels:
        ends = [int(v) if v.strip() else None for v in channels.split(':')]
        if len(ends) == 2:
            return key, slice(*ends)
    elif re.fullmatch(r' *\d+ *(, *\d+ *)*', channels):
        return key, [int(v) for v in channels.split(',')]
    raise ValueError(
        f"{name}: channels must have the form 'image[0:2]' or 'image[3, 1, 2]', got "
        f'{value!r}'
    )


def _target(value: Any) -> Tensor:
    target = torch.as_tensor(value)
    # A mask may have a channel dimension.
    if target.ndim == 3 and len(target) == 1:
        target = target[0]
    return target.long()
