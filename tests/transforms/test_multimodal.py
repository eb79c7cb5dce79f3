from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchgeo_decur.modalities import MODALITIES, Modality
from torchgeo_decur.transforms import (
    PadBands,
    PerModality,
    ScaleToUnit,
    SelectBands,
    ToModalities,
)

DEM = Modality(bands=('elevation',), kind='elevation', unit='m')


def terrain(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 400 + 90 * torch.randn(*shape, generator=generator)


def by_percentiles(patch: np.ndarray) -> np.ndarray:
    low, high = np.percentile(patch, [1, 99])
    return (patch.clip(low, high) - low) / (high - low)


class Add(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value


class TestToModalities:
    def test_renames_the_image_alone(self) -> None:
        sample = {'image': torch.rand(2, 4, 4), 'mask': torch.ones(4, 4), 'crs': 'x'}
        before = dict(sample)
        out = ToModalities('s1')(sample)
        assert sample == before
        assert set(out) == {'image_s1', 'mask', 'crs'}
        assert out['image_s1'] is sample['image']
        assert out['mask'] is sample['mask']

    def test_no_image(self) -> None:
        with pytest.raises(ValueError, match=r"s1: expected a sample .* \['mask'\]"):
            ToModalities('s1')({'mask': torch.ones(4, 4)})


class TestPerModality:
    def test_each_image_its_own_module(self) -> None:
        batch = {
            'image_s1': torch.zeros(1, 2, 4, 4),
            'image_s2': torch.zeros(1, 3, 4, 4),
            'image_dem': torch.zeros(1, 1, 4, 4),
            'label': torch.tensor([3]),
            'bounds': ['here'],
        }
        before = dict(batch)
        out = PerModality({'s1': Add(1), 's2': Add(2)})(batch)
        assert out['image_s1'].eq(1).all()
        assert out['image_s2'].eq(2).all()
        assert all(out[k] is before[k] for k in ('image_dem', 'label', 'bounds'))
        assert list(out) == list(batch)
        assert all(batch[k] is before[k] for k in before)
        assert batch['image_s1'].eq(0).all()

    def test_absent_modality(self) -> None:
        assert PerModality({'s1': Add(1)})({'label': 3}) == {'label': 3}

    def test_modules_are_registered(self) -> None:
        per = PerModality({'s1': ScaleToUnit('sentinel1_grd')}).double()
        assert {b.dtype for b in per.buffers()} == {torch.float64}


class TestSelectBands:
    @pytest.mark.parametrize('lead', [(), (2,), (2, 3)])
    def test_picks_by_name_in_order(self, lead: tuple[int, ...]) -> None:
        x = torch.rand(*lead, 3, 4, 5)
        out = SelectBands(['a', 'b', 'c'], ['c', 'a'])(x)
        assert out.equal(torch.stack([x[..., 2, :, :], x[..., 0, :, :]], dim=-3))

    def test_unknown_band(self) -> None:
        message = r"select must be among \['a', 'b'\], got \['z'\]"
        with pytest.raises(ValueError, match=message):
            SelectBands(['a', 'b'], ['a', 'z'])


class TestPadBands:
    @pytest.mark.parametrize('lead', [(), (2,), (2, 3)])
    def test_fills_what_is_absent(self, lead: tuple[int, ...]) -> None:
        x = torch.rand(*lead, 2, 4, 5)
        out = PadBands(['b', 'a'], ['a', 'z', 'b'], value=-1)(x)
        assert out[..., 0, :, :].equal(x[..., 1, :, :])
        assert out[..., 1, :, :].eq(-1).all()
        assert out[..., 2, :, :].equal(x[..., 0, :, :])

    def test_b10_of_sentinel2(self) -> None:
        l2a, l1c = MODALITIES['sentinel2_l2a'].bands, MODALITIES['sentinel2_l1c'].bands
        out = PadBands(l2a, l1c)(torch.ones(1, 12, 2, 2, dtype=torch.int16))
        assert out.dtype == torch.int16
        assert out[0, :, 0, 0].tolist() == [1] * 10 + [0] + [1] * 2

    def test_band_without_place(self) -> None:
        with pytest.raises(ValueError, match=r"every band .* lacks \['b'\]"):
            PadBands(['a', 'b'], ['a', 'z'])


class TestScaleByStatistics:
    @pytest.mark.parametrize(
        ('name', 'band', 'value', 'expected'),
        [
            ('sentinel1_grd', 0, -12.59, 0.5),
            ('sentinel1_grd', 0, -12.59 + 5.26, 0.75),
            ('sentinel1_grd', 1, -20.26 - 2 * 5.91, 0.0),
            ('sentinel1_grd', 1, -90.0, 0.0),
            ('sentinel1_grd', 0, 30.0, 1.0),
            ('sentinel2_l1c', 10, 22.0, 0.5),
            ('sentinel2_l1c', 0, 1612.9 + 791.0, 0.75),
            ('sentinel2_l2a', 10, 2195.2 - 1340.0, 0.25),
            ('geonrw_rgb', 2, 51.0, 0.2),
            ('sunrgbd_hha', 1, 255.0, 1.0),
        ],
    )
    def test_values_by_hand(
        self, name: str, band: int, value: float, expected: float
    ) -> None:
        x = torch.zeros(2, MODALITIES[name].channels, 3, 3)
        x[:, band] = value
        out = ScaleToUnit(name)(x)[:, band]
        torch.testing.assert_close(out, torch.full_like(out, expected))

    @pytest.mark.parametrize('dtype', [torch.uint8, torch.int16, torch.int32])
    def test_integers(self, dtype: torch.dtype) -> None:
        x = torch.tensor([0, 51, 102]).reshape(3, 1, 1).to(dtype)
        out = ScaleToUnit('geonrw_rgb')(x)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out.flatten(), torch.tensor([0.0, 0.2, 0.4]))

    @pytest.mark.parametrize(
        ('dtype', 'tolerance'),
        [(torch.float64, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)],
    )
    def test_precisions(self, dtype: torch.dtype, tolerance: float) -> None:
        x = (2000 + terrain(2, 13, 4, 4)).to(dtype)
        scale = ScaleToUnit('sentinel2_l1c')
        out = scale(x)
        assert out.dtype == dtype
        torch.testing.assert_close(
            out.float(), scale(x.float()), atol=tolerance, rtol=0
        )

    def test_dates_are_scaled_alike(self) -> None:
        x = terrain(2, 4, 2, 5, 5) / 30 - 25
        scale = ScaleToUnit('sentinel1_grd')
        assert scale(x).equal(torch.stack([scale(t) for t in x.unbind(1)], dim=1))

    @pytest.mark.parametrize('nodata', [float('nan'), -9999.0])
    def test_nodata_becomes_the_middle(self, nodata: float) -> None:
        x = torch.tensor([nodata, 10.0, 20.0]).reshape(1, 1, 1, 3)
        modality = Modality(('t',), 'depth', 'K', (20.0,), (10.0,), nodata)
        out = ScaleToUnit(modality)(x).flatten()
        torch.testing.assert_close(out, torch.tensor([0.5, 0.25, 0.5]))

    def test_input_and_gradient(self) -> None:
        x = torch.tensor([-12.59, -90.0]).reshape(2, 1, 1).requires_grad_()
        before = x.detach().clone()
        ScaleToUnit('sentinel1_grd')(x).sum().backward()
        assert x.detach().equal(before)
        expected = torch.tensor([1 / (4 * 5.26), 0.0])
        torch.testing.assert_close(x.grad.flatten(), expected)

    def test_limits_are_not_in_the_checkpoint(self) -> None:
        assert not ScaleToUnit('sentinel1_grd').state_dict()


class TestScaleByPercentiles:
    def test_equals_numpy(self) -> None:
        x = terrain(3, 2, 17, 23) * torch.tensor([1.0, 0.01])[:, None, None]
        modality = Modality(bands=('a', 'b'), kind='depth', unit='mm')
        out = ScaleToUnit(modality)(x)
        for patch, scaled in zip(x.flatten(0, 1), out.flatten(0, 1), strict=True):
            expected = by_percentiles(patch.double().numpy())
            np.testing.assert_allclose(scaled.numpy(), expected, atol=1e-5)

    def test_absolute_height_does_not_count(self) -> None:
        x = terrain(2, 1, 16, 16)
        scale = ScaleToUnit(DEM)
        torch.testing.assert_close(scale(x + 1000), scale(x), atol=1e-5, rtol=0)

    def test_dates_are_scaled_one_by_one(self) -> None:
        x = terrain(2, 3, 1, 8, 8)
        scale = ScaleToUnit(DEM)
        assert scale(x).equal(torch.stack([scale(t) for t in x.unbind(1)], dim=1))

    def test_flat_patch(self) -> None:
        x = torch.stack([torch.full((1, 8, 8), 312.0), terrain(1, 8, 8)])
        out = ScaleToUnit(DEM)(x)
        assert out[0].eq(0.5).all()
        assert out[1].min() == 0
        assert out[1].max() == 1

    @pytest.mark.parametrize('nodata', [float('nan'), -9999.0, -3.4028235e38])
    def test_nodata_is_filled_and_not_counted(self, nodata: float) -> None:
        x = terrain(2, 1, 16, 16)
        hole = torch.zeros(16, 16, dtype=torch.bool)
        hole[3:9, 2:12] = True
        modality = Modality(('elevation',), 'elevation', 'm', nodata=nodata)
        out = ScaleToUnit(modality)(x.masked_fill(hole, torch.tensor(nodata)))
        assert out[:, :, hole].eq(0.5).all()
        for patch, scaled in zip(x[:, 0], out[:, 0], strict=True):
            expected = by_percentiles(patch[~hole].double().numpy())
            np.testing.assert_allclose(scaled[~hole].numpy(), expected, atol=1e-5)

    @pytest.mark.parametrize('nodata', [float('nan'), -9999.0])
    def test_nothing_but_nodata(self, nodata: float) -> None:
        modality = Modality(('elevation',), 'elevation', 'm', nodata=nodata)
        out = ScaleToUnit(modality)(torch.full((1, 1, 4, 4), nodata))
        assert out.eq(0.5).all()

    @pytest.mark.parametrize('dtype', [torch.int16, torch.uint8])
    def test_integers(self, dtype: torch.dtype) -> None:
        x = (terrain(1, 1, 16, 16) / 4).to(dtype)
        out = ScaleToUnit(DEM)(x)
        assert out.dtype == torch.float32
        expected = by_percentiles(x.double().numpy())
        np.testing.assert_allclose(out.numpy(), expected, atol=1e-5)

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype: torch.dtype) -> None:
        x = (terrain(1, 1, 16, 16) / 100).to(dtype)
        out = ScaleToUnit(DEM)(x)
        assert out.dtype == dtype
        expected = ScaleToUnit(DEM)(x.float())
        torch.testing.assert_close(out.float(), expected, atol=3e-2, rtol=0)

    def test_more_pixels_than_torch_quantile_takes(self) -> None:
        side = 4097
        x = torch.arange(side**2, dtype=torch.float32).reshape(1, 1, side, side)
        assert x.numel() > 2**24
        out = ScaleToUnit(DEM)(x)
        assert out.eq(0).float().mean().item() == pytest.approx(0.01, abs=1e-5)
        assert out.eq(1).float().mean().item() == pytest.approx(0.01, abs=1e-5)


class TestScaleErrors:
    @pytest.mark.parametrize('kind', ['sar', 'multispectral', 'rgb'])
    def test_no_statistics(self, kind: str) -> None:
        modality: Mapping[str, Any] = {'bands': ['x'], 'kind': kind, 'unit': 'K'}
        message = rf"{kind} bands \['x'\] need mean and std to be scaled"
        with pytest.raises(ValueError, match=message):
            ScaleToUnit(modality)

    def test_unknown_modality(self) -> None:
        with pytest.raises(ValueError, match=r"modality must be one of .* 'sentinel9'"):
            ScaleToUnit('sentinel9')
