"""Datamodule of TorchGeo datasets with several modalities per sample."""

import inspect
from collections.abc import Mapping
from typing import Any

from ..datasets.torchgeo_samples import (
    TorchGeoSamples,
    check_targets,
    dataset_class,
    has_split,
    sample_modalities,
)
from .band_statistics import StatisticsDataModule
from .splits import check_fractions, split_groups


class TorchGeoDataModule(StatisticsDataModule):
    """Datamodule of a TorchGeo dataset whose samples contain several modalities.

    A modality is the image of a sample key or some channels of it. The dataset must have
    integer indices, as do ``MMEarth``, ``SEN12MS``, ``So2Sat``, ``TreeSatAI``, ``DFC2022``
    and ``FLAIRHUB``. Missing statistics are estimated from up to 64 training samples,
    printed and stored in checkpoints.

    Args:
        dataset: ``class_path`` and ``init_args`` of the dataset.
        modalities: entry of each modality by name. Its ``key`` is the sample key of the
            image, optionally with channels as in 'image[0:2]' or 'image[3, 1, 2]'. Either
            ``modality`` names a predefined modality, or ``bands``, ``kind``, ``unit``,
            ``mean`` and ``std`` define a new one. ``scale``, ``offset`` and ``nodata``
            convert the values.
        targets: sample keys of ``label`` and ``mask``, by default the same names.
        train: value of the dataset argument ``split`` for training.
        val: value of ``split`` for validation.
        test: value of ``split`` for testing.
        predict: value of ``split`` for prediction, by default the value of ``test`` if
            set, otherwise the value of ``train``.
        val_fraction: fraction of the training samples for validation if ``val`` is not
            set. If 0, there is no validation split; set ``limit_val_batches: 0``.
        test_fraction: fraction of the training samples for testing if ``test`` is not
            set. If 0, the test stage uses the validation samples.
        skip_unreadable: whether to replace a sample that has a damaged file or lacks a
            key with the next one.
        options: options of :class:`~torchgeo_decur.datamodules.MultimodalDataModule`:
            ``batch_size``, ``num_workers``, ``seed`` and ``label_fraction``.

    Raises:
        ValueError: if an option or entry is invalid, or the dataset requires a sampler.
            :meth:`setup` also raises this error if samples lack the keys or channels.
    """

    def __init__(
        self,
        dataset: dict[str, Any],
        modalities: dict[str, dict[str, Any]],
        *,
        targets: dict[str, str] | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
        skip_unreadable: bool = False,
        **options: Any,
    ) -> None:
        """Initialize a new TorchGeoDataModule instance."""
        check_fractions(val_fraction, test_fraction)
        self.cls = dataset_class(str(dataset.get('class_path')))
        self.init_args = dict(dataset.get('init_args') or {})
        named = {'train': train, 'val': val, 'test': test, 'predict': predict}
        self.named = {k: v for k, v in named.items() if v is not None}
        self._check_arguments(dataset)
        super().__init__(sample_modalities(modalities), **options)
        self.entries: Mapping[str, Mapping[str, Any]] = modalities
        self.statistics = {}
        self.targets = targets if targets is None else check_targets(targets)
        self.fractions = {'test': test_fraction, 'val': val_fraction}
        self.skip_unreadable = skip_unreadable

    def setup(self, stage: str) -> None:
        """Split the samples and estimate missing statistics.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.

        Raises:
            ValueError: if the samples lack keys or channels that the entries name.
        """
        train, val, test = self._split()
        self.estimate(train, 'samples', 'modalities')
        if stage == 'predict':
            name = self.named.get('predict') or self.named.get('test')
            self.predict_dataset = self._make(name or self.named.get('train'), False)
            return
        if stage == 'fit':
            some = self.budget(len(train))
            self.train_dataset = train.subset(some) if len(some) < len(train) else train
        if stage in ('fit', 'validate') and val is not None:
            self.val_dataset = val
        if stage == 'test':
            self.test_dataset = test if test is not None else val

    def _split(
        self,
    ) -> tuple[TorchGeoSamples, TorchGeoSamples | None, TorchGeoSamples | None]:
        """Return the training, validation and test datasets."""
        samples = self._make(self.named.get('train'))
        chosen = list(range(len(samples)))
        parts: dict[str, TorchGeoSamples | None] = {}
        # Choose test samples first so that they do not depend on val_fraction.
        left = 1.0
        for name, share in self.fractions.items():
            if name in self.named:
                parts[name] = self._make(self.named[name])
                continue
            kept, out = split_groups(chosen, share / left, self.seed)
            parts[name] = samples.subset(chosen[i] for i in out) if out else None
            chosen = [chosen[i] for i in kept]
            left -= share
        if len(chosen) < len(samples):
            samples = samples.subset(chosen)
        return samples, parts['val'], parts['test']

    def _make(self, split: str | None, required: bool = True) -> TorchGeoSamples:
        arguments = dict(self.init_args)
        if split is not None:
            arguments['split'] = split
        return TorchGeoSamples(
            self.cls(**arguments),
            self.entries,
            # Samples for prediction may have no targets.
            self.targets if required else None,
            skip_unreadable=self.skip_unreadable,
        )

    def _check_arguments(self, dataset: Mapping[str, Any]) -> None:
        name = self.cls.__name__
        if unknown := sorted(set(dataset) - {'class_path', 'init_args'}):
            raise ValueError(
                'dataset must not have keys other than class_path and init_args, got '
                f'{unknown}; remove these keys'
            )
        parameters = inspect.signature(self.cls).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        wrong = sorted(set(self.init_args) - set(parameters))
        if wrong and not open_ended:
            raise ValueError(
                f'dataset: init_args of {name} must be among {list(parameters)}, got '
                f'{wrong}'
            )
        if self.named and not has_split(self.cls):
            raise ValueError(
                f'the options {sorted(self.named)} must not be set, because {name} has no '
                'argument split; set val_fraction and test_fraction instead'
            )
