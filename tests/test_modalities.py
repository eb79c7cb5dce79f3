import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from torchgeo_decur.modalities import (
    MODALITIES,
    Modality,
    check,
    invalid_pixels,
    per_modality,
    select_date,
    split,
)

SAR: dict[str, Any] = {'bands': ('VV', 'VH'), 'kind': 'sar', 'unit': 'dB'}


def plausible(modality: Modality, *shape: int) -> Tensor:
    """Return raw data like those of the sensor, shape (*shape, C, 16, 16)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, modality.channels, 16, 16, generator=generator)
    if modality.mean is not None and modality.std is not None:
        mean, std = torch.tensor(modality.mean), torch.tensor(modality.std)
        x = x * std[:, None, None] + mean[:, None, None]
        return x.clamp(min=0) if modality.unit == 'DN' else x
    if modality.unit == 'uint8':
        return x.mul(60).add(120).clamp(0, 255).byte()
    return 150 + 40 * x


def check_one(x: Tensor, modality: Modality | str) -> None:
    check({'m': x}, {'m': Modality.of(modality)})


class TestModality:
    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (
                {'bands': ()},
                r'bands must be a list of one or more different names, got \(\)',
            ),
            ({'bands': ('VV', 'VV')}, r"different names, got \('VV', 'VV'\)"),
            ({'bands': 'VH'}, r"different names, got 'VH'"),
            ({'kind': 'radar'}, r"kind must be one of \('sar', .*, got 'radar'"),
            ({'mean': (0.0, 0.0)}, r'mean and std must be set together'),
            ({'std': (1.0, 1.0)}, r'mean and std must be set together'),
            (
                {'mean': (0.0,), 'std': (1.0, 1.0)},
                r"mean must have one value per band \['VV', 'VH'\], got 1",
            ),
            (
                {'mean': (0.0, 0.0), 'std': (1.0, 1.0, 1.0)},
                r'std must have one value per band .*, got 3',
            ),
            (
                {'mean': (0.0, 0.0), 'std': (1.0, 0.0)},
                r'std must be positive, got \[1\.0, 0\.0\]',
            ),
            (
                {'wavelengths': (665.0,)},
                r'wavelengths must have one value per band .*, got 1',
            ),
            (
                {'wavelengths': (665.0, -1.0)},
                r'wavelengths must be positive, got \[665\.0, -1\.0\]',
            ),
        ],
    )
    def test_refuses_wrong_records(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Modality(**{**SAR, **change})

    def test_knows_the_wavelengths_of_sentinel_2(self) -> None:
        whole = MODALITIES['sentinel2_l1c']
        assert whole.wavelengths is not None
        nm = dict(zip(whole.bands, whole.wavelengths, strict=True))
        assert (nm['B2'], nm['B8A'], nm['B10'], nm['B12']) == (490, 865, 1375, 2190)
        without = MODALITIES['sentinel2_l2a']
        assert without.wavelengths == tuple(nm[b] for b in without.bands)

    def test_is_frozen_and_hashable(self) -> None:
        assert len({Modality(**SAR), Modality(**SAR)}) == 1
        with pytest.raises(AttributeError):
            Modality(**SAR).unit = 'm'  # type: ignore[misc]

    def test_limits_are_two_standard_deviations_from_the_mean(self) -> None:
        modality = Modality(**SAR, mean=(-10.0, -20.0), std=(5.0, 1.0))
        assert modality.limits == ((-20.0, -22.0), (0.0, -18.0))

    def test_bytes_have_limits_of_0_and_255(self) -> None:
        modality = Modality(bands=('R', 'G', 'B'), kind='rgb', unit='uint8')
        assert modality.limits == ((0.0,) * 3, (255.0,) * 3)

    def test_statistics_win_over_bytes(self) -> None:
        modality = Modality(('R',), 'rgb', 'uint8', mean=(100.0,), std=(10.0,))
        assert modality.limits == ((80.0,), (120.0,))

    def test_elevation_has_no_limits(self) -> None:
        assert Modality(bands=('z',), kind='elevation', unit='m').limits is None


class TestOf:
    def test_returns_a_modality_as_it_is(self) -> None:
        modality = Modality(**SAR)
        assert Modality.of(modality) is modality

    def test_returns_the_modality_of_a_name(self) -> None:
        assert Modality.of('sentinel1_grd') == MODALITIES['sentinel1_grd']

    def test_reads_a_dictionary_of_yaml(self) -> None:
        value = {
            'bands': ['VV', 'VH'],
            'kind': 'sar',
            'unit': 'dB',
            'mean': [-12.0, -20.0],
            'std': torch.tensor([5.0, 6.0]),
            'nodata': float('nan'),
        }
        modality = Modality.of(value)
        assert modality.bands == ('VV', 'VH')
        assert modality.mean == (-12.0, -20.0)
        assert modality.limits == ((-22.0, -32.0), (-2.0, -8.0))
        assert modality.nodata is not None
        assert math.isnan(modality.nodata)

    def test_nan_equals_nan(self) -> None:
        one, same = (Modality(**SAR, nodata=float('nan')) for _ in range(2))
        assert one == same and len({one, same}) == 1
        assert one != Modality(**SAR) and one != 'sentinel1_grd'

    @pytest.mark.parametrize(
        ('value', 'message'),
        [
            ('sentinel3', r"one of \['geonrw_dem', .* or a dictionary .* 'sentinel3'"),
            (13, r'modality must be a name or a dictionary, got int'),
            ({**SAR, 'scale': 2}, r"got unknown \['scale'\], missing \[\]"),
            ({'bands': ['z']}, r"unknown \[\], missing \['kind', 'unit'\]"),
        ],
    )
    def test_rejects_invalid_arguments(self, value: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Modality.of(value)


class TestKnownModalities:
    @pytest.mark.parametrize(
        ('name', 'kind', 'unit', 'channels'),
        [
            ('sentinel1_grd', 'sar', 'dB', 2),
            ('sentinel2_l1c', 'multispectral', 'DN', 13),
            ('sentinel2_l2a', 'multispectral', 'DN', 12),
            ('geonrw_rgb', 'rgb', 'uint8', 3),
            ('geonrw_dem', 'elevation', 'm', 1),
            ('sunrgbd_rgb', 'rgb', 'uint8', 3),
            ('sunrgbd_hha', 'depth', 'uint8', 3),
        ],
    )
    def test_has_the_documented_kind_and_unit(
        self, name: str, kind: str, unit: str, channels: int
    ) -> None:
        modality = MODALITIES[name]
        found = modality.kind, modality.unit, modality.channels
        assert found == (kind, unit, channels)

    @pytest.mark.parametrize(
        ('name', 'band', 'mean', 'std'),
        [
            ('sentinel1_grd', 'VV', -12.59, 5.26),
            ('sentinel1_grd', 'VH', -20.26, 5.91),
            ('sentinel2_l1c', 'B1', 1612.9, 791.0),
            ('sentinel2_l1c', 'B8A', 2581.0, 1345.9),
            ('sentinel2_l1c', 'B10', 22.0, 47.5),
            ('sentinel2_l1c', 'B12', 1537.4, 1142.9),
            ('sentinel2_l2a', 'B9', 837.7, 577.5),
            ('sentinel2_l2a', 'B11', 2195.2, 1340.0),
        ],
    )
    def test_has_the_published_statistics(
        self, name: str, band: str, mean: float, std: float
    ) -> None:
        modality = MODALITIES[name]
        assert modality.mean is not None
        assert modality.std is not None
        i = modality.bands.index(band)
        assert (modality.mean[i], modality.std[i]) == (mean, std)

    def test_l2a_is_l1c_without_b10(self) -> None:
        l1c, l2a = MODALITIES['sentinel2_l1c'], MODALITIES['sentinel2_l2a']
        assert l1c.bands[10] == 'B10'
        for field in ('bands', 'mean', 'std'):
            values = list(getattr(l1c, field))
            del values[10]
            assert getattr(l2a, field) == tuple(values)


class TestPerModality:
    modalities: dict[str, int] = {'s1': 2, 's2': 13}  # noqa: RUF012

    @pytest.mark.parametrize('value', ['resnet18', None, [1, 2]])
    def test_gives_one_value_to_all(self, value: Any) -> None:
        spread = per_modality('model', value, self.modalities)
        assert spread == {'s1': value, 's2': value}

    def test_sorts_values_in_the_order_of_the_modalities(self) -> None:
        spread = per_modality('model', {'s2': 'b', 's1': 'a'}, self.modalities)
        assert list(spread.items()) == [('s1', 'a'), ('s2', 'b')]

    def test_fills_in_the_default(self) -> None:
        spread = per_modality('weights', {'s2': True}, self.modalities, default=False)
        assert spread == {'s1': False, 's2': True}

    @pytest.mark.parametrize(
        ('value', 'default', 'message'),
        [
            ({'s1': 'a'}, None, r"unknown \[\], missing \['s2'\]"),
            (
                {'s1': 'a', 's2': 'b', 's3': 'c'},
                None,
                r"unknown \['s3'\], missing \[\]",
            ),
            (
                {'s3': 'c'},
                'a',
                r"model must be .* \['s1', 's2'\], got unknown \['s3'\]",
            ),
        ],
    )
    def test_rejects_invalid_arguments(
        self, value: Any, default: Any, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            per_modality('model', value, self.modalities, default)


class TestSplit:
    modalities: dict[str, int] = {'s1': 2, 's2': 3}  # noqa: RUF012

    @pytest.mark.parametrize('dates', [(), (4,)])
    def test_takes_one_key_for_each_modality(self, dates: tuple[int, ...]) -> None:
        batch = {
            'image_s2': torch.rand(5, *dates, 3, 8, 8),
            'image_s1': torch.rand(5, *dates, 2, 6, 6),
            'label': torch.arange(5),
            'image': torch.rand(1, 1, 8, 8),
        }
        images = split(batch, self.modalities)
        assert list(images) == ['s1', 's2']
        assert all(images[m] is batch[f'image_{m}'] for m in images)

    @pytest.mark.parametrize('dates', [(), (4,)])
    def test_splits_one_stacked_image(self, dates: tuple[int, ...]) -> None:
        stacked = torch.rand(6, *dates, 5, 8, 8)
        images = split({'image': stacked}, self.modalities)
        assert images['s1'].equal(stacked[..., :2, :, :])
        assert images['s2'].equal(stacked[..., 2:, :, :])

    @pytest.mark.parametrize(
        ('shapes', 'message'),
        [
            (
                {'image_s1': (4, 2, 8, 8), 'image_dem': (4, 1, 8, 8)},
                r"must have \['image_s2'\], got only \['image_dem', 'image_s1'\]",
            ),
            ({}, r"must have \['image_s1', 'image_s2'\], got only \[\]"),
            (
                {'image': (4, 5, 8, 8), 'image_s1': (4, 2, 8, 8)},
                r"must have \['image_s2'\], got only \['image', 'image_s1'\]",
            ),
            (
                {'image': (4, 6, 8, 8)},
                r'image must contain the 5 channels of .*, got 6 channels',
            ),
            ({'image': (5, 8, 8)}, r's1: image must have shape .*, got \(2, 8, 8\)'),
            (
                {'image_s1': (4, 2, 8, 8), 'image_s2': (1, 4, 1, 3, 8, 8)},
                r's2: image must have shape \(B, C, H, W\) or \(B, T, C, H, W\)',
            ),
            (
                {'image_s1': (4, 2, 8, 8), 'image_s2': (4, 13, 8, 8)},
                r's2: expected 3 channels, found 13; correct the number of channels',
            ),
            (
                {'image_s1': (4, 2, 8, 8), 'image_s2': (5, 3, 8, 8)},
                r"the same number of samples, got \{'s1': 4, 's2': 5\}",
            ),
        ],
    )
    def test_rejects_invalid_arguments(
        self, shapes: dict[str, tuple[int, ...]], message: str
    ) -> None:
        batch = {key: torch.zeros(shape) for key, shape in shapes.items()}
        with pytest.raises(ValueError, match=message):
            split(batch, self.modalities)


class TestSelectDate:
    def dated(self, batch: int, dates: int) -> Tensor:
        """Return images with the value 100 * sample + date everywhere."""
        x = 100 * torch.arange(batch)[:, None] + torch.arange(dates)
        return x[..., None, None, None].expand(batch, dates, 3, 4, 5)

    def test_returns_images_without_dates_as_they_are(self) -> None:
        x = torch.rand(2, 3, 4, 5)
        assert select_date(x) is x
        assert select_date(x, date=1) is x

    def test_selects_the_given_date(self) -> None:
        selected = select_date(self.dated(6, 4), date=2)
        assert selected.shape == (6, 3, 4, 5)
        assert selected[:, 0, 0, 0].tolist() == [100 * i + 2 for i in range(6)]

    def test_draws_a_random_date_of_each_sample(self) -> None:
        torch.manual_seed(0)
        selected = select_date(self.dated(64, 4))
        assert selected.shape == (64, 3, 4, 5)
        sample, date = selected[:, 0, 0, 0] // 100, selected[:, 0, 0, 0] % 100
        assert sample.tolist() == list(range(64))
        assert set(date.tolist()) == {0, 1, 2, 3}
        assert selected.eq(selected[:, :1, :1, :1]).all()

    def test_draws_are_independent(self) -> None:
        torch.manual_seed(0)
        x = self.dated(64, 4)
        first, second = (select_date(x)[:, 0, 0, 0] % 100 for _ in range(2))
        # Four equally likely dates agree in a quarter of the samples, here 16 +- 3.5.
        assert 4 < first.eq(second).sum().item() < 30

    def test_seed_repeats_the_draw(self) -> None:
        x = self.dated(16, 4)
        torch.manual_seed(1)
        first = select_date(x)
        torch.manual_seed(1)
        assert select_date(x).equal(first)


class TestInvalidPixels:
    @pytest.mark.parametrize('nodata', [float('nan'), -9999.0, -3.4028235e38])
    def test_marks_pixels_of_the_nodata_value(self, nodata: float) -> None:
        x = torch.tensor([[1.0, nodata], [0.0, nodata]])
        invalid = invalid_pixels(x, nodata)
        assert invalid is not None
        assert invalid.tolist() == [[False, True], [False, True]]

    def test_returns_none_without_a_nodata_value(self) -> None:
        assert invalid_pixels(torch.tensor([float('nan')]), None) is None


class TestCheck:
    @pytest.mark.parametrize('shape', [(4,), (2, 3)])
    @pytest.mark.parametrize('name', MODALITIES)
    def test_plausible_data_pass(self, name: str, shape: tuple[int, ...]) -> None:
        x = plausible(MODALITIES[name], *shape)
        before = x.clone()
        check_one(x, name)
        assert x.equal(before)

    def test_unknown_unit_passes(self) -> None:
        check_one(
            torch.rand(2, 1, 8, 8), {'bands': ['t'], 'kind': 'depth', 'unit': 'K'}
        )

    def test_refuses_a_missing_modality(self) -> None:
        modalities = {m: MODALITIES['sentinel1_grd'] for m in ('s1', 'asar')}
        images = {'s1': plausible(MODALITIES['sentinel1_grd'], 2)}
        message = r"asar: expected image_asar in the batch, found \['s1'\]"
        with pytest.raises(ValueError, match=message):
            check(images, modalities)

    def test_refuses_another_number_of_bands(self) -> None:
        message = (
            r"m: expected 2 bands \['VV', 'VH'\], found 3; select or pad the bands"
        )
        with pytest.raises(ValueError, match=message):
            check_one(torch.rand(2, 3, 8, 8), 'sentinel1_grd')

    @pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
    def test_refuses_values_that_are_not_finite(self, value: float) -> None:
        x = plausible(MODALITIES['sentinel1_grd'], 2)
        x[1, 1, 3, 3:5] = value
        message = r"m: expected finite values, found 2 NaN or infinite values in bands \['VH'\]"
        with pytest.raises(ValueError, match=message):
            check_one(x, 'sentinel1_grd')

    @pytest.mark.parametrize(
        ('nodata', 'cure'),
        [
            (None, r'fill them, or set the option nodata .*nodata: \.nan` for NaN'),
            (-9999.0, r'fill them with the nodata value of the modality, -9999\.0$'),
        ],
    )
    def test_hint_keeps_the_declared_value(
        self, nodata: float | None, cure: str
    ) -> None:
        x = plausible(MODALITIES['sentinel1_grd'], 2)
        x[1, 1, 3, 3:5] = torch.nan
        x[0, :, :2] = -9999.0
        with pytest.raises(ValueError, match=cure):
            check_one(x, Modality.of({**SAR, 'nodata': nodata}))

    def test_refuses_linear_power(self) -> None:
        x = 10 ** (plausible(MODALITIES['sentinel1_grd'], 2) / 10)
        message = r'backscatter in dB .* as in linear power; convert with 10 \* log10'
        with pytest.raises(ValueError, match=message):
            check_one(x, 'sentinel1_grd')

    def test_refuses_swapped_polarizations(self) -> None:
        x = plausible(MODALITIES['sentinel1_grd'], 2).flip(1)
        message = r'expected VV brighter than VH .*, as in swapped bands'
        with pytest.raises(ValueError, match=message):
            check_one(x, 'sentinel1_grd')

    def test_bands_in_another_order_are_not_swapped(self) -> None:
        modality = Modality.of({**SAR, 'bands': ['VH', 'VV']})
        x = plausible(MODALITIES['sentinel1_grd'], 2).flip(1)
        check_one(x, modality)
        with pytest.raises(ValueError, match='swapped'):
            check_one(x.flip(1), modality)

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (
                lambda x: x / 10_000,
                r'digital numbers .* as in reflectance or scaled data',
            ),
            (lambda x: x / 10_000 - 0.5, r'as in reflectance or scaled data'),
            (lambda x: (x / 12).clamp(0, 255).byte(), r'as in 8-bit data; use raw'),
            (lambda x: (x - 2000) / 500, r'as in standardized data; use raw'),
            (lambda x: x - 5000, r'as in standardized data; use raw'),
        ],
    )
    def test_refuses_scaled_digital_numbers(self, change: Any, message: str) -> None:
        x = change(plausible(MODALITIES['sentinel2_l1c'], 2))
        with pytest.raises(ValueError, match=message):
            check_one(x, 'sentinel2_l1c')

    @pytest.mark.parametrize(
        'change', [lambda x: x / 255, lambda x: x - 128.0, lambda x: x * 256.0]
    )
    def test_refuses_scaled_bytes(self, change: Any) -> None:
        x = change(plausible(MODALITIES['geonrw_rgb'], 2))
        with pytest.raises(
            ValueError, match=r'expected values from 0 to 255, found values in \['
        ):
            check_one(x, 'geonrw_rgb')

    def test_warns_of_a_constant_band(self) -> None:
        x = plausible(MODALITIES['sentinel1_grd'], 2)
        x[:, 1] = -25.0
        with pytest.warns(UserWarning, match=r"m: bands \['VH'\] are constant over"):
            check_one(x, 'sentinel1_grd')

    @pytest.mark.parametrize('nodata', [float('nan'), -9999.0, -3.4028235e38])
    def test_nodata_does_not_count(self, nodata: float) -> None:
        modality = replace(MODALITIES['sentinel1_grd'], nodata=nodata)
        x = plausible(modality, 2)
        x[:, 0, :4] = torch.tensor(nodata)
        check_one(x, modality)

    def test_accepts_a_nodata_value_outside_of_bytes(self) -> None:
        modality = Modality(('R',), 'rgb', 'uint8', nodata=-1)
        x = torch.tensor([-1, 3, 200, -1]).reshape(1, 1, 2, 2)
        check_one(x, modality)

    def test_a_band_that_varies_only_by_nodata_is_constant(self) -> None:
        modality = Modality(('z',), 'elevation', 'm', nodata=-9999)
        x = torch.full((2, 1, 4, 4), 7.0)
        x[0, 0, 0] = -9999
        with pytest.warns(UserWarning, match=r"bands \['z'\] are constant"):
            check_one(x, modality)

    def test_warns_of_a_batch_of_nodata(self) -> None:
        modality = Modality.of({**SAR, 'nodata': float('nan')})
        with pytest.warns(UserWarning, match='m: a batch has only nodata'):
            check_one(torch.full((2, 2, 4, 4), float('nan')), modality)

    def test_checks_every_modality(self) -> None:
        known = MODALITIES['sentinel1_grd']
        images = {'s1': plausible(known, 2), 'asar': plausible(known, 2).flip(1)}
        with pytest.raises(ValueError, match='asar: expected VV brighter'):
            check(images, dict.fromkeys(images, known))
