"""Datamodule of co-registered rasters from folders or TorchGeo dataset classes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from matplotlib.figure import Figure
from shapely.geometry.base import BaseGeometry
from torchgeo.datasets import RasterDataset
from torchgeo.datasets.utils import Sample

from ..datasets.entry_validation import check_keys, record_of, typed
from ..datasets.plotting import plot_images
from ..datasets.rasters.join import JoinedRasters, join
from ..datasets.rasters.open import open_rasters, raster_class
from ..datasets.rasters.split_areas import divide, summarize_areas
from ..datasets.rasters.union import RasterUnion
from ..datasets.rasters.window_positions import holds_window
from ..datasets.rasters.windows import GridWindows, RandomWindows, too_small
from ..modalities import Conversion, Modality, invalid_pixels
from .band_statistics import Moments, StatisticsDataModule, report

_FOLDER = (
    *('paths', 'glob', 'bands', 'nodata', 'resampling'),
    *('filename_regex', 'date_format', 'res'),
)
_CLASS = ('dataset', 'init_args', 'paths', 'bands', 'nodata', 'res')
_IMAGE = ('kind', 'unit', 'mean', 'std')
_CONVERSION = ('scale', 'offset')


class RasterPairDataModule(StatisticsDataModule):
    """Datamodule of windows from two or more co-registered rasters.

    Each entry of ``rasters`` is a folder of georeferenced files or a subclass of
    TorchGeo's ``RasterDataset``. Windows lie within the common footprint of all entries
    and have the CRS and resolution of the first entry.

    The footprint is split by area, from west to east: training, validation, test.
    Disconnected polygons, such as chips, are not cut. Neighboring polygons are mostly in
    the same split. A gap of up to three pixels of the coarsest raster prevents
    interpolation from mixing splits.

    Training uses random windows that depend only on the seed and epoch. Validation and
    test use adjacent, non-overlapping windows. Prediction covers the whole footprint. Each
    batch has ``bounds`` and ``transform`` in the CRS of the first entry. For prediction,
    ``predict_dataset.crs`` contains this CRS.

    An entry has the following keys:

    - ``paths``: folder, or list of folders and files. ``glob`` is the file name pattern.
      By default, it selects GeoTIFF and a few other formats. Instead of ``glob``,
      ``dataset`` can be the import path of a ``RasterDataset`` subclass, with
      ``init_args``.
    - ``filename_regex`` and ``date_format``: as in ``RasterDataset``, for folders only.
      The group ``date`` contains the date. With a group ``band``, each band is read from
      a separate file.
    - ``bands``: name of each band in the files, in order. For a class, these are the bands
      to read.
    - ``kind`` and ``unit``: as in :class:`~torchgeo_decur.modalities.Modality`. The
      defaults are 'multispectral' and 'native', which is the unit of the files.
    - ``mean`` and ``std``: statistics of each band. If they are required for scaling but
      missing, they are estimated from 64 training windows, printed and stored in
      checkpoints.
    - ``nodata``: file value of missing pixels. The default is the value declared in the
      files, or NaN for floating-point files. Masked and transparent pixels and the padding
      around a reprojected file are also missing. If a raster has no nodata value, pixels
      outside its files are 0.
    - ``scale`` and ``offset``: conversion from file values to the unit. Values are
      multiplied by ``scale``; then ``offset`` is added, such as -1000 for newer Sentinel-2
      products. Each option is one number or one number per band.
    - ``res``: pixel size of this entry in CRS units of the first entry, such as 0.5 for
      aerial photographs paired with Sentinel-2. By default, the pixel size of the first
      entry is used.
    - ``resampling``: one of ``torchgeo_decur.datasets.rasters.folder.RESAMPLING``, by
      default 'bilinear'. As in TorchGeo, files in another CRS are first reprojected with
      nearest-neighbor resampling.

    Args:
        rasters: two or more entries, by modality name.
        mask: entry of a label raster with the keys ``paths`` or ``dataset``, ``nodata``
            and ``num_classes``. Labels are integers and are resampled by nearest
            neighbor. If labels are masked, NaN or reprojected, ``nodata`` is required;
            set the task's ``ignore_index`` to the same value. With ``numbers: true``, the
            raster contains continuous values, such as heights, instead of classes. These
            values are resampled like images, missing pixels become NaN, and ``scale`` and
            ``offset`` are allowed. Prediction does not read the mask and therefore also
            covers unlabeled areas.
        patch_size: height and width of a window, in pixels of the first raster.
        length: number of random windows per epoch over all devices.
        max_nodata: maximum fraction of missing pixels in each modality. Training,
            validation and test skip windows that exceed it. The mask is not counted.
        val_fraction: fraction of the common footprint for validation.
        test_fraction: fraction of the common footprint for testing. If 0, the test stage
            uses the validation windows.
        skip_unreadable: whether to skip unreadable files with a warning.
        footprint: 'intersection' for windows that all modalities cover, or 'union' for
            windows that any modality covers. With 'union', a modality with more than
            ``max_nodata`` missing pixels is absent from a window. Its image is then
            zeros, and each sample has ``available_<m>`` for every modality. Prediction
            keeps every modality with at least one valid pixel. Files in another CRS are
            used only within the extent of the first entry.
        options: options of :class:`~torchgeo_decur.datamodules.MultimodalDataModule`,
            except ``label_fraction``.

    Raises:
        ValueError: if an entry is invalid or there are fewer than two. :meth:`setup` also
            raises this error if files are incompatible.
    """

    def __init__(
        self,
        rasters: dict[str, dict[str, Any]],
        mask: dict[str, Any] | None = None,
        *,
        patch_size: int = 64,
        length: int = 1000,
        max_nodata: float = 0.1,
        val_fraction: float = 0.2,
        test_fraction: float = 0.0,
        skip_unreadable: bool = False,
        footprint: Literal['intersection', 'union'] = 'intersection',
        **options: Any,
    ) -> None:
        """Initialize a new RasterPairDataModule instance."""
        if footprint not in ('intersection', 'union'):
            raise ValueError(
                f"footprint must be 'intersection' or 'union', got {footprint!r}"
            )
        if len(rasters) < 2 or 'mask' in rasters:
            raise ValueError(
                'rasters must have two or more modalities, none of them named mask, '
                f'got {list(rasters)}'
            )
        if patch_size < 1 or length < 1:
            raise ValueError(
                f'patch_size and length must be positive, got {patch_size} and {length}'
            )
        if not (val_fraction > 0 <= test_fraction and val_fraction + test_fraction < 1):
            raise ValueError(
                'val_fraction must be positive, test_fraction must not be negative, and '
                f'their sum must be less than 1, got {val_fraction} and {test_fraction}'
            )
        if not 0 <= max_nodata < 1:
            raise ValueError(f'max_nodata must be in [0, 1), got {max_nodata}')
        rasters = {name: typed(name, entry) for name, entry in rasters.items()}
        modalities = {name: _modality(name, entry) for name, entry in rasters.items()}
        if mask is not None:
            mask = typed('mask', mask)
            numbers = mask.get('numbers')
            more = _CONVERSION if numbers else ('num_classes',)
            _check_keys('mask', mask, ('numbers', *more))
        self.entries = {**rasters, **({'mask': mask} if mask is not None else {})}
        self.patch_size = patch_size
        self.length = length
        self.fractions = (val_fraction, test_fraction)
        self.max_nodata = max_nodata
        self.skip_unreadable = skip_unreadable
        self.union = footprint == 'union'
        self.rasters: JoinedRasters | None = None
        self.statistics: dict[str, dict[str, list[float]]] = {}
        # For random windows, length replaces label_fraction.
        super().__init__(modalities, label_fraction=1.0, **options)

    def setup(self, stage: str) -> None:
        """Open the rasters, split the footprint and estimate missing statistics.

        Raises:
            ValueError: if files are unreadable or incompatible, an area is smaller than a
                window, or nearly all windows have too many missing pixels.
        """
        # Do not read the mask for prediction, which also covers unlabeled areas.
        entries = {
            k: v for k, v in self.entries.items() if k != 'mask' or stage != 'predict'
        }
        rasters = self.rasters
        if rasters is None or set(rasters.leaves) != set(entries):
            rasters = self._open(stage, entries)
        if stage == 'fit':
            self.train_dataset = RandomWindows(
                rasters, self.areas['train'], self.length, self.seed
            )
        if stage in ('fit', 'validate'):
            self.val_dataset = self._grid(rasters, 'val')
        if stage == 'test':
            name = 'test' if 'test' in self.areas else 'val'
            self.test_dataset = self._grid(rasters, name)
        if stage == 'predict':
            self.predict_dataset = GridWindows(rasters, rasters.footprint, whole=True)

    def freeze(self) -> None:
        """Warn that all epochs use the random windows of the first epoch."""
        rank_zero_warn(
            f'the {self.length} random windows of the first epoch are used in all epochs; '
            'for more windows, increase length'
        )

    def transfer_batch_to_device(
        self, batch: Sample, device: torch.device, dataloader_idx: int
    ) -> Sample:
        """Move all tensors of a batch to the device except ``bounds`` and ``transform``.

        These two tensors are float64, which not every device supports.
        """
        place = {k: batch[k] for k in ('bounds', 'transform')}
        rest = {k: v for k, v in batch.items() if k not in place}
        moved: Sample = super().transfer_batch_to_device(rest, device, dataloader_idx)
        return {**moved, **place}

    def plot(self, sample: Sample, **kwargs: Any) -> Figure:
        """Plot the images and the masks of one sample.

        Args:
            sample: sample from a dataset or from a scaled batch.
            **kwargs: options of ``torchgeo_decur.datasets.plotting.plot_images``.

        Returns:
            The figure, which the caller must close.
        """
        images = {}
        for m, modality in self.modalities.items():
            if not sample.get(f'available_{m}', True):
                continue
            x = sample[f'image_{m}'].float()
            invalid = invalid_pixels(x, modality.nodata)
            images[m] = x if invalid is None else x.masked_fill(invalid, torch.nan)
        masks = {str(k): sample[k] for k in ('mask', 'prediction') if k in sample}
        return plot_images(images, self.modalities, masks, **kwargs)

    def _open(
        self, stage: str, entries: Mapping[str, Mapping[str, Any]]
    ) -> JoinedRasters:
        leaves, nodata, crs = {}, {}, None
        for name, entry in entries.items():
            bands: Sequence[str] | None = None
            if name != 'mask':
                bands = self.modalities[name].bands
            elif entry.get('numbers'):
                bands = ['mask']
            leaf, nodata[name] = open_rasters(
                name, entry, bands, self.skip_unreadable, crs
            )
            crs = crs or leaf.crs
            if bands is not None:
                convert = Conversion.of(name, entry, bands)
                if convert.changes:
                    nodata[name] = _convert(leaf, name, convert, nodata[name])
            if name == 'mask' and bands:
                before: Any = leaf.transforms
                leaf.transforms = _Numbers(before, nodata[name])
            # Files must not be open when worker processes are forked.
            leaf.cache = self.num_workers == 0
            leaves[name] = leaf
        res = {m: entry['res'] for m, entry in entries.items() if entry.get('res')}
        joined, widths = join(leaves, self.union, res)
        number = entries.get('mask', {}).get('num_classes')
        options = (joined, leaves, nodata, self.patch_size, self.max_nodata, number)
        rasters = JoinedRasters(*options)
        if self.union:
            channels = {m: modality.channels for m, modality in self.modalities.items()}
            rasters = RasterUnion(*options, channels)
        _check_res(rasters)
        # Prediction supports areas that are smaller than a window.
        if stage != 'predict' and not holds_window(rasters, rasters.footprint):
            reason = too_small(rasters, rasters.footprint, rasters.area_name)
            raise ValueError(f'{reason}; reduce patch_size')
        val, test = self.fractions
        shares = {'train': 1 - val - test, 'val': val} | (
            {'test': test} if test else {}
        )
        self.areas = divide(rasters, shares, widths)
        if stage != 'predict' and (text := summarize_areas(rasters, self.areas)):
            rank_zero_info(text)
        self.set_modalities(
            {m: replace(v, nodata=nodata[m]) for m, v in self.modalities.items()}
        )
        self._learn(rasters, stage)
        self.rasters = rasters
        return rasters

    def _grid(self, rasters: JoinedRasters, name: str) -> GridWindows:
        windows = GridWindows(rasters, self.areas[name])
        if not windows:
            reason = (
                f'more than {self.max_nodata:.0%} of the pixels are missing in all '
                f'{windows.skipped} windows'
                if windows.skipped
                else too_small(rasters, self.areas[name], f'{name} area')
            )
            raise ValueError(
                f'{name} area must contain at least one window, but {reason}; increase '
                f'{name}_fraction or reduce patch_size'
            )
        return windows

    def _learn(self, rasters: JoinedRasters, stage: str, count: int = 64) -> None:
        """Check a few training windows and estimate missing statistics."""
        wanted = self.wanted()
        area = self.areas['train']
        if stage == 'predict':
            if not wanted:
                return
            if not holds_window(rasters, area):
                area = rasters.footprint  # training area is smaller than a window
        windows = RandomWindows(rasters, area, count, self.seed)
        moments = {m: Moments(self.modalities[m]) for m in wanted}
        skipped = 0
        # A few windows suffice to check files, labels and nodata.
        for index in range(count if wanted and not self.union else 4):
            sample, before = windows.fetch(index)
            skipped += before
            for m in wanted if not self.union else ():
                moments[m].add(m, sample[f'image_{m}'])
        for m in wanted if self.union else ():
            moments[m] = self._learn_alone(rasters, m, area, count)
        self.use({**self.statistics, **{m: moments[m].result(m) for m in wanted}})
        if wanted:
            report(
                {m: self.statistics[m] for m in wanted},
                f'Statistics of {count} training windows ({skipped} of '
                f'{count + skipped} windows skipped because of nodata). To reuse them, '
                'copy them to rasters:',
            )

    def _learn_alone(
        self, rasters: JoinedRasters, name: str, area: BaseGeometry, count: int
    ) -> Moments:
        """Estimate statistics from the windows of an area that have the modality."""
        covered = rasters.leaves[name].index.geometry.union_all()
        own = area.intersection(covered)
        windows = RandomWindows(
            rasters, own if holds_window(rasters, own) else area, count, self.seed
        )
        found = Moments(self.modalities[name])
        for sample in (windows[i] for i in range(count)):
            if sample[f'available_{name}']:
                found.add(name, sample[f'image_{name}'])
        if not found.count.any():
            raise ValueError(
                f'{name}: expected windows with this modality in the training area to '
                'estimate mean and std, found none; set mean and std, or reduce '
                'val_fraction'
            )
        return found


def _check_res(rasters: JoinedRasters) -> None:
    """Check that a window contains a whole number of pixels of each raster."""
    width = rasters.size[0]
    for name, number in rasters.patch_sizes.items():
        size = rasters.leaves[name].res[0]
        if number < 1 or abs(width / size - number) > 1e-3:
            raise ValueError(
                f'{name}: res must divide the window width {width:g} '
                f'({rasters.patch_size} pixels of {rasters.joined.res[0]:g}), got '
                f'{size:g}; change patch_size or res'
            )


@dataclass(frozen=True)
class _Converted:
    """Transform that applies other transforms and converts an image to its unit."""

    before: Callable[[Sample], Sample]
    key: str
    convert: Conversion

    def __call__(self, sample: Sample) -> Sample:
        sample = self.before(sample)
        return {**sample, self.key: self.convert(sample[self.key])}


@dataclass(frozen=True)
class _Numbers:
    """Transform that turns a one-band image into a mask with NaN for missing pixels."""

    before: Callable[[Sample], Sample]
    nodata: float | None

    def __call__(self, sample: Sample) -> Sample:
        sample = self.before(sample)
        image = sample.pop('image_mask')
        invalid = invalid_pixels(image, self.nodata)
        mask = image if invalid is None else image.masked_fill(invalid, math.nan)
        return {**sample, 'mask': mask[0]}


def _convert(
    leaf: RasterDataset, name: str, convert: Conversion, nodata: float | None
) -> float | None:
    """Add the conversion to a raster dataset and return the new nodata value."""
    marked = () if nodata is None else (nodata,)
    before: Any = leaf.transforms
    leaf.transforms = _Converted(
        before, f'image_{name}', replace(convert, nodata=marked)
    )
    return None if nodata is None else math.nan


def _check_keys(name: str, entry: Mapping[str, Any], more: tuple[str, ...]) -> None:
    keys, start = (_CLASS, 'dataset') if entry.get('dataset') else (_FOLDER, 'paths')
    check_keys(name, entry, sorted(keys + more), f' with {start}')


def _modality(name: str, entry: Mapping[str, Any]) -> Modality:
    """Create the modality of an entry without opening files."""
    _check_keys(name, entry, (*_IMAGE, *_CONVERSION))
    bands = entry.get('bands')
    if entry.get('dataset'):
        cls = raster_class(name, entry['dataset'])
        bands = bands or cls.all_bands
    if not bands or isinstance(bands, str):
        raise ValueError(
            f'{name}: bands must list the names of all bands in the files, in order, got '
            f'{bands!r}'
        )
    fields = {k: entry[k] for k in (*_IMAGE, 'nodata') if entry.get(k) is not None}
    Conversion.of(name, entry, bands)
    return record_of(name, {'bands': list(bands), **fields})
