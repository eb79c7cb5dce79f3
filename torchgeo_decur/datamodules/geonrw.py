"""GeoNRW for pretraining and segmentation."""

from typing import Any, Literal

from ..datasets.geonrw import GeoNRWPatches
from ..modalities import converted
from .base import MultimodalDataModule


class GeoNRWPatchDataModule(MultimodalDataModule):
    """Patches of aerial photographs, elevation and land cover, images in [0, 1].

    The test split is the published one. The validation split is drawn at random from the
    training *tiles*: patches of one tile are never on both sides. The predict split is
    the test split.

    Args:
        root: folder that has one folder a city, or that receives them.
        size: height and width of a patch in pixels.
        val_fraction: fraction of the training tiles that training leaves out. With 0 all
            train and there is no validation (``limit_val_batches: 0``).
        label_fraction: fraction of the remaining patches to train with, drawn at random,
            such as 0.01 for the experiments with few labels.
        batch_size: patches of a batch on each device.
        num_workers: worker processes of each data loader.
        seed: seed of split, fraction and shuffle; by default that of
            ``seed_everything``.
        download: whether to download what is missing.
        checksum: whether to verify downloads.
        skip_unreadable: whether the next patch replaces one with a damaged file.
        conversion: where files hold other numbers than those of the unit, ``scale``,
            ``offset`` and ``nodata`` by modality, such as ``{dem: {nodata: -9999}}``.

    Raises:
        ValueError: if an option is not valid.
    """

    def __init__(
        self,
        root: str = 'data',
        *,
        size: int = 250,
        val_fraction: float = 0.1,
        label_fraction: float = 1.0,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int | None = None,
        download: bool = False,
        checksum: bool = True,
        skip_unreadable: bool = False,
        conversion: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """Initialize a new GeoNRWPatchDataModule instance."""
        if not 0 <= val_fraction < 1:
            raise ValueError(f'val_fraction must be in [0, 1), got {val_fraction}')
        super().__init__(
            converted(GeoNRWPatches.modalities, conversion),
            batch_size,
            num_workers,
            seed=seed,
            label_fraction=label_fraction,
        )
        self.val_fraction = val_fraction
        self.kwargs = {
            'root': root,
            'size': size,
            'download': download,
            'checksum': checksum,
            'skip_unreadable': skip_unreadable,
            'conversion': conversion,
        }

    def prepare_data(self) -> None:
        """Download the dataset if asked to."""
        if self.kwargs['download']:
            self._make('train')

    def setup(self, stage: str) -> None:
        """Split the tiles.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
        """
        if stage in ('fit', 'validate'):
            dataset = self._make('train')
            tiles = [patch.tile for patch in dataset.samples]
            self.hold_out(dataset, tiles, self.val_fraction)
        if stage == 'test':
            self.test_dataset = self._make('test')
        if stage == 'predict':
            self.predict_dataset = self._make('test')

    def _make(self, split: Literal['train', 'test']) -> GeoNRWPatches:
        return GeoNRWPatches(split=split, **self.kwargs)
