"""Write dense feature and embedding maps of a scene."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d
from torchgeo.datamodules import BaseDataModule
from torchgeo.tasks import BaseTask

from ...modalities import split
from ...modalities.present_samples import PresentSamples
from ...models.encoder import is_channels_last, to_tokens
from ..embed.write_embeddings import Embedder
from .raster_parts import Bands
from .scene_writer import Output, write_scene

# Size of the image that measures an encoder's stride. It is a multiple of common strides.
_PROBE = 256


def embed_dense(
    task: BaseTask,
    datamodule: BaseDataModule,
    out: str | Path,
    modalities: Sequence[str] | None = None,
    projections: bool = True,
    dtype: Literal['float16', 'float32'] = 'float16',
    window: int | None = None,
    overlap: float = 0.25,
    device: str = 'auto',
    about: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Write the features of each cell of a scene to a Cloud-Optimized GeoTIFF.

    A cell is a position of the last feature map, such as 32 x 32 pixels for a ResNet.
    Each modality has the following bands:

    - ``<m>_<i>``: features that the encoder head computes from this cell only.
    - ``common_<m>_<i>`` and ``unique_<m>_<i>``: common and unique dimensions of the
      projected features, for :class:`~torchgeo_decur.tasks.DeCUR` only.

    If a modality has no data in a cell, its bands are nodata (NaN) in this cell. In the
    metadata entry ``TORCHGEO_DECUR``, ``dimensions`` maps features and embeddings to
    bands. Windows are blended, and interrupted runs resume, as in
    :func:`~torchgeo_decur.cli.maps.predict_map`.

    Args:
        task: task whose encoders compute pooled features, such as ``DeCUR``.
        datamodule: datamodule whose prediction split is a scene, such as
            :class:`~torchgeo_decur.datamodules.RasterPairDataModule`.
        out: output file.
        modalities: modalities to encode, by default all modalities of the task.
        projections: whether to write ``common_<m>`` and ``unique_<m>``.
        dtype: 'float32', or 'float16' for half the file size. Readers without float16
            support read float32 values.
        window: window size in pixels, rounded up to whole cells, by default the
            ``patch_size`` of the data.
        overlap: minimum overlap of adjacent windows as a fraction of the window size, up
            to 0.5.
        device: Lightning accelerator: 'auto', 'cpu', 'gpu' or 'mps'.
        about: JSON values for the file metadata, which identify the run.
        progress: whether to show a progress bar.

    Returns:
        Path of the file.

    Raises:
        ValueError: if the task has no encoders with pooled features, the encoders differ
            in cell size, or the data are not rasters of a scene. The error is also raised
            if an option is invalid, ``out`` or its parts belong to another run, or features
            are not finite.
    """
    if dtype not in ('float16', 'float32'):
        raise ValueError(f"dtype must be 'float16' or 'float32', got {dtype!r}")
    embedder = Embedder(task, modalities, projections)
    model = _CellModel(embedder.eval())
    dimensions: dict[str, list[int]] = {}
    names: list[str] = []
    start = 0
    for parts in model.parts.values():
        for name, number in parts.items():
            dimensions[name] = [start, start + number]
            names += [f'{name}_{i}' for i in range(number)]
            start += number
    says = {**(about or {}), 'dimensions': dimensions}
    return write_scene(
        model,
        embedder,
        datamodule,
        Path(out),
        Output(Bands(names, dtype), None, says),
        window=window,
        overlap=overlap,
        device=device,
        progress=progress,
    )


class _CellModel:
    """Model that computes cell features.

    A cell has data if at least one of its pixels is valid in the modality.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        strides = {m: self._stride(m) for m in embedder.channels}
        if len(set(strides.values())) > 1:
            raise ValueError(
                f'encoders must have the same cell size, got {strides} pixels; write each '
                'modality to its own file with --modalities'
            )
        self.cell = self.align = next(iter(strides.values()))
        self.parts: dict[str, dict[str, int]] = {}
        for m, number in embedder.num_features.items():
            self.parts[m] = {m: number}
            if embedder.common_dim is not None:
                total = self._project(m, torch.zeros(1, number)).shape[1]
                common = embedder.common_dim
                sizes = {f'common_{m}': common, f'unique_{m}': total - common}
                self.parts[m] |= {k: n for k, n in sizes.items() if n}
        self.groups: Mapping[str, int] = {
            m: sum(parts.values()) for m, parts in self.parts.items()
        }

    def compute(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        images = split(batch, self.embedder.channels, date=0)
        values, masks = [], []
        for m, x in images.items():
            valid = batch[f'valid_{m}']
            mask = max_pool2d(valid[:, None].float(), self.cell) > 0
            masks.append(mask)
            values.append(self._cells(m, x, mask))
        return torch.cat(values, dim=1), torch.cat(masks, dim=1)

    def _cells(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        """Compute the output channels of a modality, with zeros for windows without data."""
        height, width = mask.shape[2:]
        samples = PresentSamples({name: mask.flatten(1).any(1).cpu()}, x.device)
        if not samples.count(name):
            return x.new_zeros(len(x), self.groups[name], height, width)
        h = cell_features(self.embedder.encoders[name], samples.select(name, x))
        found = (
            h
            if self.embedder.common_dim is None
            else torch.cat([h, self._project(name, h)], dim=1)
        )
        cells = found.view(-1, height, width, self.groups[name]).permute(0, 3, 1, 2)
        return samples.spread(name, cells)

    @torch.no_grad()
    def _project(self, name: str, h: Tensor) -> Tensor:
        z: Tensor = self.embedder.projectors[name](h)
        return z

    @torch.no_grad()
    def _stride(self, name: str) -> int:
        encoder: Any = self.embedder.encoders[name]
        image = torch.zeros(1, self.embedder.channels[name], _PROBE, _PROBE)
        maps = encoder.forward_features(image)
        if maps.ndim == 3:
            return int(encoder.patch_embed.patch_size[0])
        rows = maps.shape[1 if is_channels_last(encoder) else 2]
        return _PROBE // int(rows)


def cell_features(encoder: nn.Module, x: Tensor) -> Tensor:
    """Compute pooled features separately for each position of the last feature map.

    If the head only averages, the mean over the positions is the feature vector of the
    image.

    Args:
        encoder: timm model without a classifier.
        x: images, shape (B, C, H, W).

    Returns:
        Features in row-major order, shape (B * h * w, F).

    Example:
        >>> import timm
        >>> encoder = timm.create_model('resnet18', num_classes=0).eval()
        >>> cell_features(encoder, torch.rand(2, 3, 64, 96)).shape
        torch.Size([12, 512])
    """
    model = cast(Any, encoder)
    maps: Tensor = model.forward_features(x)
    if maps.ndim == 3:
        prefix = int(getattr(model, 'num_prefix_tokens', 0))
        tokens = maps[:, prefix:].flatten(0, 1)
        # Use the token both as the class token and as the only token to average.
        features: Tensor = model.forward_head(
            tokens[:, None].expand(-1, prefix + 1, -1)
        )
        return features
    cells = to_tokens(encoder, maps).flatten(0, 1)
    last = is_channels_last(encoder)
    cells = cells[:, None, None] if last else cells[:, :, None, None]
    features = model.forward_head(cells)
    return features
