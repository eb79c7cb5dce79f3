"""Resume an interrupted packing run and complete the folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any, get_args

import numpy as np
from torch import nn

from ..datamodules.base import Split
from ..datasets.base import UnreadableFileError
from ..resumable_parts import (
    check_same_settings,
    cut_into_parts,
    read_json,
    resume_run,
    write_text,
)
from .dataset import INDEX, RUN, check_shard, read_manifest
from .manifest import NAME, Manifest, Shard, bits_to_text, current_values, text_to_bits
from .shards import SHARDS, ShardWriter, Written


@dataclass(frozen=True)
class SplitProgress:
    """Progress of packing one split.

    Args:
        name: name of the split.
        writer: writer of the shards.
        done: complete shards by shard number.
        expected: shards in the manifest of a folder that was complete before this run, or
            None.
    """

    name: Split
    writer: ShardWriter
    done: dict[int, Written]
    expected: tuple[Shard, ...] | None

    @property
    def todo(self) -> list[int]:
        """Numbers of the shards that still have to be written."""
        return [i for i in range(len(self.writer)) if i not in self.done]

    @property
    def written(self) -> list[Written]:
        """All shards in order, available after all of them are written."""
        return [self.done[i] for i in range(len(self.writer))]


def find_progress(
    out: Path,
    manifest: Manifest,
    datasets: Mapping[Split, Any],
    size: int,
    scale: nn.Module | None,
) -> list[SplitProgress]:
    """Divide each split into shards and find the shards of an earlier run.

    Args:
        out: folder of the packed data.
        manifest: manifest to write later, without shards.
        datasets: dataset of each split.
        size: number of samples per shard in a new folder.
        scale: module that scales images to be stored as bytes, or None for raw values.

    Returns:
        The progress of each split.

    Raises:
        ValueError: if the folder contains other files, or shards with other settings.
    """
    numbers = {s: len(dataset) for s, dataset in datasets.items()}
    settings = _settings(manifest.text()) | {'samples': numbers}
    finished = read_manifest(out) if read_json(out / NAME) else None
    if finished is not None:
        packed = {
            s: sum(shard.samples for shard in shards)
            for s, shards in finished.splits.items()
        }
        found = _settings(finished.text()) | {'samples': packed}
        check_same_settings(found, settings, out)
    elif (
        not (out / RUN).exists()
        and out.exists()
        and any(out.iterdir())
        and not _lost_manifest(out)
    ):
        raise ValueError(
            f'out must be new, empty or written by `torchgeo-decur pack`, got {out}; '
            'choose another folder with --out'
        )
    else:
        size = resume_run(out / RUN, settings, size, upgrade=current_values)
    splits = []
    for name, dataset in datasets.items():
        folder = out / name
        folder.mkdir(exist_ok=True)
        expected = None if finished is None else finished.splits[name]
        spans = cut_into_parts(len(dataset), expected[0].samples if expected else size)
        writer = ShardWriter(
            dataset, folder, spans, scale, manifest.keys, manifest.compression
        )
        done = _undamaged(folder, expected) if expected else {}
        for number in range(len(writer)):
            if number not in done and (written := writer.find(number)):
                done[number] = written
        splits.append(SplitProgress(name, writer, done, expected))
    return splits


# Manifest entries that are known only after all shards are written, and versions.
_RESULTS = ('splits', 'versions', 'available')


def _settings(text: str) -> dict[str, Any]:
    """Return the manifest entries that determine the shards."""
    # All releases with the same manifest version write identical shards.
    content = json.loads(text)
    return {k: v for k, v in content.items() if k not in _RESULTS}


def _lost_manifest(out: Path) -> bool:
    """Return whether a folder contains only packed splits and perhaps a manifest.

    This function is called only if the manifest is unreadable. The settings of the splits
    are then unknown, so they must be written again.
    """
    folders = {f for f in out.iterdir() if f.name != NAME}
    files = {f for folder in folders if folder.is_dir() for f in folder.iterdir()}
    ours = {f for folder in folders for f in (*folder.glob(SHARDS), folder / INDEX)}
    names = {folder.name for folder in folders}
    return bool(files) and names <= set(get_args(Split)) and files <= ours


def _undamaged(folder: Path, shards: Sequence[Shard]) -> dict[int, Written]:
    """Return the undamaged shards of a complete split by shard number."""
    config = read_json(folder / INDEX).get('config')
    if config is None:
        return {}
    config.pop('chunk_size', None)
    found = {}
    for number, shard in enumerate(shards):
        try:
            check_shard(folder, shard, checksum=True)
        except UnreadableFileError:
            continue
        found[number] = Written(shard, config)
    return found


def finish(out: Path, manifest: Manifest, splits: Sequence[SplitProgress]) -> Path:
    """Write the manifest and the index of each split, and remove temporary files.

    Args:
        out: folder of the packed data.
        manifest: manifest to write, without shards.
        splits: progress of each split, with all shards written.

    Returns:
        Path of the manifest.

    Raises:
        ValueError: if samples have different formats or have changed since the folder was
            completed.
    """
    for split in splits:
        shards = tuple(w.shard for w in split.written)
        if split.expected is not None and (
            changed := {s.file for s in shards} - {s.file for s in split.expected}
            or {s.file for s, e in zip(shards, split.expected, strict=True) if s != e}
        ):
            for name in changed:
                (split.writer.folder / name).unlink()
            raise ValueError(
                f'{split.writer.folder}: expected the same samples as before, found changed '
                f'samples in the shards {sorted(changed)}; pack a changed dataset into '
                'another folder'
            )
        write_text(split.writer.folder / INDEX, _index(split))
    if all(split.expected is None for split in splits):
        shards_of = {s.name: tuple(w.shard for w in s.written) for s in splits}
        available = {s.name: _join_available(s.written) for s in splits}
        known = {name: found for name, found in available.items() if found}
        complete = Manifest(
            **{**vars(manifest), 'splits': shards_of, 'available': known}
        )
        write_text(out / NAME, complete.text())
    for split in splits:
        for number in range(len(split.writer)):
            split.writer.record(number).unlink(missing_ok=True)
        # Remove shards of an earlier unfinished run that used smaller shards.
        current = {split.writer.path(i) for i in range(len(split.writer))}
        for file in set(split.writer.folder.glob(SHARDS)) - current:
            file.unlink()
    (out / RUN).unlink(missing_ok=True)
    return out / NAME


def _join_available(written: Sequence[Written]) -> dict[str, str]:
    """Join the masks of all shards for each modality that some samples lack."""
    joined = {
        m: np.concatenate(
            [text_to_bits(w.available[m], w.shard.samples) for w in written]
        )
        for m in written[0].available
    }
    return {m: bits_to_text(bits) for m, bits in joined.items() if not bits.all()}


def _index(split: SplitProgress) -> str:
    """Create litdata's index of the shards of a split."""
    written = split.written
    config = dict(written[0].config)
    for other in written:
        if differ := [
            k for k in config if k != 'types' and config[k] != other.config[k]
        ]:
            raise ValueError(
                f'{split.writer.folder}: expected all samples to have the same format, '
                f'found that {other.shard.file} differs in {differ} from '
                f'{written[0].shard.file}; use the same keys and types in all samples'
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
