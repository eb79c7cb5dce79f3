"""Check the datamodules of datasets of files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torchgeo.datasets import DatasetNotFoundError

from tests.helpers.fake_data import fake
from torchgeo_decur.datamodules.bigearthnet import BigEarthNetMMDataModule
from torchgeo_decur.datamodules.geonrw import GeoNRWPatchDataModule
from torchgeo_decur.datamodules.ssl4eo_s12 import SSL4EOS12PairDataModule

MAKE = {name: fake(name).make for name in ('ssl4eo_s12', 'bigearthnet', 'geonrw')}


@pytest.fixture(scope='module')
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write data that no test changes, by dataset."""
    options: dict[str, dict[str, Any]] = {
        'ssl4eo_s12': {'places': range(6), 'dates': (0, 1)},
        'bigearthnet': {},
        'geonrw': {'cities': {'aachen': 3, 'bonn': 1, 'herne': 1}},
    }
    return {
        name: str(make(tmp_path_factory.mktemp(name), **options[name]))
        for name, make in MAKE.items()
    }


def batch_of(datamodule: Any, split: str) -> dict[str, torch.Tensor]:
    """Return the first batch of a split, as a task receives it."""
    batch = next(iter(getattr(datamodule, f'{split}_dataloader')()))
    now = dict.fromkeys(
        ('training', 'validating', 'sanity_checking', 'testing', 'predicting'), False
    )
    name = {'train': 'training', 'val': 'validating', 'test': 'testing'}
    now[name.get(split, 'predicting')] = True
    datamodule.trainer = SimpleNamespace(**now)
    scaled: dict[str, torch.Tensor] = datamodule.on_after_batch_transfer(batch, 0)
    datamodule.trainer = None
    for key, x in scaled.items():
        if key.startswith('image_'):
            assert 0 <= x.min() and x.max() <= 1
    return scaled


def test_splits_ssl4eo_s12_by_place(roots: dict[str, str]) -> None:
    datamodule = SSL4EOS12PairDataModule(
        roots['ssl4eo_s12'], val_fraction=0.34, batch_size=2, seed=1
    )
    datamodule.setup('fit')
    sizes = {'train': 4, 'val': 2, 'test': 2, 'predict': 6}
    for split, size in sizes.items():
        assert len(getattr(datamodule, f'{split}_dataset')) == size
        batch = batch_of(datamodule, split)
        assert batch['image_s1'].shape == (2, 2, 2, 12, 12)
        assert batch['image_s2'].shape == (2, 2, 13, 12, 12)
    places = [
        set(getattr(datamodule, f'{s}_dataset').samples) for s in ('train', 'val')
    ]
    assert not places[0] & places[1]
    # Upper left pixel of VV at place 0, date 0: -8 dB, mean -12.59, std 5.26.
    first = batch_of(datamodule, 'predict')['image_s1'][0, 0, 0, 0, 0]
    assert first.item() == pytest.approx((-8 + 12.59 + 2 * 5.26) / (4 * 5.26))


def test_ssl4eo_s12_draws_new_dates_each_epoch(roots: dict[str, str]) -> None:
    datamodule = SSL4EOS12PairDataModule(
        roots['ssl4eo_s12'],
        date_sampling='independent',
        num_dates=2,
        val_fraction=0.5,
        batch_size=2,
    )
    datamodule.setup('fit')
    loader = datamodule.train_dataloader()
    drawn = {'train': set(), 'val': set()}
    for epoch in range(6):
        loader.sampler.set_epoch(epoch)
        for split, dates in drawn.items():
            dataset = getattr(datamodule, f'{split}_dataset')
            dates.add(str([dataset[i]['date_s1'].tolist() for i in range(3)]))
    assert len(drawn['train']) > 1
    assert len(drawn['val']) == 1


def test_uses_all_places_without_validation(roots: dict[str, str]) -> None:
    datamodule = SSL4EOS12PairDataModule(roots['ssl4eo_s12'], val_fraction=0)
    datamodule.setup('fit')
    assert len(datamodule.train_dataset) == 6
    assert datamodule.val_dataset is None


@pytest.mark.parametrize('modalities', [('s1', 's2'), ('s2',)])
def test_reads_the_splits_of_bigearthnet(
    roots: dict[str, str], modalities: tuple[str, ...]
) -> None:
    datamodule = BigEarthNetMMDataModule(
        roots['bigearthnet'], modalities=modalities, batch_size=2
    )
    for stage in ('fit', 'validate', 'test', 'predict'):
        datamodule.setup(stage)
    for split, size in {'train': 4, 'val': 2, 'test': 2, 'predict': 2}.items():
        assert len(getattr(datamodule, f'{split}_dataset')) == size
        batch = batch_of(datamodule, split)
        assert set(batch) == {'label', *(f'image_{m}' for m in modalities)}
        assert batch['image_s2'].shape == (2, 12, 120, 120)
        assert batch['label'].sum(1).tolist() == [2, 2]


def test_pads_bigearthnet_for_an_encoder_of_13_bands(roots: dict[str, str]) -> None:
    images = {}
    for bands in (12, 13):
        datamodule = BigEarthNetMMDataModule(
            roots['bigearthnet'], s2_bands=bands, batch_size=2
        )
        datamodule.setup('validate')
        batch = batch_of(datamodule, 'val')
        images[bands] = batch['image_s2']
        figure = datamodule.plot({key: x[0] for key, x in batch.items()})
        assert figure is not None
    assert images[13].shape == (2, 13, 120, 120)
    assert not images[13][:, 10].any()
    rest = [i for i in range(13) if i != 10]
    assert images[13][:, rest].equal(images[12])


def test_label_fraction_keeps_part_of_the_training_samples(
    roots: dict[str, str],
) -> None:
    few = BigEarthNetMMDataModule(
        roots['bigearthnet'], label_fraction=0.5, batch_size=2
    )
    few.setup('fit')
    assert len(few.train_dataset) == 2
    assert few.train_dataset.labels().sum(1).tolist() == [2, 2]
    assert len(few.val_dataset) == 2
    few = GeoNRWPatchDataModule(
        roots['geonrw'], size=16, val_fraction=0.25, label_fraction=0.25, batch_size=2
    )
    few.setup('fit')
    assert len(few.train_dataset) == 12
    assert len(few.val_dataset) == 16


def test_splits_geonrw_by_tile(roots: dict[str, str]) -> None:
    datamodule = GeoNRWPatchDataModule(
        roots['geonrw'], size=16, val_fraction=0.25, batch_size=4
    )
    for stage in ('fit', 'test', 'predict'):
        datamodule.setup(stage)
    tiles = [
        {patch.tile for patch in getattr(datamodule, f'{split}_dataset').samples}
        for split in ('train', 'val', 'test')
    ]
    assert [len(t) for t in tiles] == [3, 1, 1]
    assert len(set.union(*tiles)) == 5
    for split in ('train', 'val', 'test', 'predict'):
        batch = batch_of(datamodule, split)
        # Photograph, elevation and classes all tell where a pixel is.
        row, column = (batch['image_rgb'][:, i] * 255 for i in (1, 2))
        expected = (row.round() // 4 + column.round() // 4) % 11
        assert torch.equal(batch['mask'], expected.long())
        rank = (row * 128 + column).round().flatten(1).argsort(stable=True)
        height = batch['image_dem'].flatten(1)
        assert (height.gather(1, rank).diff() >= -1e-6).all()


@pytest.mark.parametrize(
    ('datamodule', 'message'),
    [
        (lambda: SSL4EOS12PairDataModule(val_fraction=1), r'val_fraction .* got 1'),
        (lambda: SSL4EOS12PairDataModule(level='l3'), "level must be .* got 'l3'"),
        (lambda: BigEarthNetMMDataModule(modalities=[]), r'modalities .* got \[\]'),
        (lambda: BigEarthNetMMDataModule(s2_bands=10), r's2_bands must .* got 10'),
        (lambda: BigEarthNetMMDataModule(label_fraction=0), r'label_fraction .* got 0'),
        (lambda: GeoNRWPatchDataModule(val_fraction=-1), r'val_fraction .* got -1'),
        (lambda: GeoNRWPatchDataModule(label_fraction=2), r'label_fraction .* got 2'),
    ],
)
def test_rejects_invalid_options(datamodule: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        datamodule()


CLASSES = {
    'ssl4eo_s12': SSL4EOS12PairDataModule,
    'bigearthnet': BigEarthNetMMDataModule,
    'geonrw': GeoNRWPatchDataModule,
}


@pytest.mark.parametrize('name', CLASSES)
def test_draws_a_sample(roots: dict[str, str], name: str) -> None:
    options = {'size': 16} if name == 'geonrw' else {}
    datamodule = CLASSES[name](roots[name], batch_size=2, **options)
    datamodule.setup('fit')
    batch = batch_of(datamodule, 'val')
    figure = datamodule.plot({key: x[0] for key, x in batch.items()}, suptitle='first')
    assert figure is not None


@pytest.mark.parametrize('name', CLASSES)
def test_prepare_data_downloads_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    class Asked(Exception):
        pass

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise Asked

    for target in (
        'torchgeo.datasets.ssl4eo.download_url',
        'torchgeo.datasets.geonrw.download_and_extract_archive',
        'torchgeo_decur.datasets.bigearthnet_download.download_url',
    ):
        monkeypatch.setattr(target, refuse)
    datamodule = CLASSES[name](str(tmp_path))
    datamodule.prepare_data()
    with pytest.raises(DatasetNotFoundError, match='Expected'):
        datamodule.setup('fit')
    with pytest.raises(Asked):
        CLASSES[name](str(tmp_path), download=True).prepare_data()


@pytest.mark.parametrize('name', CLASSES)
def test_yaml_knows_the_options_of_the_dataset(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(CLASSES[name], 'data')
    options = parser.parse_args(['--data.download=true', '--data.batch_size=8'])
    datamodule = CLASSES[name](**vars(options.data))
    assert datamodule.kwargs['download'] is True
    assert datamodule.batch_size == 8
