"""Compare the band descriptions in files with the names in a config."""

import warnings
from collections.abc import Iterable, Iterator, Sequence

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from ..modalities import contradiction

# Number of files to read, because files of a folder usually have the same descriptions.
_FRAMES = 32


def check_descriptions(
    name: str,
    described: Iterable[tuple[str, Sequence[str | None]]],
    bands: Sequence[str],
) -> None:
    """Check that band names do not contradict the descriptions in files.

    Args:
        name: name of the modality.
        described: paths of files, and descriptions of their bands.
        bands: name of each band of the files, in order.

    Raises:
        ValueError: if a name contradicts a description.
    """
    # Most files of a folder have the same descriptions.
    first: dict[tuple[str | None, ...], str] = {}
    for path, texts in described:
        first.setdefault(tuple(texts), path)
    for descriptions, path in first.items():
        if found := contradiction(bands, descriptions):
            raise ValueError(
                f'{name}: expected bands {list(bands)} in {path}, but {found}; set '
                f'bands in the order of the file, {list(descriptions)}, or correct its '
                'descriptions'
            )


def read_descriptions(
    files: Sequence[str],
) -> Iterator[tuple[str, tuple[str | None, ...]]]:
    """Read the descriptions of up to 32 files, at regular steps.

    Args:
        files: paths. Unreadable files are skipped.

    Yields:
        Path and description of each band.
    """
    for path in files[:: max(-(-len(files) // _FRAMES), 1)]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', NotGeoreferencedWarning)
                with rasterio.open(path) as file:
                    descriptions = file.descriptions
        except RasterioIOError:
            continue  # reading the sample raises the error
        yield path, descriptions
