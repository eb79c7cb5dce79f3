"""Adapt a TorchGeo dataset with several images to named modalities."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
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
from .entry_validation import check_keys, record_of, typed

_KEYS = (
    *('key', 'modality', 'bands', 'kind', 'unit', 'mean', 'std'),
    *('scale', 'offset', 'nodata'),
)
_TARGETS = ('label', 'mask')


class TorchGeoSamples(FileDataset):
    """Samples of a TorchGeo dataset, with keys and channels as modalities.

    Args:
        source: a TorchGeo dataset that has a length and is indexed by number.
        modalities: entry of each modality by name, see
            :class:`~torchgeo_decur.datamodules.TorchGeoDataModule`.
        targets: key of the source for ``label`` and ``mask``; by default, the same names,
            if a sample has them.
        transforms: function that takes a sample and returns a new one.
        skip_unreadable: whether to replace a sample with a damaged file, or without a
            key, by the next sample.

    Raises:
        ValueError: if the source needs a sampler or has no length, or its first sample
            does not have the keys and channels of the entries.
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
        # A range needs no memory, even for millions of samples.
        self.samples: Sequence[int] = range(len(cast(Any, source)))
        self._check_first()

    def load(self, item: int) -> Sample:
        """Read one sample.

        Args:
            item: number of the sample in the source.

        Returns:
            The sample, before ``transforms``.

        Raises:
            UnreadableFileError: if a file cannot be read, or a key is absent.
            ValueError: if an image does not have the channels of its entry.
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
        """Function that returns position and date of each sample.

        Raises:
            AttributeError: if samples have no ``lat`` and ``lon``.
        """
        if not self.has_position:
            raise AttributeError(f'samples of {self.name} have no lat and lon')
        return self._places

    def origin(self, item: int, key: str) -> str:
        """Return class and number of a sample, for messages.

        Args:
            item: number of the sample in the source.
            key: key of the sample.

        Returns:
            The name.
        """
        return f'sample {item} of {self.name}'

    def _places(self) -> gpd.GeoDataFrame:
        """Return the point and, if known, the date of each sample."""
        points, dates = [], []
        for item in self.samples:
            found: Sample = self.source[item]
            points.append(shapely.Point(float(found['lon']), float(found['lat'])))
            dates.append(float(found['date']) if 'date' in found else None)
        columns = {'date': pd.to_datetime(dates, unit='s')}
        return gpd.GeoDataFrame(columns, geometry=points, crs='OGC:CRS84')

    def _check_first(self) -> None:
        """Check the keys of the first sample, so that errors name wrong entries first."""
        if not len(self):
            raise ValueError(f'{self.name}: expected samples, found none; check root')
        try:
            found = self._read(0)
        except UnreadableFileError:
            # The next sample may be readable.
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
                'files, or pass skip_unreadable=True'
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
                f'{modality}: expected an image (C, H, W) or (T, C, H, W) in {key} of '
                f'{self.origin(item, key)}, found shape {tuple(image.shape)}; choose '
                'another key'
            )
        count = image.shape[-3]
        bands = self.modalities[modality].bands
        chosen = (
            list(range(count))[channels] if isinstance(channels, slice) else channels
        )
        if len(chosen) != len(bands) or any(not 0 <= c < count for c in chosen):
            raise ValueError(
                f'{modality}: expected {len(bands)} channels for bands {list(bands)}, '
                f'found {count} channels in {key} of {self.origin(item, key)}, of which '
                f'the key selects {chosen}; correct bands or channels'
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
    """Return the records of entries, before any sample is read.

    Args:
        entries: entry of each modality by name. An entry has a ``key`` of the sample,
            optionally with channels as in 'image[0:2]' or 'image[3, 1, 2]'. It also has
            ``modality``, the name of a known record, or ``bands``, ``kind``, ``unit``,
            ``mean`` and ``std``. ``scale``, ``offset`` and ``nodata`` convert the values.

    Returns:
        The records by name.

    Raises:
        ValueError: if an entry is not valid.

    Example:
        >>> entry = {'key': 'image[0:2]', 'modality': 'sentinel1_grd'}
        >>> sample_modalities({'s1': entry})['s1'].bands
        ('VV', 'VH')
    """
    return {name: _modality(name, entry) for name, entry in entries.items()}


def dataset_class(path: str) -> type[Any]:
    """Import the class of a dataset.

    Args:
        path: path of the class, such as ``torchgeo.datasets.SEN12MS``.

    Returns:
        The class.

    Raises:
        ValueError: if the class does not exist, or it needs a sampler.
    """
    module, _, attribute = str(path).rpartition('.')
    try:
        found = getattr(import_module(module), attribute)
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(
            'dataset: class_path must be the path of a class such as '
            f'torchgeo.datasets.SEN12MS, got {path!r} ({error})'
        ) from error
    if not isinstance(found, type):
        raise ValueError(f'dataset: class_path must be a class, got {path!r}')
    _check_class(found)
    return found


def has_split(cls: type[Any]) -> bool:
    """Return whether a class of datasets has the argument ``split``."""
    return 'split' in inspect.signature(cls).parameters


def check_source(source: Any) -> Any:
    """Check that a dataset is indexed by number.

    Args:
        source: the dataset.

    Returns:
        The dataset.

    Raises:
        ValueError: if it needs a sampler, or has no length.
    """
    _check_class(type(source))
    return source


def check_targets(targets: Mapping[str, str] | None) -> dict[str, str]:
    """Check the names of the targets.

    Args:
        targets: key of the source for ``label`` and ``mask``, or None for the same names.

    Returns:
        The keys by name.

    Raises:
        ValueError: if a name is unknown.
    """
    found = dict(targets) if targets is not None else {t: t for t in _TARGETS}
    if unknown := sorted(set(found) - set(_TARGETS)):
        raise ValueError(f'targets must name {list(_TARGETS)}, got {unknown}')
    return found


def _check_class(cls: type[Any]) -> None:
    if issubclass(cls, GeoDataset):
        raise ValueError(
            f'dataset must be indexed by number, but {cls.__name__} needs a sampler of '
            'windows; use RasterPairDataModule'
        )
    if issubclass(cls, IterableDataset) or not hasattr(cls, '__getitem__'):
        raise ValueError(
            f'dataset must be indexed by number, but {cls.__name__} can only be read in '
            'order, so a fit could not resume exactly; write its images to files, and use '
            'PairedFoldersDataModule'
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
            f'{name}: entry must have modality or bands, got {dict(entry)}'
        )
    record = {} if known is None else vars(Modality.of(str(known)))
    modality = record_of(name, {**record, **own})
    return Conversion.of(name, entry, modality.bands).record(modality)


def _selection(name: str, value: Any) -> tuple[str, slice | list[int]]:
    """Read the key of an image and its channels, such as 'image[0:2]'."""
    match = re.fullmatch(r'([^\[\]]+)(?:\[([\d:, ]+)\])?', str(value or ''))
    if match is None:
        raise ValueError(
            f"{name}: key must name an image of a sample, such as 'image', optionally with "
            f"channels, such as 'image[0:2]' or 'image[3, 1, 2]', got {value!r}"
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
        f"{name}: channels must be as in 'image[0:2]' or 'image[3, 1, 2]', got {value!r}"
    )


def _target(value: Any) -> Tensor:
    target = torch.as_tensor(value)
    # A mask may have a channel dimension.
    if target.ndim == 3 and len(target) == 1:
        target = target[0]
    return target.long()
