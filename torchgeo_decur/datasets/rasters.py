"""Folders of georeferenced rasters, opened with checks that name the file at fault."""

import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from torchgeo.datasets import RasterDataset
from torchgeo.datasets.utils import find_files

from ..transforms import ToModalities

SUFFIXES = ('.tif', '.tiff', '.vrt', '.jp2', '.img')


class RasterFolder(RasterDataset):
    """The rasters of a list of files, all bands of each.

    Args:
        files: paths of the files.
        is_image: False for a label raster.
        nodata: value that marks a missing pixel, or None for what the files declare.
        resampling: name of a method of :class:`rasterio.enums.Resampling`, or None for
            bilinear, nearest for labels.
    """

    def __init__(
        self,
        files: Sequence[str],
        is_image: bool = True,
        nodata: float | None = None,
        resampling: str | None = None,
    ) -> None:
        """Initialize a new RasterFolder instance."""
        self.is_image = is_image
        self.nodata = nodata
        self.method = resampling
        super().__init__(list(files))

    @property
    def resampling(self) -> Resampling:
        """How values between pixels are found."""
        return Resampling[self.method] if self.method else super().resampling

    def _load_warp_file(
        self, filepath: Any, crs: Any = None
    ) -> DatasetReader | WarpedVRT:
        file = super()._load_warp_file(filepath, crs)
        if file.nodata is None or not extreme(file.nodata):
            return file
        return WarpedVRT(file, src_nodata=file.nodata, nodata=math.nan)


def extreme(nodata: float) -> bool:
    """Say whether rasterio's mosaics cannot mark missing pixels with a value.

    They take the lowest number of float32, which ESRI's rasters are filled with, for one
    that float32 does not have, and read zeros.

    Args:
        nodata: the value.

    Returns:
        Whether NaN stands for it in what is read.

    Example:
        >>> extreme(-3.4028234663852886e38), extreme(-9999.0), extreme(math.nan)
        (True, False, False)
    """
    largest = float(np.finfo(np.float32).max)
    return math.isfinite(nodata) and abs(nodata) >= 0.999 * largest


@dataclass(frozen=True)
class _File:
    path: str
    count: int
    nodata: float | None
    floating: bool
    located: bool
    limits: tuple[float, float]


def dataset_class(name: str, path: str) -> type[RasterDataset]:
    """Find a subclass of TorchGeo's ``RasterDataset`` by its path.

    Args:
        name: name of the modality, for the error message.
        path: path of the class, such as ``torchgeo.datasets.Landsat8``.

    Returns:
        The class.

    Raises:
        ValueError: if there is no such class, or it is not a ``RasterDataset``.
    """
    module, _, attribute = path.rpartition('.')
    try:
        found = getattr(import_module(module), attribute)
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(
            f'{name}: dataset must be the path of a class such as '
            f'torchgeo.datasets.Landsat8, got {path!r} ({error})'
        ) from error
    if not (isinstance(found, type) and issubclass(found, RasterDataset)):
        raise ValueError(
            f'{name}: dataset must be a subclass of torchgeo.datasets.RasterDataset, '
            f'got {path!r}'
        )
    return found


def open_rasters(
    name: str,
    entry: Mapping[str, Any],
    bands: Sequence[str] | None,
    skip_unreadable: bool = False,
) -> tuple[RasterDataset, float | None]:
    """Open one folder of rasters, or one dataset class, and check every file.

    Args:
        name: name of the modality, or ``mask``.
        entry: ``paths``, and ``glob``, ``resampling`` or ``dataset``, ``init_args``,
            and ``nodata``.
        bands: names of the bands; None for a label raster.
        skip_unreadable: leave out files that cannot be read, with a warning.

    Returns:
        The dataset, whose samples have ``image_<name>`` or ``mask``, and the value that
        marks a missing pixel: that of the entry, else of the files, else NaN for
        floating point, else None. NaN stands for one at the end of float32.

    Raises:
        ValueError: naming the file, if one cannot be read, has no georeference or
            another number of bands, or two disagree on nodata; and if there is none.
    """
    paths = _paths(name, entry)
    leaf, files, broken = (
        _open_class(name, entry, paths, bands)
        if entry.get('dataset')
        else _open_folder(name, entry, paths, bands)
    )
    if broken and not skip_unreadable:
        path, reason = next(iter(broken.items()))
        raise ValueError(
            f'{name}: expected readable rasters, found {len(broken)} that cannot be '
            f'read, the first is {path} ({reason}); copy it again, or set '
            'skip_unreadable: true'
        )
    if broken:
        warnings.warn(
            f'{name}: {len(broken)} of {len(broken) + len(files)} files cannot be read '
            f'and are left out, the first is {next(iter(broken))}',
            stacklevel=2,
        )
    if leaf is None or not files:
        raise ValueError(f'{name}: expected readable rasters in {paths}, found none')
    if leaf.is_image != (bands is not None):
        raise ValueError(
            f'{name}: {type(leaf).__name__} delivers '
            f'{"images" if leaf.is_image else "labels"}; give it '
            f'under {"rasters" if leaf.is_image else "mask"}'
        )
    _check_files(name, leaf, files, bands)
    nodata = _nodata(name, leaf.nodata, files)
    if files[0].nodata is None:
        leaf.nodata = nodata
    if nodata is not None and files[0].floating and extreme(nodata):
        if not isinstance(leaf, RasterFolder):
            raise ValueError(
                f'{name}: nodata must be well within float32, got {nodata:g}, which '
                f'{type(leaf).__name__} would read as zeros; give the folder by paths '
                'and glob, without dataset'
            )
        nodata = math.nan
    if leaf.is_image:
        leaf.transforms = ToModalities(name)
    # Four corners are too few once a long edge is projected into another CRS.
    west, south, east, north = leaf.index.geometry.iloc[0].bounds
    step = max(east - west, north - south) / 32
    leaf.index['geometry'] = leaf.index.geometry.segmentize(step)
    return leaf, nodata


def check_tiles(name: str, leaf: RasterDataset, crs: Any) -> None:
    """Refuse tiles without nodata of which one is turned to be read.

    What is around a turned tile is then 0, which passes for a value and is mixed into
    those of its neighbours.

    Args:
        name: name of the modality, or ``mask``.
        leaf: the dataset of the tiles, which has no nodata value.
        crs: CRS that they are read in.

    Raises:
        ValueError: naming the first file that is of another CRS, or is not upright.
    """
    if len(leaf.index) < 2:
        return
    # As TorchGeo compares them; names of the same CRS may differ.
    target = CRS.from_user_input(crs)
    for path in leaf.index.filepath:
        with rasterio.open(path) as file:
            upright = file.crs == target and file.transform.is_rectilinear
        if not upright:
            raise ValueError(
                f'{name}: nodata must be given, for {len(leaf.index)} files declare none '
                f'and {path} is turned into the grid of {crs.name!r}, where the zeros '
                'around it would pass for values; give a value that no pixel has'
            )


def _paths(name: str, entry: Mapping[str, Any]) -> list[str]:
    value = entry.get('paths')
    paths = [value] if isinstance(value, str | os.PathLike) else list(value or [])
    if not paths:
        raise ValueError(f'{name}: paths must name a folder or files, got {value!r}')
    for path in paths:
        if not (os.path.exists(path) or str(path).startswith('/vsi')):
            raise ValueError(
                f'{name}: paths must exist, but there is no {str(path)!r} '
                f'(looked from {os.getcwd()})'
            )
    return [str(path) for path in paths]


def _open_folder(
    name: str, entry: Mapping[str, Any], paths: list[str], bands: Sequence[str] | None
) -> tuple[RasterDataset | None, list[_File], dict[str, str]]:
    glob = entry.get('glob')
    found = sorted({f for path in paths for f in find_files(path, glob or '*')})
    listed = [
        f
        for f in found
        if not os.path.isdir(f) and (glob or f.lower().endswith(SUFFIXES))
    ]
    if not listed:
        raise ValueError(
            f'{name}: expected rasters ({glob or " ".join(SUFFIXES)}) in {paths}, found '
            f'none among {len(found)} files; check paths and glob'
        )
    files, broken = _inspect(listed)
    for file in files:
        if not file.located:
            raise ValueError(
                f'{name}: expected georeferenced rasters, but {file.path} has no CRS or '
                'no transform; add them, for instance with gdal_edit.py -a_srs -a_ullr'
            )
    method = entry.get('resampling')
    if method is not None and method not in Resampling.__members__:
        raise ValueError(
            f'{name}: resampling must be one of {list(Resampling.__members__)}, '
            f'got {method!r}'
        )
    good = [file.path for file in files]
    arguments = (bands is not None, entry.get('nodata'), method)
    return (RasterFolder(good, *arguments) if good else None), files, broken


def _open_class(
    name: str, entry: Mapping[str, Any], paths: list[str], bands: Sequence[str] | None
) -> tuple[RasterDataset, list[_File], dict[str, str]]:
    cls = dataset_class(name, entry['dataset'])
    arguments = {**(entry.get('init_args') or {})}
    if bands is not None and cls.all_bands:
        arguments['bands'] = list(bands)
    try:
        leaf = cls(paths=paths, **arguments)
    except (AssertionError, AttributeError, OSError, TypeError, ValueError) as error:
        raise ValueError(
            f'{name}: expected rasters for {cls.__name__} with {arguments}, found none '
            f'that it accepts in {paths}: {type(error).__name__}: {error}'
        ) from error
    if entry.get('nodata') is not None:
        leaf.nodata = entry['nodata']
    files, broken = _inspect(list(leaf.index.filepath))
    pattern = re.compile(leaf.filename_regex, re.VERBOSE)
    matching = {f for f in leaf.files if pattern.match(os.path.basename(f))}
    skipped = sorted(matching - set(leaf.index.filepath))
    broken |= dict.fromkeys(skipped, 'TorchGeo cannot open it')
    leaf.index = leaf.index[~leaf.index.filepath.isin(list(broken))]
    return leaf, files, broken


def _inspect(paths: Sequence[str]) -> tuple[list[_File], dict[str, str]]:
    """What each file says of itself, and why some cannot be read."""
    files, broken = [], {}
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', NotGeoreferencedWarning)
                with rasterio.open(path) as src:
                    files.append(_look(path, src))
        except (RasterioError, OSError) as error:
            broken[path] = str(error.__cause__ or error)
    return files, broken


def _look(path: str, src: Any) -> _File:
    if any('complex' in dtype for dtype in src.dtypes):
        raise ValueError(
            f'rasters must hold real numbers, got {src.dtypes[0]} in {path}; convert '
            'complex backscatter to dB'
        )
    # The end of the file is missing first: read the last block of the last band.
    height, width = src.block_shapes[-1]
    row, column = (src.height - 1) // height * height, (src.width - 1) // width * width
    window = Window(column, row, src.width - column, src.height - row)
    src.read(src.count, window=window)
    affine = src.crs is not None and not src.transform.is_identity
    types = [np.dtype(t) for t in src.dtypes]
    floating = all(np.issubdtype(t, np.floating) for t in types)
    info = np.finfo(types[0]) if floating else np.iinfo(types[0])
    limits = (float(info.min), float(info.max))
    located = affine or (bool(src.gcps[0]) and src.gcps[1] is not None)
    return _File(path, src.count, src.nodata, floating, located, limits)


def _check_files(
    name: str, leaf: RasterDataset, files: Sequence[_File], bands: Sequence[str] | None
) -> None:
    if leaf.separate_files:
        return
    expected = list(leaf.all_bands or bands or ['label'])
    for file in files:
        enough = leaf.all_bands and file.count > len(expected)
        if file.count != len(expected) and not enough:
            raise ValueError(
                f'{name}: expected {len(expected)} bands {expected}, found {file.count} '
                f'in {file.path}; name every band of the file, in order'
            )


def _nodata(name: str, given: float | None, files: Sequence[_File]) -> float | None:
    first = files[0]
    if given is not None:
        low, high = first.limits
        if not first.floating and not (low <= given <= high):
            raise ValueError(
                f'{name}: nodata must be a value of the files, from {low:g} to '
                f'{high:g}, got {given}'
            )
        declared = first.nodata is not None and not math.isnan(first.nodata)
        if math.isnan(given) and declared:
            raise ValueError(
                f'{name}: nodata must be left out, got {given}: {first.path} declares '
                f'{first.nodata:g}, and NaN counts as missing anyway'
            )
        return given
    for file in files:
        if str(file.nodata) != str(first.nodata):
            raise ValueError(
                f'{name}: files must agree on nodata, got {first.nodata} in '
                f'{first.path} and {file.nodata} in {file.path}; give nodata in the entry'
            )
    return math.nan if first.nodata is None and first.floating else first.nodata
