"""From a datamodule to a folder of shards: in parallel, and a stopped run goes on."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast, get_args

from torch import nn
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm

from ..config import build, read_config
from ..datamodules import MultimodalDataModule
from ..modalities import check, split
from ..transforms import PerModality, ScaleToUnit
from .dataset import Split, litdata
from .manifest import Manifest, Values
from .resume import Part, finish, plan
from .shards import Written, default_size, describe, is_full, to_bytes

Compression = Literal['zstd']
_STAGES: dict[Split, str] = {
    'train': 'fit',
    'val': 'fit',
    'test': 'test',
    'predict': 'predict',
}


def pack_config(
    config: str | Path,
    out: str | Path,
    data: Mapping[str, Any] | None = None,
    **kw: Any,
) -> Path:
    """Pack the datasets of the datamodule in a config of ``torchgeo``.

    Args:
        config: the file; its ``data`` counts.
        out: folder of the shards.
        data: options of the datamodule that replace those of the file.
        kw: arguments of :func:`pack_datamodule`.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the config has no valid datamodule, or as :func:`pack_datamodule`.
    """
    part = read_config(config, ['data'])['data']
    options = {**(part.get('init_args') or {}), **(data or {})}
    part = {'class_path': part.get('class_path'), 'init_args': options}
    # A copy, for the parser puts its own objects into what it is given.
    source = json.loads(json.dumps(part, default=str))
    for name in ('batch_size', 'num_workers'):
        source['init_args'].pop(name, None)
    datamodule = build({'data': part}, config)['data']
    if not isinstance(datamodule, MultimodalDataModule):
        raise ValueError(
            f'{config}: data must be a MultimodalDataModule, such as those of '
            f'torchgeo_decur.datamodules, got {type(datamodule).__name__}'
        )
    return pack_datamodule(datamodule, out, source=source, **kw)


def pack_datamodule(
    datamodule: MultimodalDataModule,
    out: str | Path,
    values: Values = 'kept',
    splits: Sequence[Split] = ('train', 'val'),
    workers: int | None = None,
    shard_size: int | None = None,
    compression: Compression | None = None,
    source: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Write the datasets of a datamodule as shards of litdata, with a manifest.

    Each shard appears whole or not at all, and the manifest last. A run that was stopped
    goes on after the last whole shard; on a folder that is finished, checksums are
    verified, and shards that are missing or damaged are written again.

    Places with several dates are packed with all of them.

    Args:
        datamodule: whose datasets to pack.
        out: folder of the shards.
        values: 'kept' for samples as they are, or 'uint8' for images scaled to [0, 1],
            times 255, rounded: a quarter of the bytes, as the method's authors trained.
        splits: which splits; those of 'train' and 'val' that the datamodule lacks are
            left out.
        workers: processes that read and write; by default one for each core, 0 for none
            but this one.
        shard_size: samples of a shard, by default as many as have about 64 MiB.
        compression: 'zstd' to compress each sample, where the package zstd is installed.
        source: what the manifest says of the datamodule.
        progress: whether to draw a progress bar.

    Returns:
        The manifest.

    Raises:
        ChildProcessError: if a worker process was killed.
        ImportError: if litdata is not installed.
        OSError: if the disk is full, or a file cannot be written.
        UnreadableFileError: if a file of the dataset cannot be read.
        ValueError: if an option is not valid, samples differ in their keys, or the
            folder holds something else.
    """
    _check(values, splits, workers, shard_size, compression)
    out = Path(out)
    count = _cores() if workers is None else workers
    datasets = _datasets(datamodule, splits, count)
    first = datasets[next(iter(datasets))]
    scale = _scale(datamodule) if values == 'uint8' else None
    batch = default_collate([first[i] for i in range(min(len(first), 4))])
    channels = {m: modality.channels for m, modality in datamodule.modalities.items()}
    check(split(batch, channels), datamodule.modalities)
    sample = first[0] if scale is None else to_bytes(first[0], scale)
    manifest = Manifest(
        values=values,
        modalities=datamodule.modalities,
        splits={},
        compression=compression,
        source=source or {'class_path': _path(datamodule)},
        versions={p: version(p) for p in ('torchgeo-decur', 'litdata')},
        keys=describe(sample),
    )
    parts = plan(out, manifest, datasets, shard_size or default_size(sample), scale)
    for part in parts:
        _write(part, count, progress)
    return finish(out, manifest, parts)


def _check(
    values: str,
    splits: Sequence[str],
    workers: int | None,
    shard_size: int | None,
    compression: str | None,
) -> None:
    litdata()
    if values not in get_args(Values):
        raise ValueError(f'values must be one of {get_args(Values)}, got {values!r}')
    if not splits or any(s not in _STAGES for s in splits):
        raise ValueError(f'splits must be some of {list(_STAGES)}, got {list(splits)}')
    if workers is not None and workers < 0:
        raise ValueError(f'workers must not be negative, got {workers}')
    if shard_size is not None and shard_size < 1:
        raise ValueError(f'shard_size must be positive, got {shard_size}')
    if compression not in (None, 'zstd'):
        raise ValueError(f"compression must be 'zstd' or None, got {compression!r}")
    # Python has it since 3.14.
    if compression and sys.version_info < (3, 14) and find_spec('zstd') is None:
        raise ValueError(
            "compression must be None where the package zstd is not installed, got 'zstd'; "
            'install it with `pip install zstd`, also where the data are read'
        )


def _datasets(
    datamodule: MultimodalDataModule, splits: Sequence[Split], workers: int
) -> dict[Split, Any]:
    # Some datasets keep files open where there are no workers to inherit them.
    datamodule.num_workers = workers
    datamodule.freeze()
    datamodule.prepare_data()
    for stage in dict.fromkeys(_STAGES[s] for s in splits):
        datamodule.setup(stage)
    found = {s: getattr(datamodule, f'{s}_dataset', None) for s in splits}
    there = {s: dataset for s, dataset in found.items() if dataset is not None}
    lost = [s for s in splits if s not in there and s != 'val']
    if lost or not there:
        raise ValueError(
            f'splits must be among those of {type(datamodule).__name__}, which lacks '
            f'{lost or list(splits)}'
        )
    if empty := [s for s, dataset in there.items() if not len(dataset)]:
        raise ValueError(f'splits must have samples, got none in {empty}')
    return there


def _scale(datamodule: MultimodalDataModule) -> nn.Module:
    """What scales the images, if all of them become numbers in [0, 1]."""
    scale: Any = datamodule.aug
    scaled = dict(scale.per_modality) if isinstance(scale, PerModality) else {}
    lost = [
        m for m in datamodule.modalities if not isinstance(scaled.get(m), ScaleToUnit)
    ]
    if lost:
        raise ValueError(
            f'values must be kept, for the images {lost} are not scaled to [0, 1] and '
            'nothing else: give them mean and std, and no bands of zeros (s2_bands: 12)'
        )
    return cast(nn.Module, scale)


def _write(part: Part, workers: int, progress: bool) -> None:
    """Write the shards of a split that are not there yet."""
    writer, done = part.writer, part.done
    todo = [i for i in range(len(writer)) if i not in done]
    total = sum(map(len, writer.spans))
    bar = tqdm(
        desc=part.name,
        total=total,
        initial=total - sum(len(writer.spans[i]) for i in todo),
        unit=' samples',
        disable=not progress,
    )
    loader: DataLoader[Written | Exception] = DataLoader(
        writer,
        sampler=todo,
        batch_size=None,
        num_workers=min(workers, len(todo)),
        collate_fn=_same,
    )
    with bar:
        try:
            for number, written in zip(todo, loader, strict=True):
                if isinstance(written, Exception):
                    raise written
                done[number] = written
                bar.update(written.shard.samples)
        # What a data loader says of a worker that is gone.
        except RuntimeError as error:
            if 'DataLoader worker' not in str(error):
                raise
            raise ChildProcessError(
                f'{writer.folder}: a worker process was killed ({error}); {_state(part)}, '
                'with fewer --workers if it was short of memory'
            ) from error
        except OSError as error:
            if not is_full(error):
                raise
            raise OSError(
                error.errno,
                f'no space left for {writer.folder}; make room; {_state(part)}',
            ) from error


def _path(datamodule: MultimodalDataModule) -> str:
    return f'{type(datamodule).__module__}.{type(datamodule).__qualname__}'


def _state(part: Part) -> str:
    return (
        f'{len(part.done)} of {len(part.writer)} shards are whole; run the same command '
        'again, which goes on there'
    )


def _cores() -> int:
    # Those that this process may use, where the system tells: Slurm gives a part of them.
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _same(value: Any) -> Any:
    return value
