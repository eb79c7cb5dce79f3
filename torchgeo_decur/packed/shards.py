"""Write the shards of a split atomically."""

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..files import checksum_of
from ..resumable_parts import read_json, write_json
from .manifest import Shard, bits_to_text

# Approximate size of a shard in bytes.
TARGET = 1 << 26
SHARDS = 'shard-*.bin'
Sample = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """Metadata of a shard that was written to disk.

    Args:
        shard: manifest entry of the shard.
        config: litdata's description of the sample format, which is the same for all
            shards of a split.
        available: mask of the samples that have a modality, by modality. Masks are
            encoded with ``bits_to_text``.
    """

    shard: Shard
    config: Mapping[str, Any]
    available: Mapping[str, str] = field(default_factory=dict)


class ShardWriter(Dataset['Written | Exception']):
    """Dataset whose items are the shards of one split: reading item i writes shard i.

    The worker processes of a data loader can thus write shards in parallel.

    Args:
        dataset: map-style dataset to pack.
        folder: folder of the split.
        spans: range of sample indices for each shard.
        scale: module that scales the images of a batch to [0, 1], or None for raw values.
        keys: type of each value in a sample; see :func:`value_types`.
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
        """Return the number of shards."""
        return len(self.spans)

    def path(self, number: int) -> Path:
        """Return the path of a shard."""
        return self.folder / f'shard-{number:05d}.bin'

    def record(self, number: int) -> Path:
        """Return the path of the temporary file with the metadata of a complete shard."""
        return self.folder / f'shard-{number:05d}.json'

    def find(self, number: int) -> Written | None:
        """Find a shard from an earlier run.

        Args:
            number: number of the shard.

        Returns:
            The metadata of the shard, or None if the shard is absent or incomplete.
        """
        content, path = read_json(self.record(number)), self.path(number)
        if not content or not path.exists():
            return None
        shard, config = Shard(**content['shard']), content['config']
        written = Written(shard, config, content.get('available', {}))
        return written if path.stat().st_size == written.shard.bytes else None

    def __getitem__(self, number: int) -> 'Written | Exception':
        """Write a shard.

        Args:
            number: number of the shard.

        Returns:
            The metadata of the shard, or the exception that prevented writing it. Unlike a
            raised exception, a returned exception keeps its message between processes.
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
            # More than the number of samples so that only `done` ends the file.
            chunk_size=len(span) + 1,
            **(options if self.compression else {}),
        )
        available: dict[str, list[bool]] = {}
        for position, index in enumerate(span):
            writer[position] = sample = self._read(index)
            for key in self.keys:
                if key.startswith('available_'):
                    there = available.setdefault(key.removeprefix('available_'), [])
                    there.append(bool(sample[key]))
        writer.done()
        (file,) = partial.glob('*.bin')
        with file.open('rb') as opened:
            os.fsync(opened.fileno())
        path = self.path(number)
        shard = Shard(path.name, len(span), file.stat().st_size, checksum_of(file))
        config = {k: v for k, v in writer.get_config().items() if k != 'chunk_size'}
        os.replace(file, path)
        written = Written(
            shard, config, {m: bits_to_text(bits) for m, bits in available.items()}
        )
        write_json(self.record(number), asdict(written))
        return written

    def _read(self, index: int) -> Sample:
        sample = dict(self.dataset[index])
        if self.scale is not None:
            sample = to_bytes(sample, self.scale)
        found = value_types(sample)
        if found != self.keys:
            raise ValueError(
                f'expected the keys and types {dict(self.keys)} as in the first sample, '
                f'found {found} in sample {index}; use the same in all samples'
            )
        # litdata identifies values by their order.
        return {key: _contiguous(sample[key]) for key in self.keys}


def to_bytes(sample: Sample, scale: nn.Module) -> Sample:
    """Scale the images of a sample to [0, 1] and convert them to bytes.

    Args:
        sample: sample with ``image_<m>``, shape (C, H, W) or (T, C, H, W).
        scale: module that scales the images of a batch to [0, 1].

    Returns:
        A new sample with uint8 images. Absent images are zeros.
    """
    images = {k: v for k, v in sample.items() if str(k).startswith('image_')}
    scaled = scale({k: v[None] for k, v in images.items()})
    found = {k: (255 * scaled[k][0]).round().to(torch.uint8) for k in images}
    for key, x in found.items():
        if not sample.get(f'available_{key.removeprefix("image_")}', True):
            x.zero_()
    return sample | found


def value_types(sample: Mapping[str, Any]) -> dict[str, str]:
    """Return the type of each value in a sample.

    Args:
        sample: one sample.

    Returns:
        Name of the type, or of the dtype of a tensor, by key in alphabetical order.

    Raises:
        ValueError: if a value is not a tensor, string, number or Boolean.

    Example:
        >>> value_types({'label': torch.tensor(3), 'image_s1': torch.zeros(2, 4, 4)})
        {'image_s1': 'float32', 'label': 'int64'}
    """
    wrong = {
        k: type(v).__name__
        for k, v in sample.items()
        if not isinstance(v, Tensor | str | int | float)
    }
    if wrong:
        raise ValueError(
            f'samples must only have tensors, strings and numbers, got {wrong}; remove '
            'these keys with the option `transforms` before packing'
        )
    return {
        str(k): str(v.dtype).removeprefix('torch.')
        if isinstance(v, Tensor)
        else type(v).__name__
        for k, v in sorted(sample.items())
    }


def default_size(sample: Mapping[str, Any]) -> int:
    """Compute the number of samples, from 1 to 4096, in a shard of about 64 MiB."""
    tensors = [v for v in sample.values() if isinstance(v, Tensor)]
    bytes_ = sum(v.numel() * v.element_size() for v in tensors)
    return min(max(TARGET // max(bytes_, 1), 1), 4096)


def is_full(error: BaseException) -> bool:
    """Return whether an error was caused by a full disk or an exhausted quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _contiguous(value: Any) -> Any:
    return value.contiguous() if isinstance(value, Tensor) else value
