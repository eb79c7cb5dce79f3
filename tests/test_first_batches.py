"""Check wrong units, orders and offsets, and natural scenes that resemble them."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rasterio
import torch
from torch import Tensor

from tests.helpers.fake_data import fake
from torchgeo_decur.datamodules import RasterPairDataModule
from torchgeo_decur.datasets import PairedFolders
from torchgeo_decur.modalities import (
    MODALITIES,
    FirstBatches,
    Modality,
    check,
    check_unit_interval,
    contradiction,
)

S1, S2, L2A = (MODALITIES[f'sentinel{name}'] for name in ('1_grd', '2_l1c', '2_l2a'))
DEM = MODALITIES['geonrw_dem']
# Typical digital numbers of bands B1 to B12, L1C.
FOREST = (1300, 950, 800, 480, 850, 2200, 2700, 2600, 2900, 900, 10, 1400, 600)
WATER = (1250, 950, 600, 350, 300, 260, 250, 220, 200, 90, 8, 60, 40)
SNOW = (9500, 9300, 9000, 9100, 9000, 8800, 8600, 8300, 8000, 3500, 60, 700, 500)
DESERT = (1900, 2100, 2900, 4300, 4700, 4900, 5200, 5300, 5600, 1700, 12, 6600, 6000)
CLOUD = (9000, 8800, 8600, 8700, 8900, 9000, 9100, 8900, 9000, 4200, 900, 5200, 4300)
HAZE = (2600, 2400, 2100, 2000, 2200, 2700, 2900, 2800, 3100, 1300, 190, 1800, 1200)


def optical(means: tuple[int, ...], spread: float = 0.15, seed: int = 0) -> Tensor:
    """Return digital numbers around means, shape (4, C, 24, 24)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(4, len(means), 24, 24, generator=generator)
    mean = torch.tensor(means, dtype=torch.float32)[:, None, None]
    return (mean * (1 + spread * noise)).clamp(min=1).round()


def radar(vv: float, vh: float, spread: float = 2.0, seed: int = 0) -> Tensor:
    """Return backscatter in dB around means, shape (4, 2, 24, 24)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(4, 2, 24, 24, generator=generator)
    return torch.tensor([vv, vh])[:, None, None] + spread * noise


def without_b10(x: Tensor) -> Tensor:
    return torch.cat([x[:, :10], x[:, 11:]], dim=1)


def put(x: Tensor, value: float, share: float) -> Tensor:
    """Put a value in the first rows of all bands."""
    x = x.clone()
    x[..., : round(share * x.shape[-2]), :] = value
    return x


LAND = radar(-11, -17.5, 3.5)
FIELDS = torch.cat([optical(FOREST)[:2], optical(WATER, seed=1)[2:]])
HEIGHTS = 1000 + 20 * torch.rand(2, 1, 16, 16, generator=torch.Generator())


class TestNaturalScenes:
    @pytest.mark.parametrize(
        ('x', 'modality'),
        [
            *((optical(m), S2) for m in (FOREST, WATER, SNOW, DESERT, CLOUD, HAZE)),
            *(
                (without_b10(optical(m)), L2A)
                for m in (FOREST, WATER, SNOW, DESERT, HAZE)
            ),
            # At night the sensor sees hardly anything.
            (torch.randint(0, 22, (2, 13, 16, 16)).float(), S2),
            (torch.rand(2, 13, 16, 16) * 9, S2),
            # Water of L2A is below 255 in all bands.
            (without_b10(optical(tuple(v // 5 for v in WATER))), L2A),
            # Snow, for statistics of fields that the user gives.
            (optical(SNOW[1:4]), replace(L2A, bands=('B2', 'B3', 'B4'), wavelengths=None, mean=(600.0, 700.0, 700.0), std=(300.0, 300.0, 400.0))),
            (LAND, S1),
            # Calm water: most is beyond the usual range of VV.
            (radar(-23.5, -29), S1),
            # The noise of both channels.
            (radar(-26, -26.3, 1), S1),
            # A city.
            (radar(1, -6, 6), S1),
            (torch.randint(0, 3, (2, 3, 16, 16)).byte(), MODALITIES['geonrw_rgb']),
            (torch.randint(250, 256, (2, 3, 16, 16)).byte(), MODALITIES['geonrw_rgb']),
            (HEIGHTS, DEM),
            (torch.tensor([-9999.0, -9998, -9000, -5000]).reshape(1, 1, 2, 2), DEM),
        ],
        ids=[
            *(f'l1c {x}' for x in ('forest', 'water', 'snow', 'desert', 'cloud', 'haze')),
            *(f'l2a {x}' for x in ('forest', 'water', 'snow', 'desert', 'haze')),
            *('night', 'darkest night', 'l2a dark water', 'snow with given statistics'),
            *('land in radar', 'calm water in radar', 'noise in radar', 'city in radar'),
            *('dark photograph', 'bright photograph', 'mountains', 'deep sea'),
        ],
    )  # fmt: skip
    def test_natural_scenes_pass_without_a_warning(
        self, x: Tensor, modality: Modality
    ) -> None:
        # Warnings are errors.
        check({'m': x}, {'m': modality})


class TestErrors:
    @pytest.mark.parametrize(
        ('x', 'modality', 'message'),
        [
            (FIELDS + 1000, S2, r'1000 or more in every image; .*offset: -1000'),
            (optical(SNOW) + 1000, S2, r'1000 or more in every image'),
            (
                LAND * 100,
                S1,
                r'as in integers that store dB times 100; set `scale: 0\.01`',
            ),
            (LAND.mul(100).short(), S1, r'as in integers that store dB times 100'),
            (
                LAND * 10,
                S1,
                r'as in integers that store dB times 10; set `scale: 0\.1`',
            ),
            (LAND % 65536, S1, r'stored as uint16'),
            (LAND.abs() * 20, S1, r'as in amplitudes or digital numbers'),
            (
                put(10 ** (LAND / 10), -9999, 0.05),
                S1,
                r'-9999 in 4.2% of the pixels of band VV.*set `nodata: -9999`',
            ),
            (put(LAND, -9999, 0.05), S1, r'typical of missing pixels'),
            (put(FIELDS, -9999, 0.05), S2, r'set `nodata: -9999`'),
            (
                put(HEIGHTS, -32768, 0.06),
                DEM,
                r'-32768 in 6\.2% .*set `nodata: -32768`',
            ),
            (put(HEIGHTS, -3.4e38, 0.06), DEM, r'typical of missing pixels'),
            (put(HEIGHTS, 65535, 0.06), replace(DEM, kind='depth'), 'nodata: 65535'),
            (
                FIELDS / 10_000,
                replace(S2, unit='native'),
                r'nearly all values clipped to 0 or 1 .* compare mean and std',
            ),
        ],
    )
    def test_refuses_wrong_units(
        self, x: Tensor, modality: Modality, message: str
    ) -> None:
        if modality.unit == 'native':
            # Statistics in reflectance, for digital numbers.
            x = x * 10_000
            scaled = {
                k: tuple(v / 1e4 for v in getattr(S2, k) or ()) for k in ('mean', 'std')
            }
            modality = replace(modality, **scaled)
        with pytest.raises(ValueError, match=message):
            check({'m': x}, {'m': modality})

    def test_refuses_statistics_with_the_offset(self) -> None:
        mean = tuple(v + 1000 for v in S2.mean or ())
        with pytest.raises(
            ValueError, match=r"\['B10'\].*statistics include the offset"
        ):
            check({'s2': FIELDS}, {'s2': replace(S2, mean=mean)})

    @pytest.mark.parametrize(
        'bands',
        [('VV', 'VH'), ('vv', 'vh'), ('Sigma0_VV_db', 'Sigma0_VH_db'), ('HH', 'HV')],
    )
    @pytest.mark.parametrize('unit', ['dB', 'db', 'native', 'linear'])
    def test_checks_the_order_of_bands_in_any_spelling(
        self, bands: tuple[str, ...], unit: str
    ) -> None:
        modality = Modality(bands, 'sar', unit)
        x = 10 ** (LAND / 10) if unit == 'linear' else LAND
        check({'s1': x}, {'s1': modality})
        with pytest.raises(ValueError, match=f'expected {bands[0]} brighter'):
            check({'s1': x.flip(1)}, {'s1': modality})

    @pytest.mark.parametrize('unit', ['db', 'DB', ' Decibel '])
    def test_recognizes_units_in_any_spelling(self, unit: str) -> None:
        modality = Modality(('VV', 'VH'), 'sar', unit)
        assert modality.unit == 'dB'
        with pytest.raises(ValueError, match='linear power'):
            check({'s1': 10 ** (LAND / 10)}, {'s1': modality})

    def test_one_switch_turns_errors_into_warnings(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ValueError, match=r'TORCHGEO_DECUR_CHECK=warn$'):
            check({'s1': LAND * 100}, {'s1': S1})
        monkeypatch.setenv('TORCHGEO_DECUR_CHECK', 'warn')
        with pytest.warns(UserWarning, match='as in integers that store dB times 100'):
            check({'s1': LAND * 100}, {'s1': S1})
        with pytest.raises(ValueError, match='expected finite'):
            check({'s1': LAND * torch.nan}, {'s1': S1})
        monkeypatch.setenv('TORCHGEO_DECUR_CHECK', 'off')
        with pytest.raises(ValueError, match=r"must be 'warn' or unset, got 'off'"):
            check({'s1': LAND * 100}, {'s1': S1})


class TestWarnings:
    @pytest.mark.parametrize(
        ('x', 'modality', 'message'),
        [
            (
                torch.cat([FIELDS[:3] + 1000, FIELDS[3:]]),
                S2,
                r'1000 or more in 3 of 4 images',
            ),
            (without_b10(FIELDS) + 1000, L2A, r'no pixel is darker than 10\d\d'),
            (put(LAND, 0, 0.3), S1, r'29% .* exactly 0 .* very high backscatter .*nodata: 0'),
            (put(FIELDS, 0, 0.4), S2, r'42% .* exactly 0 .*nodata: 0'),
            (LAND * 2, S1, r'are below -36 dB'),
            (radar(9, 5, 1).clamp(min=0.1), S1, r'found only values .* linear power'),
            (radar(-20, -18, 1), S1, r'expected VV brighter than VH'),
            (
                torch.cat([LAND, LAND + 100]),
                Modality(('a', 'b'), 'sar', 'K', (-11.0, -17.0), (4.0, 4.0)),
                r"scaling clips many values of bands \['a', 'b'\] to 0 or 1",
            ),
            # A corner without data, whatever the unit.
            (torch.zeros(2, 2, 8, 8), S1, r'constant'),
            (torch.zeros(2, 13, 8, 8), S2, r'constant'),
            (torch.zeros(2, 3, 8, 8), MODALITIES['geonrw_rgb'], r'constant'),
        ],
    )  # fmt: skip
    def test_warns_of_possible_errors(
        self, x: Tensor, modality: Modality, message: str
    ) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', '.*are exactly 0')
            with pytest.warns(UserWarning, match=message):
                check({'m': x}, {'m': modality})


class TestFirstBatches:
    swapped = radar(-20, -18, 1)

    def test_an_empty_batch_does_not_end_the_checks(self) -> None:
        nan = replace(S1, nodata=float('nan'))
        first = FirstBatches({'s1': nan})
        with pytest.warns(UserWarning, match='has only nodata pixels'):
            first.look({'s1': LAND * torch.nan})
        assert not first.done()
        first.look({'s1': LAND * torch.nan})  # said once
        with pytest.raises(ValueError, match='dB times 100'):
            first.look({'s1': LAND * 100})

    def test_a_constant_batch_does_not_end_the_checks(self) -> None:
        first = FirstBatches({'s1': S1})
        with pytest.warns(UserWarning, match='constant'):
            first.look({'s1': torch.zeros_like(LAND)}, 'other')
        assert not first.done('other')
        first.look({'s1': LAND}, 'other')
        assert first.done('other') and not first.done('train')

    def test_checks_of_empty_batches_end(self) -> None:
        first = FirstBatches({'s1': replace(S1, nodata=0.0)})
        with pytest.warns(UserWarning, match='has only nodata pixels'):
            for _ in range(16):
                first.look({'s1': torch.zeros_like(LAND)})
        assert first.done()

    def test_training_batches_that_agree_raise(self) -> None:
        first = FirstBatches({'s1': S1})
        with pytest.warns(UserWarning, match='brighter'):
            first.look({'s1': self.swapped}, 'train', training=True)
        for _ in range(2):
            first.look({'s1': self.swapped}, 'train', training=True)
        assert not first.done('train')
        with pytest.raises(ValueError, match='expected VV brighter'):
            first.look({'s1': self.swapped}, 'train', training=True)

    def test_a_batch_that_disagrees_ends_the_suspicion(self) -> None:
        first = FirstBatches({'s1': S1})
        with pytest.warns(UserWarning, match='brighter'):
            first.look({'s1': self.swapped}, 'train', training=True)
        first.look({'s1': LAND}, 'train', training=True)
        assert first.done('train')

    def test_prediction_continues(self) -> None:
        first = FirstBatches({'s1': S1})
        with pytest.warns(UserWarning, match='brighter'):
            first.look({'s1': self.swapped}, 'other')
        assert first.done('other')

    def test_large_batches_are_sampled(self) -> None:
        x = LAND.repeat(6, 1, 16, 16)
        x[3, 1, 7, 11] = -9999
        with pytest.raises(ValueError, match='nodata: -9999'):
            check({'s1': x}, {'s1': S1})


class TestUnitInterval:
    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
    def test_accepts_the_unit_interval(self, dtype: torch.dtype) -> None:
        check_unit_interval({'s1': torch.rand(2, 2, 4, 4).to(dtype)})

    @pytest.mark.parametrize(
        ('x', 'message'),
        [
            (FIELDS, r'm: expected images in \[0, 1\], found values in \[\d+, \d+\]'),
            (LAND, r'ScaleToUnit'),
            (
                FIELDS.byte(),
                r'expected floating-point images in .*, found torch.uint8; .*divide bytes by 255',
            ),
        ],
    )
    def test_refuses_values_out_of_range(self, x: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_unit_interval({'m': x})


class TestDescriptions:
    @pytest.mark.parametrize(
        ('bands', 'descriptions', 'agree'),
        [
            (['VV', 'VH'], ['VV', 'VH'], True),
            (['VV', 'VH'], ['Sigma0_VV_db', 'Sigma0_VH_db'], True),
            (['VV', 'VH'], ['VH', 'VV'], False),
            (['VV', 'VH'], ['HH', 'HV'], False),
            (['B2', 'B3'], ['B02', 'B03'], True),
            (['B2', 'B3'], ['B02', 'B04'], False),
            (['B2', 'B3'], ['B03', None], False),
            (['R', 'G', 'B'], ['Red', 'Green', 'Blue'], True),
            (['R', 'G', 'B'], ['Blue', 'Green', 'Red'], False),
            (['R', 'G', 'B'], [None, None, None], True),
            (['elevation'], ['Band 1'], True),
            (['B2', 'B3'], ['blue', 'green'], True),
        ],
    )
    def test_finds_contradicting_descriptions(
        self, bands: list[str], descriptions: list[Any], agree: bool
    ) -> None:
        assert (contradiction(bands, descriptions) is None) == agree

    def test_rasters_and_paired_folders_refuse_contradictions(
        self, tmp_path: Path
    ) -> None:
        root = fake('rasters').make(tmp_path)
        path = next((root / 'radar').glob('*.tif'))
        with rasterio.open(path, 'r+') as file:
            file.descriptions = ('Sigma0_VH', 'Sigma0_VV')
        radar = {'bands': ['VV', 'VH'], 'kind': 'sar', 'unit': 'db'}
        message = rf"s1: .*{path.name}, but band 1 is configured as 'VV' and described as 'Sig"
        entries = {
            'optical': {'paths': str(root / 'optical'), 'bands': ['a', 'b']},
            's1': {'paths': str(root / 'radar'), **radar},
        }
        with pytest.raises(ValueError, match=message):
            RasterPairDataModule(entries, patch_size=32).setup('predict')
        with pytest.raises(ValueError, match=message):
            PairedFolders(root, {'s1': {'pattern': 'radar/{id}.tif', **radar}})
        entries['s1']['bands'] = ['VH', 'VV']
        RasterPairDataModule(entries, patch_size=32).setup('predict')
