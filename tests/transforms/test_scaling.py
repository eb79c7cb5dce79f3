from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from torchgeo_decur.modalities import MODALITIES, Modality
from torchgeo_decur.transforms import ScaleToUnit

DEM = Modality(bands=('elevation',), kind='elevation', unit='m')


def terrain(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 400 + 90 * torch.randn(*shape, generator=generator)


def by_percentiles(patch: np.ndarray) -> np.ndarray:
    low, high = np.percentile(patch, [1, 99])
    return (patch.clip(low, high) - low) / (high - low)


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
    def test_equals_values_computed_by_hand(
        self, name: str, band: int, value: float, expected: float
    ) -> None:
        x = torch.zeros(2, MODALITIES[name].channels, 3, 3)
        x[:, band] = value
        out = ScaleToUnit(name)(x)[:, band]
        torch.testing.assert_close(out, torch.full_like(out, expected))

    @pytest.mark.parametrize('dtype', [torch.uint8, torch.int16, torch.int32])
    def test_converts_integers_to_float32(self, dtype: torch.dtype) -> None:
        x = torch.tensor([0, 51, 102]).reshape(3, 1, 1).to(dtype)
        out = ScaleToUnit('geonrw_rgb')(x)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out.flatten(), torch.tensor([0.0, 0.2, 0.4]))

    @pytest.mark.parametrize(
        ('dtype', 'tolerance'),
        [(torch.float64, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)],
    )
    def test_keeps_the_precision_of_the_input(
        self, dtype: torch.dtype, tolerance: float
    ) -> None:
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

    def test_keeps_the_input_and_passes_the_gradient(self) -> None:
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

    def test_maps_a_flat_patch_to_one_half(self) -> None:
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
    def test_maps_a_patch_of_nodata_to_one_half(self, nodata: float) -> None:
        modality = Modality(('elevation',), 'elevation', 'm', nodata=nodata)
        out = ScaleToUnit(modality)(torch.full((1, 1, 4, 4), nodata))
        assert out.eq(0.5).all()

    @pytest.mark.parametrize('dtype', [torch.int16, torch.uint8])
    def test_converts_integers_to_float32(self, dtype: torch.dtype) -> None:
        x = (terrain(1, 1, 16, 16) / 4).to(dtype)
        out = ScaleToUnit(DEM)(x)
        assert out.dtype == torch.float32
        expected = by_percentiles(x.double().numpy())
        np.testing.assert_allclose(out.numpy(), expected, atol=1e-5)

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_keeps_half_precision(self, dtype: torch.dtype) -> None:
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
    def test_needs_statistics(self, kind: str) -> None:
        modality: Mapping[str, Any] = {'bands': ['x'], 'kind': kind, 'unit': 'K'}
        message = rf"{kind} bands \['x'\] must have mean and std for scaling"
        with pytest.raises(ValueError, match=message):
            ScaleToUnit(modality)

    def test_refuses_an_unknown_modality(self) -> None:
        with pytest.raises(ValueError, match=r"modality must be one of .* 'sentinel9'"):
            ScaleToUnit('sentinel9')
