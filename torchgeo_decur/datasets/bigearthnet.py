"""BigEarthNet-MM v1 and v2: Sentinel-1, Sentinel-2 and multi-label land cover."""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import pandas as pd
import torch
from torch import Tensor
from torchgeo.datasets import BigEarthNet, BigEarthNetV2
from torchgeo.datasets.utils import Path as PathLike
from torchgeo.datasets.utils import Sample

from ..modalities import MODALITIES, Modality
from .base import FileDataset, UnreadableFileError
from .bigearthnet_download import obtain_split_v1, obtain_v1, obtain_v2
from .dataset_versions import check_layout
from .io import SENTINEL2_RATIO, not_found, read
from .resizing import resize

Version = Literal['v1', 'v2']
BigEarthNetSplit = Literal['train', 'val', 'test', 'all']


class BigEarthNetPatch(NamedTuple):
    """Folder names and classes of one patch.

    Args:
        s1: name of the Sentinel-1 folder.
        s2: name of the Sentinel-2 folder.
        classes: class indices, or None if they must be read from the folder.
    """

    s1: str
    s2: str
    classes: tuple[int, ...] | None = None


class BigEarthNetMM(FileDataset):
    """Co-registered Sentinel-1 and Sentinel-2 patches with multi-label targets.

    The dataset reads BigEarthNet-MM (https://arxiv.org/abs/2105.07921) and its revision
    reBEN (https://arxiv.org/abs/2407.03653). A sample has the following keys:

    * ``image_s1``: backscatter in dB, bands (VV, VH), float32, shape (2, 120, 120)
    * ``image_s2``: digital numbers, float32, shape (12, 120, 120), with the bands in
      ``modalities['s2'].bands``; 20 m and 60 m bands are resampled bilinearly to 10 m
    * ``label``: 1 for each class of the patch, otherwise 0, int64, shape (num_classes,),
      as required by TorchGeo's multilabel ``Classification``

    Unlike TorchGeo's ``BigEarthNet`` and ``BigEarthNetV2``, this dataset returns Sentinel-1
    bands in the order (VV, VH) and as unrounded values. For v2, it does not require the
    reference maps.

    The published folder layouts are expected. For v2, ``metadata.parquet`` contains splits
    and labels. For v1, TorchGeo's ``bigearthnet-<split>.csv`` contains the split, and the
    JSON files of the patches contain the labels. If only the CSV file is missing, only
    this file is downloaded. Patches without a folder are skipped with a warning. If only
    one folder has a name that starts with ``BigEarthNet-S1`` or ``BigEarthNet-S2``, it
    need not have the published name.

    Args:
        root: dataset folder, also used for downloads.
        version: 'v1' (590,326 patches, 43 or 19 classes) or 'v2' (549,488 patches, 19
            classes).
        split: 'train', 'val', 'test', or 'all' for every patch on disk. For v1, 'all'
            does not read the CSV file but pairs patches by the JSON files of Sentinel-1.
        modalities: names of the modalities: 's1', 's2' or both.
        num_classes: number of classes: 19, or 43 for version 'v1' only. With 19 classes,
            11 of the 43 classes are dropped.
        transforms: function that transforms each sample and returns a new one.
        download: whether to download missing files (more than 100 GB).
        checksum: whether to verify checksums of downloaded files.
        skip_unreadable: whether to replace a patch that has a damaged file with the next
            one.
        conversion: ``scale``, ``offset`` and ``nodata`` by modality, to convert file
            values to the unit of the modality, such as ``{s2: {offset: -1000}}`` for
            Sentinel-2 products since processing baseline 04.00.

    Raises:
        DatasetNotFoundError: if no patch is on disk and ``download`` is False.
        ValueError: if an option is invalid, the folder contains another version, or a
            label of v2 is unknown.
    """

    def __init__(
        self,
        root: PathLike = 'data',
        version: Version = 'v2',
        split: BigEarthNetSplit = 'train',
        modalities: Sequence[str] = ('s1', 's2'),
        num_classes: int = 19,
        transforms: Callable[[Sample], Sample] | None = None,
        download: bool = False,
        checksum: bool = True,
        skip_unreadable: bool = False,
        conversion: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Initialize a new BigEarthNetMM instance."""
        sizes = {'v1': (19, 43), 'v2': (19,)}
        for name, value, allowed in (
            ('version', version, get_args(Version)),
            ('split', split, get_args(BigEarthNetSplit)),
            ('num_classes', num_classes, sizes.get(version, ())),
        ):
            if value not in allowed:
                raise ValueError(f'{name} must be one of {allowed}, got {value!r}')
        if not modalities or any(m not in _KNOWN for m in modalities):
            raise ValueError(
                f'modalities must contain one or both of {list(_KNOWN)}, '
                f'got {list(modalities)}'
            )
        self.root = root
        self.version = version
        self.split = split
        self.modalities: dict[str, Modality] = {m: _KNOWN[m] for m in modalities}
        self.num_classes = num_classes
        self.classes = tuple(BigEarthNet.class_sets[num_classes])
        self.transforms = transforms
        self.download = download
        self.checksum = checksum
        self.skip_unreadable = skip_unreadable
        self.convert(conversion)
        check_layout(root, f'BigEarthNet {version}')
        self._folders = self._find_folders()
        self.samples: list[BigEarthNetPatch] = self._find_patches()

    def load(self, item: BigEarthNetPatch) -> Sample:
        """Read one patch.

        Raises:
            UnreadableFileError: if a file is missing, truncated or not a raster.
            ValueError: if a file has an unexpected size or number of bands, or a label is
                unknown.
        """
        sample = {f'image_{m}': self._read_image(m, item) for m in self.modalities}
        classes = self._classes_of(item)
        label = torch.zeros(self.num_classes, dtype=torch.int64)
        label[list(classes)] = 1
        return {**sample, 'label': label}

    def labels(self) -> Tensor:
        """Read the labels of all patches without reading images.

        For v1, one JSON file per patch is opened. With ``skip_unreadable``, the labels
        of a patch with an unreadable file are zeros.

        Returns:
            1 for each class of a patch, otherwise 0, shape (N, ``num_classes``).

        Raises:
            UnreadableFileError: if a label file is missing or damaged.
        """
        labels = torch.zeros(len(self), self.num_classes, dtype=torch.int64)
        for i, item in enumerate(self.samples):
            try:
                classes = self._classes_of(item)
            except UnreadableFileError:
                if not self.skip_unreadable:
                    raise
                continue
            labels[i, list(classes)] = 1
        return labels

    def origin(self, item: BigEarthNetPatch, key: str) -> str:
        """Return the path of a 10 m band, or the patch name if the key is not an image."""
        m = key.removeprefix('image_')
        if m not in self.modalities:
            return item.s2 or item.s1
        return str(self._path(m, item, 'VV' if m == 's1' else 'B2'))

    def _find_folders(self) -> dict[str, Path]:
        """Find the folder of each modality and download it if necessary."""
        found = {m: self._find_folder(m) for m in self.modalities}
        missing = [m for m, folder in found.items() if folder is None]
        options = (self.download, self.checksum)
        try:
            if self.version == 'v2':
                if not (Path(self.root) / 'metadata.parquet').exists():
                    missing.append('metadata')
                obtain_v2(Path(self.root), missing, *options)
            elif missing:
                obtain_v1(Path(self.root), list(self.modalities), *options)
        except FileNotFoundError as error:
            names = [f'a folder {_FOLDERS[self.version][m]}' for m in self.modalities]
            names += ['metadata.parquet'] * (self.version == 'v2')
            raise not_found(self, ' and '.join(names)) from error
        found = {m: self._find_folder(m) for m in self.modalities}
        return {m: folder for m, folder in found.items() if folder}

    def _find_folder(self, modality: str) -> Path | None:
        root = Path(self.root)
        if (usual := root / _FOLDERS[self.version][modality]).is_dir():
            return usual
        pattern = f'BigEarthNet-{modality.upper()}*'
        found = [folder for folder in root.glob(pattern) if folder.is_dir()]
        return found[0] if len(found) == 1 else None

    def _find_patches(self) -> list[BigEarthNetPatch]:
        """Find the patches of the split that are on disk."""
        present = {m: self._list_names(m) for m in self.modalities}
        wanted = list(
            self._read_v2() if self.version == 'v2' else self._read_v1(present)
        )
        patches = [
            patch
            for patch in wanted
            if all(getattr(patch, m) in names for m, names in present.items())
        ]
        if not patches:
            counts = {str(self._folders[m]): len(x) for m, x in present.items()}
            raise not_found(
                self,
                f'patches of split {self.split!r}; the folders contain {counts} patches',
            )
        if lost := len(wanted) - len(patches):
            warnings.warn(
                f'skipped {lost} of {len(wanted)} patches of split {self.split!r}, because '
                f'folders are missing from {self.root} or cannot be paired; restore the '
                'folders to use all patches',
                stacklevel=4,
            )
        return patches

    def _list_names(self, modality: str) -> set[str]:
        """Return the names of all patches on disk."""
        folders = [self._folders[modality]]
        if self.version == 'v2':
            folders = [folders[0] / name for name in _listing(folders[0])]
        return {name for folder in folders for name in _listing(folder)}

    def _read_v2(self) -> Iterator[BigEarthNetPatch]:
        path = Path(self.root) / 'metadata.parquet'
        table = pd.read_parquet(
            path, columns=['patch_id', 'labels', 'split', 's1_name']
        )
        if self.split != 'all':
            table = table[table['split'] == BigEarthNetV2.split_map[self.split]]
        columns = (table[name] for name in ('s1_name', 'patch_id', 'labels'))
        for s1, s2, labels in zip(*columns, strict=True):
            yield BigEarthNetPatch(s1, s2, _to_classes(s2, labels, self.classes))

    def _read_v1(self, present: dict[str, set[str]]) -> Iterator[BigEarthNetPatch]:
        if self.split != 'all':
            options = (self.split, self.download, self.checksum)
            try:
                path = obtain_split_v1(Path(self.root), *options)
            except FileNotFoundError as error:
                expected = f"{error}, the list of patches (or set split='all')"
                raise not_found(self, expected) from error
            for line in path.read_text().split():
                s2, s1 = line.split(',')[:2]
                yield BigEarthNetPatch(s1, s2)
        elif len(present) == 1:
            ((modality, names),) = present.items()
            for name in sorted(names):
                yield (
                    BigEarthNetPatch(name, '')
                    if modality == 's1'
                    else BigEarthNetPatch('', name)
                )
        else:
            for s1 in sorted(present['s1']):
                try:
                    s2 = self._read_json('s1', s1)['corresponding_s2_patch']
                except UnreadableFileError:
                    if not self.skip_unreadable:
                        raise
                    s2 = ''  # never on disk, so the patch is skipped
                yield BigEarthNetPatch(s1, s2)

    def _read_json(self, modality: str, patch: str) -> dict[str, Any]:
        path = self._folders[modality] / patch / f'{patch}_labels_metadata.json'
        try:
            with open(path) as file:
                content: dict[str, Any] = json.load(file)
        except (OSError, ValueError) as error:
            raise UnreadableFileError(
                f'{path} is missing or not JSON ({error}); restore it, or set '
                'skip_unreadable=True'
            ) from error
        return content

    def _classes_of(self, patch: BigEarthNetPatch) -> tuple[int, ...]:
        return self._read_classes(patch) if patch.classes is None else patch.classes

    def _read_classes(self, patch: BigEarthNetPatch) -> tuple[int, ...]:
        """Read the indices of the classes of a v1 patch among 43 or 19 classes."""
        modality = 's2' if 's2' in self.modalities else 's1'
        name = patch.s2 if modality == 's2' else patch.s1
        labels = self._read_json(modality, name)['labels']
        classes = _to_classes(name, labels, BigEarthNet.class_sets[43])
        if self.num_classes == 43:
            return classes
        convert = BigEarthNet.label_converter
        return tuple(convert[i] for i in classes if i in convert)

    def _read_image(self, modality: str, patch: BigEarthNetPatch) -> Tensor:
        """Read the bands of one modality on the 10 m grid, shape (C, 120, 120)."""
        bands = []
        for band in self.modalities[modality].bands:
            sizes = sorted({_SIZE, _SIZE // SENTINEL2_RATIO.get(band, 1)})
            path = self._path(modality, patch, band)
            bands.append(resize(read(path, 1, sizes), _SIZE))
        return torch.cat(bands)

    def _path(self, modality: str, patch: BigEarthNetPatch, band: str) -> Path:
        name = patch.s2 if modality == 's2' else patch.s1
        # v2 has one folder per scene. Patch names end with tile (S1 only), row and column.
        scene = name.rsplit('_', 2 if modality == 's2' else 3)[0]
        folder = (
            self._folders[modality] / ('' if self.version == 'v1' else scene) / name
        )
        padded = f'B0{band[1]}' if len(band) == 2 and band[0] == 'B' else band
        return folder / f'{name}_{padded}.tif'


_KNOWN = {'s1': MODALITIES['sentinel1_grd'], 's2': MODALITIES['sentinel2_l2a']}
_FOLDERS = {
    'v1': {m: BigEarthNet.metadata[m]['directory'] for m in _KNOWN},
    'v2': {m: BigEarthNetV2.dir_file_names[m] for m in _KNOWN},
}
_SIZE = 120


def _listing(folder: Path) -> list[str]:
    """Return the names of the subfolders of a folder."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir()]


def _to_classes(
    patch: str, labels: Sequence[str], classes: Sequence[str]
) -> tuple[int, ...]:
    """Convert the class names of a patch to class indices."""
    if unknown := sorted(set(labels) - set(classes)):
        raise ValueError(
            f'{patch}: expected labels among the {len(classes)} classes of BigEarthNet, '
            f'found {unknown}; restore the original metadata'
        )
    return tuple(classes.index(label) for label in labels)
