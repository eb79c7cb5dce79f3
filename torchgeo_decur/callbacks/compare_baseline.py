"""Comparison of a pretraining run with a baseline that only aligns the modalities."""

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, cast

import matplotlib.pyplot as plt
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from matplotlib.figure import Figure
from torch import Tensor

from .. import tasks
from ..analysis import CorrelationStream
from ..analysis.matplotlib_style import COLOURS, PAGE, figure_style
from ..files import atomic_write, write_csv
from ..modalities import get_available, split
from ..modalities.batch import drop_incomplete
from ..tasks import MultimodalPretraining
from ..terminal import text_table
from ..transforms import Augmentation
from .online_probe import OnlineProbe
from .preconditions import need_encoders, validates_last

type Baseline = Literal['BarlowTwins', 'VICReg', 'SimCLR', 'CLIP']


class CompareBaseline(Callback):
    """Callback that pretrains a baseline after the fit and compares it with the task.

    The baseline has the same initial weights, data, augmentations, seed and number of
    steps. A table and a figure then show linear probes of the untrained encoders, the
    baseline and the task. The figure also shows the correlation of each embedding
    dimension across modalities. The logger's folder receives ``comparison.csv`` and
    ``comparison.png``. The fit takes twice as long.

    The callback needs one device. An :class:`OnlineProbe` must come before it in the
    list of callbacks.

    Args:
        baseline: 'BarlowTwins', 'VICReg', 'SimCLR' or 'CLIP', with the default weights
            of its loss terms.

    Raises:
        ValueError: if the name of the baseline is unknown.
    """

    def __init__(self, baseline: Baseline = 'BarlowTwins') -> None:
        """Initialize a new CompareBaseline instance."""
        known = ('BarlowTwins', 'VICReg', 'SimCLR', 'CLIP')
        if baseline not in known:
            raise ValueError(f'baseline must be one of {list(known)}, got {baseline!r}')
        self.baseline = baseline
        self.rows: list[dict[str, Any]] = []
        self.correlations: dict[str, Tensor] = {}
        self._initial: dict[str, Tensor] = {}
        self._pairs = _PairCorrelations()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the other callbacks and the devices, and copy the initial weights.

        Raises:
            ValueError: if the task has no encoders or only one modality, if
                ``OnlineProbe`` is absent or comes later, or if there are several
                devices.
        """
        if stage != 'fit':
            return
        need_encoders(self, pl_module)
        if len(pl_module.hparams['modalities']) < 2:
            raise ValueError(
                'CompareBaseline needs at least two modalities, got '
                f'{list(pl_module.hparams["modalities"])}; remove the callback'
            )
        found = cast(list[Callback], getattr(trainer, 'callbacks', []))
        before = found[: found.index(self)]
        if not any(isinstance(callback, OnlineProbe) for callback in before):
            raise ValueError(
                'CompareBaseline needs OnlineProbe before it in the list of callbacks, '
                f'got {[type(callback).__name__ for callback in before]}; insert '
                'OnlineProbe'
            )
        if trainer.world_size > 1:
            raise ValueError(
                f'CompareBaseline needs one device, got {trainer.world_size}; set the '
                'option devices to 1, or remove the callback'
            )
        self._initial = {
            k: v.detach().cpu().clone()
            for k, v in pl_module.state_dict().items()
            if not k.startswith('augmentations.')
        }

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the correlations with a batch of the last validation."""
        self._pairs.on_validation_batch_end(
            trainer, pl_module, outputs, batch, batch_idx, dataloader_idx
        )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pretrain the baseline, print the table, and write the table and the figure."""
        if getattr(trainer, 'fast_dev_run', False) or not self._pairs.streams:
            return
        callbacks: list[Any] = getattr(trainer, 'callbacks', [])
        probe = next(c for c in callbacks if isinstance(c, OnlineProbe))
        task = cast(MultimodalPretraining, pl_module)
        rank_zero_info(f'pretraining the baseline {self.baseline} on the same data')
        with isolate_rng():
            rival, pairs = self._fit(trainer, task, probe)
        names = (self.baseline, type(task).__name__)
        self.rows = _compare(dict(zip(names, (rival.rows, probe.rows), strict=True)))
        self.correlations = dict(
            zip(names, (pairs.diagonal(), self._pairs.diagonal()), strict=True)
        )
        if not self.rows:
            rank_zero_info(
                'CompareBaseline: expected scores from OnlineProbe, found none; '
                'skipping the comparison'
            )
            return
        rank_zero_info(self.table())
        folder = trainer.log_dir
        if folder is None:
            return
        table, picture = Path(folder, 'comparison.csv'), Path(folder, 'comparison.png')
        write_csv(table, self.rows)
        figure = self.plot(getattr(task, 'common_dim', None))
        atomic_write(picture, lambda part: figure.savefig(part, dpi=200, format='png'))
        plt.close(figure)
        rank_zero_info(f'comparison: {table}, {picture}')

    def table(self) -> str:
        """Format the linear probe scores of the best features for each label.

        Returns:
            The table in plain text.
        """
        names = [k for k in self.rows[0] if k not in ('label', 'features')]
        rows = [
            [row['label'], row['features'], *(f'{row[name]:.1f}' for name in names)]
            for row in self.rows
        ]
        table = text_table(['label', 'features', *names], rows, texts=2)
        return f'Linear probe of frozen features, in %\n{table}'

    def plot(self, common_dim: int | None = None) -> Figure:
        """Plot the correlations across modalities and the linear probe scores.

        Args:
            common_dim: number of common dimensions of the task, which come first in an
                embedding.

        Returns:
            Figure with one panel for the baseline, one for the task and one for the
            linear probes.
        """
        with figure_style():
            figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.5), layout='constrained')
            for axis, (name, diagonal) in zip(
                axes, self.correlations.items(), strict=False
            ):
                last = name != self.baseline
                for part, values in _parts(diagonal, common_dim if last else None):
                    start = 0 if part != 'unique' else len(diagonal) - len(values)
                    dimensions = range(start, start + len(values))
                    axis.fill_between(
                        dimensions, values, color=COLOURS[part], label=part
                    )
                axis.set(
                    title=name, xlabel='embedding dimension, sorted', ylim=(-0.35, 1)
                )
                axis.legend(loc='lower left')
            axes[0].set_ylabel('correlation across modalities')
            _draw_bars(axes[2], self.rows)
        return figure

    def _fit(
        self, trainer: Trainer, task: MultimodalPretraining, probe: OnlineProbe
    ) -> tuple[OnlineProbe, '_PairCorrelations']:
        """Pretrain the baseline with the task's settings and return its callbacks."""
        kind: type[MultimodalPretraining] = getattr(tasks, self.baseline)
        # Keep the options that all objectives have in common.
        shared = inspect.signature(MultimodalPretraining.__init__).parameters
        options = {k: v for k, v in task.hparams.items() if k in shared}
        rival = kind(**options, augmentations=_augmentations(task))
        # Some objectives have projectors with other names or shapes.
        own = {k: v.shape for k, v in rival.state_dict().items()}
        rival.load_state_dict(
            {k: v for k, v in self._initial.items() if own.get(k) == v.shape},
            strict=False,
        )
        callbacks = (
            OnlineProbe(
                # Only the last epoch is compared.
                every_n_epochs=max(trainer.max_epochs or 1, 1),
                k=probe.k,
                max_samples=probe.max_samples,
            ),
            _PairCorrelations(),
        )
        callbacks[0].quiet = True
        datamodule = cast(Any, trainer).datamodule
        # Lightning reports every limit that is passed, even the default of 1.0.
        limits: dict[str, Any] = {
            name: value
            for name in ('limit_train_batches', 'limit_val_batches')
            if (value := getattr(trainer, name)) != 1.0
        }
        torch.manual_seed(cast(Any, task)._run_seed)
        second = Trainer(
            accelerator=_accelerator(trainer),
            devices=1,
            precision=trainer.precision,
            max_epochs=trainer.max_epochs,
            max_steps=trainer.max_steps,
            **limits,
            accumulate_grad_batches=trainer.accumulate_grad_batches,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=trainer.progress_bar_callback is not None,
            callbacks=[*callbacks],
        )
        second.fit(rival, datamodule=datamodule)
        datamodule.trainer = trainer
        return callbacks


class _PairCorrelations(Callback):
    """Callback that correlates the embeddings of the last validation across modalities."""

    def __init__(self) -> None:
        self.streams: dict[tuple[str, str], CorrelationStream] = {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the correlations with a batch."""
        if trainer.sanity_checking or not validates_last(trainer):
            return
        if batch_idx == 0:
            self.streams = {}
        task = cast(MultimodalPretraining, pl_module)
        images = split(batch, task.hparams['modalities'], date=0)
        images = drop_incomplete(images, get_available(batch, images))
        if not len(next(iter(images.values()))):
            return
        with isolate_rng():
            z = task.embed(images)
        for m, n in combinations(images, 2):
            stream = self.streams.setdefault((m, n), CorrelationStream(z[m].shape[1]))
            stream.update(z[m].float(), z[n].float())

    def diagonal(self) -> Tensor:
        """Return the correlation of each dimension, averaged over modality pairs."""
        return torch.stack([s.diagonal() for s in self.streams.values()]).mean(0)


def _augmentations(task: MultimodalPretraining) -> dict[str, Augmentation]:
    copied = deepcopy(task.augmentations).items()
    return {m: cast(Augmentation, augmentation) for m, augmentation in copied}


def _accelerator(trainer: Trainer) -> str:
    kind = trainer.strategy.root_device.type
    return 'gpu' if kind == 'cuda' else kind


def _compare(probes: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return one row of scores per label, for the features with the best score."""
    last: dict[str, dict[tuple[str, str], float]] = {}
    for name, rows in probes.items():
        linear = [r for r in rows if r['classifier'] == 'linear']
        epoch = max((r['epoch'] for r in linear), default=-1)
        last[name] = {
            (r['label'], r['features']): r['score']
            for r in linear
            if r['epoch'] == epoch
        }
        # Both runs start from the same weights; the scores of the task, which comes
        # last, are kept.
        last['untrained'] = {
            (r['label'], r['features']): r['score'] for r in linear if r['epoch'] < 0
        }
    order = ['untrained', *probes]
    table = []
    for label in dict.fromkeys(label for label, _ in last['untrained']):
        known = [features for key, features in last['untrained'] if key == label]
        best = max(known, key=lambda f: max(last[n][label, f] for n in order))
        scores = {name: last[name][label, best] for name in order}
        table.append({'label': label, 'features': best, **scores})
    return table


def _parts(diagonal: Tensor, common_dim: int | None) -> list[tuple[str, Tensor]]:
    """Sort the correlations of all dimensions, or of common and unique dimensions."""
    places: dict[str, Tensor] = {'all': diagonal}
    if common_dim is not None and 0 < common_dim < len(diagonal):
        places = {'common': diagonal[:common_dim], 'unique': diagonal[common_dim:]}
    return [(k, torch.sort(v, descending=True).values) for k, v in places.items()]


def _draw_bars(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    names = [k for k in rows[0] if k not in ('label', 'features')]
    colors = ('#BBBBBB', COLOURS['all'], COLOURS['common'])
    for i, (name, color) in enumerate(zip(names, colors, strict=True)):
        places = [place + 0.27 * (i - 1) for place in range(len(rows))]
        bars = axis.bar(places, [r[name] for r in rows], 0.25, color=color, label=name)
        axis.bar_label(bars, fmt='%.0f', fontsize=6.5)
    axis.set(title='Linear probe (%)', ylim=(0, 122))
    shown = [f'{r["label"].removeprefix("label_")}\nfrom {r["features"]}' for r in rows]
    axis.set_xticks(range(len(rows)), shown)
    axis.grid(visible=False)
    axis.legend(
        loc='upper center', ncols=3, columnspacing=0.6, handlelength=0.6, fontsize=6
    )
