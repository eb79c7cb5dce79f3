"""The folder of a packing: what an earlier run left, and what makes it whole."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any, get_args

from torch import nn

from ..datasets.base import UnreadableFileError
from .dataset import INDEX, RUN, Split, check_shard, read_manifest
from .manifest import NAME, Manifest, Shard
from .shards import SHARDS, ShardWriter, Written, spans, write_durably


@dataclass(frozen=True)
class Part:
    """A split to pack, and what an earlier run has of it.

    Args:
        name: name of the split.
        writer: what writes its shards.
        done: shards that are whole, by number.
        expected: what a manifest says of all shards, if the folder was finished once.
    """

    name: Split
    writer: ShardWriter
    done: dict[int, Written]
    expected: tuple[Shard, ...] | None


def plan(
    out: Path,
    manifest: Manifest,
    datasets: Mapping[Split, Any],
    size: int,
    scale: nn.Module | None,
) -> list[Part]:
    """Say which shards there will be, and which there are.

    Args:
        out: the folder.
        manifest: what its manifest will say, without the shards.
        datasets: dataset of each split.
        size: samples of a shard, for a new folder.
        scale: what scales images that become bytes.

    Returns:
        The splits.

    Raises:
        ValueError: if the folder holds something else.
    """
    numbers = {s: len(dataset) for s, dataset in datasets.items()}
    about = json.loads(manifest.text())
    # Of another release the shards are the same, as long as the manifest has its version.
    about = {k: v for k, v in about.items() if k not in ('splits', 'versions')}
    about['samples'] = numbers
    run, finished = out / RUN, None
    if _is_json(out / NAME):
        finished = read_manifest(out)
        found = json.loads(finished.text())
        found['samples'] = {s: split['samples'] for s, split in found['splits'].items()}
    elif run.exists():
        found = json.loads(run.read_text())
        size = found.pop('size')
    elif out.exists() and any(out.iterdir()) and not _lost_manifest(out):
        raise ValueError(
            f'out must be a new or empty folder, or one that was packed before, got {out}'
        )
    else:
        found = about
        out.mkdir(parents=True, exist_ok=True)
        write_durably(run, json.dumps({**about, 'size': size}))
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
        parts.append(Part(name, writer, done, expected))
    return parts


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return True


def _lost_manifest(out: Path) -> bool:
    """Check for a finished packing, and nothing else, without a manifest to be read.

    Its shards are written again: nothing tells what they were packed with.
    """
    folders = {f for f in out.iterdir() if f.name != NAME}
    files = {f for folder in folders if folder.is_dir() for f in folder.iterdir()}
    ours = {f for folder in folders for f in (*folder.glob(SHARDS), folder / INDEX)}
    names = {folder.name for folder in folders}
    return bool(files) and names <= set(get_args(Split)) and files <= ours


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
            check_shard(folder, shard, checksum=True)
        except UnreadableFileError:
            continue
        found[number] = Written(shard, config)
    return found


def finish(out: Path, manifest: Manifest, parts: Sequence[Part]) -> Path:
    """Write the index of each split and the manifest; then nothing else is needed.

    Args:
        out: the folder.
        manifest: what its manifest will say, without the shards.
        parts: the splits, all their shards done.

    Returns:
        The manifest.

    Raises:
        ValueError: if shards do not belong together.
    """
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
        write_durably(part.writer.folder / INDEX, _index(part))
    if all(part.expected is None for part in parts):
        splits = {
            part.name: tuple(part.done[i].shard for i in range(len(part.writer)))
            for part in parts
        }
        whole = Manifest(**{**vars(manifest), 'splits': splits})
        write_durably(out / NAME, whole.text())
    for part in parts:
        for number in range(len(part.writer)):
            part.writer.record(number).unlink(missing_ok=True)
        # Of a packing in smaller shards whose manifest was lost.
        whole_files = {part.writer.path(i) for i in range(len(part.writer))}
        for file in set(part.writer.folder.glob(SHARDS)) - whole_files:
            file.unlink()
    (out / RUN).unlink(missing_ok=True)
    return out / NAME


def _index(part: Part) -> str:
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
