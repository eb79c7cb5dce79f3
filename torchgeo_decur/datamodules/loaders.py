"""Data loaders that resume in the middle of an epoch."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler
from torchgeo.datasets.utils import Sample


class ResumableSampler(DistributedSampler[Any]):
    """Sampler that can resume in the middle of an epoch.

    The order depends only on the seed, epoch and rank. A resumed run therefore draws the
    same samples as an uninterrupted one. If samples change with the epoch, such as random
    windows, the dataset must have a method ``set_epoch(epoch)``.

    Attributes:
        skip: number of samples to skip in the next iteration only.
    """

    skip: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the sampler and of the dataset.

        Args:
            epoch: epoch number, starting at 0.
        """
        super().set_epoch(epoch)
        if hasattr(self.dataset, 'set_epoch'):
            self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        """Skip the first ``skip`` indices and iterate over the others for this rank."""
        start, self.skip = self.skip, 0
        return islice(self.order(), start, None)

    def order(self) -> Iterable[Any]:
        """Return the sample order of the current epoch. Subclasses may override it.

        Returns:
            Indices of the samples for this rank.
        """
        return super().__iter__()


class ResumableLoader(DataLoader[Sample]):
    """Data loader that starts at the current position of the training loop.

    Lightning restores its loops before it requests the loader. The loader can therefore
    read the epoch and the number of finished batches from the trainer. Batches that were
    loaded but not trained on are loaded again.

    Args:
        dataset: map-style dataset.
        sampler: sampler for the dataset. If Lightning replaces it for ``overfit_batches``,
            it is no :class:`ResumableSampler`. The loader then starts at the beginning of
            the epoch.
        trainer: trainer that defines the position. If None, the loader starts at the
            beginning.
        kwargs: options of :class:`torch.utils.data.DataLoader`.
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        sampler: Sampler[Any],
        trainer: Trainer | None = None,
        **kwargs: Any,
    ) -> None:
        """Initialize a new ResumableLoader instance."""
        super().__init__(dataset, sampler=sampler, **kwargs)
        if trainer is not None and isinstance(sampler, ResumableSampler):
            epoch, batches = _progress(trainer)
            sampler.set_epoch(epoch)
            sampler.skip = batches * cast(int, self.batch_size)

    def state_dict(self) -> dict[str, int]:
        """Return an empty state so that Lightning treats the loader as resumable."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Do nothing, because the position comes from the training loop."""


def _progress(trainer: Trainer) -> tuple[int, int]:
    """Return the current epoch and its number of finished batches.

    Lightning's loop counters are not public. If they are unavailable, the epoch restarts.
    """
    loop: Any = trainer.fit_loop
    try:
        epoch, progress = loop.epoch_progress.current, loop.epoch_loop.batch_progress
        batches = progress.current
        # The trainer may end an epoch before the loader does. The last batch counts as
        # finished after training on it, not after loading it.
        over = epoch.processed == epoch.started or (
            progress.is_last_batch and batches.processed == batches.ready
        )
        return epoch.started - 1 + over, 0 if over else batches.processed
    except AttributeError:
        rank_zero_warn(
            'this version of Lightning does not report finished batches, so a resumed '
            'fit repeats the unfinished epoch from its start; install a version that '
            'torchgeo-decur supports'
        )
        return trainer.current_epoch, 0
