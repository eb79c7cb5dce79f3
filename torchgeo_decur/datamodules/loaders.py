"""Loaders that a resumed fit continues in the middle of an epoch."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler
from torchgeo.datasets.utils import Sample


class ResumableSampler(DistributedSampler[Any]):
    """A shuffle that depends on seed, epoch and rank alone, and can start part-way.

    With it a run that was stopped and resumed draws the samples that it would have
    drawn, from the middle of an epoch too. A dataset whose content changes with the
    epoch, such as random windows, may have a method ``set_epoch(epoch)``.

    Attributes:
        skip: samples of this rank that the next iteration leaves out, once.
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
        """Iterate over the indices of this rank, less those to skip."""
        start, self.skip = self.skip, 0
        return islice(super().__iter__(), start, None)


class ResumableLoader(DataLoader[Sample]):
    """A data loader that begins where the training loop stands.

    Lightning restores its loops before it asks for the loader, so the loop knows the
    epoch and the batches of it that are done; batches that were fetched ahead and not
    trained on are fetched again.

    Args:
        dataset: map-style dataset.
        sampler: its sampler; one that Lightning puts in its place, as for
            ``overfit_batches``, always begins at the beginning.
        trainer: whose loop to follow; without one the loader begins at the beginning.
        kwargs: passed to :class:`torch.utils.data.DataLoader`.
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
        """Nothing: having this method tells Lightning that the loader can resume."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Do nothing: the loop has told where to begin.

        Args:
            state: what :meth:`state_dict` returned.
        """


def _progress(trainer: Trainer) -> tuple[int, int]:
    """Return the epoch to train on, and the batches of it that are done.

    The counts of Lightning's loops are not public. Without them the epoch begins again.
    """
    loop: Any = trainer.fit_loop
    try:
        epoch, progress = loop.epoch_progress.current, loop.epoch_loop.batch_progress
        batches = progress.current
        # The trainer may end an epoch before the loader does; the last batch counts
        # when it was trained on, not when it was fetched.
        over = epoch.processed == epoch.started or (
            progress.is_last_batch and batches.processed == batches.ready
        )
        return epoch.started - 1 + over, 0 if over else batches.processed
    except AttributeError:
        rank_zero_warn(
            'this version of Lightning does not say which batches are done: a fit that '
            'resumes within an epoch begins the epoch again'
        )
        return trainer.current_epoch, 0
