"""From a datamodule to a folder of shards: in parallel, and a stopped run goes on."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import time
from typing import Any, Literal, cast, get_args

from torch import nn
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm

from ..config import build, read_config
from ..datamodules import MultimodalDataModule
from ..datasets.manifest import NAME, Manifest, Shard, Values
from ..datasets.packed import INDEX, RUN, Split, check_shard, litdata, read_manifest
from ..datasets.reading import UnreadableFileError
from ..modalities import check, split
from ..transforms import PerModality, ScaleToUnit
from .shards import (
    ShardWriter,
    Written,
    default_size,
    describe,
    is_full,
    replace,
    spans,
    to_bytes,
)

Compression = Literal['zstd']
_STAGES: dict[Split, str] = {
    'train': 'fit',
    'val': 'fit',
    'test': 'test',
    'predict': 'predict',
}


@dataclass(frozen=True)
class _Part:
    """A split to pack, and what an earlier run has of it."""

    name: Split
    writer: ShardWriter
    done: dict[int, Written]
    expected: tuple[Shard, ...] | None


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
    goes on after the last whole shard; on a folder that is finished, shards that are
    missing or not whole are written again.

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
    _check(values, splits, shard_size, compression)
    out = Path(out)
    count = len(os.sched_getaffinity(0)) if workers is None else workers
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
    parts = _plan(out, manifest, datasets, shard_size or default_size(sample), scale)
    for part in parts:
        _write(part, count, progress)
    return _finish(out, manifest, parts)


def _check(
    values: str, splits: Sequence[str], shard_size: int | None, compression: str | None
) -> None:
    litdata()
    if values not in get_args(Values):
        raise ValueError(f'values must be one of {get_args(Values)}, got {values!r}')
    if not splits or any(s not in _STAGES for s in splits):
        raise ValueError(f'splits must be some of {list(_STAGES)}, got {list(splits)}')
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


def _plan(
    out: Path,
    manifest: Manifest,
    datasets: Mapping[Split, Any],
    size: int,
    scale: nn.Module | None,
) -> list[_Part]:
    """Say which shards there will be, and which there are."""
    numbers = {s: len(dataset) for s, dataset in datasets.items()}
    about = json.loads(manifest.text())
    # Of another release the shards are the same, as long as the manifest has its version.
    about = {k: v for k, v in about.items() if k not in ('splits', 'versions')}
    about['samples'] = numbers
    run, finished = out / RUN, None
    if (out / NAME).exists():
        finished = read_manifest(out)
        found = json.loads(finished.text())
        found['samples'] = {s: split['samples'] for s, split in found['splits'].items()}
    elif run.exists():
        found = json.loads(run.read_text())
        size = found.pop('size')
    elif out.exists() and any(out.iterdir()):
        raise ValueError(
            f'out must be a new or empty folder, or one that was packed before, got {out}'
        )
    else:
        found = about
        out.mkdir(parents=True, exist_ok=True)
        replace(run, json.dumps({**about, 'size': size}))
    if differ := sorted(k for k in about if found.get(k) != about[k]):
        raise ValueError(
            f'out must hold the shards of this run, but {out} differs in {differ}; remove '
            'it, or choose another folder'
        )
    parts = []
    for name, dataset in datasets.items():
        folder = out / name
        folder.mkdir(exist_ok=True)
        expected = None if finished is None else finished.splits[name]
        cut = spans(len(dataset), expected[0].samples if expected else size)
        writer = ShardWriter(
            dataset, folder, cut, scale, manifest.keys, manifest.compression
        )
        done = _whole(folder, expected) if expected else {}
        for number in range(len(cut)):
            if number not in done and (written := writer.find(number)):
                done[number] = written
        parts.append(_Part(name, writer, done, expected))
    return parts


def _whole(folder: Path, shards: Sequence[Shard]) -> dict[int, Written]:
    """Those of the shards of a finished split that are still there, by number."""
    index = folder / INDEX
    if not index.exists():
        return {}
    config = json.loads(index.read_text())['config']
    config.pop('chunk_size', None)
    found = {}
    for number, shard in enumerate(shards):
        try:
            check_shard(folder, shard)
        except UnreadableFileError:
            continue
        found[number] = Written(shard, config)
    return found


def _write(part: _Part, workers: int, progress: bool) -> None:
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


def _state(part: _Part) -> str:
    return (
        f'{len(part.done)} of {len(part.writer)} shards are whole; run the same command '
        'again, which goes on there'
    )


def _finish(out: Path, manifest: Manifest, parts: Sequence[_Part]) -> Path:
    """Write the index of each split and the manifest; then nothing else is needed."""
    for part in parts:
        shards = tuple(part.done[i].shard for i in range(len(part.writer)))
        if part.expected is not None and (
            changed := {s.file for s in shards} - {s.file for s in part.expected}
            or {s.file for s, e in zip(shards, part.expected, strict=True) if s != e}
        ):
            for name in changed:
                (part.writer.folder / name).unlink()
            raise ValueError(
                f'{part.writer.folder}: the shards {sorted(changed)} cannot be written '
                'again, for the dataset has changed; pack into another folder'
            )
        replace(part.writer.folder / INDEX, _index(part))
    if all(part.expected is None for part in parts):
        splits = {
            part.name: tuple(part.done[i].shard for i in range(len(part.writer)))
            for part in parts
        }
        whole = Manifest(**{**vars(manifest), 'splits': splits})
        replace(out / NAME, whole.text())
    for part in parts:
        for number in range(len(part.writer)):
            part.writer.record(number).unlink(missing_ok=True)
    (out / RUN).unlink(missing_ok=True)
    return out / NAME


def _index(part: _Part) -> str:
    """The file that litdata finds the samples of a split by."""
    written = [part.done[i] for i in range(len(part.writer))]
    config = dict(written[0].config)
    for other in written:
        if differ := [
            k for k in config if k != 'types' and config[k] != other.config[k]
        ]:
            raise ValueError(
                f'{part.writer.folder}: samples must be alike, but {other.shard.file} '
                f'differs in {differ} from {written[0].shard.file}'
            )
    chunks = [
        {
            'chunk_bytes': w.shard.bytes,
            'chunk_size': w.shard.samples,
            'dim': None,
            'filename': w.shard.file,
        }
        for w in written
    ]
    config['chunk_size'] = written[0].shard.samples
    content = {'chunks': chunks, 'config': config, 'updated_at': str(time())}
    return json.dumps(content, sort_keys=True)


def _path(datamodule: MultimodalDataModule) -> str:
    return f'{type(datamodule).__module__}.{type(datamodule).__qualname__}'


def _same(value: Any) -> Any:
    return value
