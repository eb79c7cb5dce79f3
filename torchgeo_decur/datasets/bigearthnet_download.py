"""Download BigEarthNet where TorchGeo's download is incomplete or excessive."""

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
        modalities: names of the modalities: 's1', 's2' or both.
        download: whether to download missing files.
        checksum: whether to verify checksums of downloaded files.

    Raises:
        FileNotFoundError: if a file is missing and ``download`` is False.
    """
    bands: Literal['s1', 's2', 'all'] = 'all'
    if len(modalities) == 1:
        bands = 's1' if modalities[0] == 's1' else 's2'
    BigEarthNet(root, 'train', bands, download=download, checksum=checksum)


def obtain_split_v1(root: Path, split: str, download: bool, checksum: bool) -> Path:
    """Find or download the patch list of a BigEarthNet v1 split.

    Args:
        root: folder of the list, also used for the download.
        split: 'train', 'val' or 'test'.
        download: whether to download a missing list.
        checksum: whether to verify the checksum of a downloaded list.

    Returns:
        Path of the list. It has one line ``<Sentinel-2 patch>,<Sentinel-1 patch>`` per
        patch.

    Raises:
        FileNotFoundError: if the list is missing and ``download`` is False.
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
    """Extract or download components of BigEarthNet v2.

    In contrast, TorchGeo's ``BigEarthNetV2`` also requires the reference maps, does not
    extract existing archives, and treats two MD5 checksums as SHA-256 checksums.

    Args:
        root: folder of the dataset.
        keys: names of the components: 's1', 's2' or 'metadata'.
        download: whether to download missing files.
        checksum: whether to verify checksums of downloaded files.

    Raises:
        FileNotFoundError: if a component is missing and ``download`` is False.
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
