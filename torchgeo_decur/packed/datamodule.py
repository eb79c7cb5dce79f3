"""Datamodule for packed data in a folder or at a URL."""

from collections.abc import Container
from dataclasses import replace
from typing import Any

from ..datamodules.base import MultimodalDataModule, Split
from ..modalities import FirstBatches
from .dataset import PackedDataset, litdata, read_manifest


class PackedDataModule(MultimodalDataModule):
    """Datamodule for packed data with batches scaled to [0, 1].

    Modalities and scaling come from the manifest. Shuffling, distribution over devices
    and resuming in the middle of an epoch work as in all datamodules of this package. The
    order of samples depends only on the seed, not on the shards or ``num_workers``.

    If the validation split is not packed, set the trainer option ``limit_val_batches: 0``
    to skip validation. The validation split replaces a missing test split, and the test
    split replaces a missing prediction split.

    Args:
        root: folder written by ``torchgeo-decur pack``, or its copy at a URL that litdata
            supports, such as ``s3://bucket/folder``.
        cache_dir: folder for shards downloaded from a URL, with enough space for all
            shards. Without this folder, the bytes of a sample are fetched when it is read.
        storage_options: options of the storage client, passed to litdata.
        checksum: whether to verify the checksum of every local shard at startup.
        options: options of :class:`~torchgeo_decur.datamodules.MultimodalDataModule`,
            except ``label_fraction``.

    Raises:
        ImportError: if litdata is not installed.
        ValueError: if ``batch_size`` is not positive.
    """

    def __init__(
        self,
        root: str,
        *,
        cache_dir: str | None = None,
        storage_options: dict[str, Any] | None = None,
        checksum: bool = False,
        **options: Any,
    ) -> None:
        """Initialize a new PackedDataModule instance."""
        litdata()
        # label_fraction was already applied when the data were packed.
        super().__init__({}, label_fraction=1.0, **options)
        self.kwargs = {
            'root': root,
            'cache_dir': cache_dir,
            'checksum': checksum,
            'storage_options': storage_options,
        }

    def setup(self, stage: str) -> None:
        """Read the manifest and open the splits of a stage.

        Raises:
            FileNotFoundError: if there is no manifest.
            UnreadableFileError: if a shard is missing or incomplete.
            ValueError: if the manifest is invalid or lacks the split.
        """
        root, options = self.kwargs['root'], self.kwargs['storage_options']
        manifest = read_manifest(root, options)
        self.set_modalities(manifest.modalities)
        if manifest.values == 'uint8':
            # Bytes map to [0, 1] in every modality and were checked when packed.
            self.set_modalities(
                {
                    m: replace(modality, unit='uint8', mean=None, std=None, nodata=None)
                    for m, modality in manifest.modalities.items()
                }
            )
            self.modalities = dict(manifest.modalities)
            self.first_batches = FirstBatches({})
        if stage == 'fit':
            self.train_dataset = self._open('train')
        if stage in ('fit', 'validate') and 'val' in manifest.splits:
            self.val_dataset = self._open('val')
        if stage == 'test':
            self.test_dataset = self._first(manifest.splits, 'test', 'val')
        if stage == 'predict':
            self.predict_dataset = self._first(
                manifest.splits, 'predict', 'test', 'val'
            )

    def _first(self, packed: Container[str], *names: Split) -> PackedDataset:
        """Open the first of the named splits that is packed."""
        return self._open(next((n for n in names if n in packed), names[0]))

    def _open(self, split: Split) -> PackedDataset:
        return PackedDataset(split=split, **self.kwargs)
