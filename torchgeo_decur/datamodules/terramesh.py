"""Datamodule of TerraMesh for pretraining and land cover segmentation."""

from typing import Any

from ..datasets.archives.terramesh import MODALITIES, TerraMesh
from .archives import ArchiveDataModule


class TerraMeshDataModule(ArchiveDataModule):
    """Datamodule of TerraMesh samples.

    Images are scaled to [0, 1]. The test split is the validation split.

    Args:
        root: folder that contains the split folders ``train`` and ``val``.
        modalities: folder, or list of alternative folders, of each modality. The default
            is ``{s1: [S1RTC, S1GRD], s2: S2L1C}``. Each sample is read from the first
            alternative that contains it. See
            :class:`~torchgeo_decur.datasets.TerraMesh`.
        land_cover: whether to return land cover classes from 0 to 9 as ``mask``.
        options: options of :class:`~torchgeo_decur.datamodules.ArchiveDataModule`:
            ``train``, ``val``, ``predict``, ``val_fraction``, ``skip_incomplete``,
            ``conversion``, ``batch_size``, ``num_workers``, ``seed``, ...

    Raises:
        ValueError: if an option is invalid.
    """

    def __init__(
        self,
        root: str = 'data',
        modalities: dict[str, str | list[str]] | None = None,
        *,
        land_cover: bool = False,
        **options: Any,
    ) -> None:
        """Initialize a new TerraMeshDataModule instance."""
        super().__init__(root, modalities or MODALITIES, **options)
        self.kwargs['land_cover'] = land_cover

    def make(self, split: str) -> TerraMesh:
        """Create the dataset of a split."""
        return TerraMesh(split=split, **self.kwargs)
