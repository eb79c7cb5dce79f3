"""TerraMesh: up to eight products of the same location, in tar shards of zarr arrays."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchgeo.datasets.utils import Path as PathLike
from torchgeo.datasets.utils import Sample

from ...files import UnreadableFileError
from .base import ArchiveDataset
from .products import OFFSET
from .stores import PlaceStore, TarShards

#: Modalities of the published weights. A location has one of the two Sentinel-1 products.
MODALITIES: Mapping[str, str | Sequence[str]] = {
    's1': ('S1RTC', 'S1GRD'),
    's2': 'S2L1C',
}
#: Class names of 'LULC'.
CLASSES = (
    *('no data', 'water', 'trees', 'flooded vegetation', 'crops', 'built area'),
    *('bare ground', 'snow or ice', 'clouds', 'rangeland'),
)
# Start of processing baseline 04.00: 2022-01-25, in seconds since 1970.
_BASELINE = 1_643_068_800
# Smallest 5 % quantile of B10 with the offset. Without the offset, B10 is near 0, because
# water vapor absorbs most light in this band.
_DARK = OFFSET - 50
_B10 = 10


class TerraMesh(ArchiveDataset):
    """Up to eight products of the same location and date, for about 9 million locations.

    TerraMesh (https://arxiv.org/abs/2504.11172) is published as tar shards:
    ::

        <root>/<split>/<folder>/majortom_shard_<number>.tar
        <root>/<split>/<folder>/ssl4eos12_shard_<number>.tar
            <key>.zarr.zip: bands (time, band, y, x), time (time), x, y, crs, ...

    The folders are 'S1GRD', 'S1RTC', 'S2L1C', 'S2L2A', 'S2RGB', 'NDVI', 'DEM' and 'LULC'.
    Shards and keys have the same names in each folder. A key ends with the number of the
    location. Arrays have one date and zarr format 2: float16 for radar and NDVI, int16 for
    'S2L1C', 'S2L2A' and 'DEM', and uint8 for 'S2RGB' and 'LULC'. The same layout is read by
    ``terramesh.py`` in https://huggingface.co/datasets/ibm-esa-geospatial/TerraMesh.

    A sample is one location with the following keys:

    * ``image_<m>``: float32, shape (C, 264, 264), in the unit of the modality
    * ``date_<m>``: acquisition time in seconds since 1970, UTC, or 0 for elevation, int64
    * ``mask``: class of each pixel, int64, shape (264, 264), if ``land_cover`` is True
    * ``index``: number at the end of the key, int64
    * ``available_<m>``: bool, only if some locations lack a modality. Images of absent
      modalities are 0.

    Major TOM locations have 'S1RTC', and SSL4EO-S12 locations have 'S1GRD', both in dB. A
    modality may therefore be a list of folders.

    Only some Sentinel-2 images have the offset of 1000 of processing baseline 04.00. It is
    subtracted from 'S2L1C' images whose band B10 is far from 0 and from 'S2L2A' images
    acquired before 25 January 2022. The other images are older products, or products whose
    offset was removed. In images with the offset, 0 marks missing pixels and becomes NaN.
    Missing pixels of radar and NDVI are NaN.

    Members of a shard can be read in any order. On a local disk, the order of samples
    therefore does not affect speed. On first use, the headers of each shard are read.

    Args:
        root: folder that contains the split folders.
        split: name of the split folder, 'train' or 'val'.
        modalities: folder of each modality, or a list of alternatives. For each location,
            the first alternative that contains it is used. By default, ``s1`` is 'S1RTC'
            or 'S1GRD', and ``s2`` is 'S2L1C'.
        land_cover: whether to return 'LULC' as ``mask``.
        skip_incomplete: how to treat locations without a modality: 'keep' to use them,
            True to skip them, or False to raise an error.
        transforms: function that transforms each sample and returns a new one.
        skip_unreadable: whether to replace a location that has a damaged file with the
            next one.
        index: folder for the indices of tar shards, by default ``index`` in the root.
        conversion: ``scale``, ``offset`` and ``nodata`` by modality. An ``offset`` replaces
            the automatic subtraction of the offset for this modality.

    Raises:
        DatasetNotFoundError: if there are no shards.
        ImportError: if numcodecs is not installed.
        UnreadableFileError: if a shard is truncated.
        ValueError: if an option is invalid or a shard is compressed.
    """

    store: TarShards
    classes = CLASSES

    def __init__(
        self,
        root: PathLike = 'data',
        split: str = 'train',
        modalities: Mapping[str, str | Sequence[str]] = MODALITIES,
        *,
        land_cover: bool = False,
        skip_incomplete: Literal['keep'] | bool = 'keep',
        transforms: Callable[[Sample], Sample] | None = None,
        skip_unreadable: bool = False,
        index: PathLike | None = None,
        conversion: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Initialize a new TerraMesh instance."""
        self.land_cover = land_cover
        given = conversion or {}
        self._given_offset = {m for m, entry in given.items() if 'offset' in entry}
        super().__init__(
            root,
            split,
            modalities,
            skip_incomplete=skip_incomplete,
            transforms=transforms,
            skip_unreadable=skip_unreadable,
            index=index,
            conversion=conversion,
        )

    def load(self, item: int) -> Sample:
        """Read one location.

        Args:
            item: index of the location in the store.

        Returns:
            The sample, before ``transforms``.

        Raises:
            UnreadableFileError: if a file is truncated, or the land cover is missing.
            ValueError: if the arrays do not match the modality.
        """
        sample = super().load(item)
        for m in self.folders:
            image, date = sample[f'image_{m}'], sample[f'date_{m}']
            if len(image) != 1:
                raise ValueError(
                    f'{self.origin(item, f"image_{m}")}: expected one date as in '
                    f'TerraMesh, found {len(image)}; use SSL4EOS12V11DataModule'
                )
            sample[f'image_{m}'], sample[f'date_{m}'] = image[0], date[0]
            folder = self.store.folder(m, item)
            if folder in ('S2L1C', 'S2L2A') and m not in self._given_offset:
                sample[f'image_{m}'] = _without_offset(image[0], int(date), folder)
        if self.land_cover:
            place = self.store.arrays(_LAND_COVER, item)
            if place is None:
                raise UnreadableFileError(
                    f'{self.origin(item, "mask")}: expected a member in LULC, found none; '
                    'restore the shard, or set skip_unreadable=True'
                )
            classes = place.image(0)[0].astype(np.int64)
            sample['mask'] = torch.from_numpy(classes)
        return sample

    def _open(self, folder: Path, index: PathLike | None) -> PlaceStore:
        folders = dict(self.folders)
        if self.land_cover:
            folders[_LAND_COVER] = ('LULC',)
        where = Path(index) if index is not None else Path(self.root) / 'index'
        return TarShards(folder, folders, self, where)


_LAND_COVER = 'land_cover'


def _without_offset(image: Tensor, date: int, folder: str) -> Tensor:
    if folder == 'S2L1C':
        # A subset of the pixels is sufficient to estimate the quantile.
        sampled = image[_B10, ::8, ::8]
        known = sampled[sampled != 0]
        shifted = known.numel() > 0 and float(known.quantile(0.05)) >= _DARK
    else:
        shifted = date < _BASELINE
    if not shifted:
        return image
    return (image - OFFSET).masked_fill(image == 0, torch.nan)
