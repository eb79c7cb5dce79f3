"""Dataset that reads samples from packed shards in any order."""

import os
import tempfile
import warnings
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torchgeo.datasets import NonGeoDataset
from torchgeo.datasets.utils import Sample

from ..datamodules.base import Split as Split
from ..datasets.base import UnreadableFileError
from ..datasets.plotting import plot_images
from ..files import checksum_of, short_hash
from .manifest import NAME, Manifest, Shard

INDEX = 'index.json'
RUN = '.pack.json'  # settings of an unfinished run

# Samples are read in random order, so read-ahead is useless.
_NO_READ_AHEAD = {'LITDATA_POSIX_WILLNEED': '0'}


class PackedDataset(NonGeoDataset):
    """One split of packed data, in a folder or at a URL.

    This map-style dataset supports random access. Files are memory-mapped, and each
    process opens only a few at a time. From a URL, only the bytes of each requested sample
    are fetched. If ``cache_dir`` is set, complete shards are fetched once for all processes
    of a machine.

    If the data were packed with ``values='raw'``, all values are identical to the source
    dataset. With ``values='uint8'``, images are scaled and stored as bytes, and all other
    values are identical.

    Args:
        root: folder written by ``torchgeo-decur pack``, or its copy at a URL that litdata
            supports, such as ``s3://bucket/folder``.
        split: 'train', 'val', 'test' or 'predict'.
        cache_dir: folder for shards downloaded from a URL, with enough space for all
            shards.
        checksum: whether to verify the checksum of every local shard at startup.
        storage_options: options of the storage client, passed to litdata.

    Attributes:
        manifest: manifest of the packed data.

    Raises:
        FileNotFoundError: if there is no manifest.
        ImportError: if litdata is not installed.
        UnreadableFileError: if a shard is missing or incomplete.
        ValueError: if the manifest is invalid or lacks the split.
    """

    def __init__(
        self,
        root: str | Path,
        split: Split = 'train',
        cache_dir: str | Path | None = None,
        checksum: bool = False,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        """Initialize a new PackedDataset instance."""
        litdata()
        self.root = str(root)
        self.split = split
        self.storage_options = storage_options
        self.manifest = read_manifest(root, storage_options)
        if split not in self.manifest.splits:
            raise ValueError(
                f'split must be one of {sorted(self.manifest.splits)} in {root}, got '
                f'{split!r}; pack this split with the option --splits'
            )
        self.shards = self.manifest.splits[split]
        self._ends = list(accumulate(shard.samples for shard in self.shards))
        self._opened: tuple[int, Any] = (-1, None)
        # Local folder of the shards, if any.
        self._folder: Path | None = None
        if not is_remote(self.root):
            self._folder = Path(self.root) / split
            for shard in self.shards:
                check_shard(self._folder, shard, checksum)
            if not (self._folder / INDEX).exists():
                raise UnreadableFileError(
                    f'{self._folder}: expected {INDEX}, found none; copy it again, or run the '
                    'same `torchgeo-decur pack` to write it again'
                )
        elif cache_dir is not None:
            # Store shards of different manifests in different folders.
            key = short_hash([self.manifest.text().encode()])
            self._folder = Path(cache_dir) / key / split
            self._fetch(INDEX, None)

    @property
    def availability(self) -> dict[str, NDArray[np.bool_]]:
        """Boolean array per modality that is True for samples with this modality."""
        return self.manifest.availability(self.split)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Sample:
        """Read a sample.

        Args:
            index: index of the sample.

        Raises:
            IndexError: if ``index`` is out of range.
            UnreadableFileError: if the shard of the sample is missing or incomplete.
        """
        if not 0 <= index < len(self):
            raise IndexError(f'index must be in [0, {len(self) - 1}], got {index}')
        shard = self.shards[bisect_right(self._ends, index)]
        if self._folder is not None:
            if is_remote(self.root):
                self._fetch(shard.file, shard)
            # Reading past the end of a memory-mapped file kills the process.
            check_shard(self._folder, shard)
        try:
            sample = self._reader(int(index))[int(index)]
        # The type of the error depends on the storage client.
        except Exception as error:
            raise self._unreadable(shard.file, error) from error
        # Copy, because writing to memory-mapped tensors crashes.
        return {k: v.clone() if isinstance(v, Tensor) else v for k, v in sample.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without open files so that other processes can receive it."""
        return {**self.__dict__, '_opened': (-1, None)}

    def plot(self, sample: Sample, **kwargs: Any) -> Figure:
        """Plot a sample.

        Args:
            sample: a sample from the dataset or a batch.
            kwargs: options of ``torchgeo_decur.datasets.plotting.plot_images``.

        Returns:
            The figure, which the caller must close.
        """
        known = self.manifest.modalities
        images = {
            m: sample[f'image_{m}']
            for m in known
            if f'image_{m}' in sample and sample.get(f'available_{m}', True)
        }
        masks = {
            str(k): sample[k]
            for k in ('mask', 'prediction')
            if k in sample and sample[k].ndim > 1
        }
        return plot_images(images, known, masks, **kwargs)

    def _reader(self, index: int) -> Any:
        """Return the reader of this process, because forks must not share open files."""
        if self._opened[0] != os.getpid():
            for name, value in _NO_READ_AHEAD.items():
                os.environ.setdefault(name, value)
            reader = litdata().StreamingDataset(
                str(self._folder or f'{self.root}/{self.split}'),
                storage_options=self.storage_options,
                serializers={'pickle': _Refused(), 'graph': _Refused()},
            )
            with warnings.catch_warnings():
                # PyTorch warns about read-only memory, but samples are copied from it.
                warnings.filterwarnings('ignore', 'The given buffer is not writable')
                reader[index]
            self._opened = os.getpid(), reader
        return self._opened[1]

    def _fetch(self, name: str, shard: Shard | None) -> None:
        """Download a file atomically if it does not exist."""
        folder = cast(Path, self._folder)
        file = folder / name
        if file.exists():
            return
        from filelock import FileLock

        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f'.{name}.lock'):
            if file.exists():
                return
            with tempfile.TemporaryDirectory(dir=folder) as partial:
                try:
                    found = download(
                        f'{self.root}/{self.split}', name, partial, self.storage_options
                    )
                # The type of the error depends on the storage client.
                except Exception as error:
                    raise self._unreadable(name, error) from error
                if shard is not None:
                    check_shard(Path(partial), shard, checksum=True)
                os.replace(found, file)

    def _unreadable(self, name: str, error: Exception) -> UnreadableFileError:
        return UnreadableFileError(
            f'{self.root}/{self.split}/{name} cannot be read ({type(error).__name__}: '
            f'{error}); check the file and the network, or copy the file again'
        )


class _Refused:
    """Serializer that refuses pickles, which may contain code."""

    def setup(self, metadata: str) -> None:
        raise ValueError(
            f'expected tensors, strings and numbers, found {metadata!r}; pack the data '
            'again'
        )


def litdata() -> Any:
    """Import litdata, or raise an error that names the extra to install."""
    try:
        import litdata
    except ImportError as error:
        raise ImportError(
            'packed data requires litdata; install it with '
            '`pip install "torchgeo-decur[streaming]"`'
        ) from error
    return litdata


def is_remote(root: str | Path) -> bool:
    """Return whether packed data are at a URL rather than in a local folder."""
    return '://' in str(root) or str(root).startswith('local:')


def read_manifest(
    root: str | Path, storage_options: dict[str, Any] | None = None
) -> Manifest:
    """Read the manifest of packed data.

    Args:
        root: folder or URL of the packed data.
        storage_options: options of the storage client.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: if the manifest does not exist.
        ValueError: if the manifest is invalid.
    """
    where = f'{root}/{NAME}'
    if is_remote(root):
        with tempfile.TemporaryDirectory() as folder:
            try:
                text = download(str(root), NAME, folder, storage_options).read_text()
            # The type of the error depends on the storage client.
            except Exception as error:
                raise FileNotFoundError(
                    f'root must contain {NAME}, but {where} cannot be read '
                    f'({type(error).__name__}: {error}); check the URL and the permissions'
                ) from error
        return Manifest.parse(text, where)
    file = Path(root) / NAME
    if not file.exists():
        begun = Path(root, RUN).exists()
        raise FileNotFoundError(
            f'root must contain {NAME}, but {file} does not exist'
            + (
                ' because packing is unfinished; run the same `torchgeo-decur pack` again '
                'to resume'
                if begun
                else '; pack the data with `torchgeo-decur pack CONFIG --out FOLDER`'
            )
        )
    return Manifest.parse(file.read_text(), where)


def check_shard(folder: Path, shard: Shard, checksum: bool = False) -> None:
    """Check that a shard is complete.

    Args:
        folder: folder of the split.
        shard: manifest entry of the shard.
        checksum: whether to verify the checksum.

    Raises:
        UnreadableFileError: if the shard is missing or differs from the manifest.
    """
    file = folder / shard.file
    cure = 'copy it again, or run the same `torchgeo-decur pack` to write it again'
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        raise UnreadableFileError(
            f'{file}: expected a shard with {shard.samples} samples, found no file; '
            f'{cure}'
        ) from None
    if size != shard.bytes:
        raise UnreadableFileError(
            f'{file}: expected {shard.bytes} bytes, found {size}; {cure}'
        )
    if checksum and (found := checksum_of(file)) != shard.sha256:
        raise UnreadableFileError(
            f'{file}: expected the checksum {shard.sha256}, found {found}; {cure}'
        )


def download(
    url: str, name: str, folder: str, storage_options: dict[str, Any] | None
) -> Path:
    """Download one file with litdata's storage client.

    Args:
        url: URL of the folder that contains the file.
        name: name of the file.
        folder: destination folder.
        storage_options: options of the storage client.

    Returns:
        Path of the downloaded file.
    """
    litdata()
    from litdata.streaming.downloader import get_downloader

    client = get_downloader(url, folder, [], storage_options)
    client.download_file(f'{url}/{name}', str(Path(folder, name)))
    return Path(folder, name)
