import numpy as np
import pytest
import torch

from torchgeo_decur.datasets.plotting import plot_images
from torchgeo_decur.modalities import MODALITIES, Modality, stretch

S1, S2 = MODALITIES['sentinel1_grd'], MODALITIES['sentinel2_l1c']


def test_stretch_ignores_pixels_that_are_not_finite() -> None:
    image = torch.arange(100.0).reshape(1, 10, 10)
    out = stretch(image, 0, 1)
    torch.testing.assert_close(out, image / 99)
    image[0, 0, 0], image[0, 0, 1] = torch.nan, torch.inf
    out = stretch(image, 0, 1)
    assert out[0, 0].tolist()[0] == 0
    torch.testing.assert_close(out[0, 1:], (image[0, 1:] - 2) / 97)
    assert not stretch(torch.full((1, 2, 2), torch.nan)).any()
    assert not stretch(torch.ones(1, 2, 2)).any()


def test_colour_picture_takes_the_bands_by_name() -> None:
    x = torch.rand(13, 4, 4)
    figure = plot_images({'s2': x}, {'s2': S2})
    shown = np.asarray(figure.axes[0].images[0].get_array())
    expected = stretch(x[[S2.bands.index(band) for band in ('B4', 'B3', 'B2')]])
    assert np.array_equal(shown, expected.permute(1, 2, 0).numpy())


def test_radar_shows_vv_wherever_it_is() -> None:
    swapped = Modality(bands=('VH', 'VV'), kind='sar', unit='dB')
    x = torch.stack([torch.zeros(4, 4), torch.arange(16.0).reshape(4, 4)])
    figure = plot_images({'s1': x}, {'s1': swapped})
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert figure.axes[0].get_title() == 's1 (VV, dB)'
    assert shown[3, 3] == 1


@pytest.mark.parametrize('scale', [1.0, 255.0])
def test_bytes_keep_their_range_scaled_or_not(scale: float) -> None:
    x = torch.full((3, 2, 2), 0.25) * scale
    x[0, 0, 0] = scale
    figure = plot_images({'rgb': x}, {'rgb': MODALITIES['geonrw_rgb']})
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert np.allclose(shown[1], 0.25)


def test_draws_dates_and_masks() -> None:
    images = {'s1': torch.rand(3, 2, 4, 4), 's2': torch.rand(13, 4, 4)}
    mask = torch.tensor([[0, 2]]).repeat(4, 2)
    figure = plot_images(
        images, {'s1': S1, 's2': S2}, {'mask': mask}, ('a', 'b', 'c'), suptitle='top'
    )
    assert len(figure.axes) == 9
    assert figure.get_suptitle() == 'top'
    assert figure.axes[3].get_title() == 's1 (VV, dB), date 2'
    legend = figure.axes[2].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ['a', 'c']
    bare = plot_images(images, {'s1': S1, 's2': S2}, {'mask': mask}, show_titles=False)
    assert bare.axes[2].get_legend() is None
    assert not any(ax.get_title() for ax in bare.axes)


def test_draws_single_and_unknown_bands() -> None:
    panchromatic = Modality(bands=('pan',), kind='multispectral', unit='DN')
    four = Modality(bands=('w', 'x', 'y', 'z'), kind='multispectral', unit='DN')
    modalities = {
        'dem': MODALITIES['geonrw_dem'],
        'pan': panchromatic,
        'four': four,
        'hha': MODALITIES['sunrgbd_hha'],
    }
    images = {m: torch.rand(v.channels, 4, 4) for m, v in modalities.items()}
    figure = plot_images(images, modalities)
    assert [ax.get_title() for ax in figure.axes] == [
        'dem (elevation, m)',
        'pan (pan, DN)',
        'four (w x y)',
        'hha (disparity height angle)',
    ]


def test_rejects_invalid_arguments() -> None:
    with pytest.raises(ValueError, match='at least one image or mask must be given'):
        plot_images({}, {})
    with pytest.raises(
        ValueError,
        match=r"s1: expected the bands \['VV', 'VH'\], found an image with channel count 3",
    ):
        plot_images({'s1': torch.zeros(3, 4, 4)}, {'s1': S1})
