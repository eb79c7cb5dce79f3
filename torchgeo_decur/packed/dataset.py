"""Samples from packed shards, read one by one in any order."""

import os
import tempfile
import warnings
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, cast

from matplotlib.figure import Figure
from torch import Tensor
from torchgeo.datasets import NonGeoDataset
from torchgeo.datasets.utils import Sample

from ..datasets.base import UnreadableFileError
from ..datasets.plotting import plot_images
from ..files import checksum_of, short_hash
from .manifest import NAME, Manifest, Shard

Split = Literal['train', 'val', 'test', 'predict']

INDEX = 'index.json'
RUN = '.pack.json'  # what an unfinished packing goes on from

# Samples are drawn from anywhere: fetching whole shards ahead would be in vain.
_NO_READ_AHEAD = {'LITDATA_POSIX_WILLNEED': '0'}


class PackedDataset(NonGeoDataset):
    """One split of what ``torchgeo-decur pack`` wrote, in a folder or at a URL.

    Any sample can be read at any time, so that samplers, sharding and resuming are those
    of every map-style dataset. Files are memory-mapped; a handful is open at a time in
    each process. From a URL, the bytes of a sample are fetched alone, or with
    ``cache_dir`` its whole shard, once for all processes of a machine.

    With values 'kept' a sample is equal, bit by bit, to that of the dataset that was
    packed. With 'uint8' the images are scaled bytes, and all other values equal.

    Args:
        root: folder that pack wrote, or its copy at a URL that litdata reads, such as
            ``s3://bucket/folder``.
        split: 'train', 'val', 'test' or 'predict'.
        cache_dir: folder that keeps the shards of a URL, all of them in the end.
        checksum: whether to verify the checksum of every shard of a folder at the start.
        storage_options: options of the client of the URL, passed to litdata.

    Attributes:
        manifest: what the folder says of itself.

    Raises:
        FileNotFoundError: if there is no manifest.
        ImportError: if litdata is not installed.
        UnreadableFileError: if a shard is missing or not whole.
        ValueError: if the manifest is not valid, or has no such split.
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
                f'split must be among {sorted(self.manifest.splits)}, which {root} has, '
                f'got {split!r}; pack it with --splits'
            )
        self.shards = self.manifest.splits[split]
        self._ends = list(accumulate(shard.samples for shard in self.shards))
        self._opened: tuple[int, Any] = (-1, None)
        # Where shards lie on this machine, if they do.
        self._folder: Path | None = None
        if not is_remote(self.root):
            self._folder = Path(self.root) / split
            for shard in self.shards:
                check_shard(self._folder, shard, checksum)
            if not (self._folder / INDEX).exists():
                raise UnreadableFileError(
                    f'{self._folder} must have {INDEX}, but has none; copy it again, or '
                    'run the same `torchgeo-decur pack`, which writes it again'
                )
        elif cache_dir is not None:
            # Another manifest has other shards: they must not meet.
            key = short_hash([self.manifest.text().encode()])
            self._folder = Path(cache_dir) / key / split
            self._fetch(INDEX, None)

    def __len__(self) -> int:
        """Number of samples."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Sample:
        """Read a sample.

        Args:
            index: number of the sample.

        Returns:
            The sample.

        Raises:
            IndexError: if ``index`` is out of range.
            UnreadableFileError: if its shard is missing or not whole.
        """
        if not 0 <= index < len(self):
            raise IndexError(f'index must be in [0, {len(self) - 1}], got {index}')
        shard = self.shards[bisect_right(self._ends, index)]
        if self._folder is not None:
            if is_remote(self.root):
                self._fetch(shard.file, shard)
            # Reading beyond the end of a mapped file would kill the process.
            check_shard(self._folder, shard)
        try:
            sample = self._reader(int(index))[int(index)]
        # What goes wrong at a URL depends on its client.
        except Exception as error:
            raise self._unreadable(shard.file, error) from error
        # A copy: the tensors of the reader lie in the file, and writing to them crashes.
        return {k: v.clone() if isinstance(v, Tensor) else v for k, v in sample.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out open files, which another process opens for itself."""
        return {**self.__dict__, '_opened': (-1, None)}

    def plot(self, sample: Sample, **kwargs: Any) -> Figure:
        """Draw a sample.

        Args:
            sample: one that the dataset returned, or of a batch.
            kwargs: options of ``torchgeo_decur.datasets.plotting.plot_images``.

        Returns:
            The figure. It is the caller's to close.
        """
        known = self.manifest.modalities
        images = {m: sample[f'image_{m}'] for m in known if f'image_{m}' in sample}
        masks = {
            str(k): sample[k]
            for k in ('mask', 'prediction')
            if k in sample and sample[k].ndim > 1
        }
        return plot_images(images, known, masks, **kwargs)

    def _reader(self, index: int) -> Any:
        """The reader of this process: what is open is not shared with a fork."""
        if self._opened[0] != os.getpid():
            for name, value in _NO_READ_AHEAD.items():
                os.environ.setdefault(name, value)
            reader = litdata().StreamingDataset(
                str(self._folder or f'{self.root}/{self.split}'),
                storage_options=self.storage_options,
                serializers={'pickle': _Refused(), 'graph': _Refused()},
            )
            with warnings.catch_warnings():
                # PyTorch says once that a file cannot be written to; we copy from it.
                warnings.filterwarnings('ignore', 'The given buffer is not writable')
                reader[index]
            self._opened = os.getpid(), reader
        return self._opened[1]

    def _fetch(self, name: str, shard: Shard | None) -> None:
        """Bring a file to this machine, unless it is there; whole or not at all."""
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
                # What goes wrong depends on the client of the URL.
                except Exception as error:
                    raise self._unreadable(name, error) from error
                if shard is not None:
                    check_shard(Path(partial), shard, checksum=True)
                os.replace(found, file)

    def _unreadable(self, name: str, error: Exception) -> UnreadableFileError:
        return UnreadableFileError(
            f'{self.root}/{self.split}/{name}: cannot be read ({type(error).__name__}: '
            f'{error}); check that it is there, and the network, or copy it again'
        )


class _Refused:
    """In place of what unpickles: pack writes no such values, and they may hold code."""

    def setup(self, metadata: str) -> None:
        raise ValueError(
            f'values must be tensors, text and numbers, found {metadata!r}'
        )


def litdata() -> Any:
    """Import litdata.

    Returns:
        The module.

    Raises:
        ImportError: if it is not installed, with the extra that has it.
    """
    try:
        import litdata
    except ImportError as error:
        raise ImportError(
            'packed data need litdata; install it with '
            '`pip install "torchgeo-decur[streaming]"`'
        ) from error
    return litdata


def is_remote(root: str | Path) -> bool:
    """Whether the shards lie at a URL."""
    return '://' in str(root) or str(root).startswith('local:')


def read_manifest(
    root: str | Path, storage_options: dict[str, Any] | None = None
) -> Manifest:
    """Read the manifest of packed data.

    Args:
        root: folder or URL.
        storage_options: options of the client of the URL.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not valid.
    """
    where = f'{root}/{NAME}'
    if is_remote(root):
        with tempfile.TemporaryDirectory() as folder:
            try:
                text = download(str(root), NAME, folder, storage_options).read_text()
            # What goes wrong depends on the client of the URL.
            except Exception as error:
                raise FileNotFoundError(
                    f'root must have {NAME}, but {where} cannot be read '
                    f'({type(error).__name__}: {error}); check the URL and the rights'
                ) from error
        return Manifest.parse(text, where)
    file = Path(root) / NAME
    if not file.exists():
        begun = Path(root, RUN).exists()
        raise FileNotFoundError(
            f'root must have {NAME}, but there is no {file}; '
            + (
                'the packing was stopped: run the same `torchgeo-decur pack` again, '
                'which goes on there'
                if begun
                else 'write it with `torchgeo-decur pack CONFIG --out FOLDER`'
            )
        )
    return Manifest.parse(file.read_text(), where)


def check_shard(folder: Path, shard: Shard, checksum: bool = False) -> None:
    """Refuse a shard that is missing or not whole.

    Args:
        folder: folder of the split.
        shard: what the manifest says of it.
        checksum: whether to read it and compare its checksum.

    Raises:
        UnreadableFileError: if it is not what the manifest says.
    """
    file = folder / shard.file
    cure = 'copy it again, or run the same `torchgeo-decur pack`, which writes it again'
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        raise UnreadableFileError(
            f'{file}: expected a shard of {shard.samples} samples, but it is missing; '
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
    """Fetch one file as litdata fetches shards.

    Args:
        url: folder of the file.
        name: its name.
        folder: where to.
        storage_options: options of the client of the URL.

    Returns:
        The file.
    """
    litdata()
    from litdata.streaming.downloader import get_downloader

    client = get_downloader(url, folder, [], storage_options)
    client.download_file(f'{url}/{name}', str(Path(folder, name)))
    return Path(folder, name)
