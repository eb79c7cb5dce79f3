"""Run a model on the windows of a scene and write a blended raster in strips."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchgeo.datamodules import BaseDataModule
from tqdm import tqdm

from ...files import check_writable
from ...resumable_parts import is_finished
from ..embed.runs import identify
from ..embed.split_batches import Batches
from .blending import BlendingBuffer, Floats, blending_weights
from .raster_parts import CACHE, Bands, Grid, RasterParts, read_about

#: Maximum size of the blending buffer in bytes. Wide scenes are split into column blocks.
BLOCK_BYTES = 2**27


class WindowModel(Protocol):
    """Protocol for models that compute output channels for the cells of a window.

    Attributes:
        cell: cell size in pixels.
        align: alignment of window positions in pixels.
        groups: number of channels in each group. Channels of a group share a validity
            mask.
    """

    cell: int
    align: int
    groups: Mapping[str, int]

    def compute(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Compute the output channels for a batch of windows.

        Args:
            batch: scaled images of windows, with validity masks ``valid_<m>``.

        Returns:
            Channels of all groups, shape (B, C, h, w), and a Boolean mask of the cells
            with data, shape (B, G, h, w).
        """


@dataclass(frozen=True)
class Output:
    """Content of the raster to write.

    Args:
        bands: bands of the raster.
        convert: function that converts blended channels, shape (C, H, W), to bands,
            shape (B, H, W), before nodata is set. If None, the channels are written.
        about: settings of the raster, as JSON values.
    """

    bands: Bands
    convert: Callable[[Floats], NDArray[Any]] | None
    about: Mapping[str, Any]


def write_scene(
    model: WindowModel,
    module: nn.Module,
    datamodule: BaseDataModule,
    out: Path,
    output: Output,
    window: int | None = None,
    overlap: float = 0.25,
    device: str = 'auto',
    progress: bool = True,
) -> Path:
    """Write the blended channels of all windows of a scene to one GeoTIFF.

    Memory use depends on the window size, ``BLOCK_BYTES`` and ``CACHE``, but not on the
    scene size. Rows of windows are written in parts to ``<out>.parts`` so that an
    interrupted run can resume.

    Args:
        model: model that computes the channels of a window.
        module: module with the parameters of the model.
        datamodule: datamodule of rasters.
        out: output file.
        output: content of the file.
        window: window size in pixels, by default the ``patch_size`` of the data.
        overlap: minimum overlap of adjacent windows as a fraction of the window size.
        device: Lightning accelerator: 'auto', 'cpu', 'gpu' or 'mps'.
        progress: whether to show a progress bar.

    Returns:
        Path of the file.

    Raises:
        ValueError: if the data are not rasters of a scene, an option is invalid, ``out``
            or its parts belong to another run, or results are not finite.
    """
    check_writable(out.parent)
    batches = Batches(datamodule, 'predict', device)
    dataset: Any = datamodule.predict_dataset
    if not hasattr(dataset, 'scene'):
        raise ValueError(
            'data must be rasters of a scene, as in RasterPairDataModule, got '
            f'{type(datamodule).__name__}'
        )
    scene = dataset.scene(window, overlap, model.cell, model.align)
    about = {
        **output.about,
        **identify(module, datamodule),
        'bands': {'number': len(output.bands.names), 'dtype': output.bands.dtype},
        'grid': [*scene.transform()[:6], scene.height, scene.width, model.cell],
        'windows': [*scene.size, len(scene), *scene.rows[:2], *scene.columns[:2]],
    }
    about['windows'] = [int(n) for n in about['windows']]
    if is_finished(out, about, read_about):
        rank_zero_info(f'{out} is complete')
        return out
    cell = model.cell
    transform = scene.transform(cell=cell)
    size = scene.height // cell, scene.width // cell
    parts = RasterParts(out, Grid(*size, transform, scene.crs), output.bands, about)
    run = _Run(model, output, scene, parts)
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        if run.steps:
            module.to(batches.device).eval()
            number, workers = datamodule.batch_size or 1, datamodule.num_workers
            run.run(batches, number, workers, progress)
        return parts.finish()


@dataclass(frozen=True)
class _Step:
    """Row of windows in a column block, after which one strip is complete."""

    block: range
    row: int
    rows: int
    windows: list[int]
    wanted: bool


class _Run:
    def __init__(
        self, model: WindowModel, output: Output, scene: Any, parts: RasterParts
    ) -> None:
        self.model, self.output, self.parts = model, output, parts
        self.scene, cell = scene, model.cell
        self.size = scene.size[0] // cell, scene.size[1] // cell
        self.weights = blending_weights(*self.size)
        self.rows = (scene.rows // cell).tolist()
        self.steps = [s for block in self._blocks() for s in self._plan(block)]

    def _blocks(self) -> Iterator[range]:
        """Yield column blocks whose blending buffer fits into ``BLOCK_BYTES``."""
        channels = sum(self.model.groups.values()) + len(self.model.groups)
        widest = BLOCK_BYTES // (4 * channels * self.size[0])
        columns = [*(self.scene.columns // self.model.cell).tolist()]
        start = 0
        for column, after in zip(
            columns, [*columns[1:], self.parts.grid.width], strict=True
        ):
            if after - start > widest and column > start:
                yield range(start, column)
                start = column
        yield range(start, self.parts.grid.width)

    def _plan(self, block: range) -> Iterator[_Step]:
        """Yield the rows of windows in a block that unfinished strips require."""
        cell, (height, width) = self.model.cell, self.size
        ends = [*self.rows[1:], self.parts.grid.height]
        wanted = [not self.parts.path(row, block.start).exists() for row in self.rows]
        found: dict[int, list[int]] = {row: [] for row in self.rows}
        for i, (row, column, _) in enumerate(self.scene.places):
            if block.start - width < column // cell < block.stop:
                found[row // cell].append(i)
        for i, row in enumerate(self.rows):
            reaches = range(i, len(self.rows))
            if any(wanted[j] and self.rows[j] < row + height for j in reaches):
                yield _Step(block, row, ends[i] - row, found[row], wanted[i])

    def run(
        self, batches: Batches, batch_size: int, workers: int, progress: bool
    ) -> None:
        """Compute all steps and write their parts."""
        lists = [
            step.windows[i : i + batch_size]
            for step in self.steps
            for i in range(0, len(step.windows), batch_size)
        ]
        loader: DataLoader[Any] = DataLoader(
            self.scene,
            batch_sampler=lists,
            num_workers=workers,
            pin_memory=batches.device.type == 'cuda',
        )
        loaded = batches.over(loader)
        bar = tqdm(total=sum(map(len, lists)), unit=' windows', disable=not progress)
        buffer, block = None, range(0)
        with bar, torch.inference_mode():
            for step in self.steps:
                if buffer is None or step.block != block:
                    # Free the buffer of the previous block before allocating the next.
                    buffer, block = None, step.block
                    groups = list(self.model.groups.values())
                    buffer = BlendingBuffer(groups, self.size[0], len(block))
                buffer.move(step.row)
                left = len(step.windows)
                while left > 0:
                    number = self._add(next(loaded), buffer, block)
                    left -= number
                    bar.update(number)
                if step.wanted:
                    self._write(step, buffer)

    def _add(
        self, batch: Mapping[str, Any], buffer: BlendingBuffer, block: range
    ) -> int:
        channels, valid = self.model.compute(batch)
        values, masks = channels.float().cpu().numpy(), valid.cpu().numpy()
        columns = (batch['place'][:, 1] // self.model.cell).tolist()
        for x, mask, column in zip(values, masks, columns, strict=True):
            buffer.add(x, mask * self.weights, column - block.start)
        return len(values)

    def _write(self, step: _Step, buffer: BlendingBuffer) -> None:
        bands, means = self.output.bands, buffer.means(step.rows)
        groups = list(self.model.groups.values())
        empty = np.repeat(buffer.weights[:, : step.rows] == 0, groups, axis=0)
        bands.check(means, empty)
        values = means
        if self.output.convert is not None:
            lacks = empty[:1]
            values = self.output.convert(np.where(lacks, 0, means))
            values = np.where(lacks, bands.nodata, values)
        self.parts.write(step.row, step.block.start, values.astype(bands.stored))


__all__ = ['Output', 'WindowModel', 'write_scene']
