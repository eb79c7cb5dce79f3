import sys

import pytest
import torch
from torch.testing import assert_close

from tests.helpers.toy_pretrained import ToyPretrained, corner
from torchgeo_decur.analysis.attribution import (
    correlation,
    gradcam,
    integrated_gradients,
    overlap,
    shares,
)
from torchgeo_decur.analysis.model_interface import (
    eval_with_gradients,
    iter_batches,
    parts_of,
)

COMMON, UNIQUE = slice(0, 2), slice(2, 3)
# Two common dimensions and a unique one, of three bands.
WEIGHTS = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0], [0.0, 5.0, 0.0]])


@pytest.fixture
def toy() -> ToyPretrained:
    return ToyPretrained(m=WEIGHTS, n=torch.tensor([[-1.0], [0.0], [2.0]])).eval()


class TestGradCAM:
    @pytest.mark.parametrize('row', [0, 1])
    @pytest.mark.parametrize('column', [0, 1])
    def test_maps_the_signal_of_one_corner(
        self, toy: ToyPretrained, row: int, column: int
    ) -> None:
        x = corner(2, 3, row, column)
        # y is the mean over 2 dimensions and 64 places of A, whose sum there is 1 + 2 + 3.
        expected = x[:, 0] * 6 / (2 * 64)
        assert_close(gradcam(toy, 'm', x, COMMON), expected)

    def test_keeps_the_sign(self, toy: ToyPretrained) -> None:
        x = corner(1, 1, 0, 1)
        assert_close(gradcam(toy, 'n', x, COMMON), -x[:, 0] / (2 * 64))
        assert_close(gradcam(toy, 'n', x, UNIQUE), 2 * x[:, 0] / 64)

    def test_ignores_positions_of_the_other_part(self, toy: ToyPretrained) -> None:
        x = torch.cat([corner(1, 1, 0, 0), corner(1, 1, 1, 1), corner(1, 1, 0, 0)], 1)
        assert_close(gradcam(toy, 'm', x, COMMON), x[:, 0] * 6 / 128)
        assert_close(gradcam(toy, 'm', x, UNIQUE), x[:, 1] * 5 / 64)


class TestIntegratedGradients:
    def test_attributes_by_known_weights(self, toy: ToyPretrained) -> None:
        x = torch.rand(4, 3, 8, 8)
        bands, error = integrated_gradients(toy, 'm', x, COMMON, steps=4)
        mean = x.mean((2, 3))
        assert_close(bands, mean * torch.tensor([2.0, 0.0, 1.0]))
        assert error.max() < 1e-6
        bands, _ = integrated_gradients(toy, 'm', x, UNIQUE, steps=4)
        assert_close(shares(bands), torch.tensor([[0.0, 1.0, 0.0]]).expand(4, 3))

    def test_adds_up_where_the_network_is_not_linear(self) -> None:
        toy = ToyPretrained(m=WEIGHTS).eval()
        toy.projectors['m'] = torch.nn.Tanh()
        x = torch.rand(4, 3, 8, 8)
        bands, error = integrated_gradients(toy, 'm', x, COMMON, steps=16)
        output = toy.embed({'m': x})['m'][:, COMMON].mean(1)
        assert_close(bands.sum(1), output, atol=1e-4, rtol=0)
        assert error.max() < 1e-4

    def test_more_samples_than_a_step_takes(self, toy: ToyPretrained) -> None:
        x = torch.rand(70, 3, 4, 4)
        whole, _ = integrated_gradients(toy, 'm', x, COMMON)
        part, _ = integrated_gradients(toy, 'm', x[66:], COMMON)
        assert_close(whole[66:], part)


class TestOverlap:
    def test_identical_maps_overlap_and_disjoint_ones_do_not(self) -> None:
        a, b = torch.rand(3, 5, 6), corner(3, 1, 0, 0)[:, 0]
        assert_close(overlap(a, 7 * a), torch.ones(3))
        assert_close(overlap(a, -a), torch.ones(3))
        assert_close(overlap(b, 1 - b), torch.zeros(3))

    def test_overlap_is_the_shared_part_of_two_maps(self) -> None:
        a = torch.tensor([[[2.0, 2.0, 0.0, 0.0]]])
        b = torch.tensor([[[0.0, 1.0, 1.0, 2.0]]])
        assert_close(overlap(a, b), torch.tensor([0.25]))

    def test_compares_maps_of_two_sizes(self) -> None:
        a = torch.tensor([[[1.0, 1.0], [1.0, 1.0]]])
        assert_close(overlap(a, torch.ones(1, 4, 6)), torch.ones(1))

    def test_empty_map_has_none(self) -> None:
        assert overlap(torch.zeros(1, 2, 2), torch.ones(1, 2, 2)).isnan().all()
        assert correlation(torch.ones(1, 2, 2), torch.rand(1, 2, 2)).isnan().all()

    def test_correlation_ignores_scale_and_offset(self) -> None:
        a, b = torch.rand(2, 4, 4), torch.rand(2, 4, 4)
        expected = torch.stack(
            [
                torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]
                for x, y in zip(a, b, strict=True)
            ]
        )
        assert_close(correlation(3 * a - 1, b), expected)


class TestProtocol:
    def test_modes_and_gradients_come_back(self) -> None:
        toy = ToyPretrained(m=WEIGHTS)
        toy.projectors.eval()
        toy.encoders.encoders['m'].conv.weight.grad = torch.ones(3, 3, 1, 1)
        toy.encoders.encoders['m'].conv.weight.requires_grad = False
        with torch.inference_mode(), eval_with_gradients(toy):
            assert not any(m.training for m in toy.modules())
            x = torch.rand(2, 3, 4, 4)
            assert gradcam(toy, 'm', x, COMMON).any()
            assert integrated_gradients(toy, 'm', x, COMMON)[0].any()
        modes = {name: m.training for name, m in toy.named_modules()}
        assert modes['encoders'] and modes['']
        assert not modes['projectors'] and not modes['projectors.m']
        weight = toy.encoders.encoders['m'].conv.weight
        assert not weight.requires_grad
        assert_close(weight.grad, torch.ones(3, 3, 1, 1))

    def test_modes_come_back_after_an_error(self) -> None:
        toy = ToyPretrained(m=WEIGHTS)
        with pytest.raises(RuntimeError, match='stop'), eval_with_gradients(toy):
            raise RuntimeError('stop')
        assert all(m.training for m in toy.modules())

    def test_splits_batches_up_to_the_largest_number(self) -> None:
        toy = ToyPretrained(m=WEIGHTS)
        x = torch.arange(10.0).view(10, 1, 1, 1)
        batches = [{'m': x[:6], 'other': x}, {'m': x[6:], 'other': x}]
        found = [
            p['m'].flatten().tolist() for p in iter_batches(toy, batches, ['m'], 8, 4)
        ]
        assert found == [[0, 1, 2, 3], [4, 5], [6, 7]]

    def test_rejects_invalid_arguments(self) -> None:
        toy = ToyPretrained(m=WEIGHTS)
        batch = {'m': torch.rand(2, 3, 4, 4)}
        with pytest.raises(ValueError, match='max_samples must be positive, got 0'):
            next(iter_batches(toy, [batch], ['m'], 0, 4))
        with pytest.raises(ValueError, match=r"\['m', 'n'\], got \['m'\]; add \['n'\]"):
            next(iter_batches(toy, [batch], ['m', 'n'], 4, 4))
        with pytest.raises(ValueError, match='at least one sample, got none'):
            next(iter_batches(toy, [], ['m'], 4, 4))
        with pytest.raises(ValueError, match=r'common_dim must be in \[0, 4\], got 5'):
            parts_of(5, 4)

    def test_captum_is_missing(
        self, toy: ToyPretrained, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, 'captum', None)
        with pytest.raises(
            ImportError, match=r'pip install torchgeo-decur\[analysis\]'
        ):
            gradcam(toy, 'm', torch.rand(1, 3, 4, 4), COMMON)
        with pytest.raises(
            ImportError, match=r'pip install torchgeo-decur\[analysis\]'
        ):
            integrated_gradients(toy, 'm', torch.rand(1, 3, 4, 4), COMMON)
