"""Check the location of every pixel in the prediction of whole scenes."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor, nn

from tests.helpers.fake_data import fake
from torchgeo_decur.cli.maps import predict_map
from torchgeo_decur.datamodules import RasterPairDataModule
from torchgeo_decur.tasks import LateFusionSegmentation

RASTERS = fake('rasters')

# Neither side of the scene is a multiple of it.
PATCH = 48
MEAN, STD = 1700.0, 850.0


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = RASTERS.make(tmp_path_factory.mktemp('rasters'))
    return folder


def rasters(root: Path, first: str = 'optical', **options: Any) -> RasterPairDataModule:
    statistics = {'mean': [MEAN, MEAN], 'std': [STD, STD]}
    optical = {'paths': str(root / 'optical'), 'bands': ['column', 'row'], **statistics}
    dem = {'paths': str(root / 'dem'), 'bands': ['elevation'], 'kind': 'elevation'}
    entries = {'optical': optical, 'dem': {**dem, 'unit': 'm'}}
    chosen = {first: entries[first], **entries}
    return RasterPairDataModule(chosen, patch_size=PATCH, batch_size=4, **options)


class Echo(nn.Module):
    """Model that returns the optical image as logits."""

    encoders = SimpleNamespace(strides=[1])

    def grid_size(self, images: Mapping[str, Tensor], size: Any) -> Any:
        return size

    def encode(
        self, images: Mapping[str, Tensor], available: Any, size: Any
    ) -> dict[str, list[Tensor]]:
        return {m: [x] for m, x in images.items()}

    def decode(self, features: Mapping[str, list[Tensor]], size: Any) -> Tensor:
        return features['optical'][0]


def echo(**options: Any) -> LateFusionSegmentation:
    task = LateFusionSegmentation(
        {'optical': 2, 'dem': 1},
        backbone='test_resnet',
        task='multilabel',
        num_labels=2,
        loss='bce',
        **options,
    )
    task.model = Echo()  # type: ignore[assignment]
    return task


def draw(
    task: LateFusionSegmentation, datamodule: RasterPairDataModule, folder: Path
) -> tuple[np.ndarray, Any]:
    """Write a map of probabilities, and return it with its profile."""
    options: dict[str, Any] = {'device': 'cpu', 'progress': False}
    out = predict_map(task, datamodule, folder / 'map.tif', 'probabilities', **options)
    with rasterio.open(out) as file:
        return file.read(), file.profile


def test_every_pixel_lands_where_it_belongs(root: Path, tmp_path: Path) -> None:
    found, profile = draw(echo(), rasters(root), tmp_path)
    assert profile['crs'] == rasterio.CRS.from_string(RASTERS.UTM)
    transform = profile['transform']
    assert (transform.a, transform.e) == (RASTERS.RES, -RASTERS.RES)
    assert (transform.c, transform.f) == (RASTERS.WEST, RASTERS.NORTH)
    assert found.shape == (2, RASTERS.ROWS, RASTERS.COLUMNS)

    # The files say where their pixels are: column and row, times 10, plus 100.
    x = np.log(found / (1 - found)).astype(np.float64)
    values = MEAN - 2 * STD + x * 4 * STD
    rows, columns = np.mgrid[: RASTERS.ROWS, : RASTERS.COLUMNS]
    valid = columns >= RASTERS.RIM
    expected = np.stack([columns, rows]) * 10.0 + 100
    np.testing.assert_allclose(values[:, valid], expected[:, valid], atol=0.1)
    # Missing pixels are the middle of the scale.
    np.testing.assert_allclose(x[:, ~valid], 0.5, atol=1e-6)


def test_windows_know_their_place_exactly(root: Path) -> None:
    dm = rasters(root, first='dem')
    dm.setup('predict')
    places = dm.predict_dataset.places()
    assert places.crs == dm.predict_dataset.crs == 4326
    with rasterio.open(root / 'dem' / 'dem.tif') as file:
        grid, dem = file.transform, file.read(1)
    for sample, box in zip(dm.predict_dataset, places.geometry, strict=True):
        transform, bounds = sample['transform'], sample['bounds']
        assert transform.dtype == bounds.dtype == torch.float64
        assert tuple(bounds[[0, 3, 1, 4]].tolist()) == box.bounds
        # A millionth of a pixel, where float32 is off by a tenth.
        column = (transform[2].item() - grid.c) / grid.a
        row = (transform[5].item() - grid.f) / grid.e
        assert abs(column - round(column)) < 1e-6 and abs(row - round(row)) < 1e-6
        top, left = round(row), round(column)
        if 0 <= top < dem.shape[0] - PATCH and 0 <= left < dem.shape[1] - PATCH:
            expected = dem[top : top + PATCH, left : left + PATCH]
            valid = expected != -9999
            assert np.array_equal(sample['image_dem'][0][valid], expected[valid])


def test_place_stays_on_the_host(root: Path) -> None:
    dm = rasters(root)
    dm.setup('predict')
    batch = next(iter(dm.predict_dataloader()))
    moved = dm.transfer_batch_to_device(batch, torch.device('meta'), 0)
    assert {k for k, v in moved.items() if v.is_meta} == {'image_optical', 'image_dem'}
    assert moved['bounds'] is batch['bounds']


@pytest.mark.parametrize('missing', [[], ['dem'], ['optical']])
def test_model_draws_a_map_with_each_modality_missing(
    root: Path, tmp_path: Path, missing: list[str]
) -> None:
    torch.manual_seed(0)
    task = LateFusionSegmentation(
        {'optical': 2, 'dem': 1},
        'fcn',
        'test_resnet',
        num_classes=3,
        missing_modalities=missing,
    )
    found, profile = draw(task, rasters(root), tmp_path)
    assert profile['count'] == 3
    # Nodata are the pixels without any modality of the task.
    known = ~np.isnan(found[0])
    np.testing.assert_allclose(found.sum(0)[known], 1, atol=1e-5)
    if missing == ['dem']:
        assert known[:, RASTERS.RIM :].all() and not known[:, : RASTERS.RIM].any()
    else:
        assert 50 < (~known).sum() < 130 if missing else known.all()
