"""Compare value, gradient and form of losses with lightly's."""

from collections.abc import Callable

import pytest
import torch
from lightly import loss as lightly
from torch import Tensor, nn

from torchgeo_decur import losses
from torchgeo_decur.losses import CrossModalLoss, EmbeddingLoss, functional

PAIRS: dict[str, tuple[EmbeddingLoss, nn.Module]] = {
    'barlow_twins': (losses.BarlowTwinsLoss(0.02), lightly.BarlowTwinsLoss(0.02)),
    'vicreg': (losses.VICRegLoss(20.0, 15.0, 2.0), lightly.VICRegLoss(20.0, 15.0, 2.0)),
    'simclr': (losses.SimCLRLoss(0.2), lightly.NTXentLoss(0.2)),
}
LOSSES = pytest.mark.parametrize('name', PAIRS)


def make(names: str, n: int, d: int, views: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (views, n, d)
    return {
        m: (3 + torch.randn(shape, generator=generator).double()).requires_grad_()
        for m in names
    }


@LOSSES
@pytest.mark.parametrize(
    ('names', 'views'), [('a', 3), ('ab', 1), ('ab', 2), ('abc', 2)]
)
@pytest.mark.parametrize(('n', 'd'), [(4, 9), (9, 4), (7, 7), (2, 5), (5, 1)])
def test_value_and_gradient_equal_the_reference(
    name: str, names: str, views: int, n: int, d: int
) -> None:
    ours, theirs = PAIRS[name]
    z = make(names, n, d, views)
    found, expected = ours(z), CrossModalLoss(theirs)(z)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    gradients = [
        torch.autograd.grad(x['loss'], [*z.values()]) for x in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


@LOSSES
@pytest.mark.parametrize(('n', 'd'), [(2, 3), (3, 2)])
def test_gradients_match_finite_differences(name: str, n: int, d: int) -> None:
    z = make('ab', n, d)

    def total(a: Tensor, b: Tensor) -> Tensor:
        return PAIRS[name][0]({'a': a, 'b': b})['loss']

    assert torch.autograd.gradcheck(total, [*z.values()])
    assert torch.autograd.gradgradcheck(total, [*z.values()], atol=1e-4)


@pytest.mark.parametrize(
    ('name', 'n', 'direct'),
    [
        ('barlow_twins', 380, False),
        ('barlow_twins', 390, True),
        ('vicreg', 512, False),
        ('vicreg', 520, True),
        # Similarities of samples have no other form.
        ('simclr', 520, False),
    ],
)
def test_makes_the_cheaper_matrices(name: str, n: int, direct: bool) -> None:
    z = {m: torch.empty(2, n, 512, device='meta').requires_grad_() for m in 'ab'}
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(tuple(x.shape)), lambda x: x
    ):
        PAIRS[name][0].terms(z)
    assert ((512, 512) in kept) is (direct or n == 512)
    assert ((n, n) in kept) is not direct


@pytest.mark.parametrize(('name', 'each'), [('barlow_twins', 6), ('vicreg', 6)])
def test_each_gram_matrix_is_computed_once(
    name: str, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Tensor] = []
    gram = functional.gram
    monkeypatch.setattr(functional, 'gram', lambda a: made.append(a) or gram(a))
    PAIRS[name][0](make('abc', 4, 9))
    assert len(made) == each


@LOSSES
def test_functional_transforms_match_the_hessian(name: str) -> None:
    a, b = (x.detach()[0] for x in make('ab', 4, 3).values())

    def value(x: Tensor) -> Tensor:
        found: Tensor = PAIRS[name][0]({'a': x[None], 'b': b[None]})['loss']
        return found

    expected = torch.autograd.functional.hessian(value, a)
    torch.testing.assert_close(torch.func.jacrev(torch.func.grad(value))(a), expected)
    many = torch.stack([a, 2 * b])
    each = torch.stack([torch.func.grad(value)(x) for x in many])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(value))(many), each)


class TestCovarianceTerms:
    @pytest.mark.parametrize(('n', 'd'), [(3, 8), (8, 3), (5, 5), (2, 1)])
    def test_equals_the_matrix(self, n: int, d: int) -> None:
        z = make('a', n, d)['a'].detach()[0]
        variance, off_diagonal = functional.covariance_terms(z)
        matrix = torch.cov(z.T).reshape(d, d)
        torch.testing.assert_close(variance, matrix.diagonal())
        expected = matrix.square().sum() - matrix.diagonal().square().sum()
        torch.testing.assert_close(off_diagonal, expected)

    def test_gradient_keeps_the_layout(self) -> None:
        z = make('a', 8, 3)['a'].detach()[0].requires_grad_()
        made: list[Tensor] = []
        centred = z * 1
        centred.register_hook(made.append)
        functional.gram(centred.T).square().sum().backward()
        assert made[0].is_contiguous()


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: losses.BarlowTwinsLoss(-1), 'lambda_param must be >= 0, got -1'),
        (lambda: losses.VICRegLoss(-1), 'invariance must be >= 0, got -1'),
        (lambda: losses.VICRegLoss(1, -2), 'variance must be >= 0, got -2'),
        (lambda: losses.VICRegLoss(1, 1, -3), 'covariance must be >= 0, got -3'),
    ],
)
def test_rejects_invalid_arguments(
    build: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build()
