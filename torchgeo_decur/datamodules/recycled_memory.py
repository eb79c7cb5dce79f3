"""Reuse the shared memory in which worker processes pass batches.

The kernel clears each new page of shared memory. For large batches, clearing takes several
times as long as copying the batch.
"""

import uuid
from collections.abc import Mapping, Sequence
from secrets import randbits
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.data import default_collate, get_worker_info

from .unconverted_batches import Unconverted

# Buffers of a worker for two batches in preparation and three in the main process.
_BUFFERS = 5
# Smaller tensors need few pages.
_SMALLEST = 2**16
_ALIGNMENT = 64

#: Collate functions of this process, which learn from the batches that a worker reused.
_COLLATES: 'WeakValueDictionary[int, RecyclingCollate]' = WeakValueDictionary()


class RecyclingCollate:
    """Collate function that reuses the shared memory of released batches.

    Batches are the same as from PyTorch's ``default_collate``. A worker writes the large
    tensors of a batch to one buffer. It writes to the buffer again only after the main
    process has released all tensors of the batch. If all buffers are in use, the batch
    gets new memory. Do not pass the tensors of a batch to another process, because their
    release in that process is not detected.

    Args:
        num_workers: number of worker processes of the data loader.
        unconverted: whether to protect the batch from conversion by Lightning, as in
            ``unconverted_batches``.

    Example:
        >>> RecyclingCollate(num_workers=0)([{'x': torch.zeros(2)}, {'x': torch.ones(2)}])
        {'x': tensor([[0., 0.],
                [1., 1.]])}
    """

    def __init__(self, num_workers: int, unconverted: bool = False) -> None:
        """Initialize a new RecyclingCollate instance."""
        self.unconverted = unconverted
        #: Number of the last batch that the main process released, for each buffer.
        self.released = torch.zeros(num_workers, _BUFFERS, dtype=torch.int64)
        if num_workers:
            self.released.share_memory_()
        self._key = uuid.uuid4().int
        # In a worker: the memory of each buffer, and the number of its last batch.
        self._buffers: list[tuple[torch.UntypedStorage, int]] = []
        # In the main process: batches that are in use.
        self._in_use: list[tuple[StorageWeakRef, int, int, int]] = []
        _COLLATES[self._key] = self

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a spawned worker without buffers."""
        return {**self.__dict__, '_buffers': [], '_in_use': []}

    def __call__(self, samples: list[Mapping[str, Any]]) -> Any:
        """Collate samples into a batch.

        Args:
            samples: samples with tensors, numbers and text.

        Returns:
            The batch or, in a worker, an object that becomes the batch in the main process.
        """
        worker = get_worker_info()
        large = [] if worker is None else _large_tensors(samples)
        if worker is not None and large:
            layout, size = _lay_out({k: samples[0][k] for k in large}, len(samples))
            number = self._choose(worker.id, size)
            if number is not None:
                storage, ticket = self._buffers[number]
                tensors = _view(storage, layout)
                for key, x in tensors.items():
                    torch.stack([sample[key] for sample in samples], out=x)
                rest = default_collate(
                    [{k: v for k, v in s.items() if k not in tensors} for s in samples]
                )
                memory = torch.empty(0, dtype=torch.uint8).set_(storage)
                place = (self._key, worker.id, number, ticket)
                order = list(samples[0])
                return _Sent(memory, layout, rest, order, self.unconverted, place)
        batch = default_collate(samples)
        return Unconverted(batch) if self.unconverted else batch

    def watch(
        self, memory: torch.UntypedStorage, worker: int, number: int, ticket: int
    ) -> None:
        """Register a received batch and release the buffers of earlier batches.

        Args:
            memory: memory of the batch in this process.
            worker: number of the worker.
            number: number of the worker's buffer.
            ticket: number of the batch.
        """
        waiting = []
        for known in self._in_use:
            reference, *where, old = known
            if reference.expired():
                self.released[tuple(where)] = old
            else:
                waiting.append(known)
        self._in_use = [*waiting, (StorageWeakRef(memory), worker, number, ticket)]

    def _choose(self, worker: int, size: int) -> int | None:
        """Return the number of a free buffer of at least this size, or None."""
        released = self.released[worker].tolist()
        # Random, because workers of two iterators of one loader share their numbers.
        ticket = 1 + randbits(62)
        for number, (storage, last) in enumerate(self._buffers):
            if released[number] == last:
                if storage.nbytes() < size:
                    storage = torch.UntypedStorage._new_shared(size)
                self._buffers[number] = (storage, ticket)
                return number
        if len(self._buffers) == len(released):
            return None
        self._buffers.append((torch.UntypedStorage._new_shared(size), ticket))
        return len(self._buffers) - 1


class _Sent:
    """Batch in a worker that becomes a dictionary in the main process."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return _receive, self.parts


type _Layout = dict[str, tuple[torch.dtype, tuple[int, ...], int]]


def _receive(
    memory: Tensor,
    layout: _Layout,
    rest: Mapping[str, Any],
    order: Sequence[str],
    unconverted: bool,
    place: tuple[int, int, int, int],
) -> Any:
    """Build a batch from shared memory in the main process."""
    key, worker, number, ticket = place
    storage = memory.untyped_storage()
    if key in _COLLATES:
        _COLLATES[key].watch(storage, worker, number, ticket)
    found = {**rest, **_view(storage, layout)}
    batch = {k: found[k] for k in order}
    return Unconverted(batch) if unconverted else batch


def _large_tensors(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of large tensors of equal shape in all samples."""
    first = samples[0]
    keys = [
        k
        for k, x in first.items()
        if isinstance(x, Tensor)
        and x.layout == torch.strided
        and x.device.type == 'cpu'
        and not x.requires_grad
        and x.nbytes * len(samples) >= _SMALLEST
    ]
    same = all(
        s.keys() == first.keys()
        and isinstance(s[k], Tensor)
        and (s[k].shape, s[k].dtype) == (first[k].shape, first[k].dtype)
        for s in samples
        for k in keys
    )
    # default_collate raises an error that names the difference.
    return keys if same else []


def _lay_out(tensors: Mapping[str, Tensor], samples: int) -> tuple[_Layout, int]:
    """Compute the type, shape and byte offset of each batched tensor and the total size."""
    layout: _Layout = {}
    end = 0
    for key, x in tensors.items():
        layout[key] = (x.dtype, (samples, *x.shape), end)
        end += -(-x.nbytes * samples // _ALIGNMENT) * _ALIGNMENT
    return layout, end


def _view(storage: torch.UntypedStorage, layout: _Layout) -> dict[str, Tensor]:
    """Create tensors that share the memory of a storage."""
    return {
        key: torch.empty(0, dtype=dtype).set_(
            storage, offset // dtype.itemsize, shape, _strides(shape)
        )
        for key, (dtype, shape, offset) in layout.items()
    }


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides))
