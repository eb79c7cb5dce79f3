"""Embed the samples of any datamodule with frozen models."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchgeo.datamodules import BaseDataModule
from torchgeo.datasets.utils import Sample

from ...datamodules import MultimodalDataModule
from ...modalities import check_names, get_available, split
from ...modalities.present_samples import PresentSamples
from ...models import FrozenEncoder
from .geoparquet_parts import ROWS
from .write_embeddings import RowEmbedder, labels, write_rows


def embed_with(
    encoders: Mapping[str, FrozenEncoder | Mapping[str, Any]],
    datamodule: BaseDataModule,
    out: str | Path,
    date: str | None = None,
    device: str = 'auto',
    about: Mapping[str, Any] | None = None,
    rows: int = ROWS,
    progress: bool = True,
    views: int = 1,
) -> Path:
    """Write embeddings from frozen models for each sample of the prediction split.

    The file has the format of :func:`~torchgeo_decur.cli.embed.embed_rasters`, with one
    modality per encoder. Its metadata also contain the bands, scale and size of each
    input. The datamodule checks the images and passes them in the unit of the data. Each
    encoder then scales its own input.
    :class:`~torchgeo_decur.datamodules.PairedEmbeddingsDataModule` reads the file.

    Args:
        encoders: encoders, or their arguments, by name.
        datamodule: datamodule of this package.
        out: output file.
        date: acquisition date for images that have none, such as '2020-06-30'.
        device: Lightning accelerator: 'auto', 'cpu', 'gpu' or 'mps'.
        about: JSON values for the file metadata, which identify the run.
        rows: rows per part.
        progress: whether to show a progress bar.
        views: number of views per sample, each in its own row: first the dates of the
            sample, then flipped images.

    Returns:
        Path of the file.

    Raises:
        FileNotFoundError: if a model file does not exist.
        ValueError: if an encoder does not fit the data or the datamodule is not from this
            package. See also :func:`~torchgeo_decur.cli.embed.embed_rasters`.
    """
    if not encoders:
        raise ValueError('encoders must have at least one encoder, got none')
    check_names(encoders)
    built = {name: FrozenEncoder.of(name, value) for name, value in encoders.items()}
    if not isinstance(datamodule, MultimodalDataModule):
        raise ValueError(
            'datamodule must be one of torchgeo_decur.datamodules, got '
            f'{type(datamodule).__name__}; for a dataset of TorchGeo, use '
            'TorchGeoDataModule'
        )
    datamodule.prepare_data()
    datamodule.setup('predict')
    embedder = FrozenEmbedder(built, datamodule)
    inputs = {name: encoder.describe() for name, encoder in built.items()}
    about = {**(about or {}), 'inputs': json.loads(json.dumps(inputs, default=list))}
    return write_rows(
        embedder, datamodule, out, date, device, about, rows, progress, views
    )


class FrozenEmbedder(RowEmbedder):
    """Module that computes one row of embeddings per sample with frozen encoders.

    Args:
        encoders: encoders by name.
        datamodule: datamodule after ``setup('predict')``.

    Raises:
        FileNotFoundError: if a model file does not exist.
        ValueError: if an encoder does not fit the data.
    """

    def __init__(
        self, encoders: Mapping[str, FrozenEncoder], datamodule: MultimodalDataModule
    ) -> None:
        """Initialize a new FrozenEmbedder instance."""
        super().__init__()
        records = datamodule.modalities
        for encoder in encoders.values():
            encoder.prepare(records)
        used = {m for encoder in encoders.values() for m in encoder.modalities}
        self.channels = {m: r.channels for m, r in records.items() if m in used}
        first = _first(datamodule, self.channels)
        self.num_features = {n: e.try_on(first) for n, e in encoders.items()}
        self.encoders = nn.ModuleDict(dict(encoders))
        self._scaling: nn.Module | None = None

    def setup(self, stage: str) -> None:
        """Disable the scaling of the datamodule so that images keep their unit."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self._scaling, datamodule.aug = datamodule.aug, nn.Identity()

    def teardown(self, stage: str) -> None:
        """Restore the scaling of the datamodule."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        datamodule.aug = self._scaling

    def predict_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Compute the columns for a batch from the images of the first date.

        Returns:
            ``embedding``, shape (B, total number of features), and labels if the batch has
            them. For partly paired data, the result also has ``available_<name>`` for
            encoders whose images may be absent. Their features are NaN if an image is
            absent.
        """
        images = split(batch, self.channels, date=0)
        available = get_available(batch, self.channels)
        features, known = [], {}
        encoders: dict[str, Any] = dict(self.encoders.items())
        for name, encoder in encoders.items():
            taken = encoder.modalities
            masks = [available[m].bool() for m in taken if m in available]
            there = torch.stack(masks).all(0) if masks else None
            own = {m: images[m] for m in taken}
            features.append(_encode(encoder, own, there, self.num_features[name]))
            if there is not None:
                known[f'available_{name}'] = there
        return {'embedding': torch.cat(features, dim=1)} | known | labels(batch)


def _encode(
    encoder: nn.Module, images: dict[str, Tensor], there: Tensor | None, number: int
) -> Tensor:
    """Encode the samples that have all images, and set other features to NaN."""
    if there is None:
        whole: Tensor = encoder(images)
        return whole
    some = next(iter(images.values()))
    samples = PresentSamples({'all': there.cpu()}, some.device)
    if not samples.count('all'):
        return torch.full((len(some), number), torch.nan, device=some.device)
    present = {m: samples.select('all', x) for m, x in images.items()}
    return samples.spread('all', encoder(present), fill=torch.nan)


def _first(
    datamodule: MultimodalDataModule, channels: Mapping[str, int]
) -> dict[str, Tensor]:
    """Return the images of the first sample that has all modalities, as a batch."""
    dataset: Any = datamodule.predict_dataset
    for index in range(len(dataset)):
        sample = dataset[index]
        if all(bool(sample.get(f'available_{m}', True)) for m in channels):
            batch = {f'image_{m}': sample[f'image_{m}'][None] for m in channels}
            return split(batch, channels, date=0)
    raise ValueError(
        f'predict split must have a sample with all modalities {list(channels)}, got none '
        f'among {len(dataset)}; use a separate config for each encoder'
    )
