"""SSL4EO-S12 v1.1: seasonal Sentinel-1 and Sentinel-2 images in zarr format."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torchgeo.datasets.utils import Path as PathLike
from torchgeo.datasets.utils import Sample

from ..dataset_versions import check_layout
from ..date_sampling import DateSampling
from .base import ArchiveDataset
from .products import OFFSET, folders_of
from .stores import PlaceStore

#: Modalities of the published weights.
MODALITIES: Mapping[str, str] = {'s1': 'S1GRD', 's2': 'S2L1C'}


class SSL4EOS12V11(ArchiveDataset):
    """Seasonal Sentinel-1 and Sentinel-2 images of SSL4EO-S12 v1.1.

    SSL4EO-S12 v1.1 (https://arxiv.org/abs/2503.00168) has 246,144 locations with four dates
    each. Both published layouts are supported. The 2025 layout has arrays of 64 locations:
    ::

        <root>/<split>/<folder>/ssl4eos12_<split>_seasonal_data_<number>.zarr.zip
            bands (sample, time, band, y, x), time_ (sample, time), sample (sample),
            x_ (sample, x), y_ (sample, y), crs (sample), ...

    The 2026 layout has tar shards of 512 locations, with one zarr ZIP file per location:
    ::

        <root>/<split>/<folder>/ssl4eos12_shard_<number>.tar
            <key>.zarr.zip: bands (time, band, y, x), time (time), x, y, crs, ...

    Both layouts use zarr format 2: 'S1GRD' is float16, 'S2L1C' and 'S2L2A' are int16, and
    'S2RGB' is uint8. They are described at
    https://github.com/DLR-MF-DAS/SSL4EO-S12-v1.1. A sample is one location with the
    following keys:

    * ``image_<m>``: backscatter in dB or digital numbers, float32, shape (T, C, 264, 264)
    * ``date_<m>``: acquisition time in seconds since 1970, UTC, int64, shape (T,)
    * ``index``: number of the location, int64
    * ``available_<m>``: bool, only if some locations lack a modality. Images of absent
      modalities are 0.

    The offset of 1000 of processing baseline 04.00 is subtracted from optical products.
    Their missing pixels, stored as 0, become NaN. Missing pixels of backscatter are NaN.
    Only chunks of the chosen dates are read. The dates of a sample depend only on
    ``seed``, the epoch (``set_epoch``) and the location.

    Args:
        root: folder that contains the split folders.
        split: name of the split folder, 'train' or 'val'.
        modalities: folder of each modality: 'S1GRD', 'S2L1C', 'S2L2A', 'S2RGB', 'NDVI' or
            'DEM'. By default, ``s1`` is 'S1GRD' and ``s2`` is 'S2L1C'.
        date_sampling: 'all' returns all dates. 'same' draws ``num_dates`` random dates of
            the first modality and pairs them with the nearest dates of other modalities.
            'independent' draws ``num_dates`` random dates for each modality.
        num_dates: number of dates T per sample for 'same' and 'independent'.
        skip_incomplete: how to treat locations without a modality: 'keep' to use them,
            True to skip them, or False to raise an error.
        transforms: function that transforms each sample and returns a new one.
        skip_unreadable: whether to replace a location that has a damaged file with the
            next one.
        seed: seed for drawing dates.
        index: folder for the indices of tar shards, by default ``index`` in the root.
        conversion: ``scale``, ``offset`` and ``nodata`` by modality, for files that differ
            from the published files. For example, ``{s2: {offset: 0}}`` keeps the offset.

    Raises:
        DatasetNotFoundError: if there are no files.
        ImportError: if numcodecs is not installed.
        UnreadableFileError: if a file is truncated.
        ValueError: if an option is invalid or the folder contains another archive.
    """

    def __init__(
        self,
        root: PathLike = 'data',
        split: str = 'train',
        modalities: Mapping[str, str | Sequence[str]] = MODALITIES,
        *,
        date_sampling: DateSampling = 'all',
        num_dates: int = 1,
        skip_incomplete: Literal['keep'] | bool = 'keep',
        transforms: Callable[[Sample], Sample] | None = None,
        skip_unreadable: bool = False,
        seed: int = 0,
        index: PathLike | None = None,
        conversion: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Initialize a new SSL4EOS12V11 instance."""
        super().__init__(
            root,
            split,
            modalities,
            date_sampling=date_sampling,
            num_dates=num_dates,
            skip_incomplete=skip_incomplete,
            transforms=transforms,
            skip_unreadable=skip_unreadable,
            seed=seed,
            index=index,
            conversion=published_conversion(modalities, conversion),
        )

    def _open(self, folder: Path, index: PathLike | None) -> PlaceStore:
        check_layout(self.root, 'SSL4EO-S12 v1.1 (.zarr.zip)')
        if next(folder.glob('*/majortom_*.tar'), None):
            raise ValueError(
                f'{folder}: expected SSL4EO-S12 v1.1, found TerraMesh shards; use '
                'TerraMeshDataModule'
            )
        return super()._open(folder, index)


def published_conversion(
    modalities: Mapping[str, str | Sequence[str]],
    conversion: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the conversion for the published files.

    Args:
        modalities: folder of each modality.
        conversion: entries that override the conversion for the published files.

    Returns:
        The conversion by modality.

    Example:
        >>> published_conversion({'s1': 'S1GRD', 's2': 'S2L2A'})
        {'s2': {'offset': -1000, 'nodata': 0}}
    """
    optical = [
        m for m, (f, *_) in folders_of(modalities).items() if f in ('S2L1C', 'S2L2A')
    ]
    entries = {m: {'offset': -OFFSET, 'nodata': 0} for m in optical}
    given = {m: dict(entry) for m, entry in (conversion or {}).items()}
    return {m: {**entries.get(m, {}), **given.get(m, {})} for m in {**entries, **given}}
