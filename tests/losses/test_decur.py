from itertools import combinations
from statistics import fmean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchgeo_decur.losses import DeCURLoss, functional

Embeddings = dict[str, Tensor]

# Orthogonal columns with mean 0 and variance 1: their correlation matrix is the identity.
HADAMARD = torch.tensor(
    [
        [(-1.0) ** (i & j).bit_count() for j in range(1, 8)]  # column 0 is constant
        for i in range(8)
    ],
    dtype=torch.float64,
)


def make(
    n: int = 6, d: int = 5, names: str = 'ab', views: int = 2, seed: int = 0
) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    shape = (views, n, d)
    return {
        m: torch.randn(shape, generator=generator, dtype=torch.float64) for m in names
    }


def reference(z: Embeddings, common_dim: int, lambda_param: float) -> dict[str, float]:
    """Compute the formulas of the paper (Eq. 2 to 5), entry by entry."""

    def column(x: Tensor, i: int) -> list[float]:
        values = x[:, i].tolist()
        mean = fmean(values)
        std = (fmean([(v - mean) ** 2 for v in values]) + 1e-5) ** 0.5
        return [(v - mean) / std for v in values]

    def term(a: Tensor, b: Tensor, dimensions: range, target: int) -> float:
        total = 0.0
        for i in dimensions:
            for j in dimensions:
                pairs = zip(column(a, i), column(b, j), strict=True)
                c = fmean([p * q for p, q in pairs])
                total += (target - c) ** 2 if i == j else lambda_param * c**2
        return total

    d = next(iter(z.values())).shape[2]
    parts: dict[str, float] = {}
    for m, x in z.items():
        views = [term(v, w, range(d), 1) for v, w in combinations(x, 2)]
        parts[f'intra_{m}'] = fmean(views)
    terms = list(parts.values())
    for m, n in combinations(z, 2):
        a, b = z[m][0], z[n][0]
        common = term(a, b, range(common_dim), 1)
        unique = term(a, b, range(common_dim, d), 0)
        parts |= {f'common_{m}_{n}': common, f'unique_{m}_{n}': unique}
        terms.append((common + unique) / 2)
    return {'loss': fmean(terms), **parts}


class TestValue:
    @pytest.mark.parametrize('lambda_param', [0.0, 0.0051, 1.0])
    @pytest.mark.parametrize('common_dim', [0, 3, 5])
    @pytest.mark.parametrize('names', ['ab', 'abc'])
    @pytest.mark.parametrize('n', [3, 8])
    def test_equals_the_reference(
        self, n: int, names: str, common_dim: int, lambda_param: float
    ) -> None:
        z = make(n=n, names=names)
        out = DeCURLoss(common_dim, lambda_param)(z)
        expected = reference(z, common_dim, lambda_param)
        assert list(out) == list(expected)
        for name, value in expected.items():
            assert out[name].item() == pytest.approx(value, abs=1e-6), name

    def test_views_are_paired_and_the_first_is_cross_modal(self) -> None:
        z = make(n=5, d=4, views=3)
        out, expected = DeCURLoss(2)(z), reference(z, 2, 0.0051)
        assert {k: v.item() for k, v in out.items()} == pytest.approx(expected)

    @pytest.mark.parametrize('intra', [True, False])
    @pytest.mark.parametrize('views', [2, 3])
    def test_gram_form_equals_direct_form(
        self, intra: bool, views: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        z = {m: x.requires_grad_() for m, x in make(n=6, d=7, views=views).items()}
        found = []
        for by_gram in (True, False):
            monkeypatch.setattr(functional, 'cheaper_by_gram', lambda *_, g=by_gram: g)
            out = DeCURLoss(4, intra=intra)(z)
            gradient = torch.autograd.grad(out['loss'], list(z.values()))
            found.append((out, gradient))
        torch.testing.assert_close(*found)

    @pytest.mark.parametrize(
        ('names', 'intra', 'n', 'direct'),
        [
            ('ab', True, 256, False),
            ('ab', True, 520, False),
            ('ab', True, 540, True),
            # More pairs of modalities, but no more Gram matrices.
            ('abc', True, 600, False),
            ('ab', False, 290, False),
            ('ab', False, 400, True),
        ],
    )
    def test_form_is_that_of_fewer_multiplications(
        self, names: str, intra: bool, n: int, direct: bool
    ) -> None:
        z = {m: torch.empty(2, n, 512, device='meta') for m in names}
        z = {m: x.requires_grad_() for m, x in z.items()}
        kept: list[tuple[int, ...]] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: kept.append(tuple(x.shape)), lambda x: x
        ):
            DeCURLoss(448, intra=intra).terms(z)
        assert bool({(512, 512), (448, 448)} & set(kept)) is direct

    def test_each_gram_matrix_is_computed_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shapes: list[tuple[int, ...]] = []
        gram = functional.gram
        monkeypatch.setattr(
            functional, 'gram', lambda a: shapes.append(tuple(a.shape)) or gram(a)
        )
        DeCURLoss(4)(make(n=6, d=7, names='abc'))
        # Common and unique block of the first view, and the second view.
        assert sorted(shapes) == [(6, 3)] * 3 + [(6, 4)] * 3 + [(6, 7)] * 3

    def test_averages_the_terms_of_two_modalities(self) -> None:
        out = DeCURLoss(3)(make())
        cross = (out['common_a_b'] + out['unique_a_b']) / 2
        total = (out['intra_a'] + out['intra_b'] + cross) / 3
        torch.testing.assert_close(out['loss'], total)

    @pytest.mark.parametrize(
        ('a', 'b', 'expected'),
        [
            pytest.param([0, 1, 2], [0, 1, 3], (0, 0, 0, 0), id='perfect'),
            pytest.param([0, 1, 2], [0, 1, 2], (0, 0, 0, 1), id='unique-dims-equal'),
            pytest.param([0, 1, 2], [3, 4, 5], (0, 0, 2, 0), id='common-dims-differ'),
            # Four and two off-diagonal ones, each counting lambda = 0.5.
            pytest.param([0, 0, 0], [0, 0, 0], (3, 3, 1, 1), id='collapsed'),
            # No diagonal agrees; entry (0, 1) and (1, 0) do.
            pytest.param([0, 1, 2], [1, 0, 3], (0, 0, 3, 0), id='swapped'),
        ],
    )
    def test_equals_values_computed_by_hand(
        self, a: list[int], b: list[int], expected: tuple[float, float, float, float]
    ) -> None:
        z = {m: HADAMARD[:, i].expand(2, -1, -1) for m, i in (('a', a), ('b', b))}
        out = DeCURLoss(common_dim=2, lambda_param=0.5)(z)
        names = ['intra_a', 'intra_b', 'common_a_b', 'unique_a_b']
        parts = dict(zip(names, map(float, expected), strict=True))
        parts['loss'] = (expected[0] + expected[1] + sum(expected[2:]) / 2) / 3
        actual = {k: v.item() for k, v in out.items()}
        assert actual == pytest.approx(parts, abs=2e-4)

    def test_penalizes_opposite_embeddings_as_published(self) -> None:
        z = HADAMARD[:, :3].expand(2, -1, -1)
        out = DeCURLoss(common_dim=2)({'a': z, 'b': -z})
        assert out['common_a_b'].item() == pytest.approx(2 * (1 + 1) ** 2, abs=1e-3)
        assert out['unique_a_b'].item() == pytest.approx(1, abs=1e-3)


def spread(n: int, d: int, names: str, seed: int) -> Embeddings:
    """Return embeddings with so large a variance that eps is negligible."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, n, d)
    ranks = {m: torch.rand(shape, generator=generator).argsort(1) for m in names}
    noise = torch.rand(shape, generator=generator, dtype=torch.float64)
    return {m: 10 * r + noise for m, r in ranks.items()}


@st.composite
def cases(draw: st.DrawFn) -> tuple[Embeddings, DeCURLoss, torch.Generator]:
    n, d = draw(st.integers(2, 7)), draw(st.integers(1, 7))
    names = draw(st.sampled_from(['ab', 'abc', 'abcd']))
    seed = draw(st.integers(0, 2**31))
    criterion = DeCURLoss(draw(st.integers(0, d)), draw(st.floats(0, 2)))
    return spread(n, d, names, seed), criterion, torch.Generator().manual_seed(seed)


properties = settings(max_examples=25, deadline=None, derandomize=True, database=None)


class TestProperties:
    @given(cases())
    @properties
    def test_ignores_the_order_of_samples(
        self, case: tuple[Embeddings, DeCURLoss, torch.Generator]
    ) -> None:
        z, criterion, generator = case
        order = torch.randperm(z['a'].shape[1], generator=generator)
        permuted = criterion({m: x[:, order] for m, x in z.items()})
        torch.testing.assert_close(permuted, criterion(z))

    @given(cases())
    @properties
    def test_ignores_the_order_of_modalities(
        self, case: tuple[Embeddings, DeCURLoss, torch.Generator]
    ) -> None:
        z, criterion, _ = case
        turned = criterion(dict(reversed(z.items())))
        torch.testing.assert_close(turned['loss'], criterion(z)['loss'])

    @given(cases())
    @properties
    def test_ignores_scale_and_offset_of_a_dimension(
        self, case: tuple[Embeddings, DeCURLoss, torch.Generator]
    ) -> None:
        z, criterion, generator = case
        a, b = torch.rand(2, z['a'].shape[2], generator=generator, dtype=torch.float64)
        moved = criterion({m: x * (0.5 + 5 * a) + 100 * b for m, x in z.items()})
        torch.testing.assert_close(moved, criterion(z), rtol=1e-4, atol=1e-5)

    @given(cases())
    @properties
    def test_parts_are_not_negative(
        self, case: tuple[Embeddings, DeCURLoss, torch.Generator]
    ) -> None:
        z, criterion, _ = case
        assert min(v.item() for v in criterion(z).values()) >= -1e-9

    @given(cases())
    @properties
    def test_blocks_without_dimensions_are_zero(
        self, case: tuple[Embeddings, DeCURLoss, torch.Generator]
    ) -> None:
        z, criterion, _ = case
        none = DeCURLoss(0, criterion.lambda_param)(z)
        every = DeCURLoss(z['a'].shape[2], criterion.lambda_param)(z)
        assert none['common_a_b'].item() == 0
        assert every['unique_a_b'].item() == 0


class TestGradient:
    @pytest.mark.parametrize(('n', 'd'), [(3, 4), (5, 3)])
    def test_gradient_matches_finite_differences(self, n: int, d: int) -> None:
        criterion = DeCURLoss(common_dim=2)
        z = [x.requires_grad_() for x in make(n=n, d=d).values()]

        def total(a: Tensor, b: Tensor) -> Tensor:
            return criterion({'a': a, 'b': b})['loss']

        assert torch.autograd.gradcheck(total, z)

    def test_twenty_steps_lower_the_loss(self) -> None:
        z = {m: x.requires_grad_() for m, x in make(n=16, d=8, names='abc').items()}
        optimizer = torch.optim.Adam(z.values(), lr=0.05)
        criterion = DeCURLoss(common_dim=6)
        losses = []
        for _ in range(20):
            out = criterion(z)
            losses.append({k: v.item() for k, v in out.items()})
            optimizer.zero_grad()
            out['loss'].backward()
            optimizer.step()
        assert losses[-1]['loss'] < 0.5 * losses[0]['loss']
        assert losses[-1]['common_a_b'] < 0.5 * losses[0]['common_a_b']
        assert losses[-1]['intra_c'] < 0.5 * losses[0]['intra_c']

    @pytest.mark.parametrize('n', [4, 16])
    def test_inputs_are_unchanged(self, n: int) -> None:
        z = {m: x.requires_grad_() for m, x in make(n=n, d=8).items()}
        before = {m: x.detach().clone() for m, x in z.items()}
        DeCURLoss(common_dim=6)(z)['loss'].backward()
        assert list(z) == ['a', 'b']
        assert all(z[m].detach().equal(before[m]) for m in z)


class TestPrecision:
    @pytest.mark.parametrize('n', [4, 16])
    def test_autocast_changes_nothing(self, n: int) -> None:
        z = {m: x.float() for m, x in make(n=n, d=8).items()}
        criterion = DeCURLoss(common_dim=6)
        expected = criterion(z)
        with torch.autocast('cpu', torch.bfloat16):
            out = criterion(z)
        assert {v.dtype for v in out.values()} == {torch.float32}
        assert all(out[k].equal(expected[k]) for k in expected)

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_half_precision_is_computed_in_single(self, dtype: torch.dtype) -> None:
        z = {m: x.to(dtype) for m, x in make().items()}
        out = DeCURLoss(common_dim=3)(z)
        expected = DeCURLoss(common_dim=3)({m: x.float() for m, x in z.items()})
        assert all(out[k].equal(expected[k]) for k in expected)

    def test_double_precision_is_kept(self) -> None:
        out = DeCURLoss(common_dim=3)(make())
        assert {v.dtype for v in out.values()} == {torch.float64}
        assert all(v.ndim == 0 for v in out.values())


class TestErrors:
    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ((-1,), r'common_dim must be >= 0, got -1'),
            ((1, -0.5), r'lambda_param must be >= 0, got -0\.5'),
        ],
    )
    def test_rejects_invalid_arguments(
        self, arguments: tuple[int, float], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            DeCURLoss(*arguments)

    @pytest.mark.parametrize(
        ('z', 'message'),
        [
            (make(names=''), r'at least two modalities, got \[\]'),
            (make(names='a'), r"at least two modalities, got \['a'\]"),
            (
                make(names='a') | make(names='b', d=4),
                r"same shape .* got \{'a': \(2, 6, 5\), 'b': \(2, 6, 4\)\}",
            ),
            (make(names='a') | make(names='b', n=4), r'same shape \(V, N, D\)'),
            ({m: x[0] for m, x in make().items()}, r'same shape \(V, N, D\)'),
            (make(views=1), r'at least 2 views and 2 samples, got shape \(1, 6, 5\)'),
            (make(n=1), r'at least 2 views and 2 samples, got shape \(2, 1, 5\)'),
            (make(d=2), r'common_dim must be in \[0, 2\], got 3'),
        ],
    )
    def test_refuses_wrong_embeddings(self, z: Embeddings, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            DeCURLoss(common_dim=3)(z)


class TestAblations:
    def test_without_intra_is_the_mean_over_pairs(self) -> None:
        z = make(names='abc')
        whole, terms = DeCURLoss(3)(z), DeCURLoss(3, intra=False)(z)
        assert {k for k in whole if not k.startswith('intra')} == set(terms)
        parts = [v for k, v in terms.items() if k != 'loss']
        torch.testing.assert_close(terms['loss'], torch.stack(parts).sum() / 2 / 3)

    def test_without_decoupling_nothing_is_unique(self) -> None:
        z = make()
        assert DeCURLoss(5)(z)['unique_a_b'] == 0
        loss = DeCURLoss(5, intra=False)(z)
        torch.testing.assert_close(loss['loss'], loss['common_a_b'] / 2)

    def test_without_intra_only_first_views_learn(self) -> None:
        z = {m: x.requires_grad_() for m, x in make().items()}
        DeCURLoss(3, intra=False)(z)['loss'].backward()
        assert all(x.grad[0].any() and not x.grad[1].any() for x in z.values())  # type: ignore[index]
