"""Callback that writes a table of predictions for scenes."""

import csv
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from ..files import atomic_write
from ..tasks import SceneTask


class WritePredictions(Callback):
    """Callback that writes the predictions of ``torchgeo predict`` to a CSV file.

    The file has one row per scene. The first column, ``id``, is the index of the sample
    if the data have no ids. A regression task adds one column per output, in the unit
    of the targets. A classification task adds the probability of each class and, with
    one class per scene, the most probable class as ``prediction``. Column names are the
    ``labels`` of the task. Without them, they are the label names of the datamodule, or
    numbers if it has none.

    Args:
        path: path of the CSV file; by default ``predictions.csv`` in the logger's
            folder or, without a logger, in ``default_root_dir``.

    Example:
        >>> WritePredictions('predictions.csv').path
        'predictions.csv'
    """

    def __init__(self, path: str | None = None) -> None:
        """Initialize a new WritePredictions instance."""
        self.path = path
        #: Index in the split, id and predictions of each scene.
        self._rows: list[tuple[int, str, list[float]]] = []
        self._seen = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the task predicts scenes.

        Raises:
            ValueError: if the task does not predict scenes.
        """
        if not isinstance(pl_module, SceneTask):
            raise ValueError(
                'WritePredictions needs a task that predicts scenes, such as '
                f'LateFusionRegression, got {type(pl_module).__name__}; remove the callback'
            )
        self._rows, self._seen = [], 0

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the predictions of a batch."""
        values = outputs.float().cpu().tolist()
        loader: Any = trainer.predict_dataloaders
        first, world = self._seen, trainer.world_size
        self._seen += len(values)
        # The sampler distributes samples to the devices in turn.
        places = [(first + i) * world + trainer.global_rank for i in range(len(values))]
        names = batch.get('id') or [str(place) for place in places]
        rows = zip(places, map(str, names), values, strict=True)
        # The sampler repeats samples so that all devices get the same number.
        self._rows += [row for row in rows if row[0] < len(loader.dataset)]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the predictions of all devices and write the CSV file."""
        rows, self._rows = self._rows, []
        # Every process must read log_dir, because the first process broadcasts it.
        folder = trainer.log_dir or trainer.default_root_dir
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(parts, rows)
            rows = [row for part in parts for row in part]
        if not trainer.is_global_zero or not rows:
            return
        names = _column_names(trainer, pl_module, len(rows[0][2]))
        one = pl_module.hparams.get('task') == 'multiclass'
        path = Path(self.path or Path(folder, 'predictions.csv'))

        def write(partial: Path) -> None:
            with partial.open('w', newline='', encoding='utf-8') as file:
                writer = csv.writer(file)
                writer.writerow(['id', *['prediction'] * one, *names])
                for _, name, values in sorted(rows):
                    best = [names[values.index(max(values))]] * one
                    writer.writerow([name, *best, *(f'{v:.7g}' for v in values)])

        atomic_write(path, write)
        rank_zero_info(f'predictions: {path}')


def _column_names(trainer: Trainer, task: LightningModule, number: int) -> list[str]:
    """Return the names of the output columns."""
    datamodule: Any = getattr(trainer, 'datamodule', None)
    for found in (task.hparams['labels'], getattr(datamodule, 'label_names', None)):
        if found and len(found) == number:
            return [str(name) for name in found]
    return [str(i) for i in range(number)]
