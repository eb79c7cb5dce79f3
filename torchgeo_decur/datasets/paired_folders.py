"""Folders of images that are not georeferenced, paired by file name."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torchgeo.datasets.utils import Path as PathLike
from torchgeo.datasets.utils import Sample

from ..modalities import Conversion, Modality
from .band_descriptions import check_descriptions, read_descriptions
from .base import FileDataset, check_skip_incomplete
from .entry_validation import check_keys, record_of, typed
from .io import read_image
from .resizing import check_size, resize_frame
from .rgbd.hha import Intrinsics
from .rgbd.hha_cache import HHACache
from .scene_labels import SceneLabels, match_names

_IMAGE = (
    *('pattern', 'bands', 'kind', 'unit', 'mean', 'std', 'nodata', 'scale'),
    *('offset', 'hha', 'size'),
)
_ALL_BANDS = (
    'list all bands of the files in bands, including alpha, or remove extra bands'
)
_ONE_CLASS = 'write masks with a single band of class indices instead of colors'
_MASK = ('pattern', 'values', 'num_classes', 'nodata', 'size')
_NUMBERS = ('pattern', 'numbers', 'nodata', 'scale', 'offset', 'size')
_ONE_NUMBER = 'write masks with a single band of numbers'


class Frame(NamedTuple):
    """Identifier of a frame.

    Args:
        split: value of ``{split}`` in the patterns, or ''.
        id: value of ``{id}`` in the patterns.
    """

    split: str
    id: str


def scene_names(frame: Frame) -> list[str]:
    """Return the keys that may identify a frame in a label table.

    Example:
        >>> scene_names(Frame('train', '7')), scene_names(Frame('', '7'))
        (['train/7', '7'], ['7'])
    """
    return [f'{frame.split}/{frame.id}', frame.id] if frame.split else [frame.id]


class PairedFolders(FileDataset):
    """Frames with one image file per modality, paired by file name.

    Files may be PNG (8-bit or 16-bit), JPEG, TIFF or any other GDAL format. A georeference
    is not used. A pattern is a path relative to the root in which ``{id}`` stands for the
    frame id, such as ``rgb/{id}.png``. If each split has its own folder, patterns also
    contain ``{split}``, as in ``{split}/rgb/{id}.png``. An id may contain slashes.

    An entry of ``images`` has the following keys:

    - ``pattern``: pattern of the file paths.
    - ``bands``: name of each band in the files, in order.
    - ``kind``, ``unit``, ``mean`` and ``std``: as in
      :class:`~torchgeo_decur.modalities.Modality`. By default, the kind is 'multispectral'
      and the unit is 'native', which is the unit of the files.
    - ``nodata``: file value of missing pixels, or a list of values. They become NaN.
    - ``scale`` and ``offset``: conversion from file values to the unit. Values are
      multiplied by ``scale``, such as 0.001 from millimeters to meters. Then ``offset`` is
      added, such as -1000 for newer Sentinel-2 products. Each option is one number or one
      number per band.
    - ``hha``: camera intrinsics ``{fx: ..., fy: ..., cx: ..., cy: ...}`` of a depth image,
      in pixels of the files, and optionally ``camera_height``. The depth image is then
      encoded by :func:`~torchgeo_decur.datasets.encode_hha`. Such an entry has no
      ``bands``, ``kind`` or ``unit``, and its ``scale`` must convert depth to meters.
    - ``size``: height and width of the images after resizing, such as [20, 20] for
      satellite chips paired with aerial photographs of the same area.

    The entry of a mask has ``pattern`` and the following optional keys:

    - ``values``: class of each file value, such as ``{0: 0, 255: 1}``. By default, file
      values are classes.
    - ``num_classes``: number of classes. Class indices outside ``[0, num_classes)`` raise
      an error.
    - ``nodata``: value of unlabeled pixels. The dataset does not replace it, so set
      ``ignore_index`` of the task to this value.
    - ``numbers``: True if the mask contains continuous values, such as heights, instead of
      classes. The other keys are then ``nodata``, whose pixels become NaN, ``scale`` and
      ``offset``.
    - ``size``: height and width of the mask. If no size is set, the mask must have the
      size of one of the images.

    The entry ``labels`` describes a CSV or GeoJSON table with one row per frame:

    - ``path``: path of the table, relative to the root.
    - ``key``: column with the frame id, with or without a file suffix.
    - ``label``: column of the label, or a list of columns.
    - ``kind``: 'class' (default), 'multilabel' or 'number'. Multiple labels are either
      names in one column or one column of 0 and 1 per class. An empty number is NaN.
    - ``classes``: class names in the order of their indices. By default, these are all
      names in the table in sorted order.
    - ``separator``: separator of class names in a cell, by default ';'.
    - ``split``: column with the split of each row. The argument ``splits`` then selects
      values of this column.

    Frames without a row or without a label are omitted; see ``label_report``.

    A sample has the following keys:

    - ``image_<modality>``: float32, shape (C, H, W).
    - ``mask``, if there is a mask entry: int64, or float32 for continuous values, shape
      (H, W).
    - ``label``, if there is a label table: int64 with shape () for one class or (K,) for
      multiple labels, or float32 for numbers.
    - ``id``: frame id, with the split as a prefix if there is one, as in ``train/0001``.
    - ``available_<modality>``, if incomplete frames are kept: bool, shape (). Absent images
      are zeros.

    Args:
        root: base folder of the patterns.
        images: entry of each modality.
        mask: entry of the mask.
        splits: values of ``{split}``, or of the column ``split``, to read, in order.
        size: height and width after resizing of images and masks without their own
            ``size``, or None to keep the file size. Images are interpolated. Masks, and
            images with ``nodata`` or ``hha``, use nearest-neighbor resampling. If a size
            is set, files may differ in pixel size, but all files of a frame must cover
            the same area.
        cache: folder of the HHA images, by default ``hha`` in the root.
        skip_incomplete: how to treat frames with a missing file: False to raise an error,
            True to skip them, or 'keep' to use all frames with at least one image. If
            there is a mask entry, kept frames must also have a mask.
        transforms: function that transforms each sample and returns a new one.
        skip_unreadable: whether to replace a frame that has a damaged file with the next
            one.
        labels: entry of the label table.
        ids: ids of the frames to read. By default, all frames are read.

    Attributes:
        label_report: text with the numbers of labeled frames and of omitted frames and
            rows.

    Raises:
        ValueError: if an entry is invalid, no frame is found, or a file is missing.
    """

    def __init__(
        self,
        root: PathLike,
        images: Mapping[str, Mapping[str, Any]],
        mask: Mapping[str, Any] | None = None,
        splits: Sequence[str] = (),
        size: Sequence[int] | None = None,
        cache: PathLike | None = None,
        skip_incomplete: Literal['keep'] | bool = False,
        transforms: Callable[[Sample], Sample] | None = None,
        skip_unreadable: bool = False,
        labels: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        """Initialize a new PairedFolders instance."""
        self.root = Path(root)
        images = {name: typed(name, entry) for name, entry in images.items()}
        mask = None if mask is None else typed('mask', mask)
        self.modalities = folder_modalities(images)
        self.images = images
        self.converters = {
            m: Conversion.of(m, entry, entry.get('bands') or ('depth',))
            for m, entry in images.items()
        }
        check_skip_incomplete(skip_incomplete)
        self.mask = mask
        if mask is not None:
            check_keys('mask', mask, _NUMBERS if mask.get('numbers') else _MASK)
            _check_pattern('mask', mask)
        self._labels: Mapping[Frame, Tensor] = {}
        self.label_report = ''
        #: Label table for frames that are read without labels, as for prediction.
        self.annotations: SceneLabels | None = None
        self.size = check_size(size)
        entries = {**images, **({} if mask is None else {'mask': mask})}
        #: Height and width of each image and the mask, or None to keep the file size.
        self.sizes = {
            m: check_size(x.get('size')) or self.size for m, x in entries.items()
        }
        self._usual: dict[str, Sequence[int]] = {}
        self.cache = self.root / 'hha' if cache is None else Path(cache)
        self.transforms = transforms
        self.skip_unreadable = skip_unreadable
        self.patterns = {m: str(entry['pattern']) for m, entry in images.items()}
        if mask is not None:
            self.patterns['mask'] = str(mask['pattern'])
        uses = {name: '{split}' in p for name, p in self.patterns.items()}
        table = None if labels is None else SceneLabels.read(self.root, labels)
        folders = () if table is not None and table.splits else splits
        if any(uses.values()) != bool(folders) or len(set(uses.values())) > 1:
            raise ValueError(
                'all patterns must contain {split} if splits are set, and none may contain '
                f'it otherwise, got {self.patterns} and splits {list(splits)}'
            )
        self.left_out: list[str] = []
        frames = {
            Frame(split, name): absent
            for split in (folders or [''])
            for name, absent in self._find(split, skip_incomplete).items()
        }
        if table is not None or ids is not None:
            frames = self._select(frames, table, splits, ids)
        self.samples: list[Frame] = list(frames)
        self.lacking = {item: absent for item, absent in frames.items() if absent}
        self._first = {
            name: next(iter(some))
            for name in images
            if (some := [i for i, absent in frames.items() if name not in absent])
        }
        for name, entry in images.items():
            if not entry.get('hha'):
                files = [
                    str(self.path(name, item))
                    for item, absent in frames.items()
                    if name not in absent
                ]
                described = read_descriptions(files)
                check_descriptions(name, described, self.modalities[name].bands)

    def load(self, item: Frame) -> Sample:
        """Read one frame.

        Raises:
            UnreadableFileError: if a file is missing, truncated or not an image.
            ValueError: if a file has the wrong number of bands, the files of the frame
                differ in size, or a mask value is not a class.
        """
        absent = self.lacking.get(item, frozenset())
        found: dict[str, Tensor] = {}
        # Entries without a size must have files of the same size.
        shape: tuple[int, ...] | None = None
        for name in self.images:
            if name not in absent:
                free = self.sizes[name] is not None
                found[name] = self._image(name, item, None if free else shape)
                self._check_ground(name, item, found)
                if not free:
                    shape = tuple(found[name].shape[-2:])
        sample: Sample = {
            f'image_{name}': found[name]
            if name in found
            else torch.zeros(
                self.modalities[name].channels,
                *(self.sizes[name] or shape or self._usual_size(name, found)),
            )
            for name in self.images
        }
        if self.mask is not None:
            numbers = self.mask.get('numbers')
            cure = _ONE_NUMBER if numbers else _ONE_CLASS
            band = read_image(self.path('mask', item), 1, None, cure)
            self._check_mask(band, item, found)
            if numbers:
                sample['mask'] = Conversion.of('mask', self.mask, ('mask',))(band)[0]
            else:
                sample['mask'] = self._classes(band[0], item)
        smooth = {
            f'image_{m}'
            for m, entry in self.images.items()
            if entry.get('nodata') is None and not entry.get('hha')
        }
        sizes = {f'image_{m}': self.sizes[m] for m in self.images}
        sizes['mask'] = self.sizes.get('mask')
        resized = resize_frame(sample, sizes, smooth)
        if item in self._labels:
            resized['label'] = self._labels[item]
        # TorchGeo's Sample type allows only tensors.
        more: dict[str, Any] = {'id': scene_names(item)[0]}
        return {**resized, **more}

    def sample_names(self) -> list[str]:
        """Return the id of each frame, with the split as a prefix if there is one."""
        return ['/'.join(filter(None, item)) for item in self.samples]

    def label_columns(self) -> pd.DataFrame:
        """Return the labels of all frames as table columns without reading images."""
        if self.annotations is None:
            return pd.DataFrame(index=range(len(self.samples)))
        return self.annotations.columns(
            {item: scene_names(item) for item in self.samples}
        )

    def labels(self) -> Tensor:
        """Return the labels of all frames without reading images.

        Returns:
            Labels, shape (N,) or (N, K).

        Raises:
            ValueError: if there is no label table.
        """
        if not self._labels:
            raise ValueError(
                'the dataset must have a label table, got none; set the option labels'
            )
        return torch.stack([self._labels[item] for item in self.samples])

    def path(self, name: str, item: Frame) -> Path:
        """Return the path of the file for a modality or mask of a frame.

        Args:
            name: name of the modality, or 'mask'.
            item: the frame.
        """
        pattern = self.patterns[name].replace('{split}', item.split)
        return self.root / pattern.replace('{id}', item.id)

    def origin(self, item: Frame, key: str) -> str:
        """Return the path of the file that contains a sample key.

        Returns:
            Path of the file, or of another file of the frame if the file is missing.
        """
        name, absent = key.removeprefix('image_'), self.lacking.get(item, frozenset())
        present = [name, *self.images] if name not in absent else [*self.images]
        return str(self.path(next(m for m in present if m not in absent), item))

    def _image(self, name: str, item: Frame, shape: tuple[int, ...] | None) -> Tensor:
        entry, path = self.images[name], self.path(name, item)
        if not entry.get('hha'):
            count = self.modalities[name].channels
            image = read_image(path, count, shape, _ALL_BANDS)
            return self.converters[name](image)
        camera = {**entry['hha']}
        cache = HHACache(self.cache, camera.pop('camera_height', 1.3))
        image = cache.get(
            path.relative_to(self.root).as_posix(),
            Intrinsics(**camera),
            lambda: self.converters[name](read_image(path, 1))[0],
            more=' '.join(
                str(entry.get(key))
                for key in ('nodata', 'scale', 'offset')
                if key != 'offset' or entry.get(key)
            ),
        )
        if shape is not None and tuple(image.shape[-2:]) != shape:
            read_image(path, 1, shape)
            raise ValueError(
                f'{path}: image size differs from its cached HHA image; delete the cache '
                f'{self.cache}'
            )
        return image

    def _check_ground(
        self, name: str, item: Frame, found: Mapping[str, Tensor]
    ) -> None:
        """Check that a file has the same aspect ratio as the first image of its frame."""
        first, image = next(iter(found.items()))
        (height, width), (rows, columns) = image.shape[-2:], found[name].shape[-2:]
        # The size of the coarser image may have been rounded to whole pixels.
        if abs(rows * width - columns * height) > max(height, width, rows, columns):
            raise ValueError(
                f'{self.path(name, item)}: expected the same area as in '
                f'{self.path(first, item)} with {height} x {width} pixels, found '
                f'{rows} x {columns} pixels; crop both to the same area'
            )

    def _check_mask(
        self, band: Tensor, item: Frame, found: Mapping[str, Tensor]
    ) -> None:
        """Check that a mask has the size of an image, or that its own size is set."""
        self._check_ground('mask', item, {**found, 'mask': band})
        known = {tuple(x.shape[-2:]) for x in found.values()}
        known |= {size for m, size in self.sizes.items() if m in found and size}
        if self.sizes['mask'] is None and tuple(band.shape[-2:]) not in known:
            expected = ' or '.join(f'{h} x {w}' for h, w in sorted(known))
            raise ValueError(
                f'{self.path("mask", item)}: expected {expected} pixels as in the images '
                f'of the frame, found {band.shape[-2]} x {band.shape[-1]}; restore the '
                'original file, or set the option size in the mask entry'
            )

    def _usual_size(self, name: str, found: Mapping[str, Tensor]) -> Sequence[int]:
        """Return the size of a modality's first image, or of another image if absent."""
        if name not in self._usual:
            item = self._first.get(name)
            image = next(iter(found.values()))
            if item is not None:
                image = self._image(name, item, None)
            self._usual[name] = image.shape[-2:]
        return self._usual[name]

    def _classes(self, band: Tensor, item: Frame) -> Tensor:
        entry = self.mask or {}
        free = entry.get('nodata')
        if free is not None:
            band = band.where(~band.isnan(), free)
        wrong = band[(band != band.round()) | ~band.isfinite()]
        if wrong.numel():
            raise ValueError(
                f'{self.path("mask", item)}: expected integer classes, found '
                f'{wrong[0].item():g}; set the option nodata if NaN means unlabeled, or '
                'write integer classes'
            )
        found = band.long()
        values: Mapping[int, int] = entry.get('values') or {}
        number = entry.get('num_classes')
        out, known = found, torch.full_like(found, not values, dtype=torch.bool)
        for value, index in values.items():
            here = found == value
            out, known = torch.where(here, index, out), known | here
        if number is not None:
            known = known & (out >= 0) & (out < number)
        if free is not None:
            out, known = torch.where(found == free, found, out), known | (found == free)
        if not known.all():
            expected = [f'values {[*values]}'] if values else []
            expected += (
                [f'classes from 0 to {number - 1}'] if number is not None else []
            )
            raise ValueError(
                f'{self.path("mask", item)}: expected {" and ".join(expected)}, found '
                f'{found[~known][0].item()}; correct the option values, num_classes or '
                'nodata in the mask entry'
            )
        return out

    def _select(
        self,
        frames: Mapping[Frame, frozenset[str]],
        table: SceneLabels | None,
        splits: Sequence[str],
        ids: Sequence[str] | None,
    ) -> dict[Frame, frozenset[str]]:
        """Select frames by id list, table split and availability of a label."""
        names = {frame: scene_names(frame) for frame in frames}
        kept = list(frames)
        if table is not None:
            selection = table.select(names, splits)
            kept, self._labels = selection.kept, selection.labels
            self.label_report, self.classes = selection.report, table.class_names
        if ids is not None:
            chosen = match_names(ids, names)
            kept = [frame for frame in kept if frame in chosen]
        if not kept:
            files = sorted(frame.id for frame in frames)[:3]
            raise ValueError(
                f'expected ids that match the file names, such as {files}, found '
                f'{list(ids or ())[:3]} and no match; correct the list of ids'
            )
        return {frame: frames[frame] for frame in kept}

    def _find(
        self, split: str, skip: Literal['keep'] | bool
    ) -> dict[str, frozenset[str]]:
        """Find the frames of a split and return the absent modalities by frame id."""
        found = {
            name: _ids(self.root, pattern.replace('{split}', split), self.cache)
            for name, pattern in self.patterns.items()
        }
        every = set().union(*found.values())
        needed = [
            ids for name, ids in found.items() if name == 'mask' or skip != 'keep'
        ]
        usable = set().union(*(found[name] for name in self.images))
        usable = usable.intersection(*needed)
        counts = {name: len(ids) for name, ids in found.items()}
        where = {n: p.replace('{split}', split) for n, p in self.patterns.items()}
        if not usable:
            expected = 'a mask and an image' if skip == 'keep' else 'all of these files'
            raise ValueError(
                f'expected files in {self.root.absolute()} that match {where}, found '
                f'{counts} files, but no frame with {expected}; check the options root and '
                'pattern'
            )
        lacking = sorted(every - usable)
        if lacking and not skip:
            first = lacking[0]
            without = [name for name, ids in found.items() if first not in ids]
            raise ValueError(
                f'expected {list(where)} for every frame in {self.root.absolute()}, but '
                f'{len(lacking)} of {len(every)} frames lack a file, such as '
                f'{lacking[:3]} ({first!r} has no {without[0]}: '
                f'{where[without[0]]}); add the files, or set `skip_incomplete: true` to '
                'skip these frames, or `skip_incomplete: keep` to use their other images'
            )
        self.left_out += ['/'.join(filter(None, (split, name))) for name in lacking]
        return {
            name: frozenset(m for m in self.images if name not in found[m])
            for name in sorted(usable)
        }


def folder_modalities(images: Mapping[str, Mapping[str, Any]]) -> dict[str, Modality]:
    """Create the modalities of entries without opening files.

    Args:
        images: entry of each modality.

    Returns:
        The modalities by name.

    Raises:
        ValueError: if an entry is invalid.
    """
    if not images or 'mask' in images:
        raise ValueError(
            'images must have at least one modality and none named mask, got '
            f'{[*images]}'
        )
    return {name: _modality(name, entry) for name, entry in images.items()}


def _modality(name: str, entry: Mapping[str, Any]) -> Modality:
    entry = typed(name, entry)
    check_keys(name, entry, _IMAGE)
    _check_pattern(name, entry)
    fields: dict[str, Any] = {
        k: entry[k] for k in ('bands', 'kind', 'unit', 'mean', 'std') if k in entry
    }
    if camera := entry.get('hha'):
        if {*camera} - {'camera_height'} != {*Intrinsics._fields} or fields:
            raise ValueError(
                f'{name}: hha must have {list(Intrinsics._fields)} and optionally '
                'camera_height, and the entry must not have bands, kind, unit, mean or '
                f'std, got {dict(entry)}'
            )
        return Modality.of('sunrgbd_hha')
    bands = entry.get('bands')
    if not bands or isinstance(bands, str):
        raise ValueError(
            f'{name}: bands must list the names of all bands in the files, in order, got '
            f'{bands!r}'
        )
    modality = record_of(name, fields)
    return Conversion.of(name, entry, modality.bands).record(modality)


def _check_pattern(name: str, entry: Mapping[str, Any]) -> None:
    pattern = str(entry.get('pattern'))
    if pattern.count('{id}') != 1 or pattern.count('{split}') > 1:
        raise ValueError(
            f'{name}: pattern must be a path relative to the root with one {{id}} and at '
            f'most one {{split}}, such as rgb/{{id}}.png, got {entry.get("pattern")!r}'
        )


def _ids(root: Path, pattern: str, skipped: Path) -> set[str]:
    """Return the ids of all files that match a pattern, except in folder ``skipped``."""
    fixed = pattern[: pattern.index('{id}')].rpartition('/')[0]
    before, after = (re.escape(part) for part in pattern.split('{id}'))
    matcher = re.compile(f'{before}(.+){after}')
    found = set()
    for folder, inner, files in os.walk(root / fixed, followlinks=True):
        # Skip hidden folders, which contain copies made by editors, notebooks or macOS.
        inner[:] = [
            name
            for name in inner
            if Path(folder, name) != skipped and not name.startswith('.')
        ]
        inside = Path(folder).relative_to(root)
        for file in files:
            if file.startswith('.'):
                continue
            if match := matcher.fullmatch((inside / file).as_posix()):
                found.add(match[1])
    return found
