"""Check random access to packed shards, and the messages on incomplete ones."""

import ast
import json
import multiprocessing
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from torchgeo_decur.datasets import PackedDataset, SyntheticEO, UnreadableFileError
from torchgeo_decur.packed.manifest import Manifest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    """Make a copy to damage."""
    folder = tmp_path / 'copy'
    shutil.copytree(packed, folder)
    return folder


def edit(folder: Path, **values: Any) -> None:
    path = folder / 'manifest.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def same(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_samples_equal_the_dataset(packed: Path) -> None:
    scenes = SyntheticEO(32, size=32, num_dates=2, seed=0)
    dataset = PackedDataset(packed)
    assert len(dataset) == 32 and [s.samples for s in dataset.shards] == [5] * 6 + [2]
    for index in torch.randperm(32).tolist():
        assert same(dataset[index], scenes[index])


def test_complete_data_has_all_modalities(packed: Path) -> None:
    dataset = PackedDataset(packed)
    assert 'available' not in json.loads((packed / 'manifest.json').read_text())
    assert all(x.all() and len(x) == 32 for x in dataset.availability.values())
    assert not any(key.startswith('available') for key in dataset[0])


def test_samples_can_be_written_to(packed: Path) -> None:
    dataset = PackedDataset(packed)
    before = dataset[0]['image_s1'].clone()
    for value in dataset[0].values():
        value.zero_()
    assert torch.equal(dataset[0]['image_s1'], before)


def test_goes_to_other_processes(packed: Path) -> None:
    dataset = PackedDataset(packed)
    expected = dataset[7]
    assert same(pickle.loads(pickle.dumps(dataset))[7], expected)
    with multiprocessing.get_context('fork').Pool(1) as pool:
        assert pool.apply(read_label, (dataset, 7)) == expected['label_common'].item()


def read_label(dataset: PackedDataset, index: int) -> int:
    return int(dataset[index]['label_common'])


@pytest.mark.skipif(not Path('/proc/self').exists(), reason='needs /proc')
def test_few_files_are_open(packed: Path) -> None:
    dataset = PackedDataset(packed)
    dataset[0]
    before = len(os.listdir('/proc/self/fd'))
    for index in range(32):
        dataset[index]
    assert len(os.listdir('/proc/self/fd')) <= before + 4


@pytest.mark.parametrize('cached', [False, True])
def test_reads_a_url_with_or_without_a_cache(
    packed: Path, tmp_path: Path, cached: bool
) -> None:
    local = PackedDataset(packed)
    folder = tmp_path / 'cache'
    remote = PackedDataset(f'local:{packed}', cache_dir=folder if cached else None)
    for index in (31, 0, 12, 13, 1):
        assert same(remote[index], local[index])
    kept = sorted(path.name for path in folder.rglob('*.bin'))
    assert kept == ([f'shard-0000{i}.bin' for i in (0, 2, 6)] if cached else [])


@pytest.mark.parametrize('index', [-1, 32])
def test_refuses_an_index_out_of_range(packed: Path, index: int) -> None:
    with pytest.raises(IndexError, match=rf'in \[0, 31\], got {index}'):
        PackedDataset(packed)[index]


def test_draws_a_sample(packed: Path) -> None:
    dataset = PackedDataset(packed)
    figure = dataset.plot(dataset[0])
    assert len(figure.axes) >= 4


class TestDamage:
    def test_names_a_removed_shard(self, copy: Path) -> None:
        dataset = PackedDataset(copy)
        shard = copy / 'train' / 'shard-00001.bin'
        shard.unlink()
        assert len(dataset[4]['image_s1']) == 2
        message = r'shard-00001.bin: expected a shard with 5 samples, found no file; c'
        with pytest.raises(UnreadableFileError, match=message):
            dataset[5]
        with pytest.raises(UnreadableFileError, match=message):
            PackedDataset(copy)

    def test_names_a_truncated_shard(self, copy: Path) -> None:
        dataset = PackedDataset(copy)
        shard = copy / 'train' / 'shard-00001.bin'
        # Even while it is open: reading beyond the end of the file would kill us.
        dataset[5]
        os.truncate(shard, 1000)
        message = (
            rf'shard-00001.bin: expected {dataset.shards[1].bytes} bytes, found 1000'
        )
        with pytest.raises(UnreadableFileError, match=message):
            dataset[5]
        with pytest.raises(UnreadableFileError, match=message):
            PackedDataset(copy)

    def test_checksum_detects_a_changed_shard(self, copy: Path) -> None:
        shard = copy / 'train' / 'shard-00001.bin'
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
        PackedDataset(copy)
        with pytest.raises(
            UnreadableFileError, match=r'expected the checksum .*, found'
        ):
            PackedDataset(copy, checksum=True)

    def test_names_a_split_without_an_index(self, copy: Path) -> None:
        (copy / 'val' / 'index.json').unlink()
        PackedDataset(copy)
        with pytest.raises(
            UnreadableFileError, match=r'val: expected index.json, found none'
        ):
            PackedDataset(copy, 'val')

    def test_names_a_removed_shard_at_a_url(self, copy: Path) -> None:
        dataset = PackedDataset(f'local:{copy}')
        (copy / 'train' / 'shard-00001.bin').unlink()
        dataset[4]
        with pytest.raises(
            UnreadableFileError, match=r'shard-00001.bin cannot be read \(FileNotF'
        ):
            dataset[5]

    def test_names_and_does_not_cache_a_truncated_shard_at_a_url(
        self, copy: Path, tmp_path: Path
    ) -> None:
        dataset = PackedDataset(f'local:{copy}', cache_dir=tmp_path / 'cache')
        os.truncate(copy / 'train' / 'shard-00001.bin', 1000)
        for _ in range(2):
            with pytest.raises(UnreadableFileError, match='bytes, found 1000; copy it'):
                dataset[5]
        assert not list((tmp_path / 'cache').rglob('*.bin'))


class TestManifest:
    def test_explains_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match='pack the data with `torchgeo-decur pack'
        ):
            PackedDataset(tmp_path / 'none')
        with pytest.raises(FileNotFoundError, match='check the URL and the perm'):
            PackedDataset(f'local:{tmp_path}/none')

    def test_refuses_another_version(self, copy: Path) -> None:
        edit(copy, version=2, versions={'torchgeo-decur': '3.0'})
        message = (
            "of version 1, found version 2, written by {'torchgeo-decur': '3.0'}; r"
        )
        with pytest.raises(ValueError, match=message):
            PackedDataset(copy)

    def test_refuses_another_json_file(self, copy: Path) -> None:
        edit(copy, format='a list')
        with pytest.raises(ValueError, match='found another JSON file; use a folder'):
            PackedDataset(copy)

    def test_reads_a_manifest_of_an_earlier_release(self, copy: Path) -> None:
        edit(copy, values='kept')
        assert PackedDataset(copy).manifest.values == 'raw'

    def test_refuses_a_truncated_manifest(self, copy: Path) -> None:
        os.truncate(copy / 'manifest.json', 100)
        with pytest.raises(ValueError, match=r'found an incomplete file .*; copy'):
            PackedDataset(copy)

    def test_lacks_a_part(self, copy: Path) -> None:
        edit(copy, splits={'train': {'shards': [{'name': 'a'}]}})
        with pytest.raises(
            ValueError, match=r'missing or invalid .*; copy it again, or'
        ):
            PackedDataset(copy)

    def test_refuses_an_unknown_split(self, packed: Path) -> None:
        with pytest.raises(
            ValueError, match=r"one of \['train', 'val'\] in .* got 'test'"
        ):
            PackedDataset(packed, 'test')

    def test_is_read_as_it_was_written(self, packed: Path) -> None:
        text = (packed / 'manifest.json').read_text()
        assert Manifest.parse(text, packed).text() == text
        # No NaN: JSON has none.
        json.loads(text, parse_constant=pytest.fail)


def test_litdata_is_needed(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'litdata', None)
    with pytest.raises(ImportError, match=r'pip install "torchgeo-decur\[streaming\]"'):
        PackedDataset(packed)


def test_importing_the_package_leaves_litdata_out() -> None:
    for path in (ROOT / 'torchgeo_decur').rglob('*.py'):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in getattr(node, 'names', [])]
            # A relative import may name the function that imports litdata.
            absolute = '' if getattr(node, 'level', 0) else getattr(node, 'module', '')
            found = names if isinstance(node, ast.Import) else [absolute or '']
            assert not [n for n in found if n.split('.')[0] == 'litdata'], path
