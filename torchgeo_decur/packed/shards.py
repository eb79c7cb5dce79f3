"""One shard at a time: its samples are read, and its file appears whole or not at all."""

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..files import atomic_write, checksum_of
from .manifest import Shard

# Bytes of samples in a shard, about: small enough to fetch, large enough to be few.
TARGET = 1 << 26
SHARDS = 'shard-*.bin'
Sample = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """A shard on disk.

    Args:
        shard: what the manifest will say of it.
        config: how litdata reads its samples; equal for all shards of a split.
    """

    shard: Shard
    config: Mapping[str, Any]


class ShardWriter(Dataset['Written | Exception']):
    """The shards of one split: reading number i of this dataset writes shard i.

    So the worker processes of a data loader write in parallel, and what they return is
    small.

    Args:
        dataset: map-style dataset to pack.
        folder: folder of the split.
        spans: numbers of the samples of each shard.
        scale: what brings the images of a batch to [0, 1], or None to keep values.
        keys: type of each value of a sample, as :func:`describe` says.
        compression: 'zstd' or None.
    """

    def __init__(
        self,
        dataset: Any,
        folder: Path,
        spans: Sequence[range],
        scale: nn.Module | None,
        keys: Mapping[str, str],
        compression: Literal['zstd'] | None,
    ) -> None:
        """Initialize a new ShardWriter instance."""
        self.dataset = dataset
        self.folder = folder
        self.spans = spans
        self.scale = scale
        self.keys = keys
        self.compression = compression

    def __len__(self) -> int:
        """Number of shards."""
        return len(self.spans)

    def path(self, number: int) -> Path:
        """File of a shard."""
        return self.folder / f'shard-{number:05d}.bin'

    def record(self, number: int) -> Path:
        """File that says that a shard is whole, until the manifest does."""
        return self.folder / f'shard-{number:05d}.json'

    def find(self, number: int) -> Written | None:
        """Look for a shard that an earlier run wrote.

        Args:
            number: number of the shard.

        Returns:
            The shard, or None if there is none, or not all of it.
        """
        record, path = self.record(number), self.path(number)
        if not (record.exists() and path.exists()):
            return None
        content = json.loads(record.read_text())
        written = Written(Shard(**content['shard']), content['config'])
        whole = path.stat().st_size == written.shard.bytes
        return written if whole else None

    def __getitem__(self, number: int) -> 'Written | Exception':
        """Write a shard.

        Args:
            number: number of the shard.

        Returns:
            The shard, or why it could not be written: an exception of a worker process
            that is returned keeps its message, one that is raised does not.
        """
        partial = self.folder / f'.{self.path(number).name}.partial'
        shutil.rmtree(partial, ignore_errors=True)
        try:
            return self._write(number, partial)
        except (OSError, ValueError, RuntimeError) as error:
            return error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _write(self, number: int, partial: Path) -> Written:
        from litdata.streaming.writer import BinaryWriter

        span = self.spans[number]
        options = {'compression': 'zstd', 'compression_level': 'sample'}
        writer = BinaryWriter(
            str(partial),
            # One more than there are: the writer ends the file when it is told to.
            chunk_size=len(span) + 1,
            **(options if self.compression else {}),
        )
        for position, index in enumerate(span):
            writer[position] = self._read(index)
        writer.done()
        (file,) = partial.glob('*.bin')
        with file.open('rb') as opened:
            os.fsync(opened.fileno())
        path = self.path(number)
        shard = Shard(path.name, len(span), file.stat().st_size, checksum_of(file))
        config = {k: v for k, v in writer.get_config().items() if k != 'chunk_size'}
        os.replace(file, path)
        record = json.dumps({'shard': asdict(shard), 'config': config})
        write_durably(self.record(number), record)
        return Written(shard, config)

    def _read(self, index: int) -> Sample:
        sample = dict(self.dataset[index])
        if self.scale is not None:
            sample = to_bytes(sample, self.scale)
        found = describe(sample)
        if found != self.keys:
            raise ValueError(
                f'samples must be alike, but sample {index} has {found} and the first '
                f'{dict(self.keys)}'
            )
        # litdata knows values by their order.
        return {key: _contiguous(sample[key]) for key in self.keys}


def to_bytes(sample: Sample, scale: nn.Module) -> Sample:
    """Scale the images of a sample to [0, 1] and round them to bytes.

    Args:
        sample: has ``image_<m>``, shape (C, H, W) or (T, C, H, W).
        scale: what scales the images of a batch.

    Returns:
        A new sample, images uint8.
    """
    images = {k: v for k, v in sample.items() if str(k).startswith('image_')}
    scaled = scale({k: v[None] for k, v in images.items()})
    return sample | {k: (255 * scaled[k][0]).round().to(torch.uint8) for k in images}


def describe(sample: Mapping[str, Any]) -> dict[str, str]:
    """Say of which type the values of a sample are.

    Args:
        sample: one sample.

    Returns:
        Type by key, in alphabetical order; of tensors the dtype.

    Raises:
        ValueError: if a value is neither a tensor, text, a number nor a truth value.

    Example:
        >>> describe({'label': torch.tensor(3), 'image_s1': torch.zeros(2, 4, 4)})
        {'image_s1': 'float32', 'label': 'int64'}
    """
    wrong = {
        k: type(v).__name__
        for k, v in sample.items()
        if not isinstance(v, Tensor | str | int | float)
    }
    if wrong:
        raise ValueError(
            f'samples must hold tensors, text and numbers to be packed, got {wrong}'
        )
    return {
        str(k): str(v.dtype).removeprefix('torch.')
        if isinstance(v, Tensor)
        else type(v).__name__
        for k, v in sorted(sample.items())
    }


def spans(number: int, size: int) -> list[range]:
    """Cut samples into shards.

    Args:
        number: number of samples.
        size: samples of a shard.

    Returns:
        Numbers of the samples of each shard; only the last may be smaller.

    Example:
        >>> spans(5, 2)
        [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(i, min(i + size, number)) for i in range(0, number, size)]


def default_size(sample: Mapping[str, Any]) -> int:
    """Samples of a shard of about 64 MiB, from one to 4096."""
    tensors = [v for v in sample.values() if isinstance(v, Tensor)]
    bytes_ = sum(v.numel() * v.element_size() for v in tensors)
    return min(max(TARGET // max(bytes_, 1), 1), 4096)


def write_durably(path: Path, text: str) -> None:
    """Write a small file that is there, whole, even after a crash of the system."""

    def write(partial: Path) -> None:
        with partial.open('w') as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    atomic_write(path, write)


def is_full(error: BaseException) -> bool:
    """Whether a disk, or what one may write on it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _contiguous(value: Any) -> Any:
    return value.contiguous() if isinstance(value, Tensor) else value
