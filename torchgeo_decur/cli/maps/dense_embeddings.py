"""Write the features of each cell of a scene, and their common and unique parts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d
from torchgeo.datamodules import BaseDataModule
from torchgeo.tasks import BaseTask

from ...modalities import select_date, split
from ..embed.write_embeddings import Embedder
from .raster_parts import Bands
from .scene_writer import Output, write_scene

# Side of the image that finds the stride of an encoder; all usual strides divide it.
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
    """Write the features of each cell of a scene as a Cloud-Optimized GeoTIFF.

    A cell is a position of the last feature map, such as 32 x 32 pixels of a ResNet. Its
    bands are, for each modality,

    - ``<m>_<i>``: the features, which the head of the encoder computes of this cell alone;
    - ``common_<m>_<i>`` and ``unique_<m>_<i>``: the two parts of their projection, if the
      task is :class:`~torchgeo_decur.tasks.DeCUR`.

    Cells without any pixel of a modality are NaN, which is nodata, in its bands. The
    metadata ``TORCHGEO_DECUR`` of the file map features and parts to bands
    (``dimensions``). Windows are blended and parts are resumed as in
    :func:`~torchgeo_decur.cli.maps.predict_map`.

    Args:
        task: task with encoders of pooled features, such as ``DeCUR``.
        datamodule: datamodule whose prediction split is a scene, such as
            :class:`~torchgeo_decur.datamodules.RasterPairDataModule`.
        out: the file.
        modalities: modalities to encode; by default, all modalities of the task.
        projections: whether to write ``common_<m>`` and ``unique_<m>``.
        dtype: 'float16' for half the size, which older readers see as float32, or
            'float32'.
        window: side of a window in pixels, rounded up to whole cells; by default,
            ``patch_size`` of the data.
        overlap: smallest fraction of a window that its neighbor shares, up to 0.5.
        device: accelerator of Lightning: 'auto', 'cpu', 'gpu' or 'mps'.
        about: JSON values for the metadata of the file, which identify the run.
        progress: whether to show a progress bar.

    Returns:
        The file.

    Raises:
        ValueError: if the task has no encoders of pooled features, their cells differ,
            the data are not rasters of a scene, an option is not valid, ``out`` or its
            parts belong to another run, or features are not finite.
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
    """Features of cells, with data where a modality has a pixel."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        strides = {m: self._stride(m) for m in embedder.channels}
        if len(set(strides.values())) > 1:
            raise ValueError(
                f'encoders must have cells of one size, got {strides} pixels; write '
                'each modality to its own file with --modalities'
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
        images = split(dict(batch), self.embedder.channels)
        values, masks = [], []
        for m, x in images.items():
            valid = batch[f'valid_{m}']
            mask = max_pool2d(valid[:, None].float(), self.cell) > 0
            masks.append(mask)
            values.append(self._cells(m, select_date(x, date=0), mask))
        return torch.cat(values, dim=1), torch.cat(masks, dim=1)

    def _cells(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        """Compute the channels of a modality, zeros for windows without it."""
        number, (height, width) = len(x), mask.shape[2:]
        rows = mask.flatten(1).any(1).nonzero().flatten()
        shape = (number, self.groups[name], height, width)
        if not len(rows):
            return x.new_zeros(shape)
        h = cell_features(self.embedder.encoders[name], x[rows])
        found = (
            h
            if self.embedder.common_dim is None
            else torch.cat([h, self._project(name, h)], dim=1)
        )
        cells = found.view(len(rows), height, width, -1).permute(0, 3, 1, 2)
        return found.new_zeros(shape).index_copy(0, rows, cells)

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
        rows = maps.shape[1 if _channels_last(encoder) else 2]
        return _PROBE // int(rows)


def cell_features(encoder: nn.Module, x: Tensor) -> Tensor:
    """Compute the pooled features of each position of the last feature map alone.

    For average pooling without further layers, the mean over the positions is the
    feature of the image.

    Args:
        encoder: a timm model without classifier.
        x: images, shape (B, C, H, W).

    Returns:
        Features, row by row, shape (B * h * w, F).

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
        # The token stands for the class token as well as for the tokens to average.
        features: Tensor = model.forward_head(
            tokens[:, None].expand(-1, prefix + 1, -1)
        )
        return features
    if not _channels_last(encoder):
        maps = maps.permute(0, 2, 3, 1)
    cells = maps.flatten(0, 2)[:, None, None]
    if not _channels_last(encoder):
        cells = cells.permute(0, 3, 1, 2)
    features = model.forward_head(cells)
    return features


def _channels_last(encoder: nn.Module) -> bool:
    return str(getattr(encoder, 'output_fmt', 'NCHW')) == 'NHWC'
