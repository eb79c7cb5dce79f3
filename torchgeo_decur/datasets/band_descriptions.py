"""Compare band descriptions in files with band names in a config."""

import warnings
from collections.abc import Iterable, Iterator, Sequence

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from ..modalities import contradiction

# Maximum number of files to read: files in a folder usually have the same descriptions.
_FRAMES = 32


def check_descriptions(
    name: str,
    described: Iterable[tuple[str, Sequence[str | None]]],
    bands: Sequence[str],
) -> None:
    """Check that band names do not contradict the band descriptions in files.

    Args:
        name: name of the modality.
        described: path and band descriptions of each file.
        bands: name of each band in the files, in order.

    Raises:
        ValueError: if a name contradicts a description.
    """
    # Check each distinct list of descriptions once.
    first: dict[tuple[str | None, ...], str] = {}
    for path, texts in described:
        first.setdefault(tuple(texts), path)
    for descriptions, path in first.items():
        if found := contradiction(bands, descriptions):
            raise ValueError(
                f'{name}: expected bands {list(bands)} in {path}, but {found}; set the '
                f'option bands in file order, {list(descriptions)}, or correct the '
                'descriptions in the file'
            )


def read_descriptions(
    files: Sequence[str],
) -> Iterator[tuple[str, tuple[str | None, ...]]]:
    """Read the band descriptions of up to 32 evenly spaced files.

    Args:
        files: file paths. Unreadable files are skipped.

    Yields:
        File path and the description of each band.
    """
    for path in files[:: max(-(-len(files) // _FRAMES), 1)]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', NotGeoreferencedWarning)
                with rasterio.open(path) as file:
                    descriptions = file.descriptions
        except RasterioIOError:
            continue  # the error is raised when the sample is read
        yield path, descriptions
