"""Embed the samples of any datamodule with frozen models from elsewhere."""

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
    """Write embeddings of frozen models for each sample of the prediction split.

    The file is as of :func:`~torchgeo_decur.cli.embed.embed_rasters`, with the encoders as
    modalities. Its metadata also have bands, scale and size of each input. Images reach
    the models in the unit of the data, after the checks of the datamodule, and each model
    scales its own input. :class:`~torchgeo_decur.datamodules.PairedEmbeddingsDataModule`
    reads the file.

    Args:
        encoders: encoder by name, or its arguments.
        datamodule: data with records of their modalities.
        out: the file.
        date: date of images without a date, such as '2020-06-30'.
        device: accelerator of Lightning: 'auto', 'cpu', 'gpu' or 'mps'.
        about: JSON values for the metadata of the file, which identify the run.
        rows: windows of a part.
        progress: whether to show a progress bar.
        views: number of rows for each sample: its dates, and then flipped images.

    Returns:
        Path of the file.

    Raises:
        FileNotFoundError: if a model does not exist.
        ValueError: if an encoder does not fit the data, the data have no records or are
            scaled to bytes, or under the conditions of ``embed_rasters``.
    """
    if not encoders:
        raise ValueError('encoders must have at least one encoder, got none')
    check_names(encoders)
    built = {name: FrozenEncoder.of(name, value) for name, value in encoders.items()}
    if not isinstance(datamodule, MultimodalDataModule):
        raise ValueError(
            'datamodule must be one of torchgeo_decur.datamodules, whose modalities have '
            f'records, got {type(datamodule).__name__}; use TorchGeoDataModule for a '
            'dataset of TorchGeo'
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
    """Frozen encoders of the images of a datamodule.

    Args:
        encoders: the encoders by name.
        datamodule: the data, after ``setup('predict')``.

    Raises:
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
        """Let the datamodule pass images in their unit."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self._scaling, datamodule.aug = datamodule.aug, nn.Identity()

    def teardown(self, stage: str) -> None:
        """Restore the scaling of the datamodule."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        datamodule.aug = self._scaling

    def predict_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Compute the columns of a batch, from the first date.

        Returns:
            ``embedding``, shape (B, sum of features); ``available_<name>`` of encoders
            whose images some samples lack; and labels.
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
    """Encode the samples that have all images; features of the others are NaN."""
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
        f'predict split must have a sample with all of {list(channels)}, got none of '
        f'{len(dataset)}'
    )
