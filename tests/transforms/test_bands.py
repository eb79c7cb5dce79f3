import pytest
import torch
from torch import Tensor, nn

from torchgeo_decur.modalities import MODALITIES
from torchgeo_decur.transforms import (
    PadBands,
    PerModality,
    ScaleToUnit,
    SelectBands,
    ToModalities,
)


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

    def test_needs_an_image(self) -> None:
        with pytest.raises(ValueError, match=r"s1: expected a sample .* \['mask'\]"):
            ToModalities('s1')({'mask': torch.ones(4, 4)})


class TestPerModality:
    def test_applies_its_own_module_to_each_image(self) -> None:
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

    def test_skips_an_absent_modality(self) -> None:
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

    def test_refuses_an_unknown_band(self) -> None:
        message = r"select must only have bands from \['a', 'b'\], got \['z'\]"
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

    def test_inserts_b10_of_sentinel2_as_zeros(self) -> None:
        l2a, l1c = MODALITIES['sentinel2_l2a'].bands, MODALITIES['sentinel2_l1c'].bands
        out = PadBands(l2a, l1c)(torch.ones(1, 12, 2, 2, dtype=torch.int16))
        assert out.dtype == torch.int16
        assert out[0, :, 0, 0].tolist() == [1] * 10 + [0] + [1] * 2

    def test_refuses_a_band_without_a_place(self) -> None:
        with pytest.raises(ValueError, match=r"all input bands .* lacks \['b'\]"):
            PadBands(['a', 'b'], ['a', 'z'])
