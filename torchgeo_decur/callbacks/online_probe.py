"""Probes of frozen features during pretraining."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from lightly.utils import dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import functional_call

from ..analysis.classifiers import Array, run_probes
from ..files import atomic_write, write_csv
from ..modalities import get_available, split
from ..modalities.present_samples import PresentSamples, complete_masks
from ..terminal import text_table
from .preconditions import need_encoders, validates_last


class OnlineProbe(Callback):
    """Callback that regularly probes frozen features of the validation split.

    The inputs are the features of each modality, their concatenation, and joint
    features of the task (``joint``, ``shared``). The labels are the ``label*`` keys of
    the batches, shape (B,) or (B, L). scikit-learn's nearest-neighbor classifier and
    logistic regression are fitted on one fixed half of the validation samples, with
    standardized features, and scored on the other half. Scores are balanced accuracy
    for classes and micro-averaged average precision for multi-label data, in percent.
    Floating-point labels are regression targets: nearest-neighbor and ridge regression
    are scored by R2.

    The features of a modality are probed on the samples that have this modality. All
    other features are probed on the samples that have all modalities.

    The untrained encoders are probed once, with the BatchNorm statistics of each batch.
    Scores are logged as ``probe_<label>_<features>_<classifier>``, printed as a table,
    and written to ``probe.csv`` and ``probe.png`` in the logger's folder.

    Args:
        every_n_epochs: number of epochs between probes. The last epoch always has a
            probe.
        k: number of nearest neighbors.
        max_samples: maximum number of validation samples on each device.

    Raises:
        ValueError: if an argument is not positive.
    """

    #: Whether to neither print nor write the scores.
    quiet = False

    def __init__(
        self, every_n_epochs: int = 1, k: int = 5, max_samples: int = 4096
    ) -> None:
        """Initialize a new OnlineProbe instance."""
        for name, value in (('every_n_epochs', every_n_epochs), ('k', k)):
            if value < 1:
                raise ValueError(f'{name} must be positive, got {value}')
        if max_samples < 2 * k:
            raise ValueError(
                f'max_samples must be at least {2 * k} for k={k}, got {max_samples}'
            )
        self.every_n_epochs = every_n_epochs
        self.k = k
        self.max_samples = max_samples
        self.rows: list[dict[str, Any]] = []
        self._untrained: dict[str, Tensor] | None = None
        self._store: dict[str, list[Tensor]] = {}
        #: Labels that are regression targets; stored tensors are all floating point.
        self._numbers: set[str] = set()
        self._told = False

    def state_dict(self) -> dict[str, Any]:
        """Return the scores of all probes so far for a checkpoint."""
        return {'rows': self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the scores of an interrupted fit."""
        self.rows = state_dict['rows']

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the untrained encoders before a checkpoint is loaded.

        Raises:
            ValueError: if the task has no encoders.
        """
        need_encoders(self, pl_module)
        if stage == 'fit':
            self._untrained = {
                k: v.detach().clone()
                for k, v in pl_module.state_dict().items()
                if not k.startswith(('projectors.', 'augmentations.'))
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
        """Collect the features and labels of a batch with at least two samples."""
        seen = sum(map(len, next(iter(self._store.values()), [])))
        if self._told or not self._due(trainer) or seen >= self.max_samples:
            return
        images = split(batch, pl_module.hparams['modalities'], date=0)
        samples = len(next(iter(images.values())))
        found = {k: v for k, v in batch.items() if _is_label(k, v, samples)}
        if samples < 2:
            return
        if self._store:
            labels = {k for k in self._store if k.startswith('label')}
            if not labels and found:
                # Discard earlier samples without labels, because this loader has
                # labels.
                self._store = {}
            elif not labels <= set(found):
                return
            else:
                found = {k: found[k] for k in labels}
        has = _masks(get_available(batch, images), images, samples)
        found |= {f'has {m}': mask for m, mask in has.items()}
        for m, h in _encode(pl_module, images, has).items():
            found[f'trained {m}'] = h
        if self._untrained is not None and not self._has_untrained():
            # Lightning has converted the task to the fit's precision.
            now = pl_module.state_dict()
            state = {k: v.to(now[k]) for k, v in self._untrained.items()}
            untrained = partial(_features_of, pl_module, state)
            for m, h in _encode(untrained, images, has).items():
                found[f'untrained {m}'] = h
        self._numbers |= {
            k for k in found if k.startswith('label') and found[k].is_floating_point()
        }
        for key, value in found.items():
            self._store.setdefault(key, []).append(value.detach().float().cpu())

    def on_validation_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Fit the probes, then log and print their scores."""
        store = {k: torch.cat(v)[: self.max_samples] for k, v in self._store.items()}
        self._store = {}
        if not store:
            return
        if trainer.world_size > 1:
            store = {
                k: torch.cat(dist.gather(v.to(pl_module.device))).cpu()
                for k, v in store.items()
            }
        labels = {
            k: (v if k in self._numbers else v.long()).numpy()
            for k, v in store.items()
            if k.startswith('label')
        }
        modalities = list(pl_module.hparams['modalities'])
        has = {m: store[f'has {m}'].bool() for m in modalities if f'has {m}' in store}
        complete = torch.stack(list(has.values())).all(0) if has else slice(None)
        epoch = trainer.current_epoch
        # With several validations per epoch, keep only the last scores.
        self.rows = [r for r in self.rows if r['epoch'] != epoch]
        for stage in ('untrained', 'trained'):
            if f'{stage} {modalities[0]}' not in store:
                continue
            features = {m: store[f'{stage} {m}'].numpy() for m in modalities}
            if len(features) > 1:
                features['+'.join(modalities)] = np.concatenate(
                    list(features.values()), 1
                )
            for key in store:
                name = key.removeprefix(f'{stage} ')
                if name not in (key, *modalities):
                    features[name] = store[key].numpy()
            for label, y in labels.items():
                for name, x in features.items():
                    own = has.get(name, complete)
                    for classifier, score in _scores(x[own], y[own], self.k):
                        row = dict(label=label, features=name, classifier=classifier)
                        number = -1 if stage == 'untrained' else epoch
                        self.rows.append({'epoch': number, **row, 'score': score})
        self._untrained = None
        latest = [r for r in self.rows if r['epoch'] == epoch]
        if not latest:
            self._told = True
            rank_zero_info(
                'OnlineProbe: expected labels of at least two classes and more than '
                f'{2 * self.k} samples in the validation split, found labels '
                f'{list(labels)} for {len(store[f"trained {modalities[0]}"])} samples; '
                'skipping the probe'
            )
            return
        pl_module.log_dict(
            {
                f'probe_{r["label"]}_{r["features"]}_{r["classifier"]}': r['score']
                for r in latest
            },
            sync_dist=True,
        )
        if not self.quiet:
            rank_zero_info(self.table())

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the scores to a CSV file and draw a figure."""
        # Every process must read log_dir, because the first process broadcasts it.
        folder = trainer.log_dir
        dry = getattr(trainer, 'fast_dev_run', False)
        silent = self.quiet or not trainer.is_global_zero
        if dry or not self.rows or folder is None or silent:
            return
        scores, picture = Path(folder, 'probe.csv'), Path(folder, 'probe.png')
        write_csv(scores, self.rows)
        figure = self.plot()
        atomic_write(
            picture, lambda partial: figure.savefig(partial, dpi=150, format='png')
        )
        plt.close(figure)
        rank_zero_info(f'probe: {scores}, {picture}')

    def table(self) -> str:
        """Format the latest scores and the scores before training as a table."""
        epoch = max(r['epoch'] for r in self.rows)
        lines = []
        for label, name in dict.fromkeys(
            (r['label'], r['features']) for r in self.rows if r['epoch'] == epoch
        ):
            cells = []
            for classifier in ('knn', 'linear'):
                after, before = (
                    [
                        r['score']
                        for r in self.rows
                        if (r['epoch'], r['label'], r['features'], r['classifier'])
                        == (e, label, name, classifier)
                    ]
                    for e in (epoch, -1)
                )
                cells.append(
                    f'{after[0]:.1f}' + (f' ({before[0]:.1f})' if before else '')
                )
            lines.append([label, name, *cells])
        head = ['label', 'features', f'{self.k}-NN', 'linear']
        return (
            f'Probe of frozen features after epoch {epoch + 1}, in %: trained '
            f'(untrained)\n{text_table(head, lines, texts=2)}'
        )

    def plot(self) -> Figure:
        """Plot the scores of the linear probe over the epochs.

        Returns:
            A figure with one panel per label and one line per input. Epoch 0 is the
            untrained encoder.
        """
        labels = list(dict.fromkeys(r['label'] for r in self.rows))
        figure, axes = plt.subplots(
            1, len(labels), figsize=(3.2 * len(labels), 3), sharey=True, squeeze=False
        )
        for label, axis in zip(labels, axes[0], strict=True):
            for name in dict.fromkeys(r['features'] for r in self.rows):
                points = [
                    (r['epoch'] + 1, r['score'])
                    for r in self.rows
                    if (r['label'], r['features'], r['classifier'])
                    == (label, name, 'linear')
                ]
                axis.plot(
                    *zip(*sorted(points), strict=True),
                    marker='o',
                    markersize=3,
                    label=name,
                )
            axis.set(title=label, xlabel='epochs')
        axes[0, 0].set_ylabel('linear probe (%)')
        axes[0, 0].legend(frameon=False)
        figure.tight_layout()
        return figure

    def _due(self, trainer: Trainer) -> bool:
        epoch = trainer.current_epoch + 1
        return not trainer.sanity_checking and (
            epoch % self.every_n_epochs == 0 or validates_last(trainer)
        )

    def _has_untrained(self) -> bool:
        return any(r['epoch'] == -1 for r in self.rows)


def _is_label(key: object, value: object, samples: int) -> bool:
    """Check whether a batch entry is a label tensor with one row per sample."""
    return (
        str(key).startswith('label')
        and isinstance(value, Tensor)
        and value.ndim in (1, 2)
        and len(value) == samples
    )


def _masks(
    available: Mapping[str, Tensor], images: Mapping[str, Tensor], samples: int
) -> dict[str, Tensor]:
    """Return a mask of the samples to probe for each modality.

    The result is empty if all samples have all modalities.
    """
    if not available:
        return {}
    masks = complete_masks(available, images, samples)
    # BatchNorm in the untrained encoders needs two samples.
    return {m: mask & (mask.sum() > 1) for m, mask in masks.items()}


def _encode(
    encode: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    images: Mapping[str, Tensor],
    has: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Encode each modality on its samples, and joint features on complete samples."""
    if not has:
        return encode(dict(images))
    features: dict[str, Tensor] = {}
    joint = False
    for m, x in images.items():
        found = _encode_some(encode, {m: x}, has[m])
        features[m] = found[m]
        joint = joint or len(found) > 1
    if joint:
        complete = torch.stack(list(has.values())).all(0)
        both = _encode_some(encode, images, complete)
        features |= {name: h for name, h in both.items() if name not in features}
    return features


def _encode_some(
    encode: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    images: Mapping[str, Tensor],
    mask: Tensor,
) -> dict[str, Tensor]:
    """Encode the samples in a mask and set the features of other samples to 0.

    All devices must gather features of the same shape.
    """
    # With fewer than two samples, encode all. The results are unused but have the right
    # shape.
    rows = mask if mask.sum() > 1 else torch.ones_like(mask)
    samples = PresentSamples({'': rows}, next(iter(images.values())).device)
    some = {m: samples.select('', x) for m, x in images.items()}
    return {name: samples.spread('', h) for name, h in encode(some).items()}


def _features_of(
    task: LightningModule, state: dict[str, Tensor], images: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Compute features with given weights and the BatchNorm statistics of the batch."""
    training = task.training
    task.train()
    with torch.no_grad():
        features: dict[str, Tensor] = functional_call(task, state, (images,))
    task.train(training)
    return features


def _scores(x: Array, y: Array, k: int) -> Iterator[tuple[str, float]]:
    """Fit both probes on one half of the samples and yield scores on the other half."""
    for name, outcome in run_probes(x, y, k):
        yield name, float(outcome.score()[0])
