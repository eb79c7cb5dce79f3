"""Write one row of embeddings per sample or per window of a scene."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import geopandas as gpd
import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import Subset
from torchgeo.datamodules import BaseDataModule
from torchgeo.datasets.utils import Sample
from torchgeo.tasks import BaseTask
from tqdm import tqdm

from ...files import check_writable, short_hash
from ...modalities import get_available, split
from ...modalities.present_samples import Results, encode_present
from ...models import MultimodalEncoder
from ...resumable_parts import is_finished
from .geoparquet_parts import ROWS, GeoParquetParts, read_about
from .runs import identify
from .sample_views import SampleViews


def embed_rasters(
    task: BaseTask,
    datamodule: BaseDataModule,
    out: str | Path,
    modalities: Sequence[str] | None = None,
    projections: bool = True,
    date: str | None = None,
    device: str = 'auto',
    about: Mapping[str, Any] | None = None,
    rows: int = ROWS,
    progress: bool = True,
    views: int = 1,
) -> Path:
    """Write the embedding of each sample in the prediction split to GeoParquet 1.1.

    The file has the following columns:

    - ``geometry``: window outline as a polygon in longitude and latitude.
    - ``sample``: name or number of each sample as text, instead of ``geometry`` if the
      samples are not georeferenced. The file is then plain Parquet.
    - ``date``: acquisition start in UTC. If any date is unknown, the column is omitted,
      because TorchGeo's readers do not accept nulls.
    - ``embedding``: concatenated features of all modalities, float32.
    - ``common_<m>`` and ``unique_<m>``: common and unique dimensions of the projected
      embedding of a modality, float32, for :class:`~torchgeo_decur.tasks.DeCUR` only.
    - ``view``: number of the view, if a sample has several.
    - ``label``, or one ``label_<name>`` per target or class: labels of the samples, null
      where unknown.
    - ``available_<m>``: Boolean that is true if the sample has the modality. The column
      is written only for partly paired data. Features of an absent modality are NaN.

    The metadata entry ``torchgeo_decur`` maps features to modalities. Rows are written in
    parts to ``<out>.parts`` so that an interrupted run can resume. The final file is
    written atomically. ``torchgeo.datasets.ClayEmbeddings`` can read it.

    Args:
        task: trained task whose encoders compute pooled features, such as ``DeCUR`` or
            ``LateFusionClassification``.
        datamodule: datamodule. If its prediction split has a method ``places()``, as in
            :class:`~torchgeo_decur.datamodules.RasterPairDataModule`, the file has
            geometries.
        out: output file.
        modalities: modalities to encode, by default all modalities of the task.
        projections: whether to write ``common_<m>`` and ``unique_<m>``.
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
        ValueError: if the task has no encoders with pooled features, the data have no
            samples or CRS, or an option is invalid. The error is also raised if ``out`` or
            its parts belong to another run, or features are not finite.
    """
    embedder = Embedder(task, modalities, projections)
    datamodule.prepare_data()
    datamodule.setup('predict')
    return write_rows(
        embedder, datamodule, out, date, device, about, rows, progress, views
    )


def write_rows(
    embedder: 'RowEmbedder',
    datamodule: BaseDataModule,
    out: str | Path,
    date: str | None = None,
    device: str = 'auto',
    about: Mapping[str, Any] | None = None,
    rows: int = ROWS,
    progress: bool = True,
    views: int = 1,
) -> Path:
    """Write the output of an embedder for each sample of the prediction split.

    Args:
        embedder: module that computes the columns of a batch.
        datamodule: datamodule after ``setup('predict')``.
        out: output file.
        date: acquisition date for images that have none.
        device: Lightning accelerator.
        about: JSON values for the file metadata, which identify the run.
        rows: rows per part.
        progress: whether to show a progress bar.
        views: number of views per sample, each in its own row.

    Returns:
        Path of the file.

    Raises:
        ValueError: see :func:`embed_rasters`.
    """
    out = Path(out)
    check_writable(out.parent)
    dataset: Any = datamodule.predict_dataset
    places = _places(dataset, date)
    if views != 1:
        places = SampleViews(dataset, views).repeat(places)
    says = {
        **(about or {}),
        'dimensions': embedder.dimensions(),
        'projections': embedder.common_dim is not None,
        **identify(embedder, datamodule),
        'places': short_hash(
            [
                (places.to_wkb() if isinstance(places, gpd.GeoDataFrame) else places)
                .to_csv()
                .encode()
            ]
        ),
    }
    if is_finished(out, says, read_about):
        rank_zero_info(f'{out} is complete')
        return out
    parts = GeoParquetParts(out, places, says, rows)
    todo = parts.todo()
    if len(todo) < len(parts.spans):
        rank_zero_info(f'{len(todo)} of {len(parts.spans)} parts remain')
    if todo:
        trainer = Trainer(
            accelerator=device,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            # Lightning's progress bar writes to standard output, which is reserved for the
            # file name.
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[_Writer(parts, todo, progress, views)],
        )
        trainer.predict(embedder, datamodule=datamodule, return_predictions=False)
        datamodule.predict_dataset = dataset
    return parts.finish()


class RowEmbedder(LightningModule):
    """Base of the modules that compute one row of embeddings for each sample.

    Attributes:
        num_features: number of features of each modality, in order.
        common_dim: number of common dimensions, or None without projections.
    """

    num_features: dict[str, int]
    common_dim: int | None = None

    def dimensions(self) -> dict[str, list[int]]:
        """Return the start and end of the features of each modality in a row."""
        ends = np.cumsum(list(self.num_features.values())).tolist()
        return {
            m: [end - number, end]
            for (m, number), end in zip(self.num_features.items(), ends, strict=True)
        }

    def absent(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return masks of the values that belong to absent modalities.

        Args:
            columns: result of ``predict_step``.

        Returns:
            Boolean masks by column name, with the shapes of the columns.
        """
        missing = {
            m: ~columns[key]
            for m in self.num_features
            if (key := f'available_{m}') in columns
        }
        found = {
            f'{part}_{m}': lacks[:, None].expand_as(x)
            for m, lacks in missing.items()
            for part in ('common', 'unique')
            if (x := columns.get(f'{part}_{m}')) is not None
        }
        spread = torch.zeros_like(columns['embedding'], dtype=torch.bool)
        for m, lacks in missing.items():
            start, stop = self.dimensions()[m]
            spread[:, start:stop] = lacks[:, None]
        return found | {'embedding': spread}


class Embedder(RowEmbedder):
    """Encoders of a task, with the projectors of DeCUR if available.

    Args:
        task: the task.
        modalities: modalities to encode, by default all.
        projections: whether to compute common and unique embeddings.

    Raises:
        ValueError: if the task has no encoders with pooled features, or a modality is
            unknown.
    """

    def __init__(
        self,
        task: BaseTask,
        modalities: Sequence[str] | None = None,
        projections: bool = True,
    ) -> None:
        """Initialize a new Embedder instance."""
        super().__init__()
        holder = task if hasattr(task, 'encoders') else getattr(task, 'model', None)
        encoders = getattr(holder, 'encoders', None)
        if not isinstance(encoders, MultimodalEncoder):
            raise ValueError(
                'task must have an encoder with pooled features for each modality, such '
                f'as DeCUR or LateFusionClassification, got {type(task).__name__}'
            )
        known: dict[str, int] = dict(task.hparams['modalities'])
        chosen = list(known) if modalities is None else list(modalities)
        if not chosen or not set(chosen) <= set(known):
            raise ValueError(
                f'modalities must be among {list(known)}, got {chosen or "none"}'
            )
        self.channels = {m: known[m] for m in known if m in chosen}
        self.num_features = {m: encoders.num_features[m] for m in self.channels}
        self.encoders = nn.ModuleDict({m: encoders.encoders[m] for m in self.channels})
        if projections and hasattr(task, 'common_dim'):
            self.common_dim = int(cast(Any, task).common_dim)
            projectors = cast(nn.ModuleDict, task.projectors)
            self.projectors = nn.ModuleDict({m: projectors[m] for m in self.channels})

    def encode_and_project(
        self,
        images: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> Results:
        """Compute features, and embeddings if there are projectors.

        Args:
            images: images by modality, shape (B, C, H, W).
            available: unused, because each encoder sees one modality.
        """
        return self._project({m: self.encoders[m](x) for m, x in images.items()})

    def predict_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Compute the columns for a batch from the images of the first date.

        Returns:
            ``embedding``, shape (B, total number of features). For DeCUR, the result also
            has ``common_<m>`` and ``unique_<m>``, for partly paired data
            ``available_<m>``, and labels if the batch has them. Features of absent
            modalities are NaN.
        """
        images = split(batch, self.channels, date=0)
        available = get_available(batch, self.channels)
        features, embeddings = encode_present(
            self.encode_and_project, images, available, torch.nan, self._encode_blank
        )
        columns = {'embedding': torch.cat(list(features.values()), dim=1)}
        for m, z in embeddings.items():
            columns[f'common_{m}'] = z[:, : self.common_dim]
            columns[f'unique_{m}'] = z[:, self.common_dim :]
        known = {f'available_{m}': there.bool() for m, there in available.items()}
        return {n: x for n, x in columns.items() if x.shape[1]} | known | labels(batch)

    def _project(self, h: dict[str, Tensor]) -> Results:
        if self.common_dim is None:
            return h, {}
        return h, {m: self.projectors[m](x) for m, x in h.items()}

    def _encode_blank(self, images: dict[str, Tensor]) -> Results:
        """Return results of the right shape without running an encoder."""
        sizes = self.num_features
        return self._project(
            {m: x.new_zeros(len(x), sizes[m]) for m, x in images.items()}
        )


def labels(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the labels of a batch that have one or several numbers per sample."""
    return {
        str(k): v
        for k, v in batch.items()
        if str(k).startswith('label') and isinstance(v, Tensor) and v.ndim in (1, 2)
    }


class _Writer(Callback):
    """Callback that writes each part of the remaining rows as soon as it is complete."""

    def __init__(
        self, parts: GeoParquetParts, todo: list[int], progress: bool, views: int
    ) -> None:
        self.parts, self.todo, self.views = parts, todo, views
        self.rows: dict[str, Tensor] = {}
        spans = parts.spans
        self.bar = tqdm(
            desc='embedding',
            total=sum(map(len, spans)),
            initial=sum(len(s) for i, s in enumerate(spans) if i not in todo),
            unit=' windows',
            disable=not progress,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        datamodule = cast(Any, trainer).datamodule
        left = [i for part in self.todo for i in self.parts.spans[part]]
        dataset = datamodule.predict_dataset
        if self.views > 1:
            dataset = SampleViews(dataset, self.views)
        datamodule.predict_dataset = Subset(dataset, left)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        new = {
            k: v.float().cpu() if v.is_floating_point() else v.cpu()
            for k, v in outputs.items()
        }
        self.bar.update(len(new['embedding']))
        self.rows = {
            k: torch.cat([self.rows[k], v]) if self.rows else v for k, v in new.items()
        }
        while self.todo:
            size = len(self.parts.spans[self.todo[0]])
            if len(self.rows['embedding']) < size:
                break
            part = self.todo.pop(0)
            columns = {k: v[:size] for k, v in self.rows.items()}
            self.parts.write(
                part, columns, cast(RowEmbedder, pl_module).absent(columns)
            )
            self.rows = {k: v[size:] for k, v in self.rows.items()}

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.bar.close()


def _places(dataset: Any, date: str | None) -> pd.DataFrame:
    """Return a table with the outline or name, date and labels of each sample."""
    places: pd.DataFrame
    if hasattr(dataset, 'places'):
        places = dataset.places()
        if places.crs is None or places.empty:
            raise ValueError(
                f'data must have a CRS and at least one window, got CRS {places.crs} and '
                f'{len(places)} windows; check the rasters'
            )
    else:
        number = len(dataset)
        if not number:
            raise ValueError(
                'data must have samples in the predict split, got none; check the paths'
            )
        named = getattr(dataset, 'sample_names', None)
        places = pd.DataFrame({'sample': named() if named else range(number)})
        places = places.astype(str).assign(date=pd.NaT)
        if hasattr(dataset, 'label_columns'):
            places = places.join(dataset.label_columns())
    if date is None:
        return places.drop(columns='date') if places['date'].isna().any() else places
    try:
        given = pd.Timestamp(date)
    except ValueError as error:
        raise ValueError(
            f"date must be a date such as '2020-06-30', got {date!r}"
        ) from error
    return places.assign(date=places['date'].fillna(given))
