"""SSL4EO-S12: Sentinel-1 and Sentinel-2 images of the same location and chosen dates."""

import os
import re
import warnings
from calendar import timegm
from collections.abc import Callable, Mapping
from pathlib import Path
from time import strptime
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torchgeo.datasets import SSL4EOS12, DatasetNotFoundError
from torchgeo.datasets.utils import Path as PathLike
from torchgeo.datasets.utils import Sample

from ..deprecation import renamed_arguments
from ..modalities import MODALITIES, Modality
from .base import UnreadableFileError, check_skip_incomplete
from .dataset_versions import check_layout
from .date_sampling import DateSampling, check_date_sampling, draw_dates
from .epochs import DatedDataset, shared_epoch
from .io import SENTINEL2_RATIO, not_found, read
from .resizing import resize

Level = Literal['l1c', 'l2a']


class SSL4EOS12Pair(DatedDataset):
    """Sentinel-1 and Sentinel-2 images of the same location from one or more dates.

    SSL4EO-S12 (https://arxiv.org/abs/2211.07044) has about 250,000 locations with four
    dates each. A sample is one location with the following keys:

    * ``image_s1``: backscatter in dB, bands (VV, VH), float32, shape (T, 2, H, W)
    * ``image_s2``: digital numbers, float32, shape (T, 13, H, W) for level 'l1c' or
      (T, 12, H, W) for level 'l2a', with the bands in ``modalities['s2'].bands``
    * ``date_s1``, ``date_s2``: seconds since 1970, UTC, int64, shape (T,)
    * ``index``: number of the location, from the name of its folder, int64

    H and W are 264. The 20 m and 60 m bands of Sentinel-2 are resampled bilinearly to
    10 m. The dates of a sample depend only on ``seed``, the epoch (``set_epoch``) and the
    location. Only files of these dates are opened.

    By default, locations with only one modality are skipped with a warning. If they are
    kept, absent images and dates are zeros, and each sample has ``available_s1`` and
    ``available_s2`` (bool, shape ()). In contrast, TorchGeo's ``SSL4EOS12`` reads one
    modality at a random date, so two such datasets would not be synchronized.

    Args:
        root: folder with ``s1`` and ``s2c`` (or ``s2a``), also used for downloads.
        date_sampling: 'all' returns the earliest dates, up to the number that every
            location has in both modalities (T = 4 in the published data). 'same' draws
            ``num_dates`` random dates of Sentinel-1 and pairs each with the nearest date
            of Sentinel-2. If a location has no Sentinel-1 image, random dates of
            Sentinel-2 are drawn. 'independent' draws ``num_dates`` random dates for each
            modality.
        level: 'l1c' (top-of-atmosphere reflectance) or 'l2a' (surface reflectance).
        num_dates: number of dates T per sample for 'same' and 'independent'.
        transforms: function that transforms each sample and returns a new one.
        download: whether to download missing files (about 1.5 TB compressed).
        checksum: whether to verify checksums of downloaded files.
        skip_unreadable: whether to replace a location that has a damaged file with the
            next one.
        seed: seed for drawing dates.
        conversion: ``scale``, ``offset`` and ``nodata`` by modality, to convert file
            values to the unit of the modality, such as ``{s2: {offset: -1000}}`` for
            Sentinel-2 products since processing baseline 04.00.
        skip_incomplete: how to treat locations without a modality: 'keep' to use them,
            True to skip them, or False to raise an error.

    Raises:
        DatasetNotFoundError: if no location is on disk and ``download`` is False.
        ValueError: if an option is invalid, or the folder contains version 1.1.
    """

    @renamed_arguments(dates='date_sampling')
    def __init__(
        self,
        root: PathLike = 'data',
        date_sampling: DateSampling = 'all',
        level: Level = 'l1c',
        num_dates: int = 1,
        transforms: Callable[[Sample], Sample] | None = None,
        download: bool = False,
        checksum: bool = True,
        skip_unreadable: bool = False,
        seed: int = 0,
        conversion: Mapping[str, Mapping[str, Any]] | None = None,
        skip_incomplete: Literal['keep'] | bool = True,
    ) -> None:
        """Initialize a new SSL4EOS12Pair instance."""
        check_skip_incomplete(skip_incomplete)
        check_date_sampling(date_sampling, num_dates)
        if level not in get_args(Level):
            raise ValueError(f'level must be one of {get_args(Level)}, got {level!r}')
        self.root = root
        self.date_sampling = date_sampling
        self.level = level
        self.num_dates = num_dates
        self.transforms = transforms
        self.download = download
        self.checksum = checksum
        self.skip_unreadable = skip_unreadable
        self.seed = seed
        self.skip_incomplete = skip_incomplete
        self.modalities: dict[str, Modality] = {
            's1': MODALITIES['sentinel1_grd'],
            's2': MODALITIES[f'sentinel2_{level}'],
        }
        self.convert(conversion)
        self._epoch = shared_epoch()
        self.lacking: dict[str, frozenset[str]] = {}
        self.samples: list[str] = self._find_places()
        if date_sampling == 'all':
            self._keep_common_dates()

    def load(self, item: str) -> Sample:
        """Read one location.

        Raises:
            UnreadableFileError: if a file is missing, truncated or not a raster.
            ValueError: if the location has fewer than ``num_dates`` dates, or its images
                differ in size.
        """
        present = self._present(item)
        chosen = self._choose(item, {m: self._list_dates(m, item) for m in present})
        images = {m: self._read_dates(m, item, chosen[m]) for m in present}
        sizes = {m: x.size(-1) for m, x in images.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f'location {item}: expected images of the same size, found {sizes} '
                'pixels; restore the original files'
            )
        seconds = {m: torch.tensor([t for t, _ in chosen[m]]) for m in present}
        dates, _, *side = images[present[0]].shape
        for m in self.lacking.get(item, ()):
            channels = self.modalities[m].channels
            images[m] = torch.zeros(dates, channels, *side)
            seconds[m] = torch.zeros(dates, dtype=torch.int64)
        return {
            **{f'image_{m}': images[m] for m in _FOLDERS},
            **{f'date_{m}': seconds[m] for m in _FOLDERS},
            'index': torch.tensor(int(item)),
        }

    def origin(self, item: str, key: str) -> str:
        """Return the path of a 10 m band, or the location if it does not have this image."""
        m = key.removeprefix('image_')
        if m not in self._present(item):
            return item
        folder = self._folder(m) / item
        dates = self._list_dates(m, item)
        return str(folder / dates[0][1] / f'{_ANCHORS[m]}.tif') if dates else item

    def _present(self, place: str) -> list[str]:
        return [m for m in _FOLDERS if m not in self.lacking.get(place, ())]

    def _folder(self, modality: str) -> Path:
        return Path(self.root) / _FOLDERS[modality][self.level]

    def _find_places(self) -> list[str]:
        """Find the locations on disk and download them if necessary."""
        places = {m: _subfolders(self._folder(m), _PLACE) for m in _FOLDERS}
        for m, found in places.items():
            if not found:
                check_layout(self.root, 'SSL4EO-S12 v1.0 (GeoTIFFs)')
                split = _FOLDERS[m][self.level]
                try:
                    SSL4EOS12(
                        self.root, split, download=self.download, checksum=self.checksum
                    )
                except DatasetNotFoundError as error:
                    raise not_found(self, self._layout(m)) from error
                places[m] = _subfolders(self._folder(m), _PLACE)
        some, both = (
            f(*map(set, places.values())) for f in (set.union, set.intersection)
        )
        if not both:
            counts = {_FOLDERS[m][self.level]: len(x) for m, x in places.items()}
            raise not_found(
                self, f'locations in both folders, found none in common: {counts}'
            )
        if self.skip_incomplete == 'keep':
            known = {m: set(names) for m, names in places.items()}
            for place in some - both:
                self.lacking[place] = frozenset(
                    m for m, names in known.items() if place not in names
                )
            return sorted(some)
        if single := sorted(some - both):
            self._refuse(single, 'with only one modality')
            warnings.warn(
                f'skipped {len(single)} of {len(some)} locations in {self.root}, because '
                'one modality is missing; to use incomplete locations, set '
                '`skip_incomplete: keep`',
                stacklevel=3,
            )
        return sorted(both)

    def _refuse(self, places: list[str], reason: str) -> None:
        """Raise an error for incomplete locations, unless they are skipped."""
        if not self.skip_incomplete:
            raise ValueError(
                f'expected both modalities for all locations in {self.root}, found '
                f'{len(places)} {reason}, such as {places[:3]}; add the files, or set '
                '`skip_incomplete: true` to skip these locations, or `skip_incomplete: '
                'keep` to use them'
            )

    def _layout(self, modality: str) -> str:
        name = f'0000000/<product>/{self.modalities[modality].bands[0]}.tif'
        return f'files such as {self._folder(modality) / name}'

    def _keep_common_dates(self) -> None:
        """Find the common number of dates and skip locations without dates."""
        dates = {
            place: {m: len(self._list_dates(m, place)) for m in self._present(place)}
            for place in self.samples
        }
        if self.skip_incomplete == 'keep':
            for place, found in dates.items():
                present = {m: count for m, count in found.items() if count}
                if len(present) < len(_FOLDERS):
                    self.lacking[place] = frozenset(set(_FOLDERS) - set(present))
                dates[place] = present
        counts = {place: min(n.values(), default=0) for place, n in dates.items()}
        self.samples = [place for place, count in counts.items() if count]
        if not self.samples:
            raise not_found(self, self._layout('s1'))
        if empty := [place for place, count in counts.items() if not count]:
            self._refuse(empty, 'with no date in one modality')
            lost = len(empty)
            warnings.warn(
                f'skipped {lost} of {len(counts)} locations in {self.root}, which have no '
                'date in one or both modalities; `skip_incomplete: keep` also uses '
                'locations with dates in only one modality',
                stacklevel=3,
            )
        self.num_dates = min(counts[place] for place in self.samples)
        few = [place for place in self.samples if counts[place] == self.num_dates]
        most = max(counts.values())
        if self.num_dates < most:
            warnings.warn(
                f'only {self.num_dates} of up to {most} dates are used for all locations '
                f'in {self.root}, because other dates are missing from {len(few)} of '
                f'{len(self.samples)} locations, such as {few[0]}; complete or remove these '
                "locations, or set date_sampling='independent'",
                stacklevel=3,
            )

    def _list_dates(self, modality: str, place: str) -> list[tuple[int, str]]:
        """Return the time and product name of each date of a location, sorted by time."""
        pattern = self._pattern[modality]
        products = _subfolders(self._folder(modality) / place, pattern)
        return sorted((_seconds(pattern, product), product) for product in products)

    def _choose(
        self, place: str, dates: dict[str, list[tuple[int, str]]]
    ) -> dict[str, list[tuple[int, str]]]:
        """Choose the dates of a sample for each modality."""
        needed = self.num_dates
        for m, found in dates.items():
            follows = m == 's2' and self.date_sampling == 'same' and 's1' in dates
            if len(found) < (1 if follows else needed):
                where = self._folder(m) / place
                if not found:
                    raise UnreadableFileError(
                        f'{where} is missing or has no dates; restore it, or set '
                        'skip_unreadable=True'
                    )
                raise ValueError(
                    f'{where}: expected at least num_dates={needed} dates, found '
                    f'{len(found)}; reduce num_dates'
                )
        if self.date_sampling == 'all':
            return {m: found[:needed] for m, found in dates.items()}
        seconds = {m: [time for time, _ in found] for m, found in dates.items()}
        seed = (self.seed, int(self._epoch), int(place))
        drawn = draw_dates(seconds, self.date_sampling, needed, seed)
        return {m: [dates[m][i] for i in drawn[m]] for m in dates}

    def _read_dates(
        self, modality: str, place: str, dates: list[tuple[int, str]]
    ) -> Tensor:
        """Read all bands for the given dates, shape (T, C, H, W)."""
        bands = self.modalities[modality].bands
        anchor = _ANCHORS[modality]
        images = torch.empty(0)
        sizes: dict[str, int] = {}
        for t, (_, product) in enumerate(dates):
            folder = self._folder(modality) / place / product
            grid = read(folder / f'{anchor}.tif')
            size = sizes[product] = grid.size(-1)
            if len(set(sizes.values())) > 1:
                raise ValueError(
                    f'location {place}: expected images of the same size, found {sizes} '
                    'pixels; restore the original files'
                )
            if t == 0:
                images = torch.empty(len(dates), len(bands), size, size)
            for c, band in enumerate(bands):
                allowed = sorted({size, size // SENTINEL2_RATIO.get(band, 1)})
                path = folder / f'{band}.tif'
                layer = grid if band == anchor else read(path, 1, allowed)
                images[t, c] = resize(layer, size)[0]
        return images

    _pattern: ClassVar[dict[str, re.Pattern[str]]] = {
        m: re.compile(SSL4EOS12.metadata[split]['filename_regex'])
        for m, split in (('s1', 's1'), ('s2', 's2c'))
    }


_FOLDERS: dict[str, dict[Level, Literal['s1', 's2c', 's2a']]] = {
    's1': {'l1c': 's1', 'l2a': 's1'},
    's2': {'l1c': 's2c', 'l2a': 's2a'},
}
# 10 m band of each modality that defines the pixel grid.
_ANCHORS = {'s1': 'VV', 's2': 'B2'}
_PLACE = re.compile(r'^\d{7}$')


def _subfolders(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    """Return the names of matching subfolders, or [] if the folder does not exist."""
    try:
        with os.scandir(folder) as entries:
            return [e.name for e in entries if pattern.match(e.name) and e.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _seconds(pattern: re.Pattern[str], product: str) -> int:
    """Convert the acquisition time in a product name to seconds since 1970, UTC."""
    (date,) = pattern.findall(product)
    return timegm(strptime(date, '%Y%m%dT%H%M%S'))
