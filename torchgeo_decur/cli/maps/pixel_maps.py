"""Write the per-pixel predictions of a transfer task for a scene."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchgeo.datamodules import BaseDataModule
from torchgeo.tasks import BaseTask

from ...tasks import LateFusionSegmentation
from ...tasks.transfer.maps import MapTask
from ..embed.runs import load_run
from .blending import Floats
from .raster_parts import Bands
from .scene_writer import Output, write_scene

Content = Literal['classes', 'probabilities', 'values']


def predict_map(
    task: BaseTask,
    datamodule: BaseDataModule,
    out: str | Path,
    content: Content | None = None,
    window: int | None = None,
    overlap: float = 0.25,
    device: str = 'auto',
    about: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Write the predictions for each pixel of a scene to a Cloud-Optimized GeoTIFF.

    Windows overlap. To avoid seams, they are blended with weights that decrease toward
    their border. Memory use does not depend on the scene size. Rows of windows are written
    in parts to ``<out>.parts`` so that an interrupted run can resume. The final file is
    written atomically.

    The file has the CRS and grid of the first raster. If no modality of the task has
    data at a pixel, the pixel is nodata. The nodata value is 255 for up to 255 classes,
    65535 for more classes, and NaN for probabilities and values. Classes have colors
    and the names in the task's ``labels``. QGIS and GDAL read the names from
    ``<out>.aux.xml``.

    Args:
        task: trained :class:`~torchgeo_decur.tasks.LateFusionSegmentation` or
            :class:`~torchgeo_decur.tasks.LateFusionPixelwiseRegression`.
        datamodule: datamodule whose prediction split is a scene, such as
            :class:`~torchgeo_decur.datamodules.RasterPairDataModule`.
        out: output file.
        content: 'classes' (default) or 'probabilities' for segmentation, 'values' for
            regression. For a multi-label task, 'classes' has one band of 0 and 1 per
            label.
        window: window size in pixels, by default the ``patch_size`` of the data.
        overlap: minimum overlap of adjacent windows as a fraction of the window size, up
            to 0.5.
        device: Lightning accelerator: 'auto', 'cpu', 'gpu' or 'mps'.
        about: JSON values for the file metadata, which identify the run.
        progress: whether to show a progress bar.

    Returns:
        Path of the file.

    Raises:
        ValueError: if the task does not predict maps, the data are not rasters of a scene,
            or an option is invalid. The error is also raised if ``out`` or its parts belong
            to another run, or predictions are not finite.
    """
    if not isinstance(task, MapTask):
        raise ValueError(
            'task must predict a map, such as LateFusionSegmentation or '
            f'LateFusionPixelwiseRegression, got {type(task).__name__}'
        )
    model = _PixelModel(task)
    chosen, bands, convert = _content(task, content)
    says = {**(about or {}), 'content': chosen}
    labels = task.hparams['labels']
    if labels:
        says['labels'] = list(labels)
    return write_scene(
        model,
        task,
        datamodule,
        Path(out),
        Output(bands, convert, says),
        window=window,
        overlap=overlap,
        device=device,
        progress=progress,
    )


class _PixelModel:
    """Model that predicts pixel values.

    A pixel has data if it is valid in at least one modality of the task.
    """

    cell = 1

    def __init__(self, task: MapTask) -> None:
        self.task = task
        self.groups: Mapping[str, int] = {'map': task.num_outputs}
        strides: list[int] = cast(Any, task.model.encoders).strides
        self.align = max(strides)
        missing = task.hparams['missing_modalities']
        self.modalities = [m for m in task.hparams['modalities'] if m not in missing]

    def compute(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        outputs: Tensor = self.task.predict_step(dict(batch), 0)[self.task.output_name]
        if outputs.ndim == 3:
            outputs = outputs.unsqueeze(1)
        valid = torch.stack([batch[f'valid_{m}'] for m in self.modalities], dim=1)
        return outputs, valid.any(dim=1, keepdim=True)


def _content(task: MapTask, content: Content | None) -> tuple[Content, Bands, Any]:
    """Return the content, its bands, and the function that converts channels to bands."""
    segments = isinstance(task, LateFusionSegmentation)
    known: tuple[Content, ...] = (
        ('classes', 'probabilities') if segments else ('values',)
    )
    chosen = content or known[0]
    if chosen not in known:
        raise ValueError(
            f'content must be one of {list(known)} for {type(task).__name__}, got '
            f'{content!r}'
        )
    number = task.num_outputs
    labels = [str(name) for name in task.hparams['labels'] or ()]
    if chosen != 'classes':
        unit = 'probability' if segments else 'value'
        numbered = [f'{unit}_{i}' for i in range(number)] if number > 1 else [unit]
        return chosen, Bands(labels or numbered), None
    if task.hparams['task'] == 'multiclass':
        names = labels or [f'class {i}' for i in range(number)]
        dtype = 'uint8' if number <= 255 else 'uint16'
        tags = {0: {f'class_{i}': name for i, name in enumerate(names)}}
        return chosen, Bands(['class'], dtype, names, dtype == 'uint8', tags), _argmax
    names = labels or [f'label_{i}' for i in range(number)]
    return chosen, Bands(names, 'uint8', ['absent', 'present']), _threshold


def _argmax(x: Floats) -> NDArray[Any]:
    found: NDArray[Any] = x.argmax(0, keepdims=True)
    return found


def _threshold(x: Floats) -> NDArray[Any]:
    return np.asarray(x >= 0.5)


def map_scene(
    run: Path,
    out: Path = Path('map.tif'),
    ckpt_path: Path | None = None,
    data: Path | None = None,
    content: Content | None = None,
    window: int | None = None,
    overlap: float = 0.25,
    batch_size: int | None = None,
    device: str = 'auto',
) -> Path:
    """Predict each pixel of a scene and write a Cloud-Optimized GeoTIFF.

    Run an interrupted command again to resume.

    Args:
        run: config with model and data, such as the config.yaml of a fit.
        out: output file.
        ckpt_path: model checkpoint, by default the last one next to the config.
        data: config whose ``data`` section replaces the section in ``run``, for example
            for another scene.
        content: classes (default) or probabilities for segmentation, values for
            regression.
        window: window size in pixels, by default the patch_size of the data.
        overlap: minimum overlap of adjacent windows as a fraction of the window size, up
            to 0.5.
        batch_size: windows per batch, by default the batch size of the data.
        device: auto, cpu, gpu or mps.
    """
    # Print only the file name to standard output so that scripts can read it.
    with redirect_stdout(sys.stderr):
        task, datamodule, about = load_run(run, ckpt_path, data, batch_size)
        return predict_map(
            task, datamodule, out, content, window, overlap, device, about
        )
