import numpy as np
import pytest
import torch

from torchgeo_decur.analysis import composite
from torchgeo_decur.modalities import MODALITIES, Modality, hillshade, render, stretch

S1, S2 = MODALITIES['sentinel1_grd'], MODALITIES['sentinel2_l1c']


def test_radar_in_colour_is_vv_vh_and_their_ratio() -> None:
    x = torch.randn(2, 6, 7) * 5 - 15
    image, shown = render(x, S1, radar='colour')
    expected = stretch(torch.stack([x[0], x[1], x[0] - x[1]]))
    assert np.array_equal(image, expected.permute(1, 2, 0).numpy())
    assert shown == 'VV VH VV-VH, dB'
    grey, shown = render(x, S1)
    assert grey.shape == (6, 7)
    assert shown == 'VV, dB'


def test_a_ratio_needs_both_polarisations_in_db() -> None:
    single = Modality(bands=('HH',), kind='sar', unit='dB')
    assert render(torch.rand(1, 4, 4), single, radar='colour')[1] == 'HH, dB'
    linear = Modality(bands=('VV', 'VH'), kind='sar', unit='power')
    assert render(torch.rand(2, 4, 4), linear, radar='colour')[1] == 'VV, power'


def test_composite_undoes_the_scale_of_radar() -> None:
    x = torch.rand(2, 6, 7)
    low, high = (torch.tensor(v)[:, None, None] for v in S1.limits or ())
    db = low + x * (high - low)
    np.testing.assert_allclose(
        composite(x, S1), render(db, S1, radar='colour')[0], atol=1e-5
    )


def test_composite_shows_optics_and_bytes() -> None:
    x = torch.rand(13, 6, 7)
    assert np.array_equal(composite(x, S2), render(x, S2)[0])
    rgb = torch.full((3, 2, 2), 0.25)
    assert (composite(rgb, MODALITIES['geonrw_rgb']) == 0.25).all()
    assert (composite(rgb, MODALITIES['sunrgbd_hha']) == 0.25).all()


def test_a_saturated_band_stays_bright() -> None:
    x = torch.rand(13, 10, 10)
    # Snow: blue is saturated everywhere, green nearly everywhere.
    x[S2.bands.index('B2')] = 1
    x[S2.bands.index('B3')] = 1
    x[S2.bands.index('B3'), 0, 0] = 0
    image = composite(x, S2)
    assert (image[..., 2] == 1).all()
    assert (image[1:, :, 1] == 1).all()


def test_hillshade_lights_the_north_west_in_any_unit() -> None:
    y, x = torch.meshgrid(torch.arange(21.0), torch.arange(21.0), indexing='ij')
    hill = -((x - 10).square() + (y - 10).square()).sqrt()
    shade = hillshade(hill)
    assert shade[6, 6] > 0.9 > 0.1 > shade[14, 14]
    np.testing.assert_allclose(hillshade(300 + 1000 * hill), shade, atol=1e-4)
    image, shown = render(hill[None], MODALITIES['geonrw_dem'])
    assert np.array_equal(image, shade)
    assert shown == 'elevation, m'


@pytest.mark.parametrize(
    'surface',
    [torch.zeros(4, 4), torch.full((4, 4), torch.nan), torch.rand(1, 4)],
    ids=['flat', 'nan', 'one row'],
)
def test_surface_without_slope_has_no_shade(surface: torch.Tensor) -> None:
    assert (hillshade(surface) == 0.5).all()


def test_hillshade_is_finite_around_holes() -> None:
    surface = torch.rand(8, 8)
    surface[2:4, 2:4] = torch.nan
    assert np.isfinite(hillshade(surface)).all()


def test_refuses_another_number_of_bands() -> None:
    with pytest.raises(ValueError, match=r"2 bands \['VV', 'VH'\], found 3"):
        render(torch.rand(3, 4, 4), S1)
    with pytest.raises(ValueError, match=r'2 bands .*, found \(1, 2, 4, 4\)'):
        composite(torch.rand(1, 2, 4, 4), S1)
