"""Open and check georeferenced rasters and name the file in error messages."""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from glob import escape
from typing import Any

from torchgeo.datasets import RasterDataset

from ...transforms import ToModalities
from ..band_descriptions import check_descriptions
from ..class_paths import import_class
from .files import RasterFile, check_overlap, check_places, find_rasters, inspect
from .folder import RESAMPLING, RasterFolder
from .nodata import choose_nodata

_DATES = ('filename_regex', 'date_format')


def raster_class(name: str, path: str) -> type[RasterDataset]:
    """Import a subclass of TorchGeo's ``RasterDataset``.

    Args:
        name: modality name for error messages.
        path: import path of the class, such as ``torchgeo.datasets.Landsat8``.

    Returns:
        The class.

    Raises:
        ValueError: if the class does not exist or is not a ``RasterDataset``.
    """
    example = 'torchgeo.datasets.Landsat8'
    return import_class(f'{name}: dataset', path, example, RasterDataset)


def open_rasters(
    name: str,
    entry: Mapping[str, Any],
    bands: Sequence[str] | None,
    skip_unreadable: bool = False,
    crs: Any = None,
) -> tuple[RasterDataset, float | None]:
    """Open a folder of rasters or a dataset class and check every file.

    Args:
        name: name of the modality, or ``mask``.
        entry: entry with ``paths`` and ``nodata``. For a folder, it may also have ``glob``,
            ``resampling``, ``filename_regex`` and ``date_format``. For a class, it has
            ``dataset`` and ``init_args``.
        bands: names of the bands, or None for a raster of classes. A mask with continuous
            values has one band.
        skip_unreadable: whether to skip unreadable files with a warning.
        crs: CRS in which the files are read, by default the CRS of the first file.

    Returns:
        The dataset, whose samples have ``image_<name>`` or ``mask``, and the value of
        missing pixels, as returned by
        :func:`~torchgeo_decur.datasets.rasters.nodata.choose_nodata`.

    Raises:
        ValueError: if there are no files, or a file is unreadable, is not georeferenced or
            has the wrong number of bands. The error is also raised if a file declares a
            scale that the entry lacks, or two files differ in nodata or cover the same
            location. The message names the file.
    """
    paths = _paths(name, entry)
    if isinstance(entry.get('nodata'), Sequence):
        raise ValueError(
            f'{name}: nodata must be a single number, got {entry["nodata"]}'
        )
    if entry.get('dataset'):
        leaf, files, broken = _open_class(name, entry, paths, bands)
        _report(name, files, broken, paths, skip_unreadable)
    else:
        leaf, files = _open_folder(name, entry, paths, bands, skip_unreadable)
    if leaf.is_image != (bands is not None):
        raise ValueError(
            f'{name}: expected {"labels" if leaf.is_image else "images"}, but '
            f'{type(leaf).__name__} has {"images" if leaf.is_image else "labels"}; move '
            f'the entry to {"rasters" if leaf.is_image else "mask"}'
        )
    if leaf.is_image:
        _check_scales(name, entry, files)
    nodata = choose_nodata(name, entry, leaf, files, crs or leaf.crs)
    if not isinstance(leaf, RasterFolder) and files[0].nodata[0] is None:
        leaf.nodata = nodata
    if leaf.is_image:
        leaf.transforms = ToModalities(name)
    return leaf, nodata


def _paths(name: str, entry: Mapping[str, Any]) -> list[str]:
    value = entry.get('paths')
    paths = [value] if isinstance(value, str | os.PathLike) else list(value or [])
    if not paths:
        raise ValueError(f'{name}: paths must name a folder or files, got {value!r}')
    for path in paths:
        if not (os.path.exists(path) or str(path).startswith('/vsi')):
            raise ValueError(
                f'{name}: path {str(path)!r} does not exist (current folder '
                f'{os.getcwd()}); correct the option paths'
            )
    return [str(path) for path in paths]


def _open_folder(
    name: str,
    entry: Mapping[str, Any],
    paths: list[str],
    bands: Sequence[str] | None,
    skip_unreadable: bool,
) -> tuple[RasterFolder, list[RasterFile]]:
    method = entry.get('resampling')
    if method is not None and method not in RESAMPLING:
        raise ValueError(
            f'{name}: resampling must be one of {list(RESAMPLING)}, got {method!r}'
        )
    dates = {key: entry[key] for key in _DATES if entry.get(key) is not None}
    listed = find_rasters(name, paths, entry.get('glob'))
    groups = _groups(name, dates, listed)
    files, broken = inspect(listed)
    _report(name, files, broken, paths, skip_unreadable)
    check_places(name, files)
    single = bands is None or 'band' in groups
    expected = ['label'] if bands is None else [*bands]
    # Do not compare descriptions for a mask with continuous values, whose band is unnamed.
    named = not single and name != 'mask'
    _check_bands(name, files, expected[:1] if single else expected, names=named)
    try:
        leaf = RasterFolder(files, bands, entry.get('nodata'), method, **dates)
    except ValueError as error:
        raise ValueError(f'{name}: {error}') from error
    check_overlap(name, leaf)
    return leaf, files


def _groups(name: str, dates: Mapping[str, str], files: Sequence[str]) -> set[str]:
    """Check the file name pattern and return its group names."""
    if 'filename_regex' not in dates:
        return set()
    try:
        pattern = re.compile(dates['filename_regex'], re.VERBOSE)
    except re.error as error:
        raise ValueError(
            f'{name}: filename_regex must be a regular expression, got '
            f'{dates["filename_regex"]!r} ({error})'
        ) from error
    groups = set(pattern.groupindex)
    if not ({'date', 'band'} & groups or {'start', 'stop'} <= groups):
        raise ValueError(
            f'{name}: filename_regex must have a group (?P<date>...) or (?P<band>...), '
            f'got {pattern.pattern!r}'
        )
    for file in files:
        if not pattern.match(os.path.basename(file)):
            raise ValueError(
                f'{name}: filename_regex must match all file names, but '
                f'{pattern.pattern!r} does not match {file}; correct the option '
                'filename_regex, or exclude the file with the option glob'
            )
    return groups


def _open_class(
    name: str, entry: Mapping[str, Any], paths: list[str], bands: Sequence[str] | None
) -> tuple[RasterDataset, list[RasterFile], dict[str, str]]:
    cls = raster_class(name, entry['dataset'])
    arguments = {**(entry.get('init_args') or {})}
    if bands is not None and cls.all_bands and name != 'mask':
        arguments['bands'] = list(bands)
    try:
        leaf = cls(paths=paths, **arguments)
    except (AssertionError, AttributeError, OSError, TypeError, ValueError) as error:
        odd = next((path for path in paths if escape(path) != path), None)
        cure = f'; rename {odd}, because [, * and ? are treated as wildcards'
        raise ValueError(
            f'{name}: expected rasters that {cls.__name__} accepts with {arguments}, '
            f'found none in {paths}: {type(error).__name__}: {error}'
            f'{cure if odd is not None else ""}'
        ) from error
    if entry.get('nodata') is not None:
        leaf.nodata = entry['nodata']
    files, broken = inspect(list(leaf.index.filepath))
    pattern = re.compile(leaf.filename_regex, re.VERBOSE)
    matching = {f for f in leaf.files if pattern.match(os.path.basename(f))}
    skipped = sorted(matching - set(leaf.index.filepath))
    broken |= dict.fromkeys(skipped, 'TorchGeo cannot open it')
    leaf.index = leaf.index[~leaf.index.filepath.isin(list(broken))]
    if not leaf.separate_files:
        expected = list(leaf.all_bands or bands or ['label'])
        more = bool(leaf.all_bands)
        _check_bands(
            name, files, expected, more, names=bands is not None and name != 'mask'
        )
    return leaf, files, broken


def _report(
    name: str,
    files: Sequence[RasterFile],
    broken: Mapping[str, str],
    paths: Sequence[str],
    skip_unreadable: bool,
) -> None:
    """Raise an error or a warning if files are unreadable."""
    if broken and not skip_unreadable:
        path, reason = next(iter(broken.items()))
        raise ValueError(
            f'{name}: expected readable rasters, found {len(broken)} that cannot be '
            f'read, such as {path} ({reason}); restore the file, or set '
            '`skip_unreadable: true`'
        )
    if broken:
        warnings.warn(
            f'{name}: {len(broken)} of {len(broken) + len(files)} files cannot be read '
            f'(such as {next(iter(broken))}) and will not be used; restore the files to '
            'use them',
            stacklevel=2,
        )
    if not files:
        raise ValueError(
            f'{name}: expected readable rasters in {list(paths)}, found none; check the '
            'option paths'
        )


def _check_bands(
    name: str,
    files: Sequence[RasterFile],
    expected: Sequence[str],
    more: bool = False,
    names: bool = False,
) -> None:
    """Check the number and descriptions of the bands in each file."""
    for file in files:
        found = len(file.bands(len(expected)))
        if found == len(expected) or (more and found > len(expected)):
            continue
        cure = 'set the option bands to the names of all bands in the file, in order'
        if found == 1 and len(files) > 1:
            cure = (
                'if each band has a separate file, set the option filename_regex with a '
                r"group for the band name, such as '(?P<band>.+)\.tif'"
            )
        raise ValueError(
            f'{name}: expected {len(expected)} bands {list(expected)}, found {found} in '
            f'{file.path}; {cure}'
        )
    if names:
        described = (
            (f.path, [f.descriptions[b - 1] for b in f.bands(len(expected))])
            for f in files
        )
        check_descriptions(name, described, expected)


def _check_scales(
    name: str, entry: Mapping[str, Any], files: Sequence[RasterFile]
) -> None:
    """Check that the entry sets scale or offset if files declare them."""
    if entry.get('scale') is not None or entry.get('offset') is not None:
        return
    for file in files:
        if set(file.scales) != {(1.0, 0.0)}:
            scales, offsets = (
                values[0] if len(set(values)) == 1 else [*values]
                for values in zip(*file.scales, strict=True)
            )
            raise ValueError(
                f'{name}: expected scale or offset in the entry, because {file.path} '
                f'declares scale {scales} and offset {offsets}; set both to read physical '
                'values, or set `scale: 1` to read the stored values'
            )
