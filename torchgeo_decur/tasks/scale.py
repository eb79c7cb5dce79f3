"""A look at the scale of the first batch of each stage."""

from typing import Any

from torch import Tensor
from torchgeo.datasets.utils import Sample

from ..modalities import check_unit_interval


class ScaleCheck:
    """Refuse images outside [0, 1], which any data may deliver that nobody scaled.

    For a :class:`lightning.pytorch.LightningModule`. Only the first batch of each stage is
    looked at, for looking makes the host wait.
    """

    _looked_at: frozenset[str] = frozenset()

    def setup(self, stage: str) -> None:
        """Forget what was looked at: other data may follow.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
        """
        self._looked_at = frozenset()

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        """Look at the first training batch.

        Args:
            batch: has images, in [0, 1].
            batch_idx: index of the batch.
        """
        self._look(batch, 'train')

    def on_validation_batch_start(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at the first validation batch.

        Args:
            batch: has images, in [0, 1].
            batch_idx: index of the batch.
            dataloader_idx: index of the data loader.
        """
        self._look(batch, f'val {dataloader_idx}')

    def on_test_batch_start(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at the first test batch.

        Args:
            batch: has images, in [0, 1].
            batch_idx: index of the batch.
            dataloader_idx: index of the data loader.
        """
        self._look(batch, f'test {dataloader_idx}')

    def on_predict_batch_start(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at the first batch of a prediction.

        Args:
            batch: has images, in [0, 1].
            batch_idx: index of the batch.
            dataloader_idx: index of the data loader.
        """
        self._look(batch, f'predict {dataloader_idx}')

    def _look(self, batch: Any, stage: str) -> None:
        if stage in self._looked_at:
            return
        self._looked_at |= {stage}
        names = getattr(self, 'hparams', {}).get('modalities', {})
        keys = [f'image_{m}' for m in names] + ['image']
        found = {k: batch[k] for k in keys if isinstance(batch.get(k), Tensor)}
        check_unit_interval({k.removeprefix('image_'): x for k, x in found.items()})
