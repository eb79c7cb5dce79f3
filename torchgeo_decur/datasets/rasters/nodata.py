"""Choose and check the nodata value of rasters."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torchgeo.datasets import RasterDataset

from .files import RasterFile
from .folder import RasterFolder, is_label

_PLAIN = 'set the options paths and glob instead of dataset'


def choose_nodata(
    name: str,
    entry: Mapping[str, Any],
    leaf: RasterDataset,
    files: Sequence[RasterFile],
    crs: Any,
) -> float | None:
    """Choose the value of missing pixels in samples.

    Args:
        name: name of the modality, or ``mask``.
        entry: entry of the modality, which may have ``nodata``.
        leaf: raster dataset of the files.
        files: metadata of the files.
        crs: CRS in which the files are read.

    Returns:
        The nodata value in the entry or, if not set, in the files. If neither has a value,
        the result is NaN for images that are floating point, masked or reprojected. The
        result is None if no pixel can be missing.

    Raises:
        ValueError: if the value is not valid for the files, the files have different
            values, or missing pixels would be read as data.
    """
    nodata = _declared(name, entry.get('nodata'), files)
    warped = [f for f in files if f.is_warped(crs)]
    if isinstance(leaf, RasterFolder):
        masked = [f for f in files if f.has_mask(leaf.count)]
        return _of_folder(name, leaf, nodata, warped, masked)
    masked = [f for f in files if f.masked]
    _check_class(name, leaf, nodata, warped, masked, files)
    return nodata


def extreme(nodata: float) -> bool:
    """Check whether the magnitude of a nodata value is too large for rasterio's mosaics.

    ESRI software uses the lowest float32 value. Rasterio treats it as outside the range of
    float32 and reads zeros.

    Args:
        nodata: nodata value to check.

    Returns:
        True if samples must use NaN instead.

    Example:
        >>> extreme(-3.4028234663852886e38), extreme(-9999.0), extreme(math.nan)
        (True, False, False)
    """
    largest = float(np.finfo(np.float32).max)
    return math.isfinite(nodata) and abs(nodata) >= 0.999 * largest


def _declared(name: str, given: Any, files: Sequence[RasterFile]) -> float | None:
    first = files[0]
    if given is not None:
        value = float(given)
        if not any(f.floating or f.limits[0] <= value <= f.limits[1] for f in files):
            low, high = first.limits
            raise ValueError(
                f'{name}: nodata must be in the value range of the files, from {low:g} to '
                f'{high:g}, got {given}; correct the option nodata'
            )
        declared = first.nodata[0] is not None and not math.isnan(first.nodata[0])
        if math.isnan(value) and declared:
            raise ValueError(
                f'{name}: nodata must not be NaN, because {first.path} declares '
                f'{first.nodata[0]:g}; remove the option nodata, because NaN always counts '
                'as missing'
            )
        return value
    for file in files:
        if file.marks != first.marks:
            raise ValueError(
                f'{name}: files must have the same nodata value, got {first.marks} in '
                f'{first.path} and {file.marks} in {file.path}; set the option nodata in '
                'the entry'
            )
    if len(set(map(str, first.nodata))) > 1:
        return math.nan
    floating = any(file.floating for file in files)
    return math.nan if first.nodata[0] is None and floating else first.nodata[0]


def _of_folder(
    name: str,
    leaf: RasterFolder,
    nodata: float | None,
    warped: Sequence[RasterFile],
    masked: Sequence[RasterFile],
) -> float | None:
    """Choose the value of missing pixels in samples from a folder."""
    if leaf.is_image:
        absent = nodata is None and bool(warped or masked)
        return math.nan if absent or (nodata and extreme(nodata)) else nodata
    if nodata is not None and is_label(nodata):
        return nodata
    first = next(iter(leaf.records.values()))
    cure = (
        'set it to an integer that is not a class, such as 255, and set ignore_index in '
        'the task to the same value'
    )
    if leaf.marked is not None:
        raise ValueError(
            f'{name}: nodata must be an integer, got {leaf.marked:g}; {cure}'
        )
    if first.nodata[0] is not None:
        raise ValueError(
            f'{name}: nodata must be set, because {first.path} declares '
            f'{first.nodata[0]:g}, which is not a valid label; {cure}'
        )
    if found := [*masked, *warped]:
        reason = 'has a mask' if masked else 'is reprojected'
        raise ValueError(
            f'{name}: nodata must be set, because {found[0].path} {reason} and no file '
            f'declares a value for missing labels; {cure}'
        )
    return None


def _check_class(
    name: str,
    leaf: RasterDataset,
    nodata: float | None,
    warped: Sequence[RasterFile],
    masked: Sequence[RasterFile],
    files: Sequence[RasterFile],
) -> None:
    """Check that a dataset class does not read missing pixels as data."""
    kind = type(leaf).__name__
    if nodata is not None and files[0].floating and extreme(nodata):
        raise ValueError(
            f'{name}: nodata must be in the range of float32, got {nodata:g}, which {kind} '
            f'would read as zeros; {_PLAIN}'
        )
    if nodata is None and warped:
        raise ValueError(
            f'{name}: nodata must be set, because no file declares it and '
            f'{warped[0].path} is reprojected, so {kind} would read the zero padding as '
            f'data; set a value that does not occur in the data, or {_PLAIN}'
        )
    if masked and not leaf.separate_files:
        raise ValueError(
            f'{name}: expected missing pixels to be declared by nodata, but '
            f'{masked[0].path} has a mask, which {kind} ignores; {_PLAIN}'
        )
    for file in files:
        if file.limits != files[0].limits or len(set(file.nodata)) > 1:
            raise ValueError(
                f'{name}: expected files with the same data type and one nodata value for '
                f'all bands, but {file.path} differs, so {kind} would read wrong values; '
                f'{_PLAIN}'
            )
