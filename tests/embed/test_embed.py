"""Embed a folder of rasters, and read the file with TorchGeo."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
import torch
import yaml
from torchgeo.datasets import ClayEmbeddings

from tests.helpers.fake_data import fake, write_bands
from torchgeo_decur.cli import main
from torchgeo_decur.cli.embed import embed_rasters, load_run
from torchgeo_decur.cli.embed.geoparquet_parts import GeoParquetParts
from torchgeo_decur.datamodules import RasterPairDataModule
from torchgeo_decur.tasks import DeCUR, LateFusionClassification, LateFusionSegmentation

RASTERS = fake('rasters')

PATCH = 64
WINDOWS = 15
MODALITIES = {'optical': 2, 'radar': 2}


def entries(root: Path) -> dict[str, dict[str, Any]]:
    optical = {'paths': str(root / 'optical'), 'bands': ['column', 'row']}
    radar = {'paths': str(root / 'radar'), 'bands': ['east', 'north']}
    return {'optical': optical, 'radar': radar}


def rasters(root: Path, **options: Any) -> RasterPairDataModule:
    options = {'patch_size': PATCH, 'length': 4, 'batch_size': 4, **options}
    return RasterPairDataModule(entries(root), max_nodata=0.5, **options)


def decur(**options: Any) -> DeCUR:
    torch.manual_seed(0)
    options = {'projector': [16, 16], 'size': 32, **options}
    return DeCUR(MODALITIES, 'test_resnet', **options)


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = RASTERS.make(tmp_path_factory.mktemp('rasters'))
    return folder


@pytest.fixture(scope='module')
def run(
    root: Path, torchgeo: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Fit on rasters with estimated statistics, and return the folder."""
    folder = tmp_path_factory.mktemp('run')
    conf = yaml.safe_load(
        (Path(__file__).parents[1] / 'conf' / 'decur.yaml')
        .read_text()
        .replace('OUTPUT', str(folder))
    )
    conf['trainer'] |= {'callbacks': [], 'max_epochs': 1, 'limit_val_batches': 1}
    augmentation = {
        'class_path': 'torchgeo_decur.transforms.OpticalAugmentation',
        'init_args': {'size': 32},
    }
    conf['model']['init_args'] |= {
        'modalities': MODALITIES,
        'warmup_epochs': 0,
        'augmentations': {'optical': augmentation},
    }
    data = {'rasters': entries(root), 'patch_size': PATCH, 'length': 4}
    conf['data'] = {
        'class_path': 'torchgeo_decur.datamodules.RasterPairDataModule',
        'init_args': {**data, 'batch_size': 4, 'max_nodata': 0.5, 'val_fraction': 0.4},
    }
    (folder / 'conf.yaml').write_text(yaml.safe_dump(conf))
    torchgeo('fit', '--config', folder / 'conf.yaml')
    return folder / 'run'


@pytest.fixture(scope='module')
def written(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that the command writes."""
    out = tmp_path_factory.mktemp('out') / 'scene.parquet'
    main(['embed', str(run / 'config.yaml'), f'--out={out}', '--device=cpu'])
    return out


class TestFile:
    def test_file_has_the_documented_columns(self, written: Path) -> None:
        schema = pq.read_schema(written)
        lists = [f'{part}_{m}' for m in MODALITIES for part in ('common', 'unique')]
        assert schema.names == ['geometry', 'embedding', *lists]
        for name in schema.names[1:]:
            assert schema.field(name).type == pa.list_(pa.float32())
        geo = json.loads(schema.metadata[b'geo'])
        assert geo['version'] == '1.1.0' and geo['primary_column'] == 'geometry'
        assert geo['columns']['geometry']['encoding'] == 'WKB'
        says = json.loads(schema.metadata[b'torchgeo_decur'])
        assert says['dimensions'] == {'optical': [0, 96], 'radar': [96, 192]}
        assert [f.name for f in written.parent.iterdir()] == ['scene.parquet']

    def test_values_are_those_of_the_model(
        self, root: Path, run: Path, written: Path
    ) -> None:
        table = gpd.read_parquet(written)
        assert len(table) == WINDOWS
        task, dm, _ = load_run(run / 'config.yaml')
        dm.setup('predict')
        # Scaled with the statistics of the fit, which other windows would not give.
        other = rasters(root, val_fraction=0.4, seed=4)
        other.setup('predict')
        assert dm.modalities['optical'].mean != other.modalities['optical'].mean
        task.eval()
        for index in (0, 7, WINDOWS - 1):
            sample = dm.predict_dataset[index]
            batch = {k: v[None] for k, v in sample.items() if k.startswith('image')}
            images = {m: dm.aug(batch)[f'image_{m}'] for m in MODALITIES}
            with torch.no_grad():
                h, z = task(images), task.embed(images)
            row = table.iloc[index]
            assert row['embedding'].dtype == np.float32
            expected = torch.cat(list(h.values()), 1)[0]
            np.testing.assert_allclose(row['embedding'], expected, rtol=1e-4, atol=1e-5)
            for m in MODALITIES:
                parts = [row[f'common_{m}'], row[f'unique_{m}']]
                assert [len(p) for p in parts] == [14, 2]
                actual = np.concatenate(parts)
                np.testing.assert_allclose(actual, z[m][0], rtol=1e-4, atol=1e-5)

    def test_rows_have_the_outline_of_each_window(self, written: Path) -> None:
        table = gpd.read_parquet(written)
        assert table.crs == 'OGC:CRS84'
        boxes = table.to_crs(RASTERS.UTM).bounds
        columns = (boxes['minx'] - RASTERS.WEST) / RASTERS.RES
        rows = (boxes['maxy'] - RASTERS.NORTH) / -RASTERS.RES
        np.testing.assert_allclose(columns, columns.round(), atol=1e-4)
        corners = set(zip(columns.round(), rows.round(), strict=True))
        assert len(corners) == WINDOWS
        assert {c for c, _ in corners} == {0, 64, 128, 192, 256}
        np.testing.assert_allclose(boxes['maxx'] - boxes['minx'], 640, atol=1e-3)
        geo = json.loads(pq.read_schema(written).metadata[b'geo'])
        box = geo['columns']['geometry']['bbox']
        np.testing.assert_allclose(box, table.total_bounds)


class TestTorchGeo:
    def test_reads_the_file(self, written: Path) -> None:
        dataset = ClayEmbeddings(written)
        assert len(dataset) == WINDOWS
        sample = dataset[0]
        assert sample['embedding'].shape == (192,)
        assert sample['embedding'].dtype == torch.float32
        place = gpd.points_from_xy([sample['x']], [sample['y']], crs=4326)
        (point,) = place.to_crs(RASTERS.UTM)
        assert RASTERS.WEST < point.x < RASTERS.WEST + 3200
        assert RASTERS.SOUTH - 400 < point.y < RASTERS.NORTH + 400
        assert 't' not in sample

    def test_writes_the_given_date(self, root: Path, tmp_path: Path) -> None:
        options = {'date': '2020-06-30', 'modalities': ['radar'], 'projections': False}
        out = embed_rasters(
            decur(), rasters(root), tmp_path / 'x.parquet', device='cpu', **options
        )
        assert pq.read_schema(out).names == ['geometry', 'date', 'embedding']
        sample = ClayEmbeddings(out)[3]
        assert sample['t'] == torch.tensor(1593475200.0)
        assert sample['embedding'].shape == (96,)

    def test_progress_is_drawn_or_not(
        self, root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for drawn in (True, False):
            options = {'device': 'cpu', 'progress': drawn}
            embed_rasters(decur(), rasters(root), tmp_path / f'{drawn}', **options)
            out, err = capfd.readouterr()
            assert ('15/15' in err) == drawn
            assert '15/15' not in out

    def test_reads_dates_of_files(self, root: Path, tmp_path: Path) -> None:
        place = RASTERS.from_origin(
            RASTERS.WEST, RASTERS.NORTH, RASTERS.RES, RASTERS.RES
        )
        for day in (1, 2):
            for name in MODALITIES:
                values = np.random.default_rng(day).random((2, 64, 64), np.float32)
                path = tmp_path / name / f'2020010{day}.tif'
                RASTERS.write(path, values, place, RASTERS.UTM)
        entry = {
            'dataset': 'tests.helpers.fake_data.Dated',
            'mean': [0.5, 0.5],
            'std': [0.3, 0.3],
        }
        files = {m: {**entry, 'paths': str(tmp_path / m)} for m in MODALITIES}
        dm = RasterPairDataModule(files, patch_size=32, batch_size=8)
        out = embed_rasters(decur(), dm, tmp_path / 'x.parquet', device='cpu')
        dates = gpd.read_parquet(out)['date']
        days = dates.dt.strftime('%Y-%m-%d').value_counts().to_dict()
        assert days == {'2020-01-01': 4, '2020-01-02': 4}
        assert str(dates.dt.tz) == 'UTC'


class StoppedError(Exception):
    """A simulated interruption."""


class TestResuming:
    def test_resumes_after_an_interruption(self, root: Path, tmp_path: Path) -> None:
        whole = embed_rasters(decur(), rasters(root), tmp_path / 'a', device='cpu')
        task, out = decur(), tmp_path / 'b'
        seen: list[int] = []

        def look(module: Any, args: Any) -> None:
            seen.append(len(args[0]))
            if sum(seen) > 8:
                raise StoppedError

        handle = task.encoders.encoders['radar'].register_forward_pre_hook(look)
        with pytest.raises(StoppedError):
            embed_rasters(task, rasters(root), out, device='cpu', rows=6)
        assert not out.exists()
        parts = sorted(f.name for f in (tmp_path / 'b.parts').iterdir())
        assert parts == ['part-00000.parquet', 'run.json']
        handle.remove()

        seen.clear()
        task.encoders.encoders['radar'].register_forward_pre_hook(
            lambda module, args: seen.append(len(args[0]))
        )
        # Another number of windows at once does not matter.
        again = embed_rasters(task, rasters(root, batch_size=5), out, device='cpu')
        assert sum(seen) == WINDOWS - 6
        assert pq.ParquetFile(again).num_row_groups == 3
        first, second = gpd.read_parquet(whole), gpd.read_parquet(again)
        assert first.geometry.equals(second.geometry)
        for name in ('embedding', 'common_optical', 'unique_radar'):
            a, b = np.stack(first[name]), np.stack(second[name])
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert sorted(f.name for f in tmp_path.iterdir()) == ['a', 'b']

        # What is complete is not computed again.
        seen.clear()
        assert embed_rasters(task, rasters(root), out, device='cpu') == out
        assert seen == []

    def test_joins_complete_parts(self, root: Path, tmp_path: Path) -> None:
        out = tmp_path / 'x'
        copy = tmp_path / 'copy'

        def stop(self: Any) -> None:
            shutil.copytree(self.folder, copy)
            raise StoppedError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                'torchgeo_decur.cli.embed.geoparquet_parts.GeoParquetParts.finish', stop
            )
            with pytest.raises(StoppedError):
                embed_rasters(decur(), rasters(root), out, device='cpu')
        assert len(gpd.read_parquet(embed_rasters(decur(), rasters(root), out))) == 15

    def test_refuses_parts_of_another_run(self, root: Path, tmp_path: Path) -> None:
        out = tmp_path / 'x'
        folder = tmp_path / 'x.parts'
        folder.mkdir()
        (folder / 'run.json').write_text('{"rows": 4, "dimensions": {}}')
        message = (
            r'x\.parts must contain parts with the settings of this run, but differs '
            r"in \['dimen.*--out"
        )
        with pytest.raises(ValueError, match=message):
            embed_rasters(decur(), rasters(root), out, device='cpu')

    @pytest.mark.parametrize('content', [b'text', None])
    def test_refuses_another_file(
        self, root: Path, tmp_path: Path, content: bytes | None
    ) -> None:
        out = tmp_path / 'x'
        if content is None:
            pq.write_table(pa.table({'a': [1]}), out)
        else:
            out.write_bytes(content)
        with pytest.raises(
            ValueError, match=r'out must be a new file or .*, got .*; delete'
        ):
            embed_rasters(decur(), rasters(root), out, device='cpu')


class TestFeaturesThatAreNotFinite:
    """Refuse values that readers would use as embeddings."""

    @pytest.mark.parametrize(
        ('part', 'column'), [('encoders', 'embedding'), ('projectors', 'common_radar')]
    )
    def test_first_window_is_named(
        self, root: Path, tmp_path: Path, part: str, column: str
    ) -> None:
        task = decur()
        whole = embed_rasters(task, rasters(root), tmp_path / 'whole', device='cpu')
        west, south, *_ = gpd.read_parquet(whole).geometry.iloc[6].bounds
        modules = task.encoders.encoders if part == 'encoders' else task.projectors
        batches = []

        def spoil(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            batches.append(output)
            here = torch.arange(len(output)) + 4 * (len(batches) - 1)
            return output.where(here[:, None] < 6, torch.inf)

        handle = modules['radar'].register_forward_hook(spoil)
        out = tmp_path / 'out'
        message = (
            rf'expected finite features, found .* in {column} of window 6 '
            rf'\(longitude {west:.4f} to .*, latitude {south:.4f} to '
        )
        with pytest.raises(ValueError, match=message):
            embed_rasters(task, rasters(root), out, device='cpu', rows=3)
        assert not out.exists()
        handle.remove()
        # The windows before it are done, and stay.
        assert len(list((tmp_path / 'out.parts').glob('*.parquet'))) == 2
        embed_rasters(task, rasters(root), out, device='cpu', rows=3)
        # Other batches than in one go: equal but for the last digits.
        tables = [gpd.read_parquet(file) for file in (whole, out)]
        found = [np.stack(table['embedding']) for table in tables]
        np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_windows_without_labels_are_in_the_table(root: Path, tmp_path: Path) -> None:
    with rasterio.open(next((root / 'labels').glob('*.tif'))) as file:
        half = file.read()[:, :, :160]
        place = {'crs': file.crs, 'transform': file.transform}
    write_bands(tmp_path / 'half.tif', half, nodata=255, **place)
    mask = {'paths': str(tmp_path / 'half.tif'), 'num_classes': 4}
    for name, dm in (('without', rasters(root)), ('labels', rasters(root, mask=mask))):
        embed_rasters(decur(), dm, tmp_path / name, device='cpu')
    tables = [gpd.read_parquet(tmp_path / name) for name in ('without', 'labels')]
    assert len(tables[0]) == WINDOWS
    assert tables[0].equals(tables[1])


class TestTasks:
    def test_embeds_with_a_classification_task(
        self, root: Path, tmp_path: Path
    ) -> None:
        task = LateFusionClassification(MODALITIES, 'test_resnet', num_classes=3)
        out = embed_rasters(task, rasters(root), tmp_path / 'x', device='cpu')
        assert pq.read_schema(out).names == ['geometry', 'embedding']

    def test_writes_no_unique_column_without_unique_dimensions(
        self, root: Path, tmp_path: Path
    ) -> None:
        task = decur(common_ratio=1.0)
        options = {'device': 'cpu', 'modalities': ['optical']}
        out = embed_rasters(task, rasters(root), tmp_path / 'x', **options)
        assert pq.read_schema(out).names == ['geometry', 'embedding', 'common_optical']

    def test_rejects_invalid_arguments(self, root: Path, tmp_path: Path) -> None:
        out, dm = tmp_path / 'x', rasters(root)
        segmentation = LateFusionSegmentation(
            MODALITIES, backbone='test_resnet', num_classes=3
        )
        with pytest.raises(ValueError, match=r'pooled features .* got LateFusionSeg'):
            embed_rasters(segmentation, dm, out)
        for chosen in (['s1'], []):
            message = r"modalities must be among \['optical', 'radar'\], got"
            with pytest.raises(ValueError, match=message):
                embed_rasters(decur(), dm, out, modalities=chosen)
        with pytest.raises(
            ValueError, match=r"date must be a date such as .*, got 'soon'"
        ):
            embed_rasters(decur(), dm, out, date='soon')
        assert list(tmp_path.iterdir()) == []


class TestRun:
    @pytest.fixture
    def copy(self, run: Path, tmp_path: Path) -> Path:
        shutil.copytree(run, tmp_path / 'run')
        return tmp_path / 'run'

    def fails(self, message: str, *arguments: Any) -> None:
        with pytest.raises(SystemExit, match=f'^torchgeo-decur: .*{message}'):
            main(['embed', *map(str, arguments)])

    def test_refuses_a_batch_size_below_one(self, copy: Path, tmp_path: Path) -> None:
        out = tmp_path / 'out.parquet'
        for size in (0, -2):
            message = f'batch_size must be positive, got {size}'
            self.fails(
                message, copy / 'config.yaml', f'--out={out}', f'--batch_size={size}'
            )
        assert not list(tmp_path.glob('out.parquet*'))

    def test_chooses_the_checkpoint(self, copy: Path) -> None:
        config = copy / 'config.yaml'
        (file,) = (copy / 'checkpoints').glob('*.ckpt')
        shutil.copy(file, file.with_name('other.ckpt'))
        self.fails(
            r"must contain last.ckpt or exactly one checkpoint, found \['epoch", config
        )
        assert load_run(config, file)[0].hparams['projector'] == [16, 16]
        file.rename(file.with_name('last.ckpt'))
        assert load_run(config)
        shutil.rmtree(copy / 'checkpoints')
        self.fails(r'found \[\]; choose a checkpoint with --ckpt_path', config)
        self.fails('checkpoint .* does not exist', config, f'--ckpt_path={file}')

    def test_refuses_other_files(self, copy: Path) -> None:
        (file,) = (copy / 'checkpoints').glob('*.ckpt')
        torch.save({'a': torch.zeros(2)}, file)
        self.fails('found a file without', copy / 'config.yaml')
        file.write_bytes(b'text')
        self.fails('found an unreadable file', copy / 'config.yaml')

    def test_refuses_another_model(self, copy: Path) -> None:
        conf = yaml.safe_load((copy / 'config.yaml').read_text())
        conf['model']['init_args']['projector'] = [8]
        (copy / 'config.yaml').write_text(yaml.safe_dump(conf))
        self.fails(r'another model; projector: expected \[8\]', copy / 'config.yaml')
        conf['model'] = {
            'class_path': 'torchgeo_decur.tasks.LateFusionClassification',
            'init_args': {'modalities': MODALITIES, 'num_classes': 3},
        }
        (copy / 'config.yaml').write_text(yaml.safe_dump(conf))
        message = 'task: expected LateFusionClassification, found DeCUR'
        self.fails(message, copy / 'config.yaml')

    def test_refuses_a_checkpoint_with_missing_parameters(self, copy: Path) -> None:
        (file,) = (copy / 'checkpoints').glob('*.ckpt')
        content = torch.load(file, weights_only=True)
        del content['state_dict'][next(iter(content['state_dict']))]
        torch.save(content, file)
        message = 'expected a checkpoint of the DeCUR in the config, found other .*Missing key'
        self.fails(f'(?s:{message})', copy / 'config.yaml')

    def test_refuses_wrong_configs(self, copy: Path, tmp_path: Path) -> None:
        self.fails('config .* does not exist', tmp_path / 'x.yaml')
        config = copy / 'config.yaml'
        conf = yaml.safe_load(config.read_text())
        conf['model']['init_args']['nothing'] = 3
        config.write_text(yaml.safe_dump(conf))
        self.fails(r'(?s:.*)nothing', config)
        config.write_text('model: {class_path: x}\n')
        self.fails(r"with model and data, found \['model'\]", config)

    def test_initial_weights_may_be_absent(self, copy: Path) -> None:
        config = copy / 'config.yaml'
        conf = yaml.safe_load(config.read_text())
        conf['model']['init_args']['weights'] = 'gone.pt'
        config.write_text(yaml.safe_dump(conf))
        assert load_run(config)


def test_windows_across_180_degrees_are_cut(tmp_path: Path) -> None:
    boxes = [shapely.box(179.5, 10, 180.5, 11), shapely.box(178, 10, 179, 11)]
    # UTM zone 1 reaches over the line
    places = gpd.GeoDataFrame(geometry=boxes, crs='OGC:CRS84').to_crs('EPSG:32601')
    parts = GeoParquetParts(tmp_path / 'x.parquet', places, {})
    parts.write(0, {'embedding': torch.zeros(2, 3)})
    table = gpd.read_parquet(parts.finish())
    first, second = table.geometry
    assert first.geom_type == 'MultiPolygon' and second.geom_type == 'Polygon'
    assert all(part.bounds[2] - part.bounds[0] < 0.6 for part in first.geoms)
    assert first.area == pytest.approx(1, rel=0.01)
