"""Check offsets, factors and missing values in files of every kind of data."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from tests.helpers.fake_data import fake
from tests.helpers.small_fits import scaled
from torchgeo_decur.datamodules import (
    BigEarthNetMMDataModule,
    GeoNRWPatchDataModule,
    PairedFoldersDataModule,
    RasterPairDataModule,
    SSL4EOS12PairDataModule,
)
from torchgeo_decur.datasets import SSL4EOS12Pair
from torchgeo_decur.modalities import MODALITIES, Conversion, conversions

BANDS = ('a', 'b')


class TestConversion:
    def test_converts_each_band_by_its_own_numbers(self) -> None:
        entry = {'scale': [2, 10], 'offset': [1, -1], 'nodata': [0, 255]}
        convert = Conversion.of('m', entry, BANDS)
        x = torch.tensor([[0, 3], [255, 4]], dtype=torch.uint8)[:, None]
        expected = torch.tensor([[math.nan, 7], [math.nan, 39]])[:, None]
        torch.testing.assert_close(convert(x), expected, equal_nan=True)
        dated = convert(x.expand(3, 4, 2, 1, 2))
        torch.testing.assert_close(dated[2, 3], expected, equal_nan=True)

    def test_nothing_to_do(self) -> None:
        convert = Conversion.of('m', {'nodata': 'nan'}, BANDS)
        x = torch.tensor([[1.0, math.nan], [2, 3]])[:, None]
        assert not convert.changes
        torch.testing.assert_close(convert(x), x, equal_nan=True)

    @pytest.mark.parametrize(
        ('entry', 'message'),
        [
            (
                {'offset': [1, 2, 3]},
                r'm: offset must be one number or one number per band',
            ),
            ({'scale': 0}, r'm: scale must be finite and not 0, got \[0\.0\]'),
            ({'scale': [1, 0]}, r'scale must be finite and not 0'),
            ({'offset': 'nan'}, r'offset must be finite, got \[nan\]'),
            ({'offset': 'much'}, r"offset must be a number or a list .*, got 'much'"),
            ({'offset': True}, r'offset must be a number'),
            ({'nodata': []}, r'nodata must be a number'),
        ],
    )
    def test_rejects_invalid_arguments(
        self, entry: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            Conversion.of('m', entry, BANDS)

    @pytest.mark.parametrize(
        ('entries', 'message'),
        [
            ({'s3': {'offset': 1}}, r"must be among \['s2'\], got \['s3'\]"),
            (
                {'s2': {'shift': 1}},
                r"s2: conversion must only have the keys \['scale', 'off",
            ),
            ({'s2': -1000}, r's2: conversion must only have the keys .*, got -1000'),
        ],
    )
    def test_refuses_wrong_entries(self, entries: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            conversions({'s2': MODALITIES['sentinel2_l1c']}, entries)


class TestData:
    def test_converts_rasters(self, tmp_path: Path) -> None:
        root = fake('rasters').make(tmp_path)
        known = {'mean': [50.0, 20.0], 'std': [50.0, 20.0]}
        optical = {'paths': str(root / 'optical'), 'bands': list(BANDS), **known}
        radar = {'paths': str(root / 'radar'), 'bands': list(BANDS), **known}
        data = []
        for change in ({}, {'scale': 0.1, 'offset': [-10, -20]}):
            entries = {'optical': {**optical, **change}, 'radar': radar}
            module = RasterPairDataModule(entries, patch_size=32, max_nodata=0.5)
            module.setup('predict')
            data.append(module)
        # The first window lies at the rim, which the files mark by 65535.
        raw, got = (m.predict_dataset[0]['image_optical'] for m in data)
        assert (raw == 65535).any()
        expected = torch.where(raw == 65535, math.nan, raw * 0.1)
        expected -= torch.tensor([10.0, 20.0])[:, None, None]
        torch.testing.assert_close(got, expected, equal_nan=True)
        batch = scaled(data[1], 'predict')['image_optical']
        assert (batch[0][expected.isnan()] == 0.5).all()
        same = [m.predict_dataset[0]['image_radar'] for m in data]
        assert torch.equal(*same)

    def test_rasters_refuse_early(self) -> None:
        entries = {m: {'paths': m, 'bands': list(BANDS)} for m in ('s1', 's2')}
        entries['s2']['offset'] = [1, 2, 3]
        with pytest.raises(ValueError, match='s2: offset must be one number or one'):
            RasterPairDataModule(entries)

    def test_converts_paired_folders(self, tmp_path: Path) -> None:
        numbers = np.arange(16, dtype=np.uint16).reshape(1, 4, 4)
        for name in ('x', 'y'):
            path = tmp_path / f'{name}.tif'
            size = {'count': 1, 'height': 4, 'width': 4, 'dtype': 'uint16'}
            with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
                with rasterio.open(path, 'w', driver='GTiff', **size) as file:
                    file.write(numbers)
        change = {'scale': 2, 'offset': -1000, 'nodata': 0}
        entry = {'pattern': '{id}.tif', 'bands': ['z'], 'kind': 'depth', **change}
        module = PairedFoldersDataModule(
            str(tmp_path), {'depth': entry}, val_fraction=0.0, batch_size=2
        )
        module.setup('fit')
        got = module.train_dataset[0]['image_depth'][0].flatten()
        assert got[0].isnan() and module.modalities['depth'].nodata is not None
        assert got[1:].tolist() == [2.0 * i - 1000 for i in range(1, 16)]

    def test_converts_ssl4eo_s12(self, tmp_path: Path) -> None:
        fake('ssl4eo_s12').make(tmp_path, dates=(0,))
        entries = {'s2': {'offset': -1000, 'nodata': 0}, 's1': {'scale': 0.5}}
        raw, got = (SSL4EOS12Pair(tmp_path, conversion=c)[0] for c in (None, entries))
        assert torch.equal(got['image_s2'], raw['image_s2'] - 1000)
        assert torch.equal(got['image_s1'], raw['image_s1'] / 2)
        module = SSL4EOS12PairDataModule(
            str(tmp_path), val_fraction=0.0, batch_size=2, conversion=entries
        )
        module.setup('fit')
        assert math.isnan(module.modalities['s2'].nodata or 0)
        assert module.modalities['s1'].nodata is None
        sample = module.predict_dataset[0]
        assert torch.equal(sample['image_s2'], got['image_s2'])

    def test_converts_bigearthnet(self, tmp_path: Path) -> None:
        fake('bigearthnet').make(tmp_path)
        modules = [
            BigEarthNetMMDataModule(str(tmp_path), modalities=['s2'], conversion=c)
            for c in (None, {'s2': {'offset': -1000}})
        ]
        for module in modules:
            module.setup('test')
        raw, got = (m.test_dataset[0]['image_s2'] for m in modules)
        assert torch.equal(got, raw - 1000)

    def test_converts_geonrw(self, tmp_path: Path) -> None:
        fake('geonrw').make(tmp_path)
        modules = [
            GeoNRWPatchDataModule(str(tmp_path), size=32, conversion=c)
            for c in (None, {'dem': {'scale': 0.1}})
        ]
        for module in modules:
            module.setup('test')
        raw, got = (m.test_dataset[0] for m in modules)
        assert torch.equal(got['image_dem'], raw['image_dem'] * 0.1)
        assert torch.equal(got['image_rgb'], raw['image_rgb'])
