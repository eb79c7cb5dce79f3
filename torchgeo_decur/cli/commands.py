"""Commands of `torchgeo-decur` that import torch."""

import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from torchgeo.datamodules import BaseDataModule

from ..analysis.classifiers import Classifier
from ..analysis.embeddings import collect
from ..analysis.modality_value import modality_values
from ..analysis.shared_directions import compare_features
from ..analysis.split_probes import probe_splits
from ..callbacks.export import export_checkpoint
from ..datasets.embeddings.files import Floats, read_features
from ..files import atomic_write, check_writable
from ..models import MultimodalEncoder, save_encoder, save_onnx
from ..models.encoder import check_model
from ..packed import pack_config
from ..packed.dataset import Split
from ..packed.manifest import Values
from ..tasks import MultimodalPretraining
from ..weights.load import read_weights
from ..weights.state_dict_layouts import fold_repeated
from .cost_estimate import estimate_cost
from .embed import Batches, embed_rasters, embed_with, load_encoders, load_run
from .maps import embed_dense
from .report.store import save_result

_SUFFIXES = {'torchgeo': 'pt', 'timm': 'pth', 'safetensors': 'safetensors'}
_OUTSIDE = re.compile(r'^(fc|head|classifier|head\.fc)\.(weight|bias)$|^projector')


def convert(
    file: str,
    to: Literal['torchgeo', 'timm', 'safetensors', 'onnx'] = 'torchgeo',
    modality: str | None = None,
    out: Path = Path('.'),
    model: str | None = None,
) -> None:
    """Convert the encoders in a file to another format.

    Args:
        file: published file, task checkpoint, encoder file, or name of published weights.
        to: output format: 'torchgeo' (weights for TorchGeo tasks), 'timm' (state
            dictionary), 'safetensors' (state dictionary with metadata) or 'onnx' (graph for
            images of 224 x 224 pixels, checked with onnxruntime).
        modality: modality to convert, by default all.
        out: output folder. Files are named after the input file and the modality.
        model: timm model name, required if the file does not store one.
    """
    checkpoint = read_weights(file)
    held = [known.modality for known in checkpoint.metadata.values()]
    if modality and modality not in held:
        raise ValueError(f'modality must be one of {held}, got {modality!r}')
    for m, tensors in checkpoint.states.items():
        known = checkpoint.metadata[m]
        if modality and known.modality != modality:
            continue
        name = model or known.model
        if to in ('torchgeo', 'onnx') and not name:
            raise ValueError(
                f'{file}: expected a file that stores its model name, found none; set the '
                'timm model name with --model'
            )
        state = fold_repeated(tensors, len(known.bands))
        state = {k: v for k, v in state.items() if not _OUTSIDE.match(k)}
        if model:
            check_model(checkpoint, m, state, model)
        metadata = known.to_dict()
        path = out / f'{_stem(file)}_{known.modality}'
        if to == 'onnx':
            print(save_onnx(state, path, name, metadata, 224))
            continue
        for written in save_encoder(state, path, name, metadata, [_SUFFIXES[to]]):
            print(written)


def export(
    checkpoint: Path,
    out: Path | None = None,
    onnx: bool = False,
    program: bool = False,
    whole: bool = False,
    size: int | None = None,
    hub: Path | None = None,
) -> None:
    """Export the encoders of a checkpoint, or the whole model as one file.

    Args:
        checkpoint: checkpoint of a task with one encoder per modality.
        out: output folder, by default ``encoders`` next to the checkpoint.
        onnx: whether to export a transfer model, or each pretrained encoder, to ONNX.
        program: whether to export these models as torch.export programs (.pt2).
        whole: whether to write all pretrained encoders to one ONNX file or program.
        size: height and width of the images for ONNX files and programs; by default any
            size for whole models, and the size of the task for single encoders.
        hub: folder for a copy in Hugging Face Hub format, with all encoders and a model
            card.
    """
    folder = out or checkpoint.parent / 'encoders'
    for written in export_checkpoint(checkpoint, folder, onnx, program, whole, size):
        print(written)
    if hub:
        MultimodalEncoder.from_weights(checkpoint).save_pretrained(hub)
        print(hub)


def embed(
    run: Path,
    out: Path | None = None,
    ckpt_path: Path | None = None,
    data: Path | None = None,
    modalities: list[str] | None = None,
    projections: bool = True,
    date: str | None = None,
    dense: bool = False,
    dtype: Literal['float16', 'float32'] = 'float16',
    window: int | None = None,
    overlap: float = 0.25,
    batch_size: int | None = None,
    device: str = 'auto',
    views: int = 1,
) -> Path:
    """Write embeddings of samples, windows or cells to (Geo)Parquet or GeoTIFF.

    Run an interrupted command again to resume.

    Args:
        run: config with model and data, such as the config.yaml of a fit, or with
            encoders and data for frozen models.
        out: output file, by default embeddings.parquet, or embeddings.tif with
            ``--dense``.
        ckpt_path: model checkpoint, by default the last one next to the config.
        data: config whose ``data`` section replaces the section in ``run``, for example
            for another scene.
        modalities: modalities to encode, by default all.
        projections: whether to write the common and unique dimensions of the embeddings.
        date: acquisition date for images that have none, such as '2020-06-30'.
        dense: whether to write a GeoTIFF with one embedding per feature map cell.
        dtype: data type of the GeoTIFF, with ``--dense``.
        window: window size in pixels with ``--dense``, by default the patch_size of the
            data.
        overlap: minimum overlap of adjacent windows with ``--dense``, as a fraction of
            the window size, up to 0.5.
        batch_size: samples or windows per batch, by default the batch size of the data.
        device: auto, cpu, gpu or mps.
        views: views per sample, each in its own row: first its dates, then flipped images.
    """
    out = out or Path('embeddings.tif' if dense else 'embeddings.parquet')
    if dense and date is not None:
        raise ValueError(
            f'date must not be set with --dense, got {date!r}; omit --date'
        )
    # Print only the file name to standard output so that scripts can read it.
    with redirect_stdout(sys.stderr):
        frozen = load_encoders(run, data, batch_size)
        if frozen is not None:
            if dense or ckpt_path or modalities:
                raise ValueError(
                    'dense, ckpt_path and modalities must not be set for a config with '
                    'encoders; choose the encoders in the config'
                )
            encoders, datamodule, about = frozen
            embed_with(encoders, datamodule, out, date, device, about, views=views)
            return out
        task, datamodule, about = load_run(run, ckpt_path, data, batch_size)
        if dense:
            embed_dense(
                *(task, datamodule, out, modalities, projections, dtype),
                *(window, overlap, device, about),
            )
        else:
            embed_rasters(
                *(task, datamodule, out, modalities, projections, date, device, about),
                views=views,
            )
    return out


def probe(
    run: Path,
    out: Path = Path('probes.csv'),
    ckpt_path: Path | None = None,
    data: Path | None = None,
    fit: Split = 'train',
    score: Split = 'test',
    fractions: list[float] = [1.0],  # noqa: B006
    labels: list[str] | None = None,
    classifiers: list[Classifier] = ['linear'],  # noqa: B006
    max_samples: int = 16384,
    device: str = 'auto',
) -> None:
    """Fit probes on the features and embeddings of a pretrained model.

    Args:
        run: config with model and data, such as the config.yaml of a fit.
        out: output CSV file.
        ckpt_path: model checkpoint, by default the last one next to the config.
        data: config whose ``data`` section replaces the section in ``run``.
        fit: split on which the probes are fitted.
        score: split on which the probes are scored.
        fractions: fractions of the fit split to use; one probe is fitted for each.
        labels: label keys, by default all.
        classifiers: knn, linear or both.
        max_samples: maximum number of random samples per split.
        device: auto, cpu, gpu or mps.
    """
    check_writable(out.parent)
    task, datamodule = _load_pretraining(run, ckpt_path, data)
    found = []
    for name in (fit, score):
        batches = Batches(datamodule, name, device)
        found.append(collect(task.to(batches.device), batches, max_samples))
    fitted, scored = found
    rows = probe_splits(fitted, scored, fractions, classifiers, labels)
    table = pd.DataFrame(rows)
    atomic_write(out, lambda partial: table.to_csv(partial, index=False))
    for row in rows:
        where = f'{row["label"]:<18}{row["name"]:<14}{row["part"]:<10}'
        print(
            f'{where}{row["fraction"]:>7.0%} {row["classifier"]:<7}{row["score"]:6.1f} '
            f'[{row["low"]:.1f}, {row["high"]:.1f}]  chance {row["chance"]:.1f}'
        )
    print(out)


def value(
    run: Path,
    out: Path = Path('value'),
    ckpt_path: Path | None = None,
    data: Path | None = None,
    split: Split = 'val',
    labels: list[str] | None = None,
    max_samples: int = 16384,
    device: str = 'auto',
) -> Path:
    """Measure how much each modality improves the prediction of labels.

    Args:
        run: config with model and data, such as the config.yaml of a fit.
        out: output folder for the tables and the figure.
        ckpt_path: model checkpoint, by default the last one next to the config.
        data: config whose ``data`` section replaces the section in ``run``.
        split: split to use; probes are fitted on one half and scored on the other.
        labels: label keys, by default all.
        max_samples: maximum number of random samples from the split.
        device: auto, cpu, gpu or mps.
    """
    check_writable(out)
    task, datamodule = _load_pretraining(run, ckpt_path, data)
    batches = Batches(datamodule, split, device)
    found = collect(task.to(batches.device), batches, max_samples)
    result = modality_values(found, labels)
    save_result(out, result, '')
    print(result.text)
    return out


def shared(
    source: Path,
    other: Path | None = None,
    out: Path = Path('shared'),
    column: str = 'embedding',
    smallest: float = 0.2,
    ckpt_path: Path | None = None,
    split: Split = 'val',
    max_samples: int = 16384,
    device: str = 'auto',
) -> Path:
    """Count the feature directions that two encoders share.

    Args:
        source: config with model and data, such as the config.yaml of a fit, or a feature
            file: Parquet, for example from ``torchgeo-decur embed``, or NumPy (.npy, .npz).
        other: second feature file, with the same samples in the same order.
        out: output folder for the tables and the figure.
        column: name of the feature column, or a pattern of columns of numbers.
        smallest: minimum canonical correlation of a shared direction.
        ckpt_path: model checkpoint, by default the last one next to the config.
        split: split to use, if the source is a config.
        max_samples: maximum number of random samples from the split.
        device: auto, cpu, gpu or mps.
    """
    check_writable(out)
    if source.suffix in ('.yaml', '.yml'):
        if other:
            raise ValueError(
                f'other must not be set if the source is a config, got {other}; to compare '
                'two models, write their features with torchgeo-decur embed'
            )
        task, datamodule = _load_pretraining(source, ckpt_path)
        batches = Batches(datamodule, split, device)
        found = collect(task.to(batches.device), batches, max_samples)
        features = {m: h.numpy() for m, h in found.h.items()}
    else:
        features = read_features(source, column)
        if other:
            second = read_features(other, column)
            clash = features.keys() & second.keys()
            names = (source.stem, other.stem)
            first, last = names if len(set(names)) == 2 else ('first', 'second')
            features = _label(features, first, clash) | _label(second, last, clash)
    # A sample without a modality has NaN in all of its features.
    available = {m: ~np.isnan(x).all(1) for m, x in features.items()}
    result = compare_features(features, smallest, available=available)
    save_result(out, result, '')
    print(result.text)
    return out


def _load_pretraining(
    run: Path, ckpt_path: Path | None, data: Path | None = None
) -> tuple[MultimodalPretraining, BaseDataModule]:
    task, datamodule, _ = load_run(run, ckpt_path, data)
    if not isinstance(task, MultimodalPretraining):
        raise ValueError(
            f'{run}: expected a self-supervised task such as DeCUR, found '
            f'{type(task).__name__}; choose another config'
        )
    return task, datamodule


def _label(
    features: dict[str, Floats], file: str, clash: set[str]
) -> dict[str, Floats]:
    """Append the file name to feature names that occur in both files."""
    return {f'{m} ({file})' if m in clash else m: x for m, x in features.items()}


def pack(
    run: Path,
    out: Path = Path('packed'),
    values: Values | Literal['kept'] = 'raw',
    splits: list[Split] | None = None,
    workers: int | None = None,
    shard_size: int | None = None,
    compression: Literal['zstd'] | None = None,
    data: dict[str, Any] | None = None,
) -> None:
    """Pack the datasets of a config into shards for streaming.

    Run an interrupted command again to resume. If the folder is complete, the command
    verifies checksums and rewrites missing or damaged shards.

    Args:
        run: config with data, such as the config.yaml of a fit.
        out: output folder for the shards.
        values: raw for unchanged samples, or uint8 for images scaled to bytes. kept is
            the old name of raw.
        splits: any of train, val, test and predict, by default train and val.
        workers: number of processes, by default one per core.
        shard_size: samples per shard. By default, a shard has about 64 MiB.
        compression: zstd to compress each sample, which requires the package zstd.
        data: datamodule options that override the config, such as
            ``--data.root FOLDER``.
    """
    print(
        pack_config(
            run,
            out,
            data,
            values=values,
            splits=splits or ('train', 'val'),
            workers=workers,
            shard_size=shard_size,
            compression=compression,
        )
    )


def plan(
    config: Path,
    overlays: list[Path] | None = None,
    samples: int | None = None,
    rate: float | None = None,
    data: dict[str, Any] | None = None,
) -> None:
    """Estimate the steps, communication, device memory and hours of a fit.

    Args:
        config: ``torchgeo`` config with a self-supervised task.
        overlays: configs that override parts of it, such as
            ``experiments/scale/gpu4.yaml``.
        samples: samples per epoch, by default the size of the training split on disk.
        rate: throughput of one device in samples per second, to estimate the hours.
        data: datamodule options that override the configs, such as
            ``--data.root FOLDER``.
    """
    for name, value in estimate_cost(
        [config, *(overlays or [])], samples, rate, data
    ).items():
        print(f'{name}: {value}')


def _stem(file: str) -> str:
    path = Path(file)
    return path.stem if path.exists() else file.replace('.', '_')
