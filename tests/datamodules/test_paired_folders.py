"""Check the datamodule of images paired by file name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from tests.helpers.fake_data import fake, write_bands
from tests.helpers.small_fits import scaled
from torchgeo_decur.datamodules import PairedFoldersDataModule
from torchgeo_decur.datamodules.loaders import ResumableSampler
from torchgeo_decur.datamodules.subset_counts import report_subsets

FAKE = fake('paired_folders')
make, IMAGES, MASK = FAKE.make, FAKE.IMAGES, FAKE.MASK
# Bands that can be scaled only with statistics.
PLAIN = {'pattern': '{split}/rgb/{id}.png', 'bands': ['a', 'b', 'c']}


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write data that no test changes."""
    return str(make(tmp_path_factory.mktemp('paired_folders')))


def ids(dataset: Any) -> set[tuple[str, str]]:
    return {tuple(frame) for frame in dataset.samples}


def test_splits_by_folder(root: str) -> None:
    datamodule = PairedFoldersDataModule(
        root, IMAGES, MASK, train=['dataset1'], test=['dataset3'], batch_size=2
    )
    for stage in ('fit', 'validate', 'test', 'predict'):
        datamodule.setup(stage)
    splits = {s: getattr(datamodule, f'{s}_dataset') for s in ('train', 'val', 'test')}
    assert {s: len(d) for s, d in splits.items()} == {'train': 4, 'val': 1, 'test': 2}
    assert len(set.union(*map(ids, splits.values()))) == 7
    assert ids(datamodule.predict_dataset) == ids(splits['test'])
    for split in (*splits, 'predict'):
        batch = scaled(datamodule, split)
        assert ('mask' in batch) == (split != 'predict')
        assert batch['image_rgb'].shape[1:] == (3, 24, 36)
        for m in ('rgb', 'depth'):
            assert 0 <= batch[f'image_{m}'].min() and batch[f'image_{m}'].max() <= 1
        # Missing depth takes the middle of the interval.
        assert batch['image_depth'][:, 0, 0, :4].eq(0.5).all()
    figure = datamodule.plot(datamodule.val_dataset[0])
    assert figure is not None


def test_reads_named_splits(root: str) -> None:
    datamodule = PairedFoldersDataModule(
        root, IMAGES, MASK, train=['dataset1'], val=['dataset3'], batch_size=2
    )
    datamodule.setup('fit')
    assert len(datamodule.train_dataset) == 5
    assert {split for split, _ in ids(datamodule.val_dataset)} == {'dataset3'}
    datamodule.setup('test')
    assert ids(datamodule.test_dataset) == ids(datamodule.val_dataset)


def test_splits_by_fraction(root: str) -> None:
    folder = f'{root}/dataset1'
    images = {
        m: {**entry, 'pattern': entry['pattern'].removeprefix('{split}/')}
        for m, entry in IMAGES.items()
    }
    shares = {'val_fraction': 0.2, 'test_fraction': 0.4}
    parts = []
    for _ in range(2):
        datamodule = PairedFoldersDataModule(folder, images, **shares, batch_size=2)
        for stage in ('fit', 'test', 'predict'):
            datamodule.setup(stage)
        names = ('train', 'val', 'test')
        parts.append([ids(getattr(datamodule, f'{s}_dataset')) for s in names])
        assert len(datamodule.predict_dataset) == 5
    assert parts[0] == parts[1]
    assert [len(p) for p in parts[0]] == [2, 1, 2]
    assert len(set.union(*parts[0])) == 5
    none = PairedFoldersDataModule(folder, images, val_fraction=0, batch_size=2)
    none.setup('fit')
    assert len(none.train_dataset) == 5 and none.val_dataset is None


def test_label_fraction_keeps_a_resumable_order(root: str) -> None:
    few = PairedFoldersDataModule(
        root, IMAGES, MASK, train=['dataset1'], label_fraction=0.5, batch_size=2
    )
    few.setup('fit')
    assert len(few.train_dataset) == 2
    loader = few.train_dataloader()
    assert isinstance(loader.sampler, ResumableSampler)


def test_estimates_missing_statistics(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    images = {'rgb': IMAGES['rgb'], 'plain': PLAIN}
    datamodule = PairedFoldersDataModule(
        root, images, MASK, train=['dataset1'], val_fraction=0, batch_size=2
    )
    datamodule.setup('fit')
    printed = capsys.readouterr().out
    assert 'Statistics of 5 training frames' in printed
    assert '  plain:\n    mean: [' in printed and 'rgb:' not in printed
    pixels = np.stack([FAKE.frame(n)[0] for n in range(5)]).transpose(1, 0, 2, 3)
    found = datamodule.modalities['plain']
    assert found.mean == pytest.approx(pixels.reshape(3, -1).mean(1), rel=1e-4)
    assert found.std == pytest.approx(pixels.reshape(3, -1).std(1), rel=1e-4)
    assert 0 <= scaled(datamodule, 'train')['image_plain'].min()
    # Prediction elsewhere takes those of the checkpoint.
    other = PairedFoldersDataModule(root, images, predict=['dataset3'], batch_size=2)
    other.load_state_dict(datamodule.state_dict())
    other.setup('predict')
    assert other.modalities['plain'] == found
    assert capsys.readouterr().out == ''


def test_reads_partly_paired_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        for m, (low, high) in {'s1': (50, 90), 's2': (800, 1200)}.items():
            if m == 's2' or number % 5 < 2:
                values = rng.integers(low, high, (2, 8, 8)).astype(np.uint16)
                write_bands(tmp_path / m / f'place/{number:02d}.tif', values)
    (tmp_path / 's2/place/00.tif').unlink()
    images = {
        m: {'pattern': m + '/{id}.tif', 'bands': ['a', 'b']} for m in ('s1', 's2')
    }
    datamodule = PairedFoldersDataModule(
        str(tmp_path), images, skip_incomplete='keep', batch_size=8, seed=1
    )
    datamodule.setup('fit')
    # Absent images of zeros would lower the mean of s1 to 28.
    assert datamodule.modalities['s1'].mean == pytest.approx([70, 70], rel=0.05)
    capsys.readouterr()
    batch = scaled(datamodule, 'train')
    assert batch['available_s1'].dtype == torch.bool and batch['available_s1'].any()
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    val = datamodule.val_dataset.availability
    both = int((val['s1'] & val['s2']).sum())
    assert table[:2] == [
        ['modalities', 'train', 'val'],
        ['s1', '+', 's2', str(7 - both), str(both)],
    ]
    assert sorted(row[0] for row in table[2:]) == ['s1', 's2']
    assert sum(int(row[-2]) for row in table[1:]) == 16
    # The table is printed once.
    datamodule.train_dataloader()
    assert capsys.readouterr().out == ''


def test_prints_counts_of_subsets(capsys: pytest.CaptureFixture[str]) -> None:
    counts: dict[str, dict[tuple[str, ...], int]] = {
        'train': {('s2',): 900, ('s1', 's2'): 12000},
        'val': {('s1',): 30},
    }
    report_subsets(counts, ['s1', 's2'])
    assert capsys.readouterr().out.splitlines() == [
        'modalities   train  val',
        's1 + s2     12,000    0',
        's1 only          0   30',
        's2 only        900    0',
    ]
    report_subsets({'train': {('s1', 's2'): 5}}, ['s1', 's2'])
    assert capsys.readouterr().out == ''
    with pytest.warns(UserWarning, match='no training sample has two modalities'):
        report_subsets({'train': {('s1',): 5, ('s2',): 2}}, ['s1', 's2'])
    with pytest.warns(
        UserWarning, match='no training sample has the modality dem; check'
    ):
        report_subsets({'train': {('s1', 's2'): 5}}, ['s1', 's2', 'dem'])


def test_refuses_a_constant_band(tmp_path: Path) -> None:
    for name in 'ab':
        write_bands(tmp_path / f'{name}.png', np.full((1, 8, 8), 7, np.uint8))
    images = {'flat': {'pattern': '{id}.png', 'bands': ['x']}}
    datamodule = PairedFoldersDataModule(str(tmp_path), images, batch_size=2)
    with pytest.raises(
        ValueError, match=r"flat: .* constant bands \['x'\] in the training"
    ):
        datamodule.setup('fit')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'val_fraction': 0.6, 'test_fraction': 0.5},
            'sum must be less than 1, got 0.6 and',
        ),
        ({'val_fraction': -0.1}, 'must not be negative.* got -0.1'),
        ({'train': 'dataset1'}, "train must be a list of splits, got 'dataset1'"),
        ({'size': [3]}, r'size must be a positive height and width, .*got \[3\]'),
        ({'images': {'x': {}}}, 'x: pattern must be a path'),
    ],
)
def test_rejects_invalid_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairedFoldersDataModule('data', **{'images': IMAGES, **options})


def test_takes_options_of_a_yaml_file(root: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PairedFoldersDataModule, 'data')
    written = {
        'root': root,
        'images': IMAGES,
        'mask': MASK,
        'train': ['dataset1'],
        'size': [12, 18],
        'skip_incomplete': 'keep',
    }
    options = parser.parse_string(yaml.safe_dump({'data': written}))
    datamodule = PairedFoldersDataModule(**vars(options.data))
    datamodule.setup('fit')
    sample = datamodule.train_dataset[0]
    assert sample['mask'].unique().tolist() == [0, 1]
    assert sample['image_depth'].shape == (1, 12, 18)
