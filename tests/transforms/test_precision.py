"""Check transforms in half precision, and synchronization with the device."""

from typing import Any

import pytest
import torch

from tests.helpers.simulated_device import simulated
from torchgeo_decur.modalities import Modality, select_date
from torchgeo_decur.transforms import (
    AugmentationChain,
    DepthAugmentation,
    ElevationAugmentation,
    OpticalAugmentation,
    PairedCrop,
    RGBAugmentation,
    SARAugmentation,
    ScaleToUnit,
    UprightRGBAugmentation,
)

HALVES = (torch.bfloat16, torch.float16)
half = pytest.mark.parametrize('dtype', HALVES)


@pytest.mark.parametrize(
    'augmentation',
    [
        DepthAugmentation,
        ElevationAugmentation,
        SARAugmentation,
        OpticalAugmentation,
        RGBAugmentation,
        UprightRGBAugmentation,
    ],
)
@pytest.mark.parametrize('dtype', [*HALVES, torch.float64])
def test_views_are_those_of_float32(
    augmentation: type[AugmentationChain], dtype: torch.dtype
) -> None:
    x, draw = torch.rand(8, 3, 48, 48).to(dtype), augmentation(size=32)
    views = []
    for default, images in ((torch.float32, x.float()), (dtype, x)):
        torch.manual_seed(0)
        # As Lightning does during a step in true half or double precision.
        torch.set_default_dtype(default)
        try:
            views.append(draw(images))
        finally:
            torch.set_default_dtype(torch.float32)
    assert views[1].dtype == dtype
    torch.testing.assert_close(views[1].float(), views[0], atol=8e-3, rtol=0)


@pytest.mark.parametrize('dtype', [*HALVES, torch.float64])
def test_paired_crop_keeps_types(dtype: torch.dtype) -> None:
    x, mask = torch.rand(2, 2, 40, 40).to(dtype), torch.randint(5, (2, 40, 40))
    torch.manual_seed(0)
    images, moved = PairedCrop(16)({'a': x, 'b': x.float()}, mask)
    assert images['a'].dtype == dtype and images['b'].dtype == torch.float32
    torch.testing.assert_close(images['a'].float(), images['b'], atol=8e-3, rtol=0)
    assert moved is not None and moved.dtype == mask.dtype


@half
def test_nodata_beyond_the_type_is_recognised(dtype: torch.dtype) -> None:
    x = torch.tensor([-3.4028235e38, 10.0, 20.0]).reshape(1, 1, 1, 3).to(dtype)
    modality = Modality(('t',), 'depth', 'K', (20.0,), (10.0,), -3.4028235e38)
    out = ScaleToUnit(modality)(x)
    assert out.dtype == dtype and out.flatten().tolist() == [0.5, 0.25, 0.5]


@half
def test_percentiles_of_half_precision_are_finite(dtype: torch.dtype) -> None:
    dem = Modality(bands=('elevation',), kind='elevation', unit='m')
    out = ScaleToUnit(dem)(
        torch.linspace(0, 60000, 64 * 64).reshape(1, 1, 64, 64).to(dtype)
    )
    assert out.isfinite().all() and out.min() == 0 and out.max() == 1


def test_a_device_is_not_waited_for() -> None:
    with simulated() as device:
        torch.empty(4, device='cuda')[torch.tensor([0])]
        torch.ones(3).to('cuda')
        assert len(device.waits) == 2 and not device.copies
    options: dict[str, Any] = {'jitter': 0.5, 'grayscale': 0.5, 'solarize': 0.5}
    with simulated() as device:
        x = torch.empty(16, 13, 64, 64, device='cuda')
        view = OpticalAugmentation(32, **options)(x)
        assert view.device.type == 'cuda' and not device.waits
        # Places of pixels and numbers of samples are one, and each factor of Kornia's is.
        assert 1 <= len(device.copies) <= 6
    with simulated() as device:
        x = torch.empty(4, 2, 40, 40, device='cuda')
        PairedCrop(16)({'a': x, 'b': x}, x[:, 0].long())
        assert not device.waits and len(device.copies) == 1
    with simulated() as device:
        select_date(torch.empty(4, 3, 2, 40, 40, device='cuda'))
        assert not device.waits and len(device.copies) == 1


def test_rejects_invalid_arguments() -> None:
    with pytest.raises(ValueError, match=r'size must be at least 5 for a blur of 9'):
        SARAugmentation(size=4)
    assert SARAugmentation(size=4, blur=0)(torch.rand(2, 2, 8, 8)).shape[2:] == (4, 4)
    for option in ('saturation', 'hue'):
        with pytest.raises(ValueError, match=r'require 3 bands .* got 4 bands'):
            RGBAugmentation(8, **{option: 0.4})(torch.rand(8, 4, 16, 16))
