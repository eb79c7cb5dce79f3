"""Datamodule for image folders paired by file name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info

from ..datasets.paired_folders import PairedFolders, folder_modalities
from ..datasets.resizing import check_size
from ..datasets.scene_labels import SceneLabels, read_keys
from .band_statistics import StatisticsDataModule
from .splits import check_fractions, split_groups


class PairedFoldersDataModule(StatisticsDataModule):
    """Datamodule for :class:`~torchgeo_decur.datasets.PairedFolders`.

    Images are scaled to [0, 1]. If file patterns contain ``{split}``, set its values for
    each split with ``train``, ``val``, ``test`` and ``predict``. Without such values,
    validation and test frames are random training frames. Similar frames of a video may
    then end up in different splits. Prediction reads neither masks nor labels.

    Missing statistics are estimated from up to 64 training frames, printed and stored in
    checkpoints.

    Args:
        root: base folder of the patterns.
        images: entry of each modality; see
            :class:`~torchgeo_decur.datasets.PairedFolders`.
        mask: entry of the mask.
        train: values of ``{split}`` for training.
        val: values of ``{split}`` for validation.
        test: values of ``{split}`` for testing.
        predict: values of ``{split}`` for prediction, by default the values for testing.
            Without ``{split}``, prediction reads all frames.
        size: height and width of images and masks after resizing. This option is required
            if the files of a split differ in size.
        cache: folder of HHA images, by default ``hha`` in the root.
        skip_incomplete: how to treat frames with a missing file: False to raise an error,
            True to skip them, or 'keep' to use their other images. See
            :class:`~torchgeo_decur.datasets.PairedFolders`.
        val_fraction: fraction of frames for validation if ``val`` is empty. If 0, there
            is no validation split; set ``limit_val_batches: 0``.
        test_fraction: fraction of frames for testing if ``test`` is empty. If 0, the test
            stage uses the validation frames.
        skip_unreadable: whether to replace a frame that has a damaged file with the next
            one.
        labels: entry of the scene label table. If it has ``split``, then ``train``,
            ``val``, ``test`` and ``predict`` contain values of that column.
        split_files: path of a text file, relative to ``root``, for each of 'train', 'val',
            'test' and 'predict'. The file has one frame id per line.
        batch_size: frames per batch and device.
        options: other options of :class:`~torchgeo_decur.datamodules.MultimodalDataModule`.

    Raises:
        ValueError: if an option or entry is invalid. :meth:`setup` also raises this error
            if files are missing or cannot be paired.
    """

    def __init__(
        self,
        root: str,
        images: dict[str, dict[str, Any]],
        mask: dict[str, Any] | None = None,
        *,
        train: Sequence[str] = (),
        val: Sequence[str] = (),
        test: Sequence[str] = (),
        predict: Sequence[str] = (),
        size: Sequence[int] | None = None,
        cache: str | None = None,
        skip_incomplete: Literal['keep'] | bool = False,
        val_fraction: float = 0.2,
        test_fraction: float = 0.0,
        skip_unreadable: bool = False,
        labels: dict[str, Any] | None = None,
        split_files: dict[str, str] | None = None,
        batch_size: int = 8,
        **options: Any,
    ) -> None:
        """Initialize a new PairedFoldersDataModule instance."""
        check_fractions(val_fraction, test_fraction)
        super().__init__(folder_modalities(images), batch_size, **options)
        self.entries: Mapping[str, Mapping[str, Any]] = images
        self.mask = mask
        named = {'train': train, 'val': val, 'test': test, 'predict': predict}
        for name, values in named.items():
            if isinstance(values, str):
                raise ValueError(
                    f'{name} must be a list of splits, got {values!r}; set {name} to '
                    f'[{values}]'
                )
        self.named = named
        self.labels = labels
        self.split_files = split_files or {}
        if unknown := sorted(set(self.split_files) - set(named)):
            raise ValueError(
                f'split_files must have only the keys {list(named)}, got {unknown}; remove '
                'these keys'
            )
        self.fractions = (val_fraction, test_fraction)
        self.statistics = {}
        self.kwargs: dict[str, Any] = {
            'root': root,
            'images': images,
            'size': check_size(size),
            'cache': cache,
            'skip_incomplete': skip_incomplete,
            'skip_unreadable': skip_unreadable,
        }

    def setup(self, stage: str) -> None:
        """Find and split the frames, and estimate missing statistics.

        Raises:
            ValueError: if no frames are found or files cannot be paired.
        """
        if stage == 'predict':
            some = next((n for n in ('predict', 'test') if self._is_named(n)), None)
            self.predict_dataset = self._find(some, targets=False)
            if self.wanted():
                named = self._is_named('train')
                self.estimate(
                    self._find('train', targets=False)
                    if named
                    else self.predict_dataset
                )
            return
        train, val, test = self._split()
        if stage == 'fit' and train.label_report:
            rank_zero_info(train.label_report)
        self.estimate(train)
        if stage == 'fit':
            classes = train.labels if train.classes else None
            self.train_dataset = train.subset(
                self.budget(len(train), classes, train.classes)
            )
        if stage in ('fit', 'validate') and len(val):
            self.val_dataset = val
        if stage == 'test':
            self.test_dataset = test if len(test) else val

    def _split(self) -> tuple[PairedFolders, PairedFolders, PairedFolders]:
        """Return the training, validation and test datasets."""
        self._check_lists()
        frames = self._find('train')
        chosen = list(range(len(frames)))
        parts = []
        # Choose test frames first so that they do not depend on val_fraction.
        left = 1.0
        for name, share in zip(('test', 'val'), reversed(self.fractions), strict=True):
            if self._is_named(name):
                parts.append(self._find(name))
                continue
            kept, out = split_groups(chosen, share / left, self.seed)
            parts.append(frames.subset(chosen[i] for i in out))
            chosen = [chosen[i] for i in kept]
            left -= share
        return frames.subset(chosen), parts[1], parts[0]

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes or targets in the label table, or () without a table."""
        if self.labels is None:
            return ()
        return SceneLabels.read(self.kwargs['root'], self.labels).classes

    def _is_named(self, name: str) -> bool:
        return bool(self.named[name] or name in self.split_files)

    def _find(self, name: str | None, targets: bool = True) -> PairedFolders:
        """Create the dataset of a split or of all frames, with or without targets."""
        labels = self.labels
        if labels is not None and not targets:
            # Without labels, the table only defines which frames belong to the split.
            kept = ('path', 'key', 'split')
            by_column = name is not None and labels.get('split')
            labels = {k: labels[k] for k in kept} if by_column else None
        frames = PairedFolders(
            mask=self.mask if targets else None,
            splits=self.named[name] if name else (),
            labels=labels,
            ids=self._list(name) if name in self.split_files else None,
            **self.kwargs,
        )
        if self.labels is not None:
            frames.annotations = SceneLabels.read(self.kwargs['root'], self.labels)
        return frames

    def _list(self, name: str | None) -> list[str]:
        return read_keys(Path(self.kwargs['root'], self.split_files[str(name)]))

    def _check_lists(self) -> None:
        """Check that no frame id is in two split files."""
        seen: dict[str, str] = {}
        for name in ('train', 'val', 'test'):
            for key in self._list(name) if name in self.split_files else ():
                if key in seen:
                    raise ValueError(
                        f'split_files must contain each id only once, got {key!r} in '
                        f'{seen[key]} and {name}; remove the id from one of the files'
                    )
                seen[key] = name
