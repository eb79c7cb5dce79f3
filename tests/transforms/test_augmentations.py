from copy import deepcopy
from typing import Any, ClassVar

import kornia.augmentation as K
import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
)
from torch import Tensor, nn
from torch.nn import functional

from torchgeo_decur.transforms import (
    PRESETS,
    Augmentation,
    DepthAugmentation,
    ElevationAugmentation,
    OpticalAugmentation,
    RandomBandMean,
    RandomColorJitter,
    RGBAugmentation,
    SARAugmentation,
    UprightRGBAugmentation,
    augmentation_chain,
    default_augmentations,
)

WHOLE: dict[str, Any] = {'crop_scale': (1, 1), 'crop_ratio': (1, 1)}
OFF: dict[type[nn.Module], dict[str, Any]] = {
    DepthAugmentation: {**WHOLE, 'hflip': 0},
    ElevationAugmentation: {**WHOLE, 'hflip': 0, 'vflip': 0},
    SARAugmentation: {**WHOLE, 'grayscale': 0, 'blur': 0, 'hflip': 0, 'vflip': 0},
    OpticalAugmentation: {
        **WHOLE,
        'jitter': 0,
        'grayscale': 0,
        'blur': 0,
        'solarize': 0,
        'hflip': 0,
        'vflip': 0,
    },
}
OFF[RGBAugmentation] = OFF[OpticalAugmentation]
OFF[UprightRGBAugmentation] = {
    k: v for k, v in OFF[OpticalAugmentation].items() if k not in ('solarize', 'vflip')
}

every = pytest.mark.parametrize('augmentation', OFF)
moving = pytest.mark.parametrize(
    'augmentation', [DepthAugmentation, ElevationAugmentation]
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def alone(augmentation: type[nn.Module], size: int = 24, **options: Any) -> nn.Module:
    """Return the augmentation with only the steps in the options."""
    return augmentation(size=size, **{**OFF[augmentation], **options})


def ramps(batch: int, side: int) -> Tensor:
    """Return equal images with the column in band 0 and the row in band 1, in [0, 1]."""
    ramp = torch.linspace(0, 1, side)
    columns, rows = ramp.expand(side, side), ramp[:, None].expand(side, side)
    return torch.stack([columns, rows]).expand(batch, 2, side, side)


class TestEvery:
    @every
    @pytest.mark.parametrize('channels', [1, 2, 3, 13])
    def test_views_have_the_requested_shape_type_and_range(
        self, augmentation: type[nn.Module], channels: int
    ) -> None:
        x = torch.rand(16, channels, 40, 33)
        before = x.clone()
        view = augmentation(size=24)(x)
        assert view.shape == (16, channels, 24, 24)
        assert view.dtype == torch.float32
        assert view.min() >= 0
        assert view.max() <= 1 + 1e-6
        assert x.equal(before)

    @every
    def test_returns_the_image_if_all_probabilities_are_zero(
        self, augmentation: type[nn.Module]
    ) -> None:
        x = torch.rand(8, 3, 24, 24)
        torch.testing.assert_close(alone(augmentation)(x), x, atol=1e-5, rtol=0)

    @every
    def test_two_calls_are_two_views(self, augmentation: type[nn.Module]) -> None:
        x, draw = torch.rand(4, 2, 32, 32), augmentation(size=16)
        first, second = draw(x), draw(x)
        assert (first - second).abs().amax((1, 2, 3)).min() > 1e-3

    @every
    def test_seed_repeats_the_draw(self, augmentation: type[nn.Module]) -> None:
        x, draw = torch.rand(4, 2, 32, 32), augmentation(size=16)
        torch.manual_seed(3)
        first = draw(x)
        torch.manual_seed(3)
        assert draw(x).equal(first)

    @every
    def test_each_sample_gets_its_own_crop(self, augmentation: type[nn.Module]) -> None:
        draw = alone(augmentation, crop_scale=(0.2, 0.9), crop_ratio=(0.75, 4 / 3))
        corners = draw(ramps(16, 48))[:, :, 0, 0]
        assert len(corners.mul(1000).round().unique(dim=0)) >= 15

    @every
    def test_crops_have_the_requested_scale_and_ratio(
        self, augmentation: type[nn.Module]
    ) -> None:
        side = 100
        draw = alone(augmentation, crop_scale=(0.3, 0.4), crop_ratio=(1.5, 1.6))
        view = draw(ramps(32, side))
        width = (view[:, 0, 0, -1] - view[:, 0, 0, 0]) * (side - 1) + 1
        height = (view[:, 1, -1, 0] - view[:, 1, 0, 0]) * (side - 1) + 1
        area, ratio = width * height / side**2, width / height
        # Width and height are rounded to whole pixels.
        assert 0.29 < area.min() < 0.33
        assert 0.37 < area.max() < 0.41
        assert ratio.min() > 1.46
        assert ratio.max() < 1.64

    @every
    @pytest.mark.parametrize(('option', 'axis'), [('hflip', 3), ('vflip', 2)])
    def test_flips(self, augmentation: type[nn.Module], option: str, axis: int) -> None:
        if option == 'vflip' and augmentation in (
            DepthAugmentation,
            UprightRGBAugmentation,
        ):
            with pytest.raises(TypeError, match='vflip'):
                augmentation(vflip=0.5)
            return
        x = torch.rand(4, 2, 24, 24)
        view = alone(augmentation, **{option: 1})(x)
        torch.testing.assert_close(view, x.flip(axis), atol=1e-5, rtol=0)

    @every
    def test_half_of_the_samples_are_flipped(
        self, augmentation: type[nn.Module]
    ) -> None:
        view = alone(augmentation, hflip=0.5)(ramps(64, 24))
        flipped = (view[:, 0, 0, 0] > 0.5).sum().item()
        assert 16 < flipped < 48


def plainly(chain: Any) -> nn.Module:
    """Apply Kornia's operations one by one, with separate contrast of each band."""

    def jitter(x: Tensor, drawn: Any, flags: Any, transform: Any = None) -> Tensor:
        x = adjust_brightness_accumulative(x, drawn['brightness_factor'])
        mean, factor = x.mean((2, 3), keepdim=True), drawn['contrast_factor']
        x = (mean + factor[:, None, None, None] * (x - mean)).clamp(0, 1)
        if x.shape[1] != 3:
            return x
        x = adjust_saturation_with_gray_subtraction(x, drawn['saturation_factor'])
        return adjust_hue(x, 2 * torch.pi * drawn['hue_factor'])

    plain = deepcopy(list(chain))
    for step in plain:
        if isinstance(step, RandomColorJitter):
            step.apply_transform = jitter
    return K.AugmentationSequential(*plain, data_keys=['input'])


class TestAsKornia:
    """Compare draws and results with Kornia's operations one by one."""

    @every
    @pytest.mark.parametrize('channels', [2, 3, 13])
    def test_equals_plain_kornia(
        self, augmentation: type[nn.Module], channels: int
    ) -> None:
        chain = augmentation(size=24)
        plain = plainly(chain)
        for seed in range(3):
            # Smooth images: the rounding of places counts for little.
            x = functional.interpolate(torch.rand(32, channels, 5, 5), (40, 33))
            torch.manual_seed(seed)
            found, state = chain(x), torch.get_rng_state()
            torch.manual_seed(seed)
            torch.testing.assert_close(found, plain(x), atol=2e-4, rtol=0)
            assert torch.equal(state, torch.get_rng_state())

    def test_equals_kornia_with_saturation_and_hue(self) -> None:
        chain = RGBAugmentation(size=24, saturation=0.4, hue=0.1)
        plain = plainly(chain)
        x = functional.interpolate(torch.rand(32, 3, 5, 5), (40, 33), mode='bilinear')
        torch.manual_seed(1)
        found = chain(x)
        torch.manual_seed(1)
        torch.testing.assert_close(found, plain(x), atol=5e-3, rtol=0)

    @every
    def test_samples_worked_on_together_do_not_matter(
        self, augmentation: type[nn.Module], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x, draw = torch.rand(16, 3, 40, 33), augmentation(size=24)
        views = []
        for numbers in (1, 3 * 24 * 24 * 5, 2**30):
            monkeypatch.setattr(augmentation_chain, '_VALUES_AT_ONCE', numbers)
            torch.manual_seed(0)
            views.append(draw(x))
        torch.testing.assert_close(views[0], views[1])
        torch.testing.assert_close(views[0], views[2])

    @every
    def test_draws_do_not_depend_on_precision(
        self, augmentation: type[nn.Module]
    ) -> None:
        x = functional.interpolate(torch.rand(8, 3, 5, 5), (40, 33), mode='bilinear')
        draw = augmentation(size=24)
        torch.manual_seed(0)
        view = draw(x)
        torch.manual_seed(0)
        exact = draw.double()(x.double())
        assert exact.dtype == torch.float64
        torch.testing.assert_close(view.double(), exact, atol=1e-4, rtol=0)

    def test_layout_is_that_of_convolutions(self) -> None:
        view = OpticalAugmentation(size=24)(torch.rand(4, 13, 40, 33))
        assert view.is_contiguous(memory_format=torch.channels_last)


#: Mean of the last band of 8 views of a ramp, drawn with seed 0 before the presets shared a class.
RECORDED: list[tuple[type[nn.Module], dict[str, Any], int, list[float]]] = [
    (
        DepthAugmentation,
        {},
        1,
        [0.4783, 0.4783, 0.4783, 0.4239, 0.5435, 0.5, 0.4565, 0.587],
    ),
    (
        ElevationAugmentation,
        {},
        1,
        [0.4457, 0.4783, 0.5652, 0.3696, 0.5652, 0.5109, 0.4457, 0.6304],
    ),
    (
        SARAugmentation,
        {},
        2,
        [0.4457, 0.4783, 0.5652, 0.3315, 0.5652, 0.5109, 0.4457, 0.6304],
    ),
    (
        OpticalAugmentation,
        {},
        13,
        [0.4057, 0.5458, 0.335, 0.3385, 0.373, 0.4796, 0.4457, 0.6234],
    ),
    (
        RGBAugmentation,
        {'saturation': 0.4, 'hue': 0.1},
        3,
        [0.4413, 0.551, 0.335, 0.3341, 0.3754, 0.4908, 0.4457, 0.6291],
    ),
    (
        UprightRGBAugmentation,
        {},
        3,
        [0.4792, 0.5458, 0.4783, 0.3883, 0.3643, 0.5039, 0.4565, 0.6195],
    ),
]


@pytest.mark.parametrize(('augmentation', 'options', 'channels', 'expected'), RECORDED)
def test_a_seed_keeps_its_views_between_releases(
    augmentation: type[nn.Module],
    options: dict[str, Any],
    channels: int,
    expected: list[float],
) -> None:
    draw, ramp = augmentation(size=16, **options), torch.linspace(0, 1, 24)
    slopes = torch.arange(1, channels + 1)[:, None, None] / channels
    x = (slopes * ramp + ramp[:, None]) / 2
    torch.manual_seed(0)
    means = draw(x.repeat(8, 1, 1, 1))[:, -1].mean((1, 2))
    torch.testing.assert_close(means, torch.tensor(expected), atol=2e-4, rtol=0)


def parse(name: str, **options: Any) -> Augmentation:
    """Build an augmentation from a config of `torchgeo`."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Augmentation, 'view')
    path = f'torchgeo_decur.transforms.{name}'
    spec = {'class_path': path, 'init_args': {'size': 16, **options}}
    view = parser.instantiate_classes(parser.parse_object({'view': spec})).view
    assert isinstance(view, Augmentation)
    return view


class TestFixedOptions:
    """Check that configs cannot set the fixed options of presets."""

    COLOUR = ('brightness', 'contrast', 'saturation', 'hue', 'jitter', 'solarize')
    FIXED: ClassVar = [
        *((SARAugmentation, option) for option in COLOUR),
        *((ElevationAugmentation, option) for option in (*COLOUR, 'grayscale', 'blur')),
        *((DepthAugmentation, option) for option in (*COLOUR, 'blur_sigma', 'vflip')),
        *((OpticalAugmentation, option) for option in ('saturation', 'hue')),
        *((UprightRGBAugmentation, option) for option in ('hue', 'solarize', 'vflip')),
    ]

    @pytest.mark.parametrize(('augmentation', 'option'), FIXED)
    def test_a_fixed_option_is_no_argument(
        self, augmentation: type[nn.Module], option: str
    ) -> None:
        with pytest.raises(TypeError, match=option):
            augmentation(**{option: 0.5})
        with pytest.raises(ArgumentError, match=option):
            parse(augmentation.__name__, **{option: 0.5})

    def test_a_config_sets_the_others(self) -> None:
        for name in ('SARAugmentation', 'OpticalAugmentation', 'RGBAugmentation'):
            view = parse(name, grayscale=1.0, crop_scale=[0.5, 0.6], blur=0.0)
            steps = {type(step).__name__: step for step in view.children()}
            assert steps['RandomBandMean'].p == 1.0
            assert ('RandomSolarize' in steps) == (name != 'SARAugmentation')

    @pytest.mark.parametrize('name', ['SARAugmentation', 'UprightRGBAugmentation'])
    def test_the_old_name_of_grayscale_works(self, name: str) -> None:
        with pytest.warns(FutureWarning, match='grey is deprecated .* use grayscale'):
            old = parse(name, grey=1.0)
        x, views = torch.rand(4, 3, 24, 24), []
        for draw in (old, parse(name, grayscale=1.0)):
            torch.manual_seed(0)
            views.append(draw(x))
        assert torch.equal(*views)

    def test_the_old_name_does_not_set_a_fixed_option(self) -> None:
        with pytest.raises(
            ValueError, match='expected either grayscale or its old name grey'
        ):
            ElevationAugmentation(grey=0.5)


class TestMoving:
    """Check that values of elevation and depth move but never change."""

    @moving
    def test_values_stay_within_those_of_their_sample(
        self, augmentation: type[nn.Module]
    ) -> None:
        draw = augmentation(size=24)
        # Each sample has a range of its own, so that recolouring cannot hide.
        offset = torch.arange(32.0)[:, None, None, None]
        for _ in range(5):
            x = torch.rand(32, 1, 40, 40) + offset
            view = draw(x)
            low, high = x.amin((2, 3)), x.amax((2, 3))
            assert (view.amin((2, 3)) >= low - 1e-3).all()
            assert (view.amax((2, 3)) <= high + 1e-3).all()

    @moving
    def test_values_of_an_uncropped_image_are_the_same(
        self, augmentation: type[nn.Module]
    ) -> None:
        x = torch.rand(16, 1, 24, 24)
        view = augmentation(size=24, **WHOLE)(x)
        ordered, expected = (t.flatten(1).sort().values for t in (view, x))
        torch.testing.assert_close(ordered, expected, atol=1e-5, rtol=0)

    @moving
    @pytest.mark.parametrize('value', [0.0, 0.31, 1.0])
    def test_constant_stays(self, augmentation: type[nn.Module], value: float) -> None:
        draw = augmentation(size=24)
        x = torch.full((32, 2, 40, 40), value)
        for _ in range(10):
            torch.testing.assert_close(
                draw(x), torch.full((32, 2, 24, 24), value), atol=1e-5, rtol=0
            )

    def test_depth_has_an_upright(self) -> None:
        rows = DepthAugmentation(size=24)(ramps(32, 40))[:, 1]
        assert (rows[:, -1] > rows[:, 0]).all()

    def test_elevation_has_none(self) -> None:
        rows = ElevationAugmentation(size=24)(ramps(32, 40))[:, 1]
        assert (rows[:, -1] < rows[:, 0]).any()


class TestSAR:
    def test_backscatter_is_never_recoloured(self) -> None:
        draw = SARAugmentation(size=24)
        for value in (0.1, 0.7, 0.9):
            x = torch.full((32, 2, 40, 40), value)
            for _ in range(5):
                view = draw(x)
                assert (view - value).abs().max() < 1e-4

    def test_optical_values_are(self) -> None:
        x = torch.full((32, 2, 40, 40), 0.7)
        view = OpticalAugmentation(size=24)(x)
        # Brightness in 80 % of the samples, and solarisation in 20 %.
        changed = (view - 0.7).abs().amax((1, 2, 3)) > 0.01
        assert changed.sum() > 16

    def test_polarisations_keep_their_mean(self) -> None:
        x = torch.tensor([0.2, 0.6]).reshape(1, 2, 1, 1).expand(64, 2, 40, 40)
        view = SARAugmentation(size=24)(x)
        first = view[:, :, 0, 0]
        mean = torch.full_like(first, 0.4)
        is_mean = (first - mean).abs().amax(1) < 1e-4
        is_kept = (first - x[:, :, 0, 0]).abs().amax(1) < 1e-4
        assert (is_mean | is_kept).all()
        assert 3 < is_mean.sum() < 26


@pytest.mark.parametrize(
    'augmentation', [SARAugmentation, OpticalAugmentation, RGBAugmentation]
)
class TestGrayscaleAndBlur:
    @pytest.mark.parametrize('channels', [1, 2, 3, 13])
    def test_grayscale_is_the_mean_of_the_bands(
        self, augmentation: type[nn.Module], channels: int
    ) -> None:
        x = torch.rand(4, channels, 24, 24)
        view = alone(augmentation, grayscale=1)(x)
        expected = x.mean(1, keepdim=True).expand_as(x)
        torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)

    def test_blur_lowers_variance(self, augmentation: type[nn.Module]) -> None:
        x = torch.rand(8, 2, 24, 24)
        variances = [
            alone(augmentation, blur=1, blur_sigma=(sigma, sigma))(x).var((2, 3))
            for sigma in (0.1, 0.7, 2.0)
        ]
        torch.testing.assert_close(variances[0], x.var((2, 3)), rtol=1e-3, atol=0)
        assert (variances[1] < 0.6 * variances[0]).all()
        assert (variances[2] < 0.5 * variances[1]).all()

    def test_draws_a_blur_sigma_for_each_sample(
        self, augmentation: type[nn.Module]
    ) -> None:
        x = torch.zeros(16, 1, 25, 25)
        x[:, :, 12, 12] = 1
        view = alone(augmentation, size=25, blur=1, blur_sigma=(0.1, 2.0))(x)
        assert len(view[:, 0, 12, 12].mul(1e4).round().unique()) >= 14

    @pytest.mark.parametrize('width', [3, 7])
    def test_blur_reaches_the_width_of_the_kernel(
        self, augmentation: type[nn.Module], width: int
    ) -> None:
        x = torch.zeros(2, 1, 25, 25)
        x[:, :, 12, 12] = 1
        options = {'blur': 1, 'blur_sigma': (5, 5), 'blur_kernel': width}
        view = alone(augmentation, size=25, **options)(x)
        reached = (view[0, 0] > 1e-3).nonzero()
        assert (reached.amax(0) - reached.amin(0) + 1).tolist() == [width, width]


@pytest.mark.parametrize('augmentation', [OpticalAugmentation, RGBAugmentation])
class TestTones:
    def test_solarize_inverts_values_above_one_half(
        self, augmentation: type[nn.Module]
    ) -> None:
        values = torch.tensor([0.1, 0.3, 0.6, 0.8, 1.0])
        x = values.reshape(-1, 1, 1, 1).expand(5, 2, 24, 24)
        view = alone(augmentation, solarize=1)(x)
        expected = torch.tensor([0.1, 0.3, 0.4, 0.2, 0.0]).reshape(-1, 1, 1, 1)
        torch.testing.assert_close(view, expected.expand_as(x), atol=1e-5, rtol=0)

    def test_brightness_scales_all_bands_by_one_factor(
        self, augmentation: type[nn.Module]
    ) -> None:
        x = 0.5 * torch.rand(64, 13, 24, 24)
        view = alone(augmentation, jitter=1, brightness=0.3, contrast=0)(x)
        factor = view.mean((1, 2, 3)) / x.mean((1, 2, 3))
        torch.testing.assert_close(
            view, factor[:, None, None, None] * x, atol=1e-4, rtol=0
        )
        assert 0.7 - 1e-3 < factor.min() < 0.75
        assert 1.25 < factor.max() < 1.3 + 1e-3

    def test_contrast_keeps_the_mean_of_each_band(
        self, augmentation: type[nn.Module]
    ) -> None:
        level = torch.linspace(0.3, 0.6, 13)[:, None, None]
        x = level + 0.1 * torch.rand(64, 13, 24, 24)
        view = alone(augmentation, jitter=1, brightness=0, contrast=0.3)(x)
        # The published contrast: about the mean of each band, which stays.
        mean = x.mean((2, 3), keepdim=True)
        torch.testing.assert_close(view.mean((2, 3), keepdim=True), mean)
        factor = view[:, 0].std((1, 2)) / x[:, 0].std((1, 2))
        expected = mean + factor[:, None, None, None] * (x - mean)
        torch.testing.assert_close(view, expected, atol=1e-4, rtol=0)
        assert 0.7 - 1e-3 < factor.min() < 0.75
        assert 1.25 < factor.max() < 1.3 + 1e-3

    def test_contrast_keeps_the_spectrum(self, augmentation: type[nn.Module]) -> None:
        means = torch.tensor([0.25, 0.45, 0.65, 0.85])
        noise = functional.interpolate(torch.rand(8, 4, 3, 3), (24, 24)) / 10
        x = noise - noise.mean((2, 3), keepdim=True) + means[:, None, None]
        view = alone(augmentation, jitter=1, brightness=0, contrast=0.4)(x)
        assert (view - x).abs().amax() > 0.01
        torch.testing.assert_close(view.mean((2, 3)), means.expand(8, 4))

    def test_jitter_changes_some_samples(self, augmentation: type[nn.Module]) -> None:
        x = torch.rand(64, 2, 24, 24)
        view = alone(augmentation, jitter=0.5)(x)
        changed = ((view - x).abs().amax((1, 2, 3)) > 1e-3).sum().item()
        assert 16 < changed < 48


class TestColour:
    """Check saturation and hue of red, green and blue."""

    def test_hue_keeps_gray_and_the_range_of_bands(self) -> None:
        x = torch.rand(64, 3, 24, 24)
        draw = alone(RGBAugmentation, jitter=1, brightness=0, contrast=0, hue=0.1)
        view = draw(x)
        for extreme in (torch.amin, torch.amax):
            torch.testing.assert_close(
                extreme(view, 1), extreme(x, 1), atol=1e-4, rtol=0
            )
        changed = (view - x).abs().amax((1, 2, 3)) > 0.02
        assert changed.sum() > 48
        gray = torch.rand(8, 1, 24, 24).expand(8, 3, 24, 24)
        torch.testing.assert_close(draw(gray), gray, atol=1e-4, rtol=0)

    def test_hue_turns_by_a_tenth_at_most(self) -> None:
        red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1).expand(64, 3, 24, 24)
        options = {'jitter': 1, 'brightness': 0, 'contrast': 0, 'hue': 0.1}
        pixels = alone(RGBAugmentation, **options)(red)[:, :, 0, 0]
        # A tenth of the circle from red: green or blue up to 0.6.
        second = pixels[:, 1:].amax(1)
        assert 0.5 < second.max() < 0.61
        assert (pixels[:, 1:].amin(1) < 1e-4).all()

    def test_saturation_scales_the_spread_of_bands(self) -> None:
        x = 0.2 + 0.6 * torch.rand(64, 3, 24, 24)
        options = {'jitter': 1, 'brightness': 0, 'contrast': 0, 'saturation': 0.4}
        view = alone(RGBAugmentation, **options)(x)
        spread = x.amax(1) - x.amin(1)
        factor = (view.amax(1) - view.amin(1)).mean((1, 2)) / spread.mean((1, 2))
        assert 0.59 < factor.min() < 0.7
        assert 1.25 < factor.max() < 1.41

    def test_other_bands_need_neither(self) -> None:
        x = torch.rand(4, 13, 24, 24)
        assert RGBAugmentation(size=24)(x).shape == x.shape


class TestRandomBandMean:
    def test_averages_each_sample_with_the_given_probability(self) -> None:
        x = torch.rand(128, 5, 4, 4)
        out = RandomBandMean(p=0.25)(x)
        mean = x.mean(1, keepdim=True).expand_as(x)
        averaged = torch.isclose(out, mean).all((1, 2, 3))
        kept = torch.isclose(out, x).all((1, 2, 3))
        assert (averaged ^ kept).all()
        assert 16 <= averaged.sum() <= 50


class TestDefaultAugmentations:
    @pytest.mark.parametrize(
        ('name', 'expected'),
        [
            ('s1', SARAugmentation),
            ('s2', OpticalAugmentation),
            ('rgb', RGBAugmentation),
            ('dem', ElevationAugmentation),
            ('depth', DepthAugmentation),
            ('hha', DepthAugmentation),
            ('disparity', DepthAugmentation),
            ('lidar', ElevationAugmentation),
        ],
    )
    def test_chooses_the_augmentation_by_name(
        self, name: str, expected: type[nn.Module]
    ) -> None:
        augmentations = default_augmentations({name: 2}, size=16)
        assert type(augmentations[name]) is expected
        assert augmentations[name](torch.rand(2, 2, 20, 20)).shape == (2, 2, 16, 16)

    def test_builds_one_for_each_modality(self) -> None:
        modalities = {m: 1 for m in ('x', *PRESETS)}
        assert list(default_augmentations(modalities, size=8)) == list(modalities)

    @pytest.mark.parametrize('deep', ['depth', 'hha', 'disparity'])
    def test_photographs_beside_depth_have_an_upright(self, deep: str) -> None:
        indoor = default_augmentations({'rgb': 3, deep: 1}, size=8)
        assert type(indoor['rgb']) is UprightRGBAugmentation
        aerial = default_augmentations({'rgb': 3, 'dem': 1}, size=8)
        assert type(aerial['rgb']) is RGBAugmentation


def test_upright_photographs_are_as_published() -> None:
    names = [type(step).__name__ for step in UprightRGBAugmentation(size=8)]
    probabilities = [getattr(step, 'p', 1.0) for step in UprightRGBAugmentation(size=8)]
    found = dict(zip(names, probabilities, strict=True))
    assert found['RandomColorJitter'] == 0.8
    assert found['RandomBandMean'] == 0.2
    assert found['RandomGaussianBlur'] == 0.5
    assert found['RandomSolarize'] == found['RandomVerticalFlip'] == 0
    assert found['RandomHorizontalFlip'] == 0.5
