"""TerraMesh: up to eight products of the same place, in tar shards of zarr."""

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

#: Modalities of the published weights; a place has one of the two products of Sentinel-1.
MODALITIES: Mapping[str, str | Sequence[str]] = {
    's1': ('S1RTC', 'S1GRD'),
    's2': 'S2L1C',
}
#: Name of each class of 'LULC'.
CLASSES = (
    *('no data', 'water', 'trees', 'flooded vegetation', 'crops', 'built area'),
    *('bare ground', 'snow or ice', 'clouds', 'rangeland'),
)
# 2022-01-25, when processing baseline 04.00 began.
_BASELINE = 1_643_068_800
# Smallest 5 % quantile of B10 with the offset; without, B10 is near 0, because the
# atmosphere absorbs its light.
_DARK = OFFSET - 50
_B10 = 10


class TerraMesh(ArchiveDataset):
    """Up to eight products of the same place at one date, of about 9 million places.

    TerraMesh (https://arxiv.org/abs/2504.11172) is published as tar shards,
    ::

        <root>/<split>/<folder>/majortom_shard_<number>.tar
        <root>/<split>/<folder>/ssl4eos12_shard_<number>.tar
            <key>.zarr.zip: bands (time, band, y, x), time (time), x, y, crs, ...

    in the folders 'S1GRD', 'S1RTC', 'S2L1C', 'S2L2A', 'S2RGB', 'NDVI', 'DEM' and 'LULC'.
    Shards and keys have the same names in each folder. A key ends in the number of the
    place. Arrays are zarr format 2 with one date: float16 for radar and NDVI, int16 for
    'S2L1C', 'S2L2A' and 'DEM', uint8 for 'S2RGB' and 'LULC'. This is the layout that
    ``terramesh.py`` of https://huggingface.co/datasets/ibm-esa-geospatial/TerraMesh reads.

    A sample is one place, with the keys

    * ``image_<m>``: float32, shape (C, 264, 264), in the unit of the modality
    * ``date_<m>``: acquisition in seconds since 1970, UTC, int64; 0 for elevation
    * ``mask``: class of each pixel, int64, shape (264, 264), if ``land_cover`` is set
    * ``index``: number at the end of the key, int64
    * ``available_<m>``: boolean, only if some places lack a modality. Their ``image_<m>``
      is 0.

    Places of Major TOM have 'S1RTC', and places of SSL4EO-S12 have 'S1GRD', both in dB. A
    modality may therefore be a list of folders.

    Only some Sentinel-2 images have the offset of 1000 of processing baseline 04.00. It is
    subtracted from images of 'S2L1C' whose band B10 is far from 0, and from images of
    'S2L2A' acquired before 25 January 2022. Other images are older products, or products
    whose offset was removed. In images with the offset, 0 is a missing pixel and becomes
    NaN. Missing pixels of radar and NDVI are NaN.

    Members of a tar file are read at their positions, so that the order of the samples does
    not affect the speed on a local disk. The first use reads the headers of each shard.

    Args:
        root: folder of the splits.
        split: folder of the split, 'train' or 'val'.
        modalities: folder of each modality by name, or alternative folders; the first
            with the place is used. By default, 'S1RTC' or 'S1GRD' as ``s1`` and 'S2L1C'
            as ``s2``.
        land_cover: whether to return 'LULC' as ``mask``.
        skip_incomplete: 'keep' for places that lack a modality, True to leave them out,
            or False to raise an error.
        transforms: function that takes a sample and returns a new one.
        skip_unreadable: whether to replace a place with a damaged file by the next place.
        index: folder of the positions of places in shards, by default ``index`` in the
            root.
        conversion: ``scale``, ``offset`` and ``nodata`` by modality. If it has an
            ``offset`` for a modality, no other offset is subtracted from it.

    Raises:
        DatasetNotFoundError: if there are no shards.
        ImportError: if numcodecs is not installed.
        UnreadableFileError: if a shard is truncated.
        ValueError: if an option is not valid, or the shards are of another archive.
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
        """Read one place.

        Args:
            item: number of the place in the store.

        Returns:
            The sample, before ``transforms``.

        Raises:
            UnreadableFileError: if a file is truncated, or the land cover is absent.
            ValueError: if the arrays do not fit the modality.
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
                    'restore it, or pass skip_unreadable=True'
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
        # A few hundred pixels are enough for the quantile.
        sampled = image[_B10, ::8, ::8]
        known = sampled[sampled != 0]
        shifted = known.numel() > 0 and float(known.quantile(0.05)) >= _DARK
    else:
        shifted = date < _BASELINE
    if not shifted:
        return image
    return (image - OFFSET).masked_fill(image == 0, torch.nan)
