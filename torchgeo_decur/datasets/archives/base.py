"""Base class for datasets that store each location as zarr arrays."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchgeo.datasets.utils import Path as PathLike
from torchgeo.datasets.utils import Sample

from ...modalities import Modality, normalize_band
from ..base import check_skip_incomplete
from ..date_sampling import DateSampling, check_date_sampling, draw_dates
from ..epochs import DatedDataset, shared_epoch
from .place_arrays import PlaceArrays
from .products import folders_of, records
from .stores import PlaceFiles, PlaceStore, TarShards


class ArchiveDataset(DatedDataset):
    """Base class for archives whose locations may lack some modalities.

    Subclasses define default folders. For the arguments and errors, see
    :class:`~torchgeo_decur.datasets.SSL4EOS12V11`.

    Attributes:
        store: store of all locations of the split on disk.
    """

    store: PlaceStore

    def __init__(
        self,
        root: PathLike,
        split: str,
        modalities: Mapping[str, str | Sequence[str]],
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
        """Initialize a new ArchiveDataset instance."""
        check_date_sampling(date_sampling, num_dates)
        check_skip_incomplete(skip_incomplete)
        self.root = root
        self.split = split
        self.folders = folders_of(modalities)
        self.date_sampling: DateSampling = date_sampling
        self.num_dates = num_dates
        self.transforms = transforms
        self.skip_unreadable = skip_unreadable
        self.seed = seed
        self.download = False
        self.modalities: dict[str, Modality] = records(modalities)
        self.convert(conversion)
        self.store = self._open(Path(root) / split, index)
        self._epoch = shared_epoch()
        present = self.store.present[:, : len(self.folders)]
        kept = present.all(1) if skip_incomplete is True else present.any(1)
        lost = len(present) - int(present.all(1).sum())
        counts = dict(zip(self.folders, present.sum(0).tolist(), strict=True))
        if (lost and skip_incomplete is False) or not kept.any():
            raise ValueError(
                f'{Path(root) / split}: expected locations with every modality, but '
                f'{lost} of {len(present)} lack one, with {counts} locations per modality; '
                'add the files, or set `skip_incomplete: true` to skip these locations, or '
                '`skip_incomplete: keep` to use their other images'
            )
        # A range uses no memory, even for millions of locations.
        self.samples: Sequence[int] = range(len(kept))
        if not kept.all():
            self.samples = np.flatnonzero(kept).tolist()
        if lost and skip_incomplete == 'keep':
            self.lacking = _Lacking(present, tuple(self.folders))

    @property
    def availability(self) -> dict[str, NDArray[np.bool_]]:
        """Boolean array per modality that is True for samples with this modality."""
        present = self.store.present[np.asarray(self.samples, np.int64)]
        return {m: present[:, i] for i, m in enumerate(self.folders)}

    def load(self, item: int) -> Sample:
        """Read one location.

        Args:
            item: index of the location in the store.

        Returns:
            The sample, before ``transforms``.

        Raises:
            UnreadableFileError: if a file is missing or truncated.
            ValueError: if the arrays do not match the modality.
        """
        places = {m: self.store.arrays(m, item) for m in self.folders}
        there = {m: place for m, place in places.items() if place is not None}
        for m, place in there.items():
            self._check(m, place)
        number = self.store.number(item)
        seconds = {m: place.seconds() for m, place in there.items()}
        chosen = self._choose(seconds, number)
        images = {
            m: _read(place, [date for date, _ in chosen[m]])
            for m, place in there.items()
        }
        dates = {m: torch.tensor([t for _, t in chosen[m]]) for m in there}
        # Fill absent images with zeros.
        like = next(iter(images.values()))
        most = max(map(len, images.values()))
        sample: Sample = {}
        for m, modality in self.modalities.items():
            if m in there:
                sample[f'image_{m}'], sample[f'date_{m}'] = images[m], dates[m]
                continue
            count = 1 if modality.kind == 'elevation' else most
            size = (count, modality.channels, *like.shape[-2:])
            sample[f'image_{m}'] = torch.zeros(size)
            sample[f'date_{m}'] = torch.zeros(count, dtype=torch.int64)
        sample['index'] = torch.tensor(number)
        return sample

    def origin(self, item: int, key: str) -> str:
        """Return the origin of a sample key for error messages.

        Args:
            item: index of the location in the store.
            key: sample key, such as ``image_s1``.

        Returns:
            The file and the row or name of the location in this file.
        """
        modality = key.partition('_')[2]
        known = modality if modality in self.folders else next(iter(self.folders))
        return self.store.origin(known, item)

    def places(self) -> gpd.GeoDataFrame:
        """Return the outline and first date of each location.

        Returns:
            Table with the outline (longitude and latitude) and first date by location.

        Raises:
            ValueError: if the archive has no coordinates.
        """
        outlines, systems, dates = [], [], []
        for item in self.samples:
            place = next(
                arrays
                for m in self.folders
                if (arrays := self.store.arrays(m, item)) is not None
            )
            outline, crs = place.outline()
            outlines.append(outline)
            systems.append(crs)
            dates.append(min(place.seconds()) or None)
        geometry = np.array(outlines, object)
        for crs in set(systems):
            here = np.array(systems) == crs
            geometry[here] = gpd.GeoSeries(geometry[here], crs=crs).to_crs('OGC:CRS84')
        columns = {'date': pd.to_datetime(dates, unit='s')}
        return gpd.GeoDataFrame(columns, geometry=geometry, crs='OGC:CRS84')

    def _open(self, folder: Path, index: PathLike | None) -> PlaceStore:
        """Open the locations of a split in either file layout."""
        names = [f for some in self.folders.values() for f in some]
        if any(next((folder / f).glob('*.tar'), None) for f in names):
            where = Path(index) if index is not None else Path(self.root) / 'index'
            return TarShards(folder, self.folders, self, where)
        return PlaceFiles(folder, self.folders, self)

    def _choose(
        self, seconds: Mapping[str, Sequence[int]], number: int
    ) -> dict[str, list[tuple[int, int]]]:
        """Choose the dates of a sample and return their indices and times by modality."""
        # Dates are not sorted in some archives published in 2025.
        found = {
            m: sorted(enumerate(times), key=lambda date: date[1])
            for m, times in seconds.items()
        }
        if self.date_sampling == 'all':
            return found
        several = {m: dates for m, dates in found.items() if len(dates) > 1}
        if not several:
            return found
        for m, dates in several.items():
            if len(dates) < self.num_dates:
                raise ValueError(
                    f'location {number}: expected at least num_dates={self.num_dates} '
                    f'dates of {m}, found {len(dates)}; reduce num_dates'
                )
        drawn = draw_dates(
            {m: [t for _, t in dates] for m, dates in several.items()},
            self.date_sampling,
            self.num_dates,
            (self.seed, int(self._epoch), number),
        )
        return found | {m: [several[m][i] for i in drawn[m]] for m in several}

    def _check(self, modality: str, place: PlaceArrays) -> None:
        bands = self.modalities[modality].bands
        if place.shape[1] != len(bands):
            raise ValueError(
                f'{place.file.name}: expected {len(bands)} bands {list(bands)}, found '
                f'{place.shape[1]}; correct the folder of {modality} in the option '
                'modalities'
            )
        given, read = ([normalize_band(b) for b in x] for x in (bands, place.bands))
        if set(given) == set(read) and given != read:
            raise ValueError(
                f'{place.file.name}: expected bands {list(bands)}, found {place.bands}; '
                'restore the original file'
            )


class _Lacking(Mapping[int, frozenset[str]]):
    """Absent modalities of each incomplete location, computed on access."""

    def __init__(self, present: NDArray[np.bool_], modalities: tuple[str, ...]) -> None:
        self.present, self.modalities = present, modalities

    def __getitem__(self, item: int) -> frozenset[str]:
        row = self.present[item].tolist()
        if all(row):
            raise KeyError(item)
        return frozenset(
            m for m, there in zip(self.modalities, row, strict=True) if not there
        )

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(~self.present.all(1)).tolist())

    def __len__(self) -> int:
        return len(self.present) - int(self.present.all(1).sum())

    def __bool__(self) -> bool:
        return True


def _read(place: PlaceArrays, dates: Sequence[int]) -> Tensor:
    """Read the images of the given dates, float32, shape (T, C, H, W)."""
    out = torch.empty(len(dates), *place.shape[1:])
    read = defaultdict(list)
    for t, date in enumerate(dates):
        read[date].append(t)
    for date, where in read.items():
        image = torch.from_numpy(place.image(date).astype(np.float32))
        for t in where:
            out[t] = image
    return out
