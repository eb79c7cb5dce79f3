"""Pack the datasets of a datamodule into shards with parallel, resumable workers."""

import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast, get_args

from torch import nn
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm

from ..config import build, override_options, read_config
from ..datamodules import MultimodalDataModule
from ..datamodules.base import Split
from ..modalities import check, drop_absent, get_available, split
from ..transforms import PerModality, ScaleToUnit
from .dataset import litdata
from .manifest import Manifest, Values
from .resume import SplitProgress, find_progress, finish
from .shards import Written, default_size, is_full, to_bytes, value_types

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
    """Pack the datasets of the datamodule in a ``torchgeo`` config.

    Args:
        config: path of the config; only its ``data`` section is used.
        out: folder for the packed data.
        data: datamodule options that override the config.
        kw: arguments of :func:`pack_datamodule`.

    Returns:
        Path of the manifest.

    Raises:
        FileNotFoundError: if the config does not exist.
        ValueError: if the config has no valid datamodule; see also
            :func:`pack_datamodule`.
    """
    part = override_options(read_config(config, ['data'])['data'], data)
    # Copy, because the parser changes its argument.
    source = json.loads(json.dumps(part, default=str))
    for name in ('batch_size', 'num_workers'):
        source['init_args'].pop(name, None)
    datamodule = build({'data': part}, config)['data']
    if not isinstance(datamodule, MultimodalDataModule):
        raise ValueError(
            f'{config}: expected a MultimodalDataModule from torchgeo_decur.datamodules '
            f'in data, found {type(datamodule).__name__}; choose another class_path'
        )
    return pack_datamodule(datamodule, out, source=source, **kw)


def pack_datamodule(
    datamodule: MultimodalDataModule,
    out: str | Path,
    values: Values | Literal['kept'] = 'raw',
    splits: Sequence[Split] = ('train', 'val'),
    workers: int | None = None,
    shard_size: int | None = None,
    compression: Compression | None = None,
    source: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Write the datasets of a datamodule as litdata shards with a manifest.

    Each shard is written atomically, and the manifest is written last. The same call
    resumes a stopped run after its last complete shard. In a complete folder, it verifies
    checksums and writes missing or damaged shards again.

    Locations with several dates are packed with all dates.

    Args:
        datamodule: datamodule to pack.
        out: folder for the packed data.
        values: 'raw' for unchanged samples, or 'uint8' for images scaled to [0, 1],
            multiplied by 255 and rounded. Bytes take a quarter of the space of float32.
            DeCUR was trained on byte images.
        splits: splits to pack. A missing 'val' split is skipped.
        workers: number of processes that read and write. The default is one per core. If
            0, the calling process reads and writes.
        shard_size: number of samples per shard. By default, a shard has about 64 MiB.
        compression: 'zstd' to compress each sample, which requires the package zstd.
        source: class and options of the datamodule, which the manifest records.
        progress: whether to show a progress bar.

    Returns:
        Path of the manifest.

    Raises:
        ChildProcessError: if a worker process was killed.
        ImportError: if litdata is not installed.
        OSError: if the disk is full or a file cannot be written.
        UnreadableFileError: if a file of the dataset cannot be read.
        ValueError: if an option is invalid, samples have different keys, or the folder
            contains other files.
    """
    if values == 'kept':
        warnings.warn(
            "the value 'kept' of the option values is deprecated and will be removed in the "
            "next release; use 'raw'",
            FutureWarning,
            stacklevel=2,
        )
        values = 'raw'
    _check(values, splits, workers, shard_size, compression)
    out = Path(out)
    count = _cores() if workers is None else workers
    datasets = _datasets(datamodule, splits, count)
    first = datasets[next(iter(datasets))]
    scale = _scale(datamodule) if values == 'uint8' else None
    batch = default_collate([first[i] for i in range(min(len(first), 4))])
    channels = {m: modality.channels for m, modality in datamodule.modalities.items()}
    images = drop_absent(split(batch, channels), get_available(batch, channels))
    check(images, datamodule.modalities)
    sample = first[0] if scale is None else to_bytes(first[0], scale)
    manifest = Manifest(
        values=values,
        modalities=datamodule.modalities,
        splits={},
        compression=compression,
        source=source or {'class_path': _path(datamodule)},
        versions={p: version(p) for p in ('torchgeo-decur', 'litdata')},
        keys=value_types(sample),
    )
    size = shard_size or default_size(sample)
    packed = find_progress(out, manifest, datasets, size, scale)
    for progress_of_split in packed:
        _write(progress_of_split, count, progress)
    return finish(out, manifest, packed)


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
        raise ValueError(
            f'splits must be one or more of {list(_STAGES)}, got {list(splits)}'
        )
    if workers is not None and workers < 0:
        raise ValueError(f'workers must not be negative, got {workers}')
    if shard_size is not None and shard_size < 1:
        raise ValueError(f'shard_size must be positive, got {shard_size}')
    if compression not in (None, 'zstd'):
        raise ValueError(f"compression must be 'zstd' or None, got {compression!r}")
    # Python 3.14 and later include zstd.
    if compression and sys.version_info < (3, 14) and find_spec('zstd') is None:
        raise ValueError(
            "compression must be None without the package zstd, got 'zstd'; install it "
            'with `pip install zstd` on this machine and on every machine that reads the '
            'data'
        )


def _datasets(
    datamodule: MultimodalDataModule, splits: Sequence[Split], workers: int
) -> dict[Split, Any]:
    # Without workers, some datasets keep files open.
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
            f'splits must exist in {type(datamodule).__name__}, which lacks '
            f'{lost or list(splits)}; choose other splits with --splits'
        )
    if empty := [s for s, dataset in there.items() if not len(dataset)]:
        raise ValueError(
            f'splits must have samples, got none in {empty}; choose other splits with '
            '--splits'
        )
    return there


def _scale(datamodule: MultimodalDataModule) -> nn.Module:
    """Return the scaling module after checking that it only scales images to [0, 1]."""
    scale: Any = datamodule.aug
    scaled = dict(scale.per_modality) if isinstance(scale, PerModality) else {}
    lost = [
        m for m in datamodule.modalities if not isinstance(scaled.get(m), ScaleToUnit)
    ]
    if lost:
        raise ValueError(
            f"values must be 'raw', because the transforms of {lost} do not only scale "
            'images to [0, 1]; to pack bytes, set mean and std of these modalities, and '
            'set s2_bands to 12 for BigEarthNet-MM'
        )
    return cast(nn.Module, scale)


def _write(split: SplitProgress, workers: int, progress: bool) -> None:
    """Write the missing shards of a split."""
    writer, done, todo = split.writer, split.done, split.todo
    total = sum(map(len, writer.spans))
    bar = tqdm(
        desc=split.name,
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
        # The data loader raises RuntimeError if a worker was killed.
        except RuntimeError as error:
            if 'DataLoader worker' not in str(error):
                raise
            raise ChildProcessError(
                f'{writer.folder}: a worker process was killed ({error}) after '
                f'{_how_to_resume(split)}, with fewer --workers if memory ran out'
            ) from error
        except OSError as error:
            if not is_full(error):
                raise
            raise OSError(
                error.errno,
                f'no space left for {writer.folder} after '
                f'{_how_to_resume(split, "free some space and ")}',
            ) from error


def _path(datamodule: MultimodalDataModule) -> str:
    return f'{type(datamodule).__module__}.{type(datamodule).__qualname__}'


def _how_to_resume(split: SplitProgress, before: str = '') -> str:
    return (
        f'{len(split.done)} of {len(split.writer)} complete shards; {before}run the same '
        'command again to resume'
    )


def _cores() -> int:
    # Slurm may restrict this process to some of the cores.
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _same(value: Any) -> Any:
    return value
