import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from torchgeo_decur.losses import DeCURLoss, cross_correlation_terms, standardize
from torchgeo_decur.losses.functional import (
    effective_rank,
    feature_std,
    gram,
    unit_vectors,
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rank_of_singular_values(values: Tensor) -> float:
    shares = [v / values.sum().item() for v in values.tolist()]
    return math.exp(-sum(p * math.log(p) for p in shares))


class TestStandardize:
    @pytest.mark.parametrize('shape', [(2, 5), (7, 3), (32, 1)])
    def test_equals_batch_norm(self, shape: tuple[int, int]) -> None:
        z = 5 + 3 * randn(*shape)
        norm = nn.BatchNorm1d(shape[1], affine=False, eps=1e-5).double().train()
        torch.testing.assert_close(standardize(z), norm(z))

    def test_views_are_standardized_one_by_one(self) -> None:
        z = torch.stack([randn(6, 4), 100 + 10 * randn(6, 4, seed=1)])
        expected = torch.stack([standardize(view) for view in z])
        torch.testing.assert_close(standardize(z), expected)

    def test_eps_is_added_to_the_variance(self) -> None:
        z = torch.tensor([[1.0], [3.0]])
        torch.testing.assert_close(
            standardize(z, eps=3.0), torch.tensor([[-0.5], [0.5]])
        )

    def test_a_constant_dimension_becomes_zero(self) -> None:
        assert standardize(torch.full((4, 2), 7.0)).eq(0).all()

    def test_input_is_unchanged(self) -> None:
        z = randn(6, 4)
        before = z.clone()
        standardize(z)
        assert z.equal(before)

    def test_gradient_matches_finite_differences(self) -> None:
        for z in (randn(4, 3), randn(2, 4, 3)):
            assert torch.autograd.gradcheck(standardize, z.requires_grad_())


class TestCrossCorrelationTerms:
    @pytest.mark.parametrize(('n', 'd'), [(3, 8), (8, 3), (5, 5), (2, 1)])
    def test_equals_the_matrix(self, n: int, d: int) -> None:
        a, b = standardize(randn(n, d)), standardize(randn(n, d, seed=1))
        diagonal, off = cross_correlation_terms(a, b)
        c = torch.einsum('ni,nj->ij', a, b) / n
        torch.testing.assert_close(diagonal, c.diagonal())
        mask = ~torch.eye(d, dtype=torch.bool)
        torch.testing.assert_close(off, c[mask].square().sum())

    def test_gram_form_equals_direct_form(self) -> None:
        a, b = standardize(randn(6, 4)), standardize(randn(6, 4, seed=1))
        grams = gram(a), gram(b)
        torch.testing.assert_close(
            cross_correlation_terms(a, b, grams), cross_correlation_terms(a, b)
        )
        # Dimensions that are all 0 add nothing, and make N < D.
        zeros = torch.zeros(6, 8, dtype=torch.float64)
        wide = torch.cat([a, zeros], dim=1), torch.cat([b, zeros], dim=1)
        torch.testing.assert_close(
            cross_correlation_terms(*wide)[1], cross_correlation_terms(a, b)[1]
        )

    @pytest.mark.parametrize(
        ('n', 'd', 'made'), [(256, 8192, False), (700, 1024, False), (800, 1024, True)]
    )
    def test_makes_the_smaller_matrices(self, n: int, d: int, made: bool) -> None:
        a, b = torch.randn(2, n, d, device='meta').requires_grad_()
        kept: list[tuple[int, ...]] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: kept.append(tuple(x.shape)), lambda x: x
        ):
            cross_correlation_terms(a, b)
        assert ((d, d) in kept) is made
        assert ((n, n) in kept) is not made

    def test_terms_of_no_dimension_are_zero(self) -> None:
        diagonal, off = cross_correlation_terms(torch.zeros(4, 0), torch.zeros(4, 0))
        assert diagonal.shape == (0,)
        assert off.item() == 0

    @pytest.mark.parametrize(('n', 'd'), [(3, 5), (5, 3)])
    def test_gradient_matches_finite_differences(self, n: int, d: int) -> None:
        a, b = randn(n, d).requires_grad_(), randn(n, d, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(cross_correlation_terms, (a, b))


class TestGram:
    def test_gradients_match_finite_differences(self) -> None:
        a = randn(4, 3).requires_grad_()
        assert torch.autograd.gradcheck(gram, (a,))
        assert torch.autograd.gradgradcheck(gram, (a,))


class TestFeatureStd:
    def test_one_direction_is_zero(self) -> None:
        h = torch.tensor([[1.0], [2.0], [5.0]]) * torch.tensor([3.0, 4.0])
        torch.testing.assert_close(feature_std(h), torch.tensor(0.0))

    def test_all_directions_are_one(self) -> None:
        # The coordinate axes both ways: mean 0 and variance 1 / D per coordinate.
        h = torch.cat([torch.eye(5), -torch.eye(5)])
        torch.testing.assert_close(feature_std(h), torch.tensor(1.0))

    def test_single_samples_along_each_axis_have_a_known_value(self) -> None:
        expected = torch.tensor(1 - 1 / 4).sqrt()
        torch.testing.assert_close(feature_std(torch.eye(4)), expected)

    def test_lengths_do_not_count(self) -> None:
        h = randn(16, 8).float()
        lengths = torch.linspace(0.1, 10, 16)[:, None]
        torch.testing.assert_close(feature_std(h * lengths), feature_std(h))

    def test_order_of_samples_does_not_count(self) -> None:
        h = randn(16, 8).float()
        torch.testing.assert_close(feature_std(h.flip(0)), feature_std(h))

    def test_half_precision_is_computed_in_single(self) -> None:
        assert feature_std(randn(8, 4).bfloat16()).dtype == torch.float32


class TestEffectiveRank:
    @pytest.mark.parametrize(
        ('z', 'expected'),
        [
            (torch.eye(6), 6.0),
            (7 * torch.eye(6)[:4], 4.0),
            (torch.outer(torch.arange(1.0, 9.0), torch.arange(1.0, 6.0)), 1.0),
            (torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]), None),
            (torch.zeros(8, 4), 1.0),
        ],
    )
    def test_known_matrices_have_their_rank(
        self, z: Tensor, expected: float | None
    ) -> None:
        if expected is None:
            # Singular values sqrt(3) and 1.
            expected = rank_of_singular_values(torch.tensor([3**0.5, 1.0]))
        assert effective_rank(z).item() == pytest.approx(expected, abs=1e-3)

    @pytest.mark.parametrize(('n', 'd'), [(4, 9), (9, 4)])
    def test_equals_singular_values(self, n: int, d: int) -> None:
        z = randn(n, d)
        expected = rank_of_singular_values(torch.linalg.svdvals(z))
        assert effective_rank(z).item() == pytest.approx(expected, abs=1e-4)

    def test_of_numbers_that_are_not_finite(self) -> None:
        z = torch.eye(4)
        assert effective_rank(z.index_fill(0, torch.tensor([1]), torch.inf)).isnan()

    def test_scale_and_rotation_do_not_count(self) -> None:
        z = randn(12, 5)
        rotation = torch.linalg.qr(randn(5, 5, seed=1)).Q
        torch.testing.assert_close(
            effective_rank(100 * z @ rotation), effective_rank(z)
        )

    def test_rows_and_columns_are_alike(self) -> None:
        z = randn(12, 5)
        torch.testing.assert_close(effective_rank(z.T), effective_rank(z))


def test_effective_rank_needs_no_float64_of_the_device() -> None:
    class NoFloat64(FakeTensorMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = super().__torch_dispatch__(func, types, args, kwargs)
            if isinstance(out, FakeTensor) and out.fake_device.type == 'mps':
                assert out.dtype != torch.float64
            return out

    # torch 2.6 has a fake device where it has a number only.
    with NoFloat64():
        rank = effective_rank(torch.empty(8, 4, device='mps:0'))
    assert rank.device.type == 'mps' and rank.dtype == torch.float32


class TestHigherOrder:
    """Check functions with custom gradients under autograd and torch.func."""

    @staticmethod
    def embeddings() -> Tensor:
        torch.manual_seed(0)
        return torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    @pytest.mark.parametrize('function', [standardize, gram, unit_vectors])
    def test_second_gradient_matches_finite_differences(self, function: Any) -> None:
        z = self.embeddings()
        assert torch.autograd.gradgradcheck(function, (z,))

    def test_functional_transforms_match_the_hessian(self) -> None:
        loss = DeCURLoss(common_dim=2)
        a, b = self.embeddings(), self.embeddings().detach().flip(0)

        def value(x: Tensor) -> Tensor:
            found: Tensor = loss({'a': torch.stack([x, b]), 'b': torch.stack([b, x])})[
                'loss'
            ]
            return found

        expected = torch.autograd.functional.hessian(value, a)
        a = a.detach()
        torch.testing.assert_close(
            torch.func.jacrev(torch.func.grad(value))(a), expected
        )
        many = torch.stack([a, 2 * b])
        found = torch.func.vmap(torch.func.grad(value))(many)
        each = torch.stack([torch.func.grad(value)(x) for x in many])
        torch.testing.assert_close(found, each)
