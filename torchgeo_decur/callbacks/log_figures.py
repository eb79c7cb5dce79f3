"""Figures of common and unique dimensions during pretraining."""

from typing import Any

import matplotlib.pyplot as plt
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from ..analysis import Embeddings, NotApplicable, alignment_histogram, spatial_saliency
from ..analysis.attribution import import_captum
from ..modalities import get_available, split
from ..modalities.batch import drop_incomplete
from .preconditions import need_encoders, validates_last


class LogFigures(Callback):
    """Callback that regularly logs alignment and saliency figures of validation samples.

    ``alignment`` is a histogram of the cross-modal loss of each embedding dimension
    (:func:`~torchgeo_decur.analysis.alignment_histogram`). ``saliency`` shows GradCAM
    maps of a few samples next to their images
    (:func:`~torchgeo_decur.analysis.spatial_saliency`), if the task supports them. The
    figures show samples of the first device that have all modalities. Drawing does not
    change the random state of training.

    The callback needs captum (``pip install torchgeo-decur[analysis]``).

    Args:
        every_n_epochs: number of epochs between figures. Figures are always logged in
            the last epoch.
        max_samples: maximum number of validation samples in the histogram. The standard
            error of a correlation over n samples is about ``n ** -0.5``.
        examples: number of samples with saliency maps.

    Raises:
        ValueError: if an argument is not positive.
    """

    def __init__(
        self, every_n_epochs: int = 10, max_samples: int = 1024, examples: int = 3
    ) -> None:
        """Initialize a new LogFigures instance."""
        for name, value in (
            ('every_n_epochs', every_n_epochs),
            ('max_samples', max_samples),
            ('examples', examples),
        ):
            if value < 1:
                raise ValueError(f'{name} must be positive, got {value}')
        self.every_n_epochs = every_n_epochs
        self.max_samples = max_samples
        self.examples = examples
        self._z: list[dict[str, Tensor]] = []
        self._images: list[dict[str, Tensor]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check before training that figures can be drawn and logged.

        Raises:
            ImportError: if captum is not installed.
            ValueError: if no logger accepts figures, the task has no encoders, or the
                datamodule does not describe its modalities.
        """
        if stage != 'fit':
            return
        import_captum()
        need_encoders(self, pl_module)
        if not hasattr(_datamodule(trainer), 'modalities'):
            raise ValueError(
                'LogFigures needs a datamodule with modalities, as in '
                'torchgeo_decur.datamodules, got '
                f'{type(_datamodule(trainer)).__name__}; remove the callback'
            )
        if not self._writers(trainer):
            found = [type(logger).__name__ for logger in trainer.loggers]
            raise ValueError(
                'LogFigures needs a logger whose experiment has add_figure, such as '
                f'TensorBoardLogger, got {found}; add such a logger'
            )

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Embed a batch and store the first images for saliency maps."""
        seen = sum(len(next(iter(z.values()))) for z in self._z)
        if not self._due(trainer) or seen >= self.max_samples:
            return
        task: Any = pl_module
        images = split(batch, task.hparams['modalities'], date=0)
        images = drop_incomplete(images, get_available(batch, images))
        if not len(next(iter(images.values()))):
            return
        images = {m: x[: self.max_samples - seen] for m, x in images.items()}
        with isolate_rng():
            z = task.embed(images)
        self._z.append({m: z[m].detach().float().cpu() for m in images})
        if seen < self.examples:
            left = self.examples - seen
            self._images.append({m: x[:left].clone() for m, x in images.items()})

    def on_validation_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Draw and log the figures."""
        parts, images = self._z, self._images
        self._z, self._images = [], []
        if not parts:
            return
        task: Any = pl_module
        common_dim = getattr(task, 'common_dim', None)
        z = {m: torch.cat([part[m] for part in parts]) for m in parts[0]}
        records = _datamodule(trainer).modalities
        with isolate_rng():
            results = {'alignment': alignment_histogram(Embeddings.of(z, common_dim))}
            try:
                results['saliency'] = spatial_saliency(
                    task,
                    images,
                    {m: records[m] for m in z},
                    common_dim,
                    max_samples=self.examples,
                    examples=self.examples,
                )
            except NotApplicable as error:
                rank_zero_info(f'LogFigures: skipping the saliency maps: {error}')
        for tag, result in results.items():
            for name, figure in result.figures.items():
                # There are too few samples for the histogram of overlaps.
                for writer in self._writers(trainer) if name != 'overlap' else ():
                    writer.add_figure(tag, figure, trainer.global_step, close=False)
                plt.close(figure)

    def _due(self, trainer: Trainer) -> bool:
        epoch = trainer.current_epoch + 1
        due = epoch % self.every_n_epochs == 0 or validates_last(trainer)
        return trainer.is_global_zero and not trainer.sanity_checking and due

    def _writers(self, trainer: Trainer) -> list[Any]:
        """Return the experiments of the loggers that accept figures."""
        loggers: list[Any] = trainer.loggers
        found = [getattr(logger, 'experiment', None) for logger in loggers]
        return [writer for writer in found if hasattr(writer, 'add_figure')]


def _datamodule(trainer: Trainer) -> Any:
    return getattr(trainer, 'datamodule', None)
