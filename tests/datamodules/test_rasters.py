import pickle
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import torch
from lightning.pytorch import LightningModule
from rasterio.transform import from_origin
from rasterio.windows import Window

from tests.helpers.fake_data import fake
from tests.helpers.small_fits import trainer
from torchgeo_decur.datamodules.rasters import RasterPairDataModule
from torchgeo_decur.datasets.rasters.windows import RandomWindows

RASTERS = fake('rasters')

PATCH = 32
Entries = dict[str, dict[str, Any]]


class NotRaster:
    pass


class Looker(LightningModule):
    """Callback that records its windows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        self.seen.append(batch['bounds'])
        return self.weight * batch['image_optical'].mean()

    def validation_step(self, batch: dict[str, Any]) -> None:
        assert 0 <= batch['image_radar'].min() <= batch['image_radar'].max() <= 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RASTERS.make(tmp_path_factory.mktemp('rasters'))


def entries(root: Path) -> Entries:
    optical = {
        'paths': str(root / 'optical'),
        'bands': ['column', 'row'],
        'unit': 'DN',
        'mean': [1600.0, 800.0],
        'std': [800.0, 400.0],
    }
    radar = {
        'paths': str(root / 'radar'),
        'glob': 'radar*.tif',
        'bands': ['east', 'north'],
        'mean': [16.0, 8.0],
        'std': [8.0, 4.0],
    }
    dem = {
        'paths': str(root / 'dem'),
        'bands': ['elevation'],
        'kind': 'elevation',
        'unit': 'm',
    }
    return {'optical': optical, 'radar': radar, 'dem': dem}


def unknown(root: Path) -> Entries:
    """Return entries without statistics of optical."""
    rasters = entries(root)
    del rasters['optical']['mean'], rasters['optical']['std']
    return rasters


def module(root: Path, **options: Any) -> RasterPairDataModule:
    arguments = {
        'rasters': entries(root),
        'mask': {'paths': str(root / 'labels'), 'num_classes': 4},
        'patch_size': PATCH,
        'length': 24,
        'batch_size': 4,
        **options,
    }
    return RasterPairDataModule(**arguments)


@pytest.fixture(scope='module')
def fitted(root: Path) -> RasterPairDataModule:
    dm = module(root)
    dm.setup('fit')
    return dm


def corner(sample: dict[str, Any]) -> tuple[int, int]:
    """Return column and row of the north-western pixel of a window."""
    column = (sample['bounds'][0].item() - RASTERS.WEST) / RASTERS.RES
    row = (RASTERS.NORTH - sample['bounds'][4].item()) / RASTERS.RES
    assert column == round(column) and row == round(row)
    return round(column), round(row)


class TestWindows:
    def test_modalities_show_the_same_place(self, fitted: RasterPairDataModule) -> None:
        for i in range(len(fitted.train_dataset)):
            sample = fitted.train_dataset[i]
            column, row = corner(sample)
            columns = torch.arange(column, column + PATCH).expand(PATCH, -1)
            rows = torch.arange(row, row + PATCH)[:, None].expand(-1, PATCH)

            # Read as it is
            optical, valid = sample['image_optical'], columns >= RASTERS.RIM
            assert torch.equal(optical[0][valid], columns[valid] * 10.0 + 100)
            assert torch.equal(optical[1][valid], rows[valid] * 10.0 + 100)
            assert (optical[:, ~valid] == 65535).all()
            # 20 m to 10 m: linear values survive bilinear resampling
            east, north = sample['image_radar']
            expected = torch.stack([columns + 0.5, RASTERS.ROWS - rows - 0.5]) / 10
            assert (torch.stack([east, north]) - expected).abs().max() < 1e-3
            # another CRS: the nearest pixel, then bilinear
            dem = sample['image_dem'][0]
            found = dem != -9999
            assert (dem - (columns + 0.5) * 10)[found].abs().max() < 12
            a, b, c, d = RASTERS.HOLE
            grown = (columns >= a - 2) & (columns < b + 2)
            grown &= (rows >= c - 2) & (rows < d + 2)
            assert found[~grown].all()
            # labels
            expected = 2 * (rows >= RASTERS.ROWS // 2) + (
                columns >= RASTERS.COLUMNS // 2
            )
            expected[rows < 8] = 255
            assert torch.equal(sample['mask'], expected)

    def test_sample_has_the_documented_types(
        self, fitted: RasterPairDataModule
    ) -> None:
        sample = fitted.val_dataset[0]
        assert sample['image_optical'].dtype == torch.float32
        assert sample['mask'].dtype == torch.int64
        assert sample['bounds'].shape == sample['transform'].shape == (9,)
        assert sample['transform'][2] == sample['bounds'][0]

    def test_train_and_val_share_no_pixel(self, fitted: RasterPairDataModule) -> None:
        train = set()
        for epoch in range(20):
            fitted.train_dataset.set_epoch(epoch)
            for i in range(len(fitted.train_dataset)):
                (x, y) = fitted.train_dataset.windows()[i][:2]
                train.add(round((x.stop - RASTERS.WEST) / RASTERS.RES))
                assert x.start >= RASTERS.WEST and y.start >= RASTERS.SOUTH
                assert y.stop <= RASTERS.NORTH
        fitted.train_dataset.set_epoch(0)
        val = {corner(sample)[0] for sample in fitted.val_dataset}
        # 20 % of 320 columns, less the 5 that interpolation of 20 m can reach
        assert max(train) == 256
        assert min(val) >= 256 + 5

    def test_val_windows_lie_side_by_side(self, fitted: RasterPairDataModule) -> None:
        corners = [corner(sample) for sample in fitted.val_dataset]
        assert sorted(corners) == [(288, r) for r in range(0, RASTERS.ROWS, PATCH)]

    def test_reads_windows_on_a_grid_in_degrees(self, root: Path) -> None:
        rasters = dict(reversed(entries(root).items()))
        dm = module(root, rasters=rasters, length=8)
        dm.setup('fit')
        for sample in [*dm.train_dataset, *dm.val_dataset]:
            column = (sample['image_dem'][0] - 5) / 10
            optical = (sample['image_optical'][0] - 100) / 10
            seen = (
                (column > RASTERS.RIM + 2)
                & (column < RASTERS.COLUMNS - 2)
                & (sample['image_dem'][0] != -9999)
            )
            assert seen.any() and (optical - column)[seen].abs().max() < 1.5

    def test_every_pixel_can_be_drawn(self, fitted: RasterPairDataModule) -> None:
        area = fitted.areas['train']
        windows = RandomWindows(fitted.rasters, area, 4000).windows()
        columns = [round((x.start - RASTERS.WEST) / RASTERS.RES) for x, _ in windows]
        rows = [round((RASTERS.NORTH - y.stop) / RASTERS.RES) for _, y in windows]
        assert set(columns) == set(range(256 - PATCH + 1))
        assert set(rows) == set(range(RASTERS.ROWS - PATCH + 1))
        # the outermost as often as others
        assert 10 <= rows.count(0) <= 60 and 10 <= rows.count(128) <= 60

    def test_windows_depend_on_seed_and_epoch(self, root: Path) -> None:
        def bounds(seed: int, epoch: int) -> torch.Tensor:
            dm = module(root, seed=seed, length=4, mask=None)
            dm.setup('fit')
            dm.train_dataset.set_epoch(epoch)
            return torch.stack([dm.train_dataset[i]['bounds'] for i in range(4)])

        first = bounds(3, 1)
        assert torch.equal(first, bounds(3, 1))
        assert not torch.equal(first, bounds(3, 2))
        assert not torch.equal(first, bounds(4, 1))

    def test_windows_with_nodata_are_replaced(self, root: Path) -> None:
        dm = module(root, max_nodata=0.0, length=60)
        dm.setup('fit')
        skipped = 0
        assert len(dm.train_dataset) == 60
        for i in range(60):
            sample, before = dm.train_dataset.fetch(i)
            skipped += before
            assert (sample['image_optical'] != 65535).all()
            assert (sample['image_dem'] != -9999).all()
        assert skipped > 0
        with pytest.raises(IndexError, match=r'index must be in \[0, 60\), got 60'):
            dm.train_dataset[60]

    def test_nodata_is_not_blended(self, root: Path) -> None:
        dm = module(root, max_nodata=0.9)
        dm.setup('predict')
        holes = 0
        for sample in dm.predict_dataset:
            dem = sample['image_dem']
            holes += (dem == -9999).sum()
            assert dem[dem != -9999].min() > -200
        # a pixel next to valid ones takes their value
        assert 50 < holes < 130

    def test_predict_covers_the_footprint(self, root: Path) -> None:
        dm = module(root, patch_size=48)
        dm.setup('predict')
        seen = torch.zeros(RASTERS.ROWS, RASTERS.COLUMNS, dtype=torch.bool)
        for sample in dm.predict_dataset:
            column, row = corner(sample)
            seen[max(row, 0) : row + 48, max(column, 0) : column + 48] = True
            if min(column, row) >= 0 and column <= 320 - 48 and row <= 160 - 48:
                assert sample['image_radar'].isfinite().all()
        assert seen.all()

    def test_predicts_a_small_place(self, root: Path) -> None:
        rasters = {m: e for m, e in unknown(root).items() if m != 'dem'}
        options = {'patch_size': 64, 'val_fraction': 0.9, 'max_nodata': 0.5}
        dm = module(root, rasters=rasters, mask=None, **options)
        dm.setup('predict')
        assert len(dm.predict_dataset) == 15
        assert dm.modalities['optical'].mean is not None

    def test_keeps_the_test_area_apart(self, root: Path) -> None:
        dm = module(root)
        dm.setup('test')
        assert len(dm.test_dataset) == 5
        dm = module(root, test_fraction=0.2, val_fraction=0.15)
        dm.setup('fit')
        dm.setup('test')
        assert min(corner(s)[0] for s in dm.test_dataset) == 288
        assert {corner(s)[0] for s in dm.val_dataset} == {224}
        assert max(x.stop for x, _ in dm.train_dataset.windows()) <= RASTERS.WEST + 2080


class TestScaling:
    def test_estimates_statistics_of_training_windows(
        self, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        dm = module(root, rasters=unknown(root), mask=None)
        dm.setup('fit')
        printed = capsys.readouterr().out
        windows = RandomWindows(dm.rasters, dm.areas['train'], 64, dm.seed)
        values = []
        for i in range(64):
            column, row = corner(windows[i])
            whole = []
            for name, first in (('a_west', 0), ('b_east', 160)):
                with rasterio.open(root / 'optical' / f'{name}.tif') as file:
                    left = min(max(column - first, 0), 160)
                    right = min(max(column + PATCH - first, 0), 160)
                    if right > left:
                        whole.append(
                            file.read(window=Window(left, row, right - left, PATCH))
                        )
            values.append(np.concatenate(whole, axis=2).reshape(2, -1).astype(float))
        pixels = np.concatenate(values, axis=1)
        pixels = pixels[:, pixels[0] != 65535]
        optical = dm.modalities['optical']
        np.testing.assert_allclose(optical.mean, pixels.mean(1), rtol=1e-5)
        np.testing.assert_allclose(optical.std, pixels.std(1), rtol=1e-5)
        assert f'mean: {list(optical.mean)}' in printed
        assert f'std: {list(optical.std)}' in printed
        assert 'radar' not in printed and 'dem' not in printed
        assert dm.modalities['radar'].mean == (16.0, 8.0)

    def test_nodata_reaches_the_scale(self, root: Path) -> None:
        dm = module(root, max_nodata=0.5)
        dm.setup('fit')
        nodata = {m: modality.nodata for m, modality in dm.modalities.items()}
        assert nodata['optical'] == 65535 and nodata['dem'] == -9999
        assert np.isnan(nodata['radar'])
        # The order of windows is drawn: the first batch need not be one at the rim.
        batches = list(dm.train_dataloader())
        batch = next(b for b in batches if (b['image_optical'] == 65535).any())
        missing = batch['image_optical'] == 65535
        dm.on_after_batch_transfer(batch, 0)  # checks it
        scaled = dm.aug(batch)
        assert (scaled['image_optical'][missing] == 0.5).all()
        for m in dm.modalities:
            assert 0 <= scaled[f'image_{m}'].min() <= scaled[f'image_{m}'].max() <= 1
        assert torch.equal(scaled['bounds'], batch['bounds'])

    def test_statistics_are_kept(self, root: Path) -> None:
        options = {'rasters': unknown(root), 'mask': None}
        dm = module(root, **options)
        dm.setup('fit')
        other = module(root, seed=7, **options)
        other.setup('predict')
        assert other.modalities['optical'] != dm.modalities['optical']
        other.load_state_dict(dm.state_dict())
        assert other.modalities['optical'] == dm.modalities['optical']
        assert other.modalities['radar'] == dm.modalities['radar']
        before = module(root, seed=7, **options)
        before.load_state_dict(dm.state_dict())
        before.setup('predict')
        assert before.modalities['optical'] == dm.modalities['optical']

    def test_replaces_nodata_of_the_files_by_the_given_value(self, root: Path) -> None:
        rasters = entries(root)
        rasters['optical']['nodata'] = 0
        dm = module(root, rasters=rasters)
        dm.setup('fit')
        assert dm.modalities['optical'].nodata == 0
        assert any((s['image_optical'] == 65535).any() for s in dm.train_dataset)


class TestLoading:
    def test_workers_do_not_change_batches(self, root: Path) -> None:
        def batches(workers: int) -> list[dict[str, Any]]:
            dm = module(root, num_workers=workers, length=8)
            dm.setup('fit')
            loader = dm.train_dataloader()
            found = []
            for epoch in (0, 1):
                loader.sampler.set_epoch(epoch)
                found += list(loader)
            return found

        alone, helped = batches(0), batches(1)
        assert len(alone) == len(helped) == 4
        for a, b in zip(alone, helped, strict=True):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[k], b[k]) for k in a)
        assert not torch.equal(alone[0]['bounds'], alone[2]['bounds'])

    @pytest.mark.filterwarnings('ignore')  # Lightning's hints on workers and logging
    def test_resumed_fit_sees_the_same_windows(
        self, root: Path, tmp_path: Path
    ) -> None:
        def fit(epochs: int, name: str, path: str | None = None) -> list[torch.Tensor]:
            dm, task = (
                module(root, rasters=unknown(root), length=8, mask=None),
                Looker(),
            )
            run = trainer(
                max_epochs=epochs, limit_val_batches=1, default_root_dir=tmp_path
            )
            run.fit(task, dm, ckpt_path=path)
            run.save_checkpoint(tmp_path / name)
            return task.seen

        through = fit(2, 'through.ckpt')
        first = fit(1, 'first.ckpt')
        second = fit(2, 'second.ckpt', str(tmp_path / 'first.ckpt'))
        assert len(through) == 4 and len(first) == len(second) == 2
        for a, b in zip(through, first + second, strict=True):
            assert torch.equal(a, b)
        states = torch.load(tmp_path / 'first.ckpt', weights_only=True)
        assert 'optical' in states['RasterPairDataModule']['statistics']

    def test_datasets_can_be_sent_to_workers(
        self, fitted: RasterPairDataModule
    ) -> None:
        copied = pickle.loads(pickle.dumps(fitted.val_dataset))
        assert torch.equal(copied[1]['image_dem'], fitted.val_dataset[1]['image_dem'])

    def test_loads_two_folders_without_mask(self, root: Path) -> None:
        rasters = {m: e for m, e in entries(root).items() if m != 'dem'}
        rasters['radar']['resampling'] = 'nearest'
        dm = module(root, rasters=rasters, mask=None)
        dm.setup('fit')
        sample = dm.train_dataset[0]
        assert sorted(sample) == ['bounds', 'image_optical', 'image_radar', 'transform']
        # nearest: pairs of columns are alike
        assert len(sample['image_radar'][0, 0].unique()) <= PATCH // 2 + 1

    def test_draws_a_sample(self, fitted: RasterPairDataModule) -> None:
        figure = fitted.plot(fitted.val_dataset[0], suptitle='a place')
        assert len(figure.axes) == 4

    def test_loads_a_dataset_class(self, root: Path) -> None:
        rasters = entries(root)
        del rasters['radar']['glob']
        rasters['radar']['dataset'] = 'torchgeo.datasets.RasterDataset'
        dm, plain = module(root, rasters=rasters, length=4), module(root, length=4)
        dm.setup('fit')
        plain.setup('fit')
        a, b = dm.train_dataset[3], plain.train_dataset[3]
        assert all(torch.equal(a[k], b[k]) for k in a)

    def test_pairs_rasters_of_equal_dates(self, root: Path, tmp_path: Path) -> None:
        place = from_origin(RASTERS.WEST, RASTERS.NORTH, RASTERS.RES, RASTERS.RES)
        size = (2, RASTERS.ROWS, RASTERS.COLUMNS)
        for day in (1, 2):
            for name, offset in (('a', 0), ('b', 100)):
                values = np.full(size, day + offset, np.uint16)
                values[:, ::2] += 10
                path = tmp_path / name / f'2020010{day}.tif'
                RASTERS.write(path, values, place, RASTERS.UTM)
        entry = {'dataset': 'tests.helpers.fake_data.Dated', 'bands': ['second']}
        rasters = {n: {**entry, 'paths': str(tmp_path / n)} for n in ('a', 'b')}
        dm = module(root, rasters=rasters, mask=None, length=12)
        dm.setup('fit')
        days = set()
        for sample in dm.train_dataset:
            assert sample['image_a'].shape == (1, PATCH, PATCH)
            day = sample['image_a'][0].min()
            assert sample['image_b'][0].min() == day + 100
            days.add(int(day))
            start = datetime.fromtimestamp(sample['bounds'][6].item())
            assert start.year in (2019, 2020)
        assert days == {1, 2}
        assert len(dm.val_dataset) == 2 * 5


def altered(change: Callable[[Entries, Path], None]) -> Callable[..., Entries]:
    def build(root: Path, tmp_path: Path) -> Entries:
        rasters = entries(root)
        change(rasters, tmp_path)
        return rasters

    return build


def use(name: str, **values: Any) -> Callable[..., Entries]:
    return altered(lambda rasters, _: rasters[name].update(values))


def file(
    bands: int = 2,
    crs: str | None = RASTERS.UTM,
    shift: float = 0.0,
    dtype: Any = np.uint16,
) -> Callable[..., Entries]:
    """Write optical as a separate file."""

    def change(rasters: Entries, folder: Path) -> None:
        values = np.arange(bands * 160 * 320).reshape(bands, 160, 320) % 997
        place = from_origin(RASTERS.WEST + shift, RASTERS.NORTH, 10, 10)
        RASTERS.write(folder / 'own.tif', values.astype(dtype), place, crs)
        rasters['optical']['paths'] = str(folder)

    return altered(change)


def broken(kind: str) -> Callable[..., Entries]:
    """Write a damaged or contradictory file of optical."""

    def change(rasters: Entries, folder: Path) -> None:
        shutil.copytree(rasters['optical']['paths'], folder, dirs_exist_ok=True)
        rasters['optical']['paths'] = str(folder)
        path = folder / 'b_east.tif'
        if kind == 'truncated':
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
        elif kind == 'text':
            path.write_text('no raster')
        elif kind == 'nodata':
            with rasterio.open(path, 'r+') as raster:
                raster.nodata = 0

    return altered(change)


def empty(rasters: Entries, folder: Path) -> None:
    (folder / 'notes.txt').write_text('nothing')
    rasters['dem']['paths'] = str(folder)


def nothing_but_nodata(rasters: Entries, folder: Path) -> None:
    values = np.zeros((2, 160, 320), np.uint16)
    values[:, :4, :4] = 1
    place = from_origin(RASTERS.WEST, RASTERS.NORTH, 10, 10)
    RASTERS.write(folder / 'own.tif', values, place, RASTERS.UTM, nodata=0)
    rasters['optical']['paths'] = str(folder)


def constant(rasters: Entries, folder: Path) -> None:
    del rasters['optical']['mean'], rasters['optical']['std']
    values = np.ones((2, 160, 320), np.uint16)
    place = from_origin(RASTERS.WEST, RASTERS.NORTH, 10, 10)
    RASTERS.write(folder / 'own.tif', values, place, RASTERS.UTM)
    rasters['optical']['paths'] = str(folder)


def elsewhere(rasters: Entries, folder: Path) -> None:
    place = from_origin(500, 500, 10, 10)
    local = 'LOCAL_CS["site",UNIT["metre",1]]'
    RASTERS.write(folder / 'own.tif', np.ones((1, 64, 64), np.float32), place, local)
    rasters['dem']['paths'] = str(folder)


class TestErrors:
    @pytest.mark.parametrize(
        ('build', 'message'),
        [
            (use('optical', path='x'), r"optical: keys .* got \['path'\]"),
            (
                use('radar', dataset='torchgeo.datasets.Nope'),
                r"radar: keys .* got \['glob'\]",
            ),
            (
                use('dem', dataset='torchgeo.datasets.Nope'),
                'dem: dataset must be the import path',
            ),
            (
                use('dem', dataset='Nope'),
                "dem: dataset must be the import path .* got 'Nope'",
            ),
            (
                use('dem', dataset='no.such.module.X'),
                'dem: dataset must be the import path',
            ),
            (
                use('dem', dataset=f'{__name__}.NotRaster'),
                'must be a subclass of torchgeo',
            ),
            (use('optical', bands=None), 'optical: bands must list the names'),
            (use('optical', kind='smell'), 'optical: kind must be one of'),
            (use('optical', std=None), 'optical: mean and std must be set together'),
        ],
    )
    def test_rejects_invalid_entries(
        self, build: Callable[..., Entries], message: str, root: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=message):
            module(root, rasters=build(root, tmp_path))

    @pytest.mark.parametrize(
        ('build', 'message'),
        [
            (use('dem', paths='/no/folder'), "dem: path '/no/folder' does not exist"),
            (use('dem', paths=[]), 'dem: paths must name a folder or files'),
            (altered(empty), r'dem: expected rasters .* found none among 1 files'),
            (use('dem', glob='*.jp2'), r'dem: expected rasters \(\*\.jp2\)'),
            (
                broken('truncated'),
                r'optical: .* found 1 that cannot be read.*b_east\.tif',
            ),
            (broken('text'), r'optical: .* found 1 that cannot be read.*b_east\.tif'),
            (
                broken('nodata'),
                r'have the same nodata value, got 65535.* in .*a_west.* and 0.*b_east',
            ),
            (
                file(bands=3),
                r"expected 2 bands \['column', 'row'\], found 3 in .*own\.tif",
            ),
            (file(dtype=np.complex64), r'real numbers, got complex64 in .*own\.tif'),
            (file(crs=None), r'optical: expected georeferenced .*own\.tif has no CRS'),
            (
                file(shift=1e5),
                r'optical and radar must overlap, but optical covers longitude '
                r'-1\d\d\.\d+ .* and radar covers longitude',
            ),
            (use('optical', nodata=-1), 'optical: nodata must be in the value range'),
            (use('dem', resampling='magic'), 'dem: resampling must be one of'),
            (
                altered(nothing_but_nodata),
                r"65 random windows .*'optical': .*correct the option nodata",
            ),
            (
                altered(constant),
                r"expected varying values, found constant bands \['column', 'row'\]",
            ),
            (
                altered(elsewhere),
                "dem: cannot be projected .* CRS 'site' to the CRS .* of opt",
            ),
            (
                altered(
                    lambda r, _: (
                        r['radar'].pop('glob')
                        and r['radar'].update(dataset='torchgeo.datasets.NLCD')
                    )
                ),
                'radar: expected rasters that NLCD',
            ),
        ],
    )
    def test_names_the_wrong_file_or_entry(
        self, build: Callable[..., Entries], message: str, root: Path, tmp_path: Path
    ) -> None:
        dm = module(root, rasters=build(root, tmp_path))
        with pytest.raises(ValueError, match=message):
            dm.setup('fit')

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'patch_size': 0}, 'patch_size and length must be positive'),
            ({'val_fraction': 0.0}, 'val_fraction must be positive'),
            (
                {'val_fraction': 0.5, 'test_fraction': 0.5},
                'their sum must be less than 1',
            ),
            ({'max_nodata': 1.0}, r'max_nodata must be in \[0, 1\), got 1.0'),
            ({'mask': {'paths': '.', 'kind': 'sar'}}, r"mask: keys .* got \['kind'\]"),
            ({'rasters': {'a': {}}}, r"rasters must have two .* got \['a'\]"),
            ({'rasters': {'a': {}, 'mask': {}}}, 'none of them named mask'),
        ],
    )
    def test_rejects_invalid_options(
        self, options: dict[str, Any], message: str, root: Path
    ) -> None:
        with pytest.raises(ValueError, match=message):
            module(root, **options)

    def test_refuses_a_patch_larger_than_the_footprint(self, root: Path) -> None:
        dm = module(root, patch_size=161)
        with pytest.raises(
            ValueError, match=r'footprint of 320 x 160 pixels .* got 161'
        ):
            dm.setup('fit')

    def test_refuses_a_val_area_that_is_too_small(self, root: Path) -> None:
        dm = module(root, val_fraction=0.1)
        with pytest.raises(
            ValueError, match=r'val area .* 27 x 160 .* increase val_fraction'
        ):
            dm.setup('fit')

    def test_refuses_a_train_area_that_is_too_small(self, root: Path) -> None:
        dm = module(root, val_fraction=0.95)
        with pytest.raises(ValueError, match=r'patch_size must fit .* 16 x 160 pixels'):
            dm.setup('fit')

    def test_refuses_a_label_out_of_range(self, root: Path) -> None:
        dm = module(root, mask={'paths': str(root / 'labels'), 'num_classes': 2})
        with pytest.raises(ValueError, match=r'labels must be in \[0, 2\) or nodata'):
            dm.setup('fit')

    def test_mask_must_be_labels(self, root: Path) -> None:
        entry = {'dataset': 'torchgeo.datasets.RasterDataset'}
        dm = module(root, mask={**entry, 'paths': str(root / 'labels')})
        with pytest.raises(ValueError, match='RasterDataset has images; move the'):
            dm.setup('fit')

    def test_refuses_rasters_without_a_common_time(
        self, root: Path, tmp_path: Path
    ) -> None:
        place = from_origin(RASTERS.WEST, RASTERS.NORTH, RASTERS.RES, RASTERS.RES)
        values = np.ones((2, RASTERS.ROWS, RASTERS.COLUMNS), np.uint16)
        for name, day in (('a', '20200101'), ('b', '20200301')):
            RASTERS.write(tmp_path / name / f'{day}.tif', values, place, RASTERS.UTM)
        entry = {'dataset': 'tests.helpers.fake_data.Dated'}
        rasters = {n: {**entry, 'paths': str(tmp_path / n)} for n in ('a', 'b')}
        dm = module(root, rasters=rasters, mask=None)
        with pytest.raises(
            ValueError, match=r'no temporal intersection.*paths and glob'
        ):
            dm.setup('fit')

    def test_skips_unreadable_files(self, root: Path, tmp_path: Path) -> None:
        rasters = broken('truncated')(root, tmp_path)
        dm = module(root, rasters=rasters, skip_unreadable=True, val_fraction=0.4)
        with pytest.warns(UserWarning, match='optical: 1 of 2 files cannot be read'):
            dm.setup('fit')
        assert dm.rasters.footprint.bounds[2] == RASTERS.WEST + 1600

    def test_file_vanishes(self, root: Path, tmp_path: Path) -> None:
        rasters = file()(root, tmp_path)
        dm = module(root, rasters=rasters, num_workers=1)
        dm.setup('fit')
        (tmp_path / 'own.tif').unlink()
        with pytest.raises(ValueError, match=r'optical: cannot read x .*own\.tif'):
            dm.train_dataset[0]


def test_areas_do_not_touch(fitted: RasterPairDataModule) -> None:
    train, val = fitted.areas['train'], fitted.areas['val']
    assert shapely.distance(train, val) == pytest.approx(50, abs=0.01)


def test_a_mask_may_have_numbers(root: Path) -> None:
    mask = {'paths': str(root / 'dem'), 'numbers': True, 'scale': 0.5}
    options: Any = {'patch_size': PATCH, 'length': 8, 'batch_size': 4, 'seed': 0}
    rasters = {m: e for m, e in entries(root).items() if m != 'dem'}
    datamodule = RasterPairDataModule(rasters, mask, **options)
    datamodule.setup('fit')
    x, y = RASTERS.WEST + 1250, RASTERS.SOUTH + 1350
    window = (slice(x - 160, x + 160, 10), slice(y - 160, y + 160, 10))
    number = datamodule.rasters.read(window)['mask']
    assert number.dtype == torch.float32 and number.shape == (PATCH, PATCH)
    # Another CRS is warped by nearest neighbour, so values are off by up to a pixel. The
    # hole of the raster is near the centre of the window.
    known = ~number.isnan()
    assert 50 < (~known).sum() < 300 and not known[14:18, 14:18].any()
    columns = (1250 - 155 + 10.0 * torch.arange(PATCH)).expand(PATCH, PATCH)
    torch.testing.assert_close(number[known], columns[known] / 2, atol=8, rtol=0)
    with pytest.raises(ValueError, match=r"among .* got \['num_classes'\]"):
        RasterPairDataModule(entries(root), {**mask, 'num_classes': 3})
