"""Sampler for batches with a fixed number of complete samples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Subset

from .loaders import ResumableSampler

type Availability = Mapping[str, NDArray[np.bool_]]


def get_availability(dataset: Any) -> Availability | None:
    """Return the availability mask of each modality for the samples of a dataset.

    Args:
        dataset: dataset or subset of a dataset. The attribute ``availability`` is optional.

    Returns:
        Boolean array by modality, shape (N,), or None if the dataset has no attribute
        ``availability``. None means that all samples are complete.

    Example:
        >>> get_availability(range(3)) is None
        True
    """
    if isinstance(dataset, Subset):
        whole = get_availability(dataset.dataset)
        if whole is None:
            return None
        return {m: x[np.asarray(dataset.indices)] for m, x in whole.items()}
    found: Availability | None = getattr(dataset, 'availability', None)
    return found


class PairedSampler(ResumableSampler):
    """Shuffling sampler with the same number of complete samples in each batch.

    A complete sample has all modalities. Complete and incomplete samples are shuffled
    separately. The number of batches per epoch does not change. The rarer kind of sample
    may therefore repeat within an epoch, and some of the other samples are not used. A
    global batch over all devices never contains a sample twice. As in
    :class:`ResumableSampler`, the order depends only on the seed, epoch and rank, so a fit
    can resume at any batch.

    Args:
        dataset: dataset with an attribute ``availability``, or subset of such a dataset.
        num_replicas: number of devices.
        rank: rank of this device.
        batch_size: samples per batch and device.
        paired_fraction: fraction of complete samples in each batch, in (0, 1]. Each batch
            has at least one complete sample.
        seed: seed for shuffling.

    Raises:
        ValueError: if there are too few complete or incomplete samples for a global batch.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        num_replicas: int,
        rank: int,
        *,
        batch_size: int,
        paired_fraction: float,
        seed: int = 0,
    ) -> None:
        """Initialize a new PairedSampler instance."""
        super().__init__(dataset, num_replicas, rank, seed=seed, drop_last=True)
        self.batch_size = batch_size
        paired = min(max(round(paired_fraction * batch_size), 1), batch_size)
        self.shares = (paired, batch_size - paired)
        pools = self._pools()
        needed = [share * num_replicas for share in self.shares]
        for pool, number, kind in zip(
            pools, needed, ('complete', 'incomplete'), strict=True
        ):
            if len(pool) < number:
                raise ValueError(
                    f'with paired_fraction {paired_fraction}, the number of {kind} '
                    f'training samples must be at least {number}, got {len(pool)}; change '
                    'paired_fraction or batch_size'
                )

    def order(self) -> list[int]:
        """Return the sample order of the current epoch.

        Returns:
            Indices of the samples for this rank.
        """
        rng = np.random.default_rng((self.seed, self.epoch))
        batches = self.num_samples // self.batch_size
        rows = [
            self._draw(rng, pool, share, batches)
            for pool, share in zip(self._pools(), self.shares, strict=True)
        ]
        # Shuffle each batch so that its micro-batches contain both kinds of samples.
        mixed = rng.permuted(np.concatenate(rows, axis=2), axis=2)
        found: list[int] = mixed[:, self.rank].ravel().tolist()
        return found

    def _pools(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the indices of complete samples and of incomplete samples."""
        availability = get_availability(self.dataset) or {}
        complete = np.all(list(availability.values()), axis=0)
        return np.flatnonzero(complete), np.flatnonzero(~complete)

    def _draw(
        self,
        rng: np.random.Generator,
        pool: NDArray[np.int64],
        share: int,
        batches: int,
    ) -> NDArray[np.int64]:
        """Draw an array of indices from a pool, shape (batches, devices, share)."""
        each = share * self.num_replicas
        if each == 0 or batches == 0:
            return np.empty((batches, self.num_replicas, share), dtype=np.int64)
        # In each pass over the pool, drop the remainder that does not fill a batch.
        of_a_pass = len(pool) // each
        passes = [
            rng.permutation(pool)[: of_a_pass * each]
            for _ in range(-(-batches // of_a_pass))
        ]
        rows = np.concatenate(passes).reshape(-1, self.num_replicas, share)
        return rows[:batches]
