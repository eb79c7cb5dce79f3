"""CrossModalLoss, SimCLRLoss, CLIPLoss, CoMMLoss and COrALLoss."""

import math
import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import BarlowTwinsLoss, NTXentLoss, VICRegLoss
from torch import Tensor, nn
from torch.nn.functional import normalize

from torchgeo_decur.losses import (
    CLIPLoss,
    CoMMLoss,
    COrALLoss,
    CrossModalLoss,
    EmbeddingLoss,
    SimCLRLoss,
    info_nce,
)

Embeddings = dict[str, Tensor]
Reference = Callable[[Embeddings], dict[str, float]]
Vectors = Sequence[Sequence[float]]


def make(names: Sequence[str], n: int = 6, d: int = 5, seed: int = 0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    return {
        m: torch.randn(2, n, d, generator=generator, dtype=torch.float64) for m in names
    }


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    dot = sum(p * q for p, q in zip(a, b, strict=True))
    return dot / math.sqrt(sum(p * p for p in a) * sum(q * q for q in b))


def slow_info_nce(a: Tensor, b: Tensor, temperature: float) -> float:
    """Compute the loss row by row, over the 2 N vectors of both views."""
    rows: Vectors = [*a.tolist(), *b.tolist()]
    n = len(a)
    losses = []
    for i, x in enumerate(rows):
        others = {j: cosine(x, y) / temperature for j, y in enumerate(rows) if j != i}
        total = sum(math.exp(s) for s in others.values())
        losses.append(math.log(total) - others[(i + n) % (2 * n)])
    return fmean(losses)


def slow_clip(a: Tensor, b: Tensor, temperature: float) -> float:
    def one_way(xs: Vectors, ys: Vectors) -> float:
        losses = []
        for i, x in enumerate(xs):
            scores = [cosine(x, y) / temperature for y in ys]
            losses.append(math.log(sum(map(math.exp, scores))) - scores[i])
        return fmean(losses)

    return (one_way(a.tolist(), b.tolist()) + one_way(b.tolist(), a.tolist())) / 2


def reference_clip(z: Embeddings) -> dict[str, float]:
    parts = {
        f'cross_{m}_{n}': fmean([slow_clip(z[m][v], z[n][v], 0.07) for v in (0, 1)])
        for m, n in combinations(z, 2)
    }
    return {'loss': fmean(parts.values()), **parts}


def reference_simclr(z: Embeddings) -> dict[str, float]:
    parts = {
        f'cross_{m}_{n}': fmean([slow_info_nce(z[m][v], z[n][v], 0.1) for v in (0, 1)])
        for m, n in combinations(z, 2)
    }
    return {'loss': fmean(parts.values()), **parts}


def reference_comm(z: Embeddings) -> dict[str, float]:
    joint = z['joint']
    parts = {
        f'contrast_{n}': fmean(
            [slow_info_nce(x[0], joint[1], 0.1), slow_info_nce(x[1], joint[0], 0.1)]
        )
        for n, x in z.items()
    }
    return {'loss': fmean(parts.values()), **parts}


def reference_coral(z: Embeddings) -> dict[str, float]:
    parts = {'shared': slow_info_nce(*z['shared'], 0.1)}
    modalities = [m for m in z if m != 'shared']
    parts |= {f'unique_{m}': slow_info_nce(*z[m], 0.1) for m in modalities}
    for p, q in combinations(['shared', *modalities], 2):
        parts[f'orthogonal_{p}_{q}'] = sum(
            fmean(
                cosine(x, y) ** 2
                for x, y in zip(z[p][v].tolist(), z[q][v].tolist(), strict=True)
            )
            for v in (0, 1)
        )
    return {'loss': sum(parts.values()), **parts}


CASES: dict[str, tuple[Callable[[], EmbeddingLoss], Reference, str]] = {
    'simclr': (SimCLRLoss, reference_simclr, ''),
    'clip': (CLIPLoss, reference_clip, ''),
    'comm': (CoMMLoss, reference_comm, 'joint'),
    'coral': (COrALLoss, reference_coral, 'shared'),
}
LOSSES = pytest.mark.parametrize('name', CASES)


def names(case: str, modalities: int = 2) -> list[str]:
    extra = CASES[case][2]
    return [*'abc'[:modalities], *([extra] if extra else [])]


class TestValue:
    @LOSSES
    @pytest.mark.parametrize('modalities', [2, 3])
    @pytest.mark.parametrize('n', [2, 7])
    def test_equals_the_reference(self, name: str, modalities: int, n: int) -> None:
        criterion, reference, _ = CASES[name]
        z = make(names(name, modalities), n=n)
        out, expected = criterion()(z), reference(z)
        assert sorted(out) == sorted(expected)
        for part, value in expected.items():
            # CLIP's temperature is a parameter in single precision
            close = 1e-6 if name == 'clip' else 1e-8
            assert out[part].item() == pytest.approx(value, abs=close), part

    def test_info_nce_is_that_of_lightly(self) -> None:
        a, b = make('a')['a']
        torch.testing.assert_close(info_nce(a, b, 0.5), NTXentLoss(0.5)(a, b))

    def test_a_single_modality_compares_its_views(self) -> None:
        z = make('a', n=8)
        out = CrossModalLoss(BarlowTwinsLoss())(z)
        assert list(out) == ['loss', 'intra_a']
        torch.testing.assert_close(out['loss'], BarlowTwinsLoss()(*z['a']))

    @pytest.mark.parametrize('pair', [BarlowTwinsLoss, VICRegLoss])
    def test_every_view_counts(self, pair: Callable[[], nn.Module]) -> None:
        z = make('ab', n=8)
        expected = [pair()(z['a'][v], z['b'][v]) for v in (0, 1)]
        out = CrossModalLoss(pair())(z)
        torch.testing.assert_close(out['cross_a_b'], torch.stack(expected).mean())

    @pytest.mark.parametrize(
        ('name', 'among', 'between'),
        [('simclr', 6, 6), ('clip', 0, 6), ('comm', 8, 7), ('coral', 8, 4)],
    )
    def test_similarities_are_computed_once(
        self, name: str, among: int, between: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[str] = []
        module = sys.modules[SimCLRLoss.__module__]

        def counted(kind: str) -> Callable[..., Any]:
            function = getattr(module, kind)
            return lambda *x: made.append(kind) or function(*x)

        for kind in ('log_sums_among', 'log_sums_between'):
            monkeypatch.setattr(module, kind, counted(kind))
        CASES[name][0]()(make(names(name, 3)))
        assert made.count('log_sums_among') == among
        assert made.count('log_sums_between') == between

    @pytest.mark.parametrize('temperature', [1e-3, 0.02, 50.0])
    def test_extreme_temperatures_keep_the_precision(self, temperature: float) -> None:
        # All pairs are nearly opposite, so that every exponential is small.
        a = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
        z = (a, -a + 0.1 * a.flip(0))
        single = [x.clone().requires_grad_() for x in z]
        double = [x.double().requires_grad_() for x in z]
        found, exact = (info_nce(*x, temperature) for x in (single, double))
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(exact.item(), rel=1e-5)
        u = normalize(torch.cat(double), dim=1).detach()
        scores = (u @ u.T / temperature).fill_diagonal_(-math.inf)
        own = scores.diagonal(5).repeat(2)
        expected = (scores.logsumexp(dim=1) - own).mean().item()
        assert exact.item() == pytest.approx(expected, rel=1e-9)
        for x, y in zip(
            torch.autograd.grad(found, single),
            torch.autograd.grad(exact, double),
            strict=True,
        ):
            torch.testing.assert_close(x.double(), y, rtol=1e-4, atol=1e-4)

    def test_coral_weights_its_parts(self) -> None:
        z = make(['shared', 'a', 'b'])
        out = COrALLoss(0.1, 2.0, 3.0, 5.0)(z)
        parts = {k: v for k, v in out.items() if k != 'loss'}
        weights = {'orthogonal': 2.0, 'unique': 3.0, 'shared': 5.0}
        total = sum(weights[k.split('_')[0]] * v for k, v in parts.items())
        torch.testing.assert_close(out['loss'], total)
        torch.testing.assert_close(parts['shared'], COrALLoss()(z)['shared'])

    def test_orthogonality_is_zero_only_for_orthogonal_embeddings(self) -> None:
        x, y = torch.eye(4, dtype=torch.float64)[:2].expand(2, -1, -1).unbind(1)
        z = {'shared': torch.stack([x, x], 1), 'a': torch.stack([y, -x], 1)}
        out = COrALLoss()(z)
        # The first sample is orthogonal, the second opposite, in both views.
        assert out['orthogonal_shared_a'].item() == pytest.approx(2 * 0.5)

    def test_temperature_of_clip_is_learned_and_bounded(self) -> None:
        criterion = CLIPLoss(0.5)
        (scale,) = criterion.parameters()
        z = make('ab')
        criterion(z)['loss'].backward()
        assert scale.grad is not None and scale.grad != 0
        with torch.no_grad():
            scale.fill_(20)
        bounded = CLIPLoss(0.01)(z)['loss']
        torch.testing.assert_close(criterion(z)['loss'], bounded)

    def test_temperature_of_clip_comes_back_from_its_bound(self) -> None:
        criterion = CLIPLoss(0.01)
        optimizer = torch.optim.SGD(criterion.parameters(), 1.0)
        criterion(make('ab'))['loss'].backward()
        optimizer.step()
        assert criterion.temperature > 0.011


properties = settings(max_examples=15, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**31)


class TestProperties:
    @LOSSES
    @given(seed=seeds, n=st.integers(2, 7), d=st.integers(1, 7))
    @properties
    def test_ignores_the_order_of_samples(
        self, name: str, seed: int, n: int, d: int
    ) -> None:
        z, criterion = make(names(name), n, d, seed), CASES[name][0]()
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        moved = criterion({m: x[:, order] for m, x in z.items()})
        torch.testing.assert_close(moved, criterion(z))

    @LOSSES
    @given(seed=seeds)
    @properties
    def test_ignores_the_order_of_modalities(self, name: str, seed: int) -> None:
        z, criterion = make(names(name, 3), seed=seed), CASES[name][0]()
        turned = criterion(dict(reversed(z.items())))
        torch.testing.assert_close(turned['loss'], criterion(z)['loss'])

    @LOSSES
    @given(seed=seeds)
    @properties
    def test_ignores_the_length_of_embeddings(self, name: str, seed: int) -> None:
        z, criterion = make(names(name), seed=seed), CASES[name][0]()
        longer = criterion({m: 7 * x for m, x in z.items()})
        torch.testing.assert_close(longer, criterion(z))

    @LOSSES
    def test_agreement_is_better_than_chance(self, name: str) -> None:
        one = torch.randn(8, 16, dtype=torch.float64)
        same = {m: one.expand(2, -1, -1) for m in names(name)}
        criterion = CASES[name][0]()
        parts, random = criterion(same), criterion(make(names(name), n=8, d=16))
        for part, value in parts.items():
            if part.startswith(('cross', 'contrast', 'unique', 'shared')):
                assert value < random[part]


class TestGradient:
    @LOSSES
    def test_gradient_matches_finite_differences(self, name: str) -> None:
        criterion = CASES[name][0]().double()
        z = make(names(name), n=3, d=4)

        def total(*values: Tensor) -> Tensor:
            return criterion(dict(zip(z, values, strict=True)))['loss']

        leaves = [x.requires_grad_() for x in z.values()]
        assert torch.autograd.gradcheck(total, leaves)
        assert torch.autograd.gradgradcheck(total, leaves, atol=1e-4, fast_mode=True)

    @LOSSES
    def test_twenty_steps_lower_the_loss(self, name: str) -> None:
        z = {m: x.requires_grad_() for m, x in make(names(name, 3), 16, 8).items()}
        criterion = CASES[name][0]()
        before = {m: x.detach().clone() for m, x in z.items()}
        first = criterion(z)['loss'].item()
        assert all(z[m].detach().equal(before[m]) for m in z)
        optimizer = torch.optim.Adam(z.values(), lr=0.05)
        for _ in range(20):
            optimizer.zero_grad()
            loss = criterion(z)['loss']
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.7 * first


class TestPrecision:
    @LOSSES
    def test_autocast_changes_nothing(self, name: str) -> None:
        z = {m: x.float() for m, x in make(names(name)).items()}
        criterion = CASES[name][0]()
        expected = criterion(z)
        with torch.autocast('cpu', torch.bfloat16):
            out = criterion({m: x.bfloat16().float() for m, x in z.items()})
            same = criterion(z)
        assert {v.dtype for v in out.values()} == {torch.float32}
        assert all(same[k].equal(expected[k]) for k in expected)


class TestErrors:
    @pytest.mark.parametrize(
        ('build', 'message'),
        [
            (
                lambda: CLIPLoss(0.009),
                r'temperature must be at least 0\.01, got 0\.009',
            ),
            (lambda: SimCLRLoss(0.0), r'temperature must be positive, got 0\.0'),
            (lambda: CoMMLoss(-1.0), r'temperature must be positive, got -1\.0'),
            (lambda: COrALLoss(0.0), r'temperature must be positive, got 0\.0'),
            (lambda: COrALLoss(0.1, -2.0), r'orthogonal_weight must be >= 0, got -2'),
            (lambda: COrALLoss(0.1, 1, -2.0), r'unique_weight must be >= 0, got -2'),
            (lambda: COrALLoss(0.1, 1, 1, -2.0), r'shared_weight must be >= 0'),
        ],
    )
    def test_rejects_invalid_arguments(
        self, build: Callable[[], nn.Module], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            build()

    @pytest.mark.parametrize(
        ('name', 'z', 'message'),
        [
            ('simclr', {}, r'at least one modality, got \[\]'),
            (
                'simclr',
                {'a': torch.zeros(1, 4, 3)},
                r"at least 2 views if it has a single modality, got 1 view of \['a'\]",
            ),
            ('clip', make('a'), r"at least two modalities, got \['a'\]"),
            ('comm', make('ab'), r"z must have 'joint', got \['a', 'b'\]"),
            ('comm', make(['joint']), r"at least two modalities, got \['joint'\]"),
            ('coral', make('ab'), r"z must have 'shared', got \['a', 'b'\]"),
            (
                'coral',
                {m: torch.zeros(3, 4, 5) for m in ('shared', 'a')},
                r'2 views and at least 2 samples, got shape \(3, 4, 5\)',
            ),
            ('comm', make(['a', 'joint'], n=1), r'got shape \(2, 1, 5\)'),
            (
                'comm',
                make('a') | make(['joint'], d=4),
                r'must have the same shape \(V, N, D\)',
            ),
        ],
    )
    def test_refuses_wrong_embeddings(
        self, name: str, z: Embeddings, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            CASES[name][0]()(z)
