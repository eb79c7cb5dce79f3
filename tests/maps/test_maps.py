"""Write maps and dense embeddings of a scene, in windows and in one pass."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import timm
import torch
import yaml
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter
from torchgeo.datasets import RasterDataset

from tests.helpers.fake_data import write_bands
from tests.helpers.small_fits import trainer
from torchgeo_decur.cli import main
from torchgeo_decur.cli.maps import embed_dense, predict_map, scene_writer
from torchgeo_decur.cli.maps.blending import BlendingBuffer
from torchgeo_decur.cli.maps.dense_embeddings import cell_features
from torchgeo_decur.datamodules import RasterPairDataModule
from torchgeo_decur.datasets.rasters.scene import window_starts
from torchgeo_decur.tasks import (
    DeCUR,
    LateFusionPixelwiseRegression,
    LateFusionSegmentation,
)

HEIGHT, WIDTH, PATCH = 133, 187, 64
CORNER = (500_000.0, 5_600_000.0)
CHANNELS = {'s2': 3, 's1': 2}
# Rows and columns without data of s2, of s1, and of both.
HOLES = {
    's2': np.s_[10:60, 30:100],
    's1': np.s_[32:96, 60:140],
    'both': np.s_[32:60, 60:100],
}
QUIET: dict[str, Any] = {'device': 'cpu', 'progress': False}


class StoppedError(Exception):
    """A simulated interruption."""


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        m: {
            'paths': str(folder / m),
            'bands': [f'{m}_{i}' for i in range(c)],
            'mean': [5.0] * c,
            'std': [2.0] * c,
        }
        for m, c in CHANNELS.items()
    }


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('scene')
    generator = np.random.default_rng(0)
    for m, c in CHANNELS.items():
        noise = generator.normal(size=(c, HEIGHT, WIDTH))
        image = gaussian_filter(noise, (0, 3, 3)).astype(np.float32) * 10 + 5
        image[:, *HOLES[m]] = np.nan
        place = {'crs': 'EPSG:32632', 'transform': from_origin(*CORNER, 10, 10)}
        write_bands(folder / m / 'image.tif', image, nodata=np.nan, **place)
    return folder


def scene(root: Path, **options: Any) -> RasterPairDataModule:
    options = {'patch_size': PATCH, 'batch_size': 4, **options}
    return RasterPairDataModule(entries(root), **options)


def segmentation(**options: Any) -> LateFusionSegmentation:
    torch.manual_seed(0)
    options = {'num_classes': 3, 'labels': ['water', 'wood', 'town'], **options}
    task = LateFusionSegmentation(CHANNELS, 'fcn', 'test_resnet', **options)
    # An untrained decoder hardly varies.
    for parameter in task.model.decoder.parameters():
        parameter.data *= 3
    return task


def decur() -> DeCUR:
    torch.manual_seed(0)
    return DeCUR(CHANNELS, 'test_resnet', projector=[16, 16], size=32)


def read(file: Path) -> np.ndarray:
    with rasterio.open(file) as opened:
        values: np.ndarray = opened.read()
    return values


@pytest.fixture(scope='module')
def one_pass(root: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Return probabilities of one window of the size of the scene."""
    out = tmp_path_factory.mktemp('one') / 'map.tif'
    options = {'window': 1000, **QUIET}
    return read(
        predict_map(segmentation(), scene(root), out, 'probabilities', **options)
    )


def test_no_seam_shows(root: Path, one_pass: np.ndarray, tmp_path: Path) -> None:
    maps = {}
    for overlap in (0.0, 0.25):
        out = tmp_path / f'{overlap}.tif'
        options = {'overlap': overlap, **QUIET}
        predict_map(segmentation(), scene(root), out, 'probabilities', **options)
        maps[overlap] = read(out)

    def step(x: np.ndarray) -> float:
        """Return the mean change of probabilities across borders of windows."""
        columns = [PATCH - 1, 2 * PATCH - 1]
        return float(np.nanmean(np.abs(np.diff(x, axis=2)[..., columns])))

    # Without overlap, the borders show, so the test sees seams.
    assert step(maps[0.0]) > 5 * step(one_pass)
    assert step(maps[0.25]) < 1.2 * step(one_pass)
    errors = {o: np.nanmean(np.abs(x - one_pass)) for o, x in maps.items()}
    assert errors[0.25] < 0.8 * errors[0.0]


def test_map_has_place_nodata_and_class_names(
    root: Path, one_pass: np.ndarray, tmp_path: Path
) -> None:
    out = predict_map(segmentation(), scene(root), tmp_path / 'map.tif', **QUIET)
    with rasterio.open(out) as file:
        assert file.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
        assert file.crs == 'EPSG:32632' and file.shape == (HEIGHT, WIDTH)
        assert tuple(file.transform)[:6] == (10, 0, CORNER[0], 0, -10, CORNER[1])
        assert file.dtypes == ('uint8',) and file.nodata == 255
        classes = file.read(1)
        assert file.tags(1)['class_2'] == 'town'
        colors = [file.colormap(1)[i] for i in range(3)]
    assert len(set(colors)) == 3
    names = (tmp_path / 'map.tif.aux.xml').read_text()
    assert '<Category>water</Category><Category>wood</Category>' in names
    empty = np.zeros((HEIGHT, WIDTH), bool)
    empty[HOLES['both']] = True
    np.testing.assert_array_equal(classes == 255, empty)
    np.testing.assert_array_equal(np.isnan(one_pass), np.stack([empty] * 3))
    # The same classes as in one pass, except where two are about as likely.
    top = np.sort(one_pass, axis=0)
    clear = top[2] - top[1] > 0.1
    assert np.array_equal(classes[clear], one_pass.argmax(0)[clear])

    class Labels(RasterDataset):
        is_image = False

    dataset = Labels(out)
    assert np.array_equal(dataset[dataset.bounds]['mask'], classes)


def test_resumes_after_a_stop(root: Path, tmp_path: Path) -> None:
    whole = predict_map(
        segmentation(), scene(root), tmp_path / 'a.tif', 'probabilities', **QUIET
    )
    task, out, seen = segmentation(), tmp_path / 'b.tif', []

    def look(module: Any, args: Any) -> None:
        seen.append(len(next(iter(args[0].values()))))
        if sum(seen) > 17:
            raise StoppedError

    handle = task.model.encoders.register_forward_pre_hook(look)
    with pytest.raises(StoppedError):
        predict_map(task, scene(root), out, 'probabilities', **QUIET)
    handle.remove()
    parts = tmp_path / 'b.tif.parts'
    assert not out.exists() and len(list(parts.glob('part-*.tif'))) == 3
    with pytest.raises(ValueError, match=r"differs in \['windows'\]"):
        predict_map(task, scene(root), out, 'probabilities', window=32, **QUIET)
    seen.clear()
    task.model.encoders.register_forward_pre_hook(
        lambda module, args: seen.append(len(next(iter(args[0].values()))))
    )
    predict_map(task, scene(root), out, 'probabilities', **QUIET)
    # The last of four rows of windows, and the two that reach into its strip.
    assert sum(seen) == 15
    np.testing.assert_allclose(read(out), read(whole), atol=1e-6)
    assert sorted(f.name for f in tmp_path.iterdir()) == ['a.tif', 'b.tif']
    seen.clear()
    assert predict_map(task, scene(root), out, 'probabilities', **QUIET) == out
    assert seen == []
    with pytest.raises(
        ValueError, match=r'out must be a new file or .*b\.tif from another run; delete'
    ):
        predict_map(task, scene(root), out, **QUIET)


def test_memory_does_not_depend_on_the_width(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    class Buffer(BlendingBuffer):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            sizes.append(self.sums.nbytes + self.weights.nbytes)

    caches = set()
    finish = scene_writer.RasterParts.finish

    def look(parts: Any) -> Path:
        caches.add(rasterio.env.getenv()['GDAL_CACHEMAX'])
        return finish(parts)

    monkeypatch.setattr(scene_writer.RasterParts, 'finish', look)
    task = segmentation()
    task.model.encoders.register_forward_pre_hook(
        lambda *args: caches.add(rasterio.env.getenv()['GDAL_CACHEMAX'])
    )
    out = [tmp_path / name for name in ('whole.tif', 'blocks.tif')]
    monkeypatch.setattr(scene_writer, 'BlendingBuffer', Buffer)
    predict_map(task, scene(root), out[0], 'probabilities', **QUIET)
    # Three classes and one weight, for 64 rows and 80 columns.
    limit = 4 * 4 * PATCH * 80
    monkeypatch.setattr(scene_writer, 'BLOCK_BYTES', limit)
    predict_map(segmentation(), scene(root), out[1], 'probabilities', **QUIET)
    # By default, GDAL caches up to a twentieth of the memory of the machine.
    assert caches == {2**27}
    assert len(sizes) >= 4 and max(sizes[1:]) <= limit < sizes[0]
    np.testing.assert_allclose(*map(read, out), atol=1e-6)


@pytest.mark.parametrize('total', [1, 64, 65, 97, 1000, 1017])
@pytest.mark.parametrize('overlap', [0.0, 0.25, 0.5])
def test_windows_cover_a_side(total: int, overlap: float) -> None:
    for side, cell, align in ((64, 1, 32), (32, 1, 32), (64, 32, 32), (5, 1, 32)):
        length, size = -(-total // cell) * cell, min(side, -(-total // cell) * cell)
        starts = window_starts(length, size, overlap, cell, align)
        assert starts[0] == 0 and starts[-1] == length - size
        assert not (starts % cell).any()
        shared = size - np.diff(starts)
        assert (np.diff(starts) > 0).all() and (shared >= int(size * overlap)).all()


class TestContent:
    def test_writes_one_band_for_each_label(self, root: Path, tmp_path: Path) -> None:
        options = {'task': 'multilabel', 'num_labels': 2, 'loss': 'bce'}
        task = segmentation(num_classes=None, labels=['wet', 'green'], **options)
        out = predict_map(task, scene(root), tmp_path / 'map.tif', **QUIET)
        with rasterio.open(out) as file:
            assert file.descriptions == ('wet', 'green')
            assert set(np.unique(file.read())) <= {0, 1, 255}

    def test_writes_numbers_in_their_unit(self, root: Path, tmp_path: Path) -> None:
        task = LateFusionPixelwiseRegression(CHANNELS, 'fcn', 'test_resnet')
        task.target_mean.fill_(100)
        task.target_std.fill_(2)
        out = predict_map(task, scene(root), tmp_path / 'map.tif', **QUIET)
        with rasterio.open(out) as file:
            assert file.descriptions == ('value',) and np.isnan(file.nodata)
            assert 90 < np.nanmean(file.read()) < 110
        assert [f.name for f in tmp_path.iterdir()] == ['map.tif']
        with pytest.raises(ValueError, match=r"content must be one of \['values'\]"):
            predict_map(task, scene(root), tmp_path / 'x', 'classes', **QUIET)

    def test_refuses_what_is_no_map(self, root: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r'task must predict a map.*got DeCUR'):
            predict_map(decur(), scene(root), tmp_path / 'x', **QUIET)
        with pytest.raises(ValueError, match=r'overlap must be in \[0, 0.5\], got 0.6'):
            predict_map(segmentation(), scene(root), tmp_path / 'x', overlap=0.6)
        fine = scene(root)
        fine.entries['s1']['res'] = 5
        with pytest.raises(
            ValueError, match='requires rasters with the same resolution, got'
        ):
            predict_map(segmentation(), fine, tmp_path / 'x', **QUIET)
        task = segmentation()
        task.model.decoder.register_forward_hook(lambda m, a, y: y * torch.nan)
        with pytest.raises(ValueError, match=r'found NaN or infinity in water'):
            predict_map(task, scene(root), tmp_path / 'x', 'probabilities', **QUIET)
        assert not (tmp_path / 'x').exists()


def test_blends_dates_side_by_side(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(5, 2, (3, 32, 48)).astype(np.float32)
    for m, c in CHANNELS.items():
        for day, column in (('20200101', 0), ('20200202', 40)):
            corner = from_origin(CORNER[0] + 10 * column, CORNER[1], 10, 10)
            place = {'crs': 'EPSG:32632', 'transform': corner, 'nodata': np.nan}
            write_bands(tmp_path / m / f'{m}_{day}.tif', x[:c], **place)
    pattern = {'filename_regex': r'.*_(?P<date>\d{8})', 'date_format': '%Y%m%d'}
    rasters = {m: {**e, **pattern} for m, e in entries(tmp_path).items()}
    dm = RasterPairDataModule(rasters, patch_size=32, batch_size=8)
    options = {'overlap': 0.0, **QUIET}
    found = read(
        predict_map(segmentation(), dm, tmp_path / 'x.tif', 'probabilities', **options)
    )
    assert found.shape == (3, 32, 88) and not np.isnan(found).any()


class TestDense:
    def test_cells_of_one_window_match_the_model(
        self, root: Path, tmp_path: Path
    ) -> None:
        task, dm = decur().eval(), scene(root)
        options = {'window': 1000, 'dtype': 'float32', **QUIET}
        out = embed_dense(task, dm, tmp_path / 'x.tif', **options)
        with rasterio.open(out) as file:
            assert file.transform.a == 320 and file.shape == (5, 6)
            assert file.descriptions[95:98] == ('s2_95', 'common_s2_0', 'common_s2_1')
            dimensions = json.loads(file.tags()['TORCHGEO_DECUR'])['dimensions']
            x = torch.from_numpy(file.read())
        assert dimensions['unique_s2'] == [110, 112] and dimensions['s1'] == [112, 208]
        sample = dm.predict_dataset.scene(1000, cell=32)[0]
        batch = {k: v[None] for k, v in sample.items() if k.startswith('image')}
        image = dm.aug(batch)['image_s1']
        with torch.no_grad():
            maps = task.encoders.encoders['s1'].forward_features(image)[0]
            h = maps.flatten(1).T
            z = task.projectors['s1'](h).T.view(16, 5, 6)
        # A cell is nodata only where the modality has no pixel at all.
        known = ~x[dimensions['s1'][0]].isnan()
        assert known.sum() == 30 - 4 and not known[1:3, 2:4].any()
        for name, expected in (
            ('s1', maps),
            ('common_s1', z[:14]),
            ('unique_s1', z[14:]),
        ):
            found = x[slice(*dimensions[name])]
            torch.testing.assert_close(
                found[:, known], expected[:, known], rtol=1e-4, atol=1e-5
            )

    def test_absent_modality_is_nodata(self, root: Path, tmp_path: Path) -> None:
        with rasterio.open(root / 's1' / 'image.tif') as file:
            half = file.read()[..., :64]
            place = {'crs': file.crs, 'transform': file.transform, 'nodata': np.nan}
        write_bands(tmp_path / 's1' / 'half.tif', half, **place)
        dm = scene(root, footprint='union', max_nodata=0.5)
        dm.entries['s1']['paths'] = str(tmp_path / 's1')
        out = embed_dense(decur(), dm, tmp_path / 'x.tif', **QUIET)
        with rasterio.open(out) as file:
            assert set(file.dtypes) <= {'float16', 'float32'}
            assert file.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
            has = ~np.isnan(file.read())
        assert has[:112].all((0, 2))[[0, 3]].all()
        assert has[112:, :, :2].any() and not has[112:, :, 2:].any()
        dataset = RasterDataset(out)
        image = dataset[dataset.bounds]['image']
        assert image.shape == (224, 5, 6) and image.dtype == torch.float32

    def test_half_precision_keeps_the_features(
        self, root: Path, tmp_path: Path
    ) -> None:
        found = []
        for dtype in ('float16', 'float32'):
            options = {
                'modalities': ['s2'],
                'projections': False,
                'dtype': dtype,
                **QUIET,
            }
            found.append(
                read(embed_dense(decur(), scene(root), tmp_path / dtype, **options))
            )
        np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-4)
        task = decur()
        task.projectors['s2'].register_forward_hook(lambda m, a, z: z * 1e9)
        with pytest.raises(ValueError, match=r'up to 65504 for float16, .* --dtype'):
            embed_dense(task, scene(root), tmp_path / 'x', **QUIET)


@pytest.mark.parametrize('name', ['test_resnet', 'test_vit', 'test_convnext'])
def test_mean_of_cells_equals_the_feature(name: str) -> None:
    torch.manual_seed(0)
    options = (
        {'dynamic_img_size': True, 'global_pool': 'avg'} if name == 'test_vit' else {}
    )
    model: Any = timm.create_model(name, num_classes=0, in_chans=2, **options).eval()
    x = torch.rand(2, 2, 64, 96)
    with torch.no_grad():
        cells = cell_features(model, x).view(2, -1, model.num_features)
        whole = model(x)
    assert cells.shape[1] == (24 if name == 'test_vit' else 6)
    if name == 'test_resnet':
        torch.testing.assert_close(cells.mean(1), whole)
    assert (cells.std(1) > 0).any()


def test_command_writes_a_map_of_a_fit(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Write a map from the files of a fit."""
    task = segmentation()
    fit = trainer()
    fit.strategy.connect(task)
    fit.save_checkpoint(tmp_path / 'checkpoints' / 'last.ckpt')
    config = {
        'model': {
            'class_path': 'torchgeo_decur.tasks.LateFusionSegmentation',
            'init_args': {
                'modalities': CHANNELS,
                'backbone': 'test_resnet',
                'num_classes': 3,
                'labels': ['water', 'wood', 'town'],
            },
        },
        'data': {
            'class_path': 'torchgeo_decur.datamodules.RasterPairDataModule',
            'init_args': {'rasters': entries(root), 'patch_size': PATCH},
        },
    }
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(config, sort_keys=False))
    out = tmp_path / 'map.tif'
    main(['map', str(tmp_path / 'config.yaml'), f'--out={out}', '--device=cpu'])
    assert capsys.readouterr().out.strip() == str(out)
    expected = predict_map(task, scene(root), tmp_path / 'same.tif', **QUIET)
    np.testing.assert_array_equal(read(out), read(expected))
