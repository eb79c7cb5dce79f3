"""Data loaders that resume in the middle of an epoch."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler
from torchgeo.datasets.utils import Sample


class ResumableSampler(DistributedSampler[Any]):
    """Sampler that depends only on seed, epoch and rank, and can start anywhere.

    A resumed run draws the same samples as an uninterrupted one, even in the middle of an
    epoch. If samples change with the epoch, such as random windows, the dataset needs a
    method ``set_epoch(epoch)``.

    Attributes:
        skip: number of samples that only the next iteration skips.
    """

    skip: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle of an epoch.

        Args:
            epoch: number of the epoch, from 0.
        """
        super().set_epoch(epoch)
        if hasattr(self.dataset, 'set_epoch'):
            self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the indices of this rank, and skip the first ``skip``."""
        start, self.skip = self.skip, 0
        return islice(self.order(), start, None)

    def order(self) -> Iterable[Any]:
        """Draw the order of an epoch; a subclass may override this method.

        Returns:
            Indices of this rank.
        """
        return super().__iter__()


class ResumableLoader(DataLoader[Sample]):
    """Data loader that starts at the position of the training loop.

    Lightning restores its loops before it requests the loader, which gives the epoch and
    the number of finished batches. Batches that were loaded but not trained on are
    loaded again.

    Args:
        dataset: map-style dataset.
        sampler: sampler of the dataset. Another sampler than :class:`ResumableSampler`,
            as for ``overfit_batches``, starts at the beginning.
        trainer: trainer that gives the position; by default the beginning.
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
        """Return an empty state, which makes Lightning treat the loader as resumable."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Do nothing, because the loop gives the position."""


def _progress(trainer: Trainer) -> tuple[int, int]:
    """Return the epoch to train on, and the number of its finished batches.

    The counters of Lightning's loops are not public. Without them, the epoch restarts.
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
            'fit repeats its unfinished epoch'
        )
        return trainer.current_epoch, 0
