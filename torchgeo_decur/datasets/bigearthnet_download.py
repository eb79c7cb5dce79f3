"""Download BigEarthNet, because TorchGeo downloads too much or fails."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torchgeo.datasets import BigEarthNet, BigEarthNetV2
from torchgeo.datasets.utils import download_url, extract_archive


def obtain_v1(
    root: Path, modalities: Sequence[str], download: bool, checksum: bool
) -> None:
    """Extract or download the images and split lists of BigEarthNet v1.

    Args:
        root: folder of the dataset.
        modalities: 's1', 's2' or both.
        download: whether to download missing files.
        checksum: whether to verify downloads.

    Raises:
        FileNotFoundError: if a part is missing and ``download`` is false.
    """
    bands: Literal['s1', 's2', 'all'] = 'all'
    if len(modalities) == 1:
        bands = 's1' if modalities[0] == 's1' else 's2'
    BigEarthNet(root, 'train', bands, download=download, checksum=checksum)


def obtain_split_v1(root: Path, split: str, download: bool, checksum: bool) -> Path:
    """Find or download the list of one split of BigEarthNet v1.

    Args:
        root: folder of the list, or of the download.
        split: 'train', 'val' or 'test'.
        download: whether to download a missing list.
        checksum: whether to verify the download.

    Returns:
        Path of the list, with one line ``<Sentinel-2 patch>,<Sentinel-1 patch>`` per
        patch.

    Raises:
        FileNotFoundError: if the list is missing and ``download`` is false.
    """
    about = BigEarthNet.splits_metadata[split]
    path = root / about['filename']
    if not path.exists():
        if not download:
            raise FileNotFoundError(path)
        md5 = about['md5'] if checksum else None
        download_url(about['url'], root, filename=about['filename'], md5=md5)
    return path


def obtain_v2(root: Path, keys: Sequence[str], download: bool, checksum: bool) -> None:
    """Extract or download parts of BigEarthNet v2.

    TorchGeo's ``BigEarthNetV2`` also requires the reference maps, does not extract
    existing archives, and compares two MD5 sums with SHA-256 sums.

    Args:
        root: folder of the dataset.
        keys: the parts: 's1', 's2' and 'metadata'.
        download: whether to download missing files.
        checksum: whether to verify downloads.

    Raises:
        FileNotFoundError: if a part is missing and ``download`` is false.
    """
    for key in keys:
        files = BigEarthNetV2.metadata_locs[key]['files']
        parts = [root / name for name in files]
        if not all(part.exists() for part in parts):
            if not download:
                raise FileNotFoundError(f'{key} of BigEarthNet v2 in {root}')
            for name, digest in files.items():
                is_md5 = len(digest) == 32
                download_url(
                    BigEarthNetV2.url.format(name),
                    root,
                    filename=name,
                    md5=digest if checksum and is_md5 else None,
                    sha256=digest if checksum and not is_md5 else None,
                )
        if key != 'metadata':
            archive = root / f'{BigEarthNetV2.dir_file_names[key]}.tar.gz'
            with open(archive, 'wb') as whole:
                for part in parts:
                    with open(part, 'rb') as file:
                        shutil.copyfileobj(file, whole)
            extract_archive(archive, root)
