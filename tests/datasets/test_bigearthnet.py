import hashlib
import re
import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader
from torchgeo.datasets import BigEarthNet, BigEarthNetV2, DatasetNotFoundError

from tests.helpers.fake_data import fake
from torchgeo_decur.datasets import bigearthnet_download
from torchgeo_decur.datasets.base import UnreadableFileError
from torchgeo_decur.datasets.bigearthnet import BigEarthNetMM

FAKE = fake('bigearthnet')
make, names, value, write = (FAKE.make, FAKE.names, FAKE.value, FAKE.write)
S1, S2 = FAKE.S1, FAKE.S2
SPLITS = {'train': range(4), 'val': range(4, 6), 'test': range(6, 8)}


@pytest.fixture(scope='module')
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write data that no test changes, by version."""
    return {v: make(tmp_path_factory.mktemp(v), v) for v in ('v1', 'v2')}


def damaged(root: Path, version: str) -> tuple[Path, Path]:
    """Write two training patches; return them and the Sentinel-2 folder of the first."""
    make(root, version, ('train', 'train'))
    s2 = names(0, version)[1]
    (folder,) = root.glob(f'**/{s2}')
    return root, folder


@pytest.mark.parametrize('version', ['v1', 'v2'])
@pytest.mark.parametrize('split', ['train', 'val', 'test', 'all'])
def test_patches_are_paired_by_pixels(
    roots: dict[str, Path], version: str, split: str
) -> None:
    dataset = BigEarthNetMM(roots[version], version, split)
    numbers = SPLITS.get(split, range(8))
    assert len(dataset) == len(numbers)
    assert [b.lstrip('B') for b in dataset.modalities['s2'].bands] == [
        b.lstrip('B0') for b in S2
    ]
    for sample, patch in zip((dataset[i] for i in range(2)), numbers, strict=False):
        assert sample['image_s1'].shape == (2, 120, 120)
        assert sample['image_s2'].shape == (12, 120, 120)
        for m, bands in (('s1', S1), ('s2', S2)):
            assert sample[f'image_{m}'].dtype == torch.float32
            corner = sample[f'image_{m}'][:, 0, 0].tolist()
            assert corner == [value(patch, band) for band in bands]
        # Fractions of a decibel survive.
        assert sample['image_s1'][0, 0, 1] == value(patch, 'VV') + 0.125
        assert sample['label'].dtype == torch.int64
        present = [dataset.classes[i] for i in sample['label'].nonzero().flatten()]
        assert present == ['Coniferous forest', 'Marine waters']


def test_bands_come_bilinearly_on_the_ten_metre_grid(roots: dict[str, Path]) -> None:
    image = BigEarthNetMM(roots['v2'])[0]['image_s2']
    column = torch.arange(120)
    for band, ratio in ((0, 6), (4, 2), (1, 1)):
        position = ((column + 0.5) / ratio - 0.5).clamp(0, 120 / ratio - 1)
        expected = 2000 + band + 4 * position
        torch.testing.assert_close(image[band], expected.expand(120, 120))


@pytest.mark.parametrize('version', ['v1', 'v2'])
@pytest.mark.parametrize('modality', ['s1', 's2'])
@pytest.mark.parametrize('split', ['val', 'all'])
def test_one_modality_needs_one_folder(
    tmp_path: Path, version: str, modality: str, split: str
) -> None:
    make(tmp_path, version, ('train', 'validation'))
    other = 'S2' if modality == 's1' else 'S1'
    for folder in tmp_path.glob('BigEarthNet-*'):
        if (
            folder.name == 'BigEarthNet-v1.0' and other == 'S2'
        ) or other in folder.name:
            shutil.rmtree(folder)
    dataset = BigEarthNetMM(tmp_path, version, split, [modality])
    sample = dataset[0]
    assert sorted(sample) == [f'image_{modality}', 'label']
    assert sample['label'].sum() == 2
    assert len(dataset) == (1 if split == 'val' else 2)


def test_v1_has_43_classes_and_v2_has_19(roots: dict[str, Path]) -> None:
    dataset = BigEarthNetMM(roots['v1'], 'v1', num_classes=43)
    present = [dataset.classes[i] for i in dataset[0]['label'].nonzero().flatten()]
    assert present == ['Coniferous forest', 'Burnt areas', 'Sea and ocean']
    with pytest.raises(ValueError, match=r'num_classes must be one of \(19,\), got 43'):
        BigEarthNetMM(roots['v2'], 'v2', num_classes=43)


def test_reads_folders_of_other_names(tmp_path: Path) -> None:
    make(tmp_path, 'v1', ('train',), labels=False)
    (tmp_path / 'BigEarthNet-S1-v1.0').rename(tmp_path / 'BigEarthNet-S1-Example')
    (tmp_path / 'BigEarthNet-v1.0').rename(tmp_path / 'BigEarthNet-S2-Example')
    assert len(BigEarthNetMM(tmp_path, 'v1', 'all')) == 1


@pytest.mark.parametrize('version', ['v1', 'v2'])
def test_other_version_is_named(roots: dict[str, Path], version: str) -> None:
    other = {'v1': 'v2', 'v2': 'v1'}[version]
    message = f'expected BigEarthNet {version}, found BigEarthNet {other}; set version='
    with pytest.raises(ValueError, match=message):
        BigEarthNetMM(roots[other], version)


def test_lmdb_is_named(tmp_path: Path) -> None:
    (tmp_path / 'BigEarthNet-S1' / 'x').mkdir(parents=True)
    (tmp_path / 'encoded').mkdir()
    (tmp_path / 'encoded' / 'data.mdb').touch()
    with pytest.raises(ValueError, match=r'v1, found BigEarthNet in LMDB .*GeoTIFFs'):
        BigEarthNetMM(tmp_path, 'v1')


def test_needs_or_downloads_the_split_list_of_v1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, 'v1', ('train',), labels=False)
    with pytest.raises(
        DatasetNotFoundError, match=r"bigearthnet-train\.csv, .* split='all'\)"
    ):
        BigEarthNetMM(tmp_path, 'v1')

    def download(url: str, root: Path, filename: str, md5: str) -> None:
        assert (url, md5) == (about['url'], about['md5'])
        (root / filename).write_text(','.join(reversed(names(0, 'v1'))))

    about = BigEarthNet.splits_metadata['train']
    monkeypatch.setattr(bigearthnet_download, 'download_url', download)
    assert len(BigEarthNetMM(tmp_path, 'v1', download=True)) == 1


@pytest.mark.parametrize('version', ['v1', 'v2'])
def test_absent_patches_are_left_out(tmp_path: Path, version: str) -> None:
    root, folder = damaged(tmp_path, version)
    shutil.rmtree(folder)
    with pytest.warns(UserWarning, match="skipped 1 of 2 patches of split 'train'"):
        dataset = BigEarthNetMM(root, version)
    assert dataset[0]['image_s1'][0, 0, 0] == value(1, 'VV')
    with pytest.raises(DatasetNotFoundError, match=r"patches of split 'val'; the fold"):
        BigEarthNetMM(root, version, 'val')


@pytest.mark.parametrize('version', ['v1', 'v2'])
@pytest.mark.parametrize('present', ['nothing', 'root', 'folders', 'images'])
def test_explains_what_the_root_must_contain(
    tmp_path: Path, version: str, present: str
) -> None:
    root = tmp_path / 'root'
    if present == 'images':
        make(root, version, ('train',), labels=False)
    elif present != 'nothing':
        root.mkdir()
    if present == 'folders':
        make(root, version, ('train',))
        for folder in root.glob('*/*'):
            shutil.rmtree(folder)
    with pytest.raises(DatasetNotFoundError, match=r'different `root`.* Expected'):
        BigEarthNetMM(root, version)


def test_download_of_v1_uses_torchgeo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(self: BigEarthNet) -> None:
        assert (self.bands, self.download, self.checksum) == ('s2', True, False)
        make(Path(self.root), 'v1', ('train',))

    monkeypatch.setattr(BigEarthNet, '_verify', verify)
    options = {'modalities': ['s2'], 'download': True, 'checksum': False}
    assert len(BigEarthNetMM(tmp_path, 'v1', **options)) == 1


@pytest.mark.parametrize('modalities', [('s1', 's2'), ('s2',)])
def test_downloads_v2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modalities: tuple[str, ...]
) -> None:
    source = make(tmp_path / 'source', patches=('train',))
    files = {'metadata.parquet': (source / 'metadata.parquet').read_bytes()}
    for m in ('S1', 'S2'):
        with tarfile.open(tmp_path / 'archive', 'w:gz') as archive:
            archive.add(source / f'BigEarthNet-{m}', f'BigEarthNet-{m}')
        content = (tmp_path / 'archive').read_bytes()
        files[f'BigEarthNet-{m}.tar.gzaa'] = content[:1000]
        files[f'BigEarthNet-{m}.tar.gzab'] = content[1000:]
    fetched = []

    def download(
        url: str, root: Path, filename: str, md5: str | None, sha256: str | None
    ) -> None:
        assert url == BigEarthNetV2.url.format(filename)
        for digest, algorithm in ((md5, hashlib.md5), (sha256, hashlib.sha256)):
            assert digest is None or len(digest) == algorithm().digest_size * 2
        assert (md5 is None) != (sha256 is None)
        Path(root).mkdir(exist_ok=True)
        (Path(root) / filename).write_bytes(files[filename])
        fetched.append(filename)

    monkeypatch.setattr(bigearthnet_download, 'download_url', download)
    root = tmp_path / 'root'
    dataset = BigEarthNetMM(root, modalities=modalities, download=True)
    assert len(dataset) == 1
    assert len(fetched) == 1 + 2 * len(modalities)
    # Archives that are there are extracted without a download.
    shutil.rmtree(root / 'BigEarthNet-S2')
    assert len(BigEarthNetMM(root, modalities=modalities)) == 1


@pytest.mark.parametrize('version', ['v1', 'v2'])
def test_refuses_an_unknown_label(tmp_path: Path, version: str) -> None:
    root, folder = damaged(tmp_path, version)
    if version == 'v1':
        path = folder / f'{folder.name}_labels_metadata.json'
        path.write_text('{"labels": ["Moon"]}')
    else:
        table = pd.read_parquet(root / 'metadata.parquet')
        table.at[0, 'labels'] = ['Moon']
        table.to_parquet(root / 'metadata.parquet')
    with pytest.raises(
        ValueError, match=rf"{folder.name}: expected .* found \['Moon'\]"
    ):
        BigEarthNetMM(root, version)[0]


@pytest.mark.parametrize('damage', ['truncated', 'missing', 'text'])
@pytest.mark.parametrize('end', ['B8A.tif', 'labels_metadata.json'])
def test_names_or_skips_an_unreadable_file(
    tmp_path: Path, damage: str, end: str
) -> None:
    root, folder = damaged(tmp_path, 'v1')
    path = folder / f'{folder.name}_{end}'
    content = path.read_bytes()
    path.unlink()
    if damage != 'missing':
        path.write_bytes(content[:40] if damage == 'truncated' else b'nothing')
    said = 'truncated' if damage != 'missing' and end == 'B8A.tif' else 'missing'
    with pytest.raises(UnreadableFileError, match=re.escape(f'{path} is {said}')):
        BigEarthNetMM(root, 'v1')[0]
    dataset = BigEarthNetMM(root, 'v1', skip_unreadable=True)
    with pytest.warns(UserWarning, match='skipped 1 of 2 samples'):
        assert dataset[0]['image_s1'][0, 0, 0] == value(1, 'VV')


def test_partner_that_cannot_be_read(tmp_path: Path) -> None:
    root = make(tmp_path, 'v1')
    (path, *_) = sorted(root.glob('BigEarthNet-S1*/*/*_labels_metadata.json'))
    path.write_text('{')
    with pytest.raises(UnreadableFileError, match=re.escape(f'{path} is missing')):
        BigEarthNetMM(root, 'v1', 'all')
    with pytest.warns(UserWarning, match='skipped 1 of 8 patches.* cannot be paired'):
        dataset = BigEarthNetMM(root, 'v1', 'all', skip_unreadable=True)
    assert path.parent.name not in {patch.s1 for patch in dataset.samples}
    assert len(dataset) == 7


def test_refuses_files_of_another_size_or_number_of_bands(tmp_path: Path) -> None:
    root, folder = damaged(tmp_path, 'v2')
    path = folder / f'{folder.name}_B8A.tif'
    write(path, 30, 0, 'uint16')
    with pytest.raises(
        ValueError, match='expected 60 x 60 or 120 x 120 pixels, found 30'
    ):
        BigEarthNetMM(root)[0]
    write(path, 60, 0, 'uint16', bands=3)
    with pytest.raises(ValueError, match=r'B8A.tif: expected 1 band\(s\), found 3'):
        BigEarthNetMM(root)[0]


def test_transforms_samples_and_forms_batches(roots: dict[str, Path]) -> None:
    dataset = BigEarthNetMM(roots['v2'], transforms=lambda sample: {**sample, 'new': 1})
    (batch,) = DataLoader(dataset, batch_size=4)
    assert batch['image_s2'].shape == (4, 12, 120, 120)
    assert batch['label'].shape == (4, 19)
    assert batch['new'].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'version': 'v3'}, "version must be one of .*'v2'.*, got 'v3'"),
        ({'split': 'dev'}, "split must be one of .*'all'.*, got 'dev'"),
        (
            {'modalities': ['s3']},
            r"modalities must contain one or both of .*, got \['s3'\]",
        ),
        ({'modalities': []}, r'modalities must contain one or both of .*, got \[\]'),
    ],
)
def test_rejects_invalid_options(
    roots: dict[str, Path], options: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BigEarthNetMM(roots['v2'], **options)


def test_draws_a_sample(roots: dict[str, Path]) -> None:
    dataset = BigEarthNetMM(roots['v2'])
    sample = {**dataset[0], 'prediction': torch.zeros(19, dtype=torch.int64)}
    figure = dataset.plot(sample, suptitle='patch')
    assert [ax.get_title() for ax in figure.axes] == ['s1 (VV, dB)', 's2 (B4 B3 B2)']
    assert figure.get_suptitle() == (
        'patch\nlabel: Coniferous forest; Marine waters\nprediction: none'
    )
