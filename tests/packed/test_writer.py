"""Check the output of `torchgeo-decur pack`, and the resumption of a stopped run."""

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from litdata.streaming.writer import BinaryWriter
from torch import Tensor
from torch.utils.data import Dataset

from tests.helpers.fake_data import fake
from torchgeo_decur.cli import main
from torchgeo_decur.datamodules import (
    MultimodalDataModule,
    RasterPairDataModule,
    SSL4EOS12PairDataModule,
    SyntheticEODataModule,
)
from torchgeo_decur.datasets import PackedDataset
from torchgeo_decur.modalities import Modality
from torchgeo_decur.packed import pack_datamodule
from torchgeo_decur.packed.shards import ShardWriter


class Numbers(Dataset[dict[str, Any]]):
    """Dataset of constant images, with a chosen event at one of them."""

    def __init__(self, length: int, at: int, event: Callable[[], Any]) -> None:
        self.length, self.at, self.event = length, at, event
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read.append(index)
        found = self.event() if index == self.at else None
        image = torch.arange(16.0).reshape(1, 4, 4) + index
        return found or {'image_dem': image, 'index': index, 'name': f'{index}'}


class NumbersDataModule(MultimodalDataModule):
    def __init__(
        self, at: int = -1, event: Callable[[], Any] = dict, **fields: Any
    ) -> None:
        modality = {'bands': ['height'], 'kind': 'elevation', 'unit': 'm', **fields}
        super().__init__({'dem': modality})
        self.numbers = Numbers(10, at, event)

    def setup(self, stage: str) -> None:
        self.train_dataset = self.numbers


def same(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    """Return whether samples are equal bit by bit."""
    return sorted(a) == sorted(b) and all(
        v.dtype == b[k].dtype and torch.equal(v, b[k])
        if isinstance(v, Tensor)
        else v == b[k] and type(v) is type(b[k])
        for k, v in a.items()
    )


def content(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder, without the time in litdata's index."""
    files = {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob('*'))
        if p.is_file()
    }
    for name in files:
        if name.endswith('index.json'):
            index = json.loads(files[name])
            index.pop('updated_at')
            files[name] = json.dumps(index).encode()
    return files


def pack(out: Path, *args: Any, **options: Any) -> Path:
    datamodule = args[0] if args else NumbersDataModule()
    defaults = {'workers': 0, 'shard_size': 3, 'progress': False}
    return pack_datamodule(datamodule, out, **{**defaults, **options})


@pytest.fixture(scope='module')
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack ten samples in four shards."""
    folder = tmp_path_factory.mktemp('numbers') / 'packed'
    pack(folder)
    return folder


def test_command_packs_the_data_of_a_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {'length': 11, 'val_length': 3, 'size': 32, 'num_dates': 2}
    source = {
        'class_path': 'torchgeo_decur.datamodules.SyntheticEODataModule',
        'init_args': {**options, 'batch_size': 4, 'num_workers': 1},
    }
    path = tmp_path / 'conf.yaml'
    path.write_text(yaml.safe_dump({'data': source}))
    out = tmp_path / 'packed'
    args = ['pack', str(path), '--out', str(out), '--shard_size', '4', '--data.seed=3']
    main([*args, '--workers=2'])
    written = capsys.readouterr()
    assert written.out.split() == [str(out / 'manifest.json')]
    assert 'train: 100%' in written.err and 'samples/s' in written.err

    datamodule = SyntheticEODataModule(seed=3, **options)
    datamodule.setup('fit')
    for name in ('train', 'val'):
        packed = PackedDataset(out, name)
        dataset: Any = getattr(datamodule, f'{name}_dataset')
        assert len(packed) == len(dataset)
        for i in reversed(range(len(dataset))):
            assert same(packed[i], dataset[i])
            assert packed[i]['image_s2'].shape == (2, 13, 32, 32)

    manifest = json.loads((out / 'manifest.json').read_text())
    assert manifest['modalities']['s1']['bands'] == ['VV', 'VH']
    assert manifest['modalities']['s1']['limits'][0] == pytest.approx([-23.11, -32.08])
    assert manifest['source']['init_args'] == {**options, 'seed': 3}
    assert manifest['values'] == 'raw' and manifest['keys']['image_s1'] == 'float32'
    train = manifest['splits']['train']
    assert train['samples'] == 11 and [s['samples'] for s in train['shards']] == [
        4,
        4,
        3,
    ]
    for shard in train['shards']:
        file = (out / 'train' / shard['file']).read_bytes()
        assert len(file) == shard['bytes']
        assert sha256(file).hexdigest() == shard['sha256']
    names = [f'train/shard-0000{i}.bin' for i in range(3)]
    names += ['manifest.json', 'train/index.json', 'val/index.json']
    assert sorted(content(out)) == sorted([*names, 'val/shard-00000.bin'])

    # All is there: nothing is done again.
    before = (out / 'train' / 'shard-00000.bin').stat().st_mtime_ns
    main([*args, '--workers=0'])
    assert (out / 'train' / 'shard-00000.bin').stat().st_mtime_ns == before
    with pytest.raises(
        SystemExit, match=r"differs in \['keys', 'values'\]; delete it or"
    ):
        main([*args, '--values=uint8'])


def test_bytes_are_the_scaled_images_rounded(tmp_path: Path) -> None:
    datamodule = SyntheticEODataModule(length=6, val_length=2, size=32)
    pack(tmp_path, datamodule, values='uint8', splits=('train',))
    packed = PackedDataset(tmp_path)
    for i in range(6):
        raw = datamodule.train_dataset[i]
        scaled = datamodule.aug({k: v[None] for k, v in raw.items()})
        sample = packed[i]
        for m in ('s1', 's2'):
            found = sample.pop(f'image_{m}')
            assert found.dtype == torch.uint8
            error = found.double() / 255 - scaled[f'image_{m}'][0]
            assert error.abs().max() <= 0.5 / 255 + 1e-6
        rest = {k: v for k, v in raw.items() if not k.startswith('image')}
        assert same(sample, rest)


def test_places_keep_all_their_dates(tmp_path: Path) -> None:
    fake('ssl4eo_s12').make(
        tmp_path / 'raw', places=(0, 1, 2), dates=(0, 1, 2), splits=('s1', 's2c')
    )
    options = {'root': str(tmp_path / 'raw'), 'val_fraction': 0.0}
    drawn = SSL4EOS12PairDataModule(date_sampling='independent', **options)
    pack(tmp_path / 'packed', drawn)
    whole = SSL4EOS12PairDataModule(date_sampling='all', **options)
    whole.setup('fit')
    packed = PackedDataset(tmp_path / 'packed')
    assert packed.manifest.splits.keys() == {'train'}
    assert len(packed) == 3 and packed[0]['image_s2'].shape[:2] == (3, 13)
    assert all(same(packed[i], whole.train_dataset[i]) for i in range(3))


@pytest.mark.parametrize('values', ['raw', 'uint8'])
def test_packs_samples_that_lack_a_modality(tmp_path: Path, values: Any) -> None:
    make = fake('ssl4eo_s12').make
    root = make(tmp_path / 'data', places=range(7), dates=(0,))
    for place in (0, 1, 4):
        shutil.rmtree(root / f's1/{place:07}')
    datamodule = SSL4EOS12PairDataModule(
        str(root), val_fraction=0, skip_incomplete='keep'
    )
    out = tmp_path / 'packed'
    options: dict[str, Any] = {'values': values, 'splits': ['train'], 'workers': 0}
    pack_datamodule(datamodule, out, shard_size=3, progress=False, **options)
    packed = PackedDataset(out)
    has = [False, False, True, True, False, True, True]
    assert packed.availability['s1'].tolist() == has
    assert packed.availability['s2'].tolist() == [True] * 7
    for i, sample in enumerate(packed):
        assert bool(sample['available_s1']) == has[i]
        assert has[i] or not sample['image_s1'].any()
        if values == 'raw':
            assert same(sample, datamodule.train_dataset[i])
    # A stopped run, and a run in a finished folder, give the same manifest.
    before = (out / 'manifest.json').read_bytes()
    (out / 'train/shard-00001.bin').unlink()
    pack_datamodule(datamodule, out, shard_size=3, progress=False, **options)
    assert (out / 'manifest.json').read_bytes() == before
    again = tmp_path / 'again'
    writer = ShardWriter._write

    def stop(self: Any, number: int, partial: Path) -> Any:
        if number == 2:
            raise OSError('stopped')
        return writer(self, number, partial)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardWriter, '_write', stop)
        with pytest.raises(OSError, match='stopped'):
            pack_datamodule(datamodule, again, shard_size=3, progress=False, **options)
    pack_datamodule(datamodule, again, shard_size=3, progress=False, **options)
    assert (again / 'manifest.json').read_bytes() == before


def test_random_windows_are_packed_of_the_first_epoch(tmp_path: Path) -> None:
    root = fake('rasters').make(tmp_path / 'raw')
    # Of values that are about 100 times larger in one folder.
    known = {'optical': (1800.0, 800.0), 'radar': (16.0, 8.0)}
    entries = {
        name: {
            'paths': str(root / name),
            'bands': ['x', 'y'],
            'mean': [mean, mean / 2],
            'std': [std, std / 2],
        }
        for name, (mean, std) in known.items()
    }
    module = RasterPairDataModule(entries, patch_size=48, length=5)
    with pytest.warns(UserWarning, match='5 random windows of the first epoch'):
        pack(tmp_path / 'packed', module)
    packed = PackedDataset(tmp_path / 'packed')
    assert packed[0]['bounds'].dtype == torch.float64
    assert all(same(packed[i], module.train_dataset[i]) for i in range(5))
    assert len(PackedDataset(tmp_path / 'packed', 'val')) == len(module.val_dataset)


class Stop(Exception):
    """Error that simulates the end of a process."""


def stop() -> None:
    raise Stop


def test_stopped_run_resumes(tmp_path: Path, numbers: Path) -> None:
    out = tmp_path / 'packed'
    with pytest.raises(Stop):
        pack(out, NumbersDataModule(7, stop))
    assert not (out / 'manifest.json').exists()
    with pytest.raises(FileNotFoundError, match='packing is unfinished; run the same'):
        PackedDataset(out)
    datamodule = NumbersDataModule()
    pack(out, datamodule)
    # The first samples are looked at; the first two shards are not written again.
    assert [i for i in datamodule.numbers.read if i > 4] == [6, 7, 8, 9]
    assert content(out) == content(numbers)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_run_resumes(tmp_path: Path, numbers: Path) -> None:
    out = tmp_path / 'packed'
    process = multiprocessing.get_context('fork').Process(
        target=pack, args=(out, NumbersDataModule(8, kill))
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (out / 'train' / '.shard-00002.bin.partial').is_dir()
    pack(out)
    assert content(out) == content(numbers)


def test_killed_worker_is_named(tmp_path: Path, numbers: Path) -> None:
    out = tmp_path / 'packed'
    with pytest.raises(ChildProcessError, match='a worker process was killed') as error:
        pack(out, NumbersDataModule(8, kill), workers=1)
    # What the worker wrote last may not have been heard of.
    assert re.search('[0-2] of 4 complete shards; run the same', str(error.value))
    pack(out, workers=1)
    assert content(out) == content(numbers)


@pytest.mark.parametrize('workers', [0, 1])
def test_resumes_after_a_full_disk(
    tmp_path: Path, numbers: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    written = multiprocessing.Value('i', 0)

    def write(
        self: Any, data: bytes, filename: str, compress: bool | None = None
    ) -> None:
        half = written.value == 2
        written.value += 1
        file = Path(self._cache_dir, filename)
        file.write_bytes(data[: len(data) // 2] if half else data)
        if half:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / 'packed'
    with monkeypatch.context() as patch:
        patch.setattr(BinaryWriter, 'write_chunk_to_file', write)
        with pytest.raises(
            OSError, match=r'no space left for .* after 2 of 4 .*; free some space'
        ) as e:
            pack(out, workers=workers)
    assert e.value.errno == errno.ENOSPC
    left = sorted(p.name for p in (out / 'train').iterdir() if p.name[0] == '.')
    # With a worker, one shard more may be on its way when the error is seen.
    assert left == [] or workers
    pack(out)
    assert content(out) == content(numbers)


@pytest.mark.parametrize('damage', ['removed', 'truncated', 'altered', 'no index'])
def test_finished_folder_is_repaired(
    tmp_path: Path, numbers: Path, damage: str
) -> None:
    out = tmp_path / 'packed'
    shutil.copytree(numbers, out)
    shard = out / 'train' / 'shard-00001.bin'
    if damage == 'no index':
        (out / 'train' / 'index.json').unlink()
    elif damage == 'removed':
        shard.unlink()
    elif damage == 'altered':
        shard.write_bytes(bytes(shard.stat().st_size))
    else:
        os.truncate(shard, 10)
    datamodule = NumbersDataModule()
    pack(out, datamodule)
    assert content(out) == content(numbers)
    if damage != 'no index':
        assert (
            datamodule.numbers.read[-3:] == [3, 4, 5] and len(PackedDataset(out)) == 10
        )


@pytest.mark.parametrize('damage', ['removed', 'truncated'])
def test_lost_manifest_is_written_again(
    tmp_path: Path, numbers: Path, damage: str
) -> None:
    out = tmp_path / 'packed'
    shutil.copytree(numbers, out)
    manifest = out / 'manifest.json'
    if damage == 'removed':
        manifest.unlink()
    else:
        os.truncate(manifest, 100)
    (out / 'train' / 'shard-00009.bin').write_bytes(b'of smaller shards')
    # Nothing tells what the shards were packed with, so they are not trusted.
    (out / 'train' / 'shard-00001.bin').write_bytes(b'other values')
    pack(out)
    assert content(out) == content(numbers)
    manifest.unlink()
    notes = out / 'train' / 'notes.txt'
    notes.write_text('mine')
    with pytest.raises(ValueError, match='out must be new, empty or written by'):
        pack(out)
    assert notes.read_text() == 'mine'


def test_interrupted_command_says_how_to_resume(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / 'config.yaml'
    config.write_text(
        'data:\n  class_path: torchgeo_decur.datamodules.SyntheticEODataModule\n'
        '  init_args: {length: 100000, val_length: 8}\n'
    )
    out = tmp_path / 'packed'

    def run() -> None:
        # A group of its own, which gets the signal as from a terminal: workers too.
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        main(['pack', str(config), f'--out={out}', '--workers=1', '--shard_size=8'])

    process = multiprocessing.get_context('fork').Process(target=run)
    process.start()
    deadline = time.monotonic() + 60
    while not list(out.glob('train/shard-*.bin')) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid or 0, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    text = capfd.readouterr().err
    assert text.endswith('torchgeo-decur: stopped; run the command again to resume\n')
    assert 'Traceback' not in text


def test_repair_needs_the_same_samples(tmp_path: Path, numbers: Path) -> None:
    out = tmp_path / 'packed'
    shutil.copytree(numbers, out)
    (out / 'train' / 'shard-00001.bin').unlink()
    changed = {'image_dem': torch.ones(1, 4, 4), 'index': 4, 'name': '4'}
    with pytest.raises(ValueError, match=r"'shard-00001.bin'\]; pack a changed"):
        pack(out, NumbersDataModule(4, lambda: changed))
    pack(out)
    assert content(out) == content(numbers)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'values': 'int8'}, r"values must be one of \('raw', 'uint8'\), got 'int8'"),
        ({'splits': ('tests',)}, r"splits must be one or more of .*, got \['tests'\]"),
        ({'splits': ('train', 'test')}, r"NumbersDataModule, which lacks \['test'\]"),
        ({'workers': -1}, 'workers must not be negative, got -1'),
        ({'shard_size': 0}, 'shard_size must be positive, got 0'),
        ({'compression': 'gzip'}, "compression must be 'zstd' or None, got 'gzip'"),
    ],
)
def test_rejects_invalid_options(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pack(tmp_path / 'packed', **options)
    assert not (tmp_path / 'packed').exists()


def test_old_name_of_raw_values_warns(tmp_path: Path, numbers: Path) -> None:
    with pytest.warns(FutureWarning, match="'kept' .* is deprecated .*; use 'raw'"):
        pack(tmp_path / 'packed', values='kept')
    assert content(tmp_path / 'packed') == content(numbers)


def test_run_of_an_earlier_release_resumes(tmp_path: Path, numbers: Path) -> None:
    out = tmp_path / 'packed'
    with pytest.raises(Stop):
        pack(out, NumbersDataModule(7, stop))
    record = out / '.pack.json'
    record.write_text(record.read_text().replace('"raw"', '"kept"'))
    datamodule = NumbersDataModule()
    pack(out, datamodule)
    assert [i for i in datamodule.numbers.read if i > 4] == [6, 7, 8, 9]
    assert content(out) == content(numbers)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason='Python has zstd itself')
def test_compression_needs_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('torchgeo_decur.packed.writer.find_spec', lambda _: None)
    with pytest.raises(ValueError, match='None without the package zstd, got'):
        pack(tmp_path / 'packed', compression='zstd')


def test_compressed_samples_are_equal(tmp_path: Path, numbers: Path) -> None:
    pack(tmp_path / 'packed', compression='zstd')
    compressed, plain = PackedDataset(tmp_path / 'packed'), PackedDataset(numbers)
    assert compressed.manifest.compression == 'zstd'
    assert compressed.shards[0].bytes != plain.shards[0].bytes
    assert all(same(compressed[i], plain[i]) for i in (9, 0, 4))


def test_refuses_a_folder_of_other_files(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='out must be new, empty or written by'):
        pack(tmp_path)


def test_samples_must_be_alike(tmp_path: Path) -> None:
    other = {'image_dem': torch.zeros(1, 4, 4).double(), 'index': 5, 'name': '5'}
    with pytest.raises(
        ValueError, match=r'found .*float64.* in sample 5; use the same'
    ):
        pack(tmp_path / 'packed', NumbersDataModule(5, lambda: other))


def test_values_that_are_no_tensors(tmp_path: Path) -> None:
    other = {'image_dem': torch.zeros(1, 4, 4), 'name': ['a']}
    with pytest.raises(ValueError, match=r"strings and numbers, got {'name': 'list'}"):
        pack(tmp_path / 'packed', NumbersDataModule(4, lambda: other))


def test_bytes_need_a_scale(tmp_path: Path) -> None:
    datamodule = NumbersDataModule(kind='multispectral', unit='native')
    with pytest.raises(
        ValueError, match=r"because the transforms of \['dem'\] do not only"
    ):
        pack(tmp_path / 'packed', datamodule, values='uint8')


def test_first_batch_is_checked(tmp_path: Path) -> None:
    datamodule = NumbersDataModule(unit='uint8')
    datamodule.set_modalities({'dem': Modality(('height', 'slope'), 'elevation', 'm')})
    with pytest.raises(ValueError, match='dem: expected 2 channels, found 1'):
        pack(tmp_path / 'packed', datamodule)


def test_config_must_have_data(tmp_path: Path) -> None:
    path = tmp_path / 'conf.yaml'
    path.write_text('model: {class_path: torchgeo_decur.tasks.DeCUR}')
    with pytest.raises(SystemExit, match='expected a torchgeo config with data'):
        main(['pack', str(path)])
    path.write_text('data: {class_path: torchgeo.datamodules.EuroSATDataModule}')
    with pytest.raises(SystemExit, match=r'expected a MultimodalDataModule .* EuroSAT'):
        main(['pack', str(path)])
