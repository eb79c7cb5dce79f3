"""Folders of images without georeference, paired by file name."""

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
    'name all bands of the files in bands, including alpha, or remove extra bands'
)
_ONE_CLASS = 'write masks with a single band of class numbers, not of colors'
_MASK = ('pattern', 'values', 'num_classes', 'nodata', 'size')
_NUMBERS = ('pattern', 'numbers', 'nodata', 'scale', 'offset', 'size')
_ONE_NUMBER = 'write a mask with a single band of numbers'


class Frame(NamedTuple):
    """Identity of a frame.

    Args:
        split: value of ``{split}`` in the patterns, or ''.
        id: value of ``{id}``.
    """

    split: str
    id: str


def scene_names(frame: Frame) -> list[str]:
    """Return the possible keys of a frame in a table.

    Example:
        >>> scene_names(Frame('train', '7')), scene_names(Frame('', '7'))
        (['train/7', '7'], ['7'])
    """
    return [f'{frame.split}/{frame.id}', frame.id] if frame.split else [frame.id]


class PairedFolders(FileDataset):
    """Images of several modalities, one file each, paired by file name.

    Files may be PNG (8 or 16 bits), JPEG, TIFF or any other format of GDAL, without
    georeference. A pattern is a path in the root in which ``{id}`` is the name of a
    frame, such as ``rgb/{id}.png``. If each split has a folder, patterns also have
    ``{split}``, as in ``{split}/rgb/{id}.png``. An id may contain slashes.

    An entry of ``images`` has the keys

    - ``pattern``: pattern of the files.
    - ``bands``: name of each band of the files, in order.
    - ``kind``, ``unit``, ``mean`` and ``std``: as in
      :class:`~torchgeo_decur.modalities.Modality`; by default 'multispectral' and
      'native', the unit of the files.
    - ``nodata``: value of a missing pixel in the files, or a list of values. They become
      NaN.
    - ``scale`` and ``offset``: factor from file values to the unit, such as 0.001 from
      millimetres to m, and a number added after it, such as -1000 for newer Sentinel-2
      products. Each is one number, or one number per band.
    - ``hha``: ``{fx: ..., fy: ..., cx: ..., cy: ...}``, the camera of a depth image, in
      pixels of the files; ``camera_height`` is optional.
      :func:`~torchgeo_decur.datasets.encode_hha` then encodes the image. Such an entry
      has no ``bands``, ``kind`` or ``unit``, and its ``scale`` must convert to metres.
    - ``size``: own height and width, to which the image is resized, such as [20, 20] for
      satellite chips paired with aerial photographs of the same ground.

    The entry of a mask has ``pattern`` and the optional keys

    - ``values``: class of each file value, such as ``{0: 0, 255: 1}``; by default file
      values are classes.
    - ``num_classes``: exclusive upper bound of the classes; other classes are an error.
    - ``nodata``: value of pixels without a label. It is kept, so set ``ignore_index`` of
      the task to it.
    - ``numbers``: True if the mask has numbers, such as heights, instead of classes. Its
      other keys are then ``nodata``, whose pixels become NaN, ``scale`` and ``offset``.
    - ``size``: own height and width. Without any size, the mask has the size of one of
      the images.

    The entry ``labels`` is a table, in CSV or GeoJSON, with a row for each frame:

    - ``path``: the table, relative to the root.
    - ``key``: column with the id of the frame, with or without the suffix of its files.
    - ``label``: column of the label, or a list of columns.
    - ``kind``: 'class', by default; 'multilabel' for several classes, either names in one
      column or a column of 0 and 1 for each class; or 'number'. An empty number is NaN.
    - ``classes``: names of the classes in the order of their numbers; by default all
      names of the table, sorted.
    - ``separator``: text between the names of one cell, by default ';'.
    - ``split``: column with the split of the row. ``splits`` then
      selects its values.

    Frames without a row or without a label are omitted, see ``label_report``.

    A sample has ``image_<modality>`` (float32, shape (C, H, W)) for each entry, and
    ``mask`` (int64, or float32 for numbers, shape (H, W)) if there is a mask entry. With
    a table it has ``label``: int64, shape () for a class and (K,) for several, or float32
    for numbers. Its ``id`` is the id of the frame, preceded by its split if any, as in
    ``train/0001``. If incomplete frames are kept, absent images are zeros, and each
    sample has ``available_<modality>`` (bool, shape ()) for each entry.

    Args:
        root: folder that the patterns are relative to.
        images: entries by name of the modality.
        mask: entry of the mask.
        splits: values of ``{split}``, or of the column ``split``, to read, in order.
        size: height and width to which images and masks without their own ``size`` are
            resized, or None. Images are interpolated; masks, and images with ``nodata`` or
            ``hha``, use the nearest neighbour. Files with a size may have pixels of any
            size, but those of a frame must cover the same ground.
        cache: folder of the HHA images, by default ``hha`` in the root.
        skip_incomplete: False to raise an error for frames with a missing file, True to
            leave them out. 'keep' keeps frames with at least one image and, if there is a
            mask entry, a mask.
        transforms: function that takes a sample and returns a new one.
        skip_unreadable: whether to replace a frame with a damaged file by the next frame.
        labels: entry of the table of labels.
        ids: ids of the frames to read; all by default.

    Attributes:
        label_report: numbers of frames with a label, and of omitted frames and rows.

    Raises:
        ValueError: if an entry is not valid, no frame is found, or a file is missing.
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
        #: Table of labels of frames that are read without them, for prediction.
        self.annotations: SceneLabels | None = None
        self.size = check_size(size)
        entries = {**images, **({} if mask is None else {'mask': mask})}
        #: Height and width of each image and the mask, or None for that of its files.
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
                'with splits, all patterns must have {split}, and without splits none, '
                f'got {self.patterns} and splits {list(splits)}'
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
                differ in size, or a value of the mask is not a class.
        """
        absent = self.lacking.get(item, frozenset())
        found: dict[str, Tensor] = {}
        # Files of entries without a size have one size.
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
        # TorchGeo's type has only tensors.
        more: dict[str, Any] = {'id': scene_names(item)[0]}
        return {**resized, **more}

    def sample_names(self) -> list[str]:
        """Return the split, if any, and the id of each frame, in order."""
        return ['/'.join(filter(None, item)) for item in self.samples]

    def label_columns(self) -> pd.DataFrame:
        """Return the labels of all frames as columns, without reading an image."""
        if self.annotations is None:
            return pd.DataFrame(index=range(len(self.samples)))
        return self.annotations.columns(
            {item: scene_names(item) for item in self.samples}
        )

    def labels(self) -> Tensor:
        """Return the labels of all frames, without reading an image.

        Returns:
            Labels, shape (N,) or (N, K).

        Raises:
            ValueError: if there is no table of labels.
        """
        if not self._labels:
            raise ValueError('labels must name a table to return labels, got none')
        return torch.stack([self._labels[item] for item in self.samples])

    def path(self, name: str, item: Frame) -> Path:
        """Return the path of a file of a frame.

        Args:
            name: name of the modality, or 'mask'.
            item: the frame.
        """
        pattern = self.patterns[name].replace('{split}', item.split)
        return self.root / pattern.replace('{id}', item.id)

    def origin(self, item: Frame, key: str) -> str:
        """Return the file of a key of a frame.

        Returns:
            Path of the file; if the frame lacks it, of another file of the frame.
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
                f'{path}: size differs from its cached HHA image; delete {self.cache}'
            )
        return image

    def _check_ground(
        self, name: str, item: Frame, found: Mapping[str, Tensor]
    ) -> None:
        """Check that a file has the aspect ratio of the first image of its frame."""
        first, image = next(iter(found.items()))
        (height, width), (rows, columns) = image.shape[-2:], found[name].shape[-2:]
        # The coarser image may be rounded to whole pixels.
        if abs(rows * width - columns * height) > max(height, width, rows, columns):
            raise ValueError(
                f'{self.path(name, item)}: expected the ground of '
                f'{self.path(first, item)} with {height} x {width} pixels, found '
                f'{rows} x {columns}; cut both to the same ground'
            )

    def _check_mask(
        self, band: Tensor, item: Frame, found: Mapping[str, Tensor]
    ) -> None:
        """Check that a mask lies on the grid of an image, or has a size of its own."""
        self._check_ground('mask', item, {**found, 'mask': band})
        known = {tuple(x.shape[-2:]) for x in found.values()}
        known |= {size for m, size in self.sizes.items() if m in found and size}
        if self.sizes['mask'] is None and tuple(band.shape[-2:]) not in known:
            expected = ' or '.join(f'{h} x {w}' for h, w in sorted(known))
            raise ValueError(
                f'{self.path("mask", item)}: expected {expected} pixels as in the images '
                f'of the frame, found {band.shape[-2]} x {band.shape[-1]}; restore the '
                'original file, or give the mask its own size'
            )

    def _usual_size(self, name: str, found: Mapping[str, Tensor]) -> Sequence[int]:
        """Return the size of the first file of a modality, or of any image found."""
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
                f'{self.path("mask", item)}: expected whole numbers as classes, found '
                f'{wrong[0].item():g}; set nodata for NaN, or write a mask of classes'
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
                f'{found[~known][0].item()}; correct values, num_classes or nodata of mask'
            )
        return out

    def _select(
        self,
        frames: Mapping[Frame, frozenset[str]],
        table: SceneLabels | None,
        splits: Sequence[str],
        ids: Sequence[str] | None,
    ) -> dict[Frame, frozenset[str]]:
        """Keep the frames of a list, of the splits of a table, and with a label."""
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
                f'expected ids such as {files}, as in the names of files, found '
                f'{list(ids or ())[:3]} and none that matches; correct the list of ids'
            )
        return {frame: frames[frame] for frame in kept}

    def _find(
        self, split: str, skip: Literal['keep'] | bool
    ) -> dict[str, frozenset[str]]:
        """Return the ids of the frames of a split, and the modalities each one lacks."""
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
            expected = 'a mask and an image' if skip == 'keep' else 'a file of each'
            raise ValueError(
                f'expected files in {self.root.absolute()} that match {where}, found '
                f'{counts} and no frame with {expected}; check root and patterns'
            )
        lacking = sorted(every - usable)
        if lacking and not skip:
            first = lacking[0]
            without = [name for name, ids in found.items() if first not in ids]
            raise ValueError(
                f'expected {list(where)} of every frame in {self.root.absolute()}, but '
                f'{len(lacking)} of {len(every)} frames lack a file, the first are '
                f'{lacking[:3]} ({first!r} has no {without[0]}: '
                f'{where[without[0]]}); add the files, set skip_incomplete: true to '
                'leave these frames out, or skip_incomplete: keep to use their other '
                'images'
            )
        self.left_out += ['/'.join(filter(None, (split, name))) for name in lacking]
        return {
            name: frozenset(m for m in self.images if name not in found[m])
            for name in sorted(usable)
        }


def folder_modalities(images: Mapping[str, Mapping[str, Any]]) -> dict[str, Modality]:
    """Return the modalities of entries, before any file is opened.

    Args:
        images: the entries, by name of the modality.

    Raises:
        ValueError: if an entry is not valid.
    """
    if not images or 'mask' in images:
        raise ValueError(
            f'images must have at least one modality, none named mask, got {[*images]}'
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
                'camera_height, without bands, kind, unit, mean or std in the entry, '
                f'got {dict(entry)}'
            )
        return Modality.of('sunrgbd_hha')
    bands = entry.get('bands')
    if not bands or isinstance(bands, str):
        raise ValueError(
            f'{name}: bands must name every band of the files, in order, got {bands!r}'
        )
    modality = record_of(name, fields)
    return Conversion.of(name, entry, modality.bands).record(modality)


def _check_pattern(name: str, entry: Mapping[str, Any]) -> None:
    pattern = str(entry.get('pattern'))
    if pattern.count('{id}') != 1 or pattern.count('{split}') > 1:
        raise ValueError(
            f'{name}: pattern must be a path in the root with one {{id}} and at most one '
            f'{{split}}, such as rgb/{{id}}.png, got {entry.get("pattern")!r}'
        )


def _ids(root: Path, pattern: str, skipped: Path) -> set[str]:
    """Return the values of ``{id}`` in matching files, outside the folder ``skipped``."""
    fixed = pattern[: pattern.index('{id}')].rpartition('/')[0]
    before, after = (re.escape(part) for part in pattern.split('{id}'))
    matcher = re.compile(f'{before}(.+){after}')
    found = set()
    for folder, inner, files in os.walk(root / fixed, followlinks=True):
        # Hidden folders contain copies made by editors, notebooks or macOS.
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
