"""Check FactorCLLoss: bounds of mutual information, critics and their gradients."""

import math
from statistics import fmean

import pytest
import torch
from torch import Tensor, nn

from torchgeo_decur.losses import FactorCLLoss, factorcl
from torchgeo_decur.losses.factorcl import Critic, info_nce_bound, nce_club_bound

DIM, HIDDEN = 3, 5
LOWER = ('nce_shared', 'nce_unique_a', 'nce_unique_b', 'nce_conditional')
UPPER = ('club_shared', 'club_unique')


def make(n: int = 6, names: str = 'ab', dim: int = DIM) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, n, 5 * dim)
    return {
        m: torch.randn(shape, generator=generator, dtype=torch.double) for m in names
    }


def build(dim: int = DIM, hidden: int = HIDDEN) -> FactorCLLoss:
    torch.manual_seed(1)
    return FactorCLLoss(dim, hidden).double()


def network(critic: Critic) -> nn.Sequential:
    """Build the critic as a plain network of pairs, with copies of its weights."""
    hidden, dim = critic.first.weight.shape
    layers = (nn.Linear(2 * dim, hidden), nn.Linear(hidden, hidden))
    plain = nn.Sequential(
        layers[0], nn.ReLU(), layers[1], nn.ReLU(), nn.Linear(hidden, 1, bias=False)
    ).double()
    first = torch.cat([critic.first.weight, critic.second.weight], dim=1)
    with torch.no_grad():
        layers[0].weight.copy_(first), layers[0].bias.copy_(critic.first.bias)
    layers[1].load_state_dict(critic.hidden.state_dict())
    plain[4].load_state_dict(critic.score.state_dict())
    return plain


def slow_scores(plain: nn.Sequential, a: Tensor, b: Tensor) -> list[list[Tensor]]:
    return [[plain(torch.cat([x, y])).squeeze() for y in b] for x in a]


def slow_nce(scores: list[list[Tensor]]) -> Tensor:
    """Compare the score of a pair with the mean over partners of its first sample."""
    rows = [
        row[i] - torch.stack([s.exp() for s in row]).mean().log()
        for i, row in enumerate(scores)
    ]
    return torch.stack(rows).mean()


def slow_club(scores: list[list[Tensor]]) -> Tensor:
    own = torch.stack([row[i] for i, row in enumerate(scores)]).mean()
    return own - torch.stack([s for row in scores for s in row]).mean()


def reference(
    criterion: FactorCLLoss, z: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, nn.Sequential]]:
    """Compute the parts of the loss, and the networks of the upper bounds."""
    a, b = ([x[:, :, i * DIM : (i + 1) * DIM] for i in range(5)] for x in z.values())
    lower = {n: network(c) for n, c in criterion.lower.items()}
    upper = {n: network(c) for n, c in criterion.upper.items()}

    def both(x: Tensor) -> Tensor:
        return torch.cat([*x], dim=1)

    shared = slow_scores(upper['shared'], both(a[1]), both(b[1]))
    unique = slow_scores(upper['unique'], a[3][0], b[3][0])
    conditional = slow_scores(lower['conditional'], both(a[4]), both(b[4]))
    parts = {
        'nce_shared': slow_nce(slow_scores(lower['shared'], a[0][0], b[0][0])),
        'nce_unique_a': slow_nce(slow_scores(lower['first'], *a[2])),
        'nce_unique_b': slow_nce(slow_scores(lower['second'], *b[2])),
        'nce_conditional': slow_nce(conditional),
        'club_shared': slow_club(shared),
        'club_unique': slow_club(unique),
        'critic_shared': slow_nce(shared),
        'critic_unique': slow_nce(unique),
    }
    return parts, upper


@pytest.mark.parametrize('n', [2, 6])
def test_equals_the_reference(n: int) -> None:
    criterion, z = build(), {m: x.requires_grad_() for m, x in make(n).items()}
    out, (parts, upper) = criterion(z), reference(criterion, z)
    for name in (*LOWER, *UPPER):
        torch.testing.assert_close(out[name], parts[name])
    critics = -(parts['critic_shared'] + parts['critic_unique'])
    torch.testing.assert_close(out['critics'], critics)
    objective = sum(parts[n] for n in UPPER) - sum(parts[n] for n in LOWER)
    torch.testing.assert_close(out['loss'], objective + critics)

    # Embeddings follow the objective with fixed critics, and the critics of the upper
    # bounds follow InfoNCE only.
    out['loss'].backward()
    expected = torch.autograd.grad(objective, [*z.values()], retain_graph=True)
    for x, gradient in zip(z.values(), expected, strict=True):
        torch.testing.assert_close(x.grad, gradient)
    for name, plain in upper.items():
        wanted = torch.autograd.grad(critics, [*plain.parameters()], retain_graph=True)
        critic = criterion.upper[name]
        first = torch.cat([critic.first.weight.grad, critic.second.weight.grad], dim=1)
        rest = (critic.first.bias, *critic.hidden.parameters(), critic.score.weight)
        found = (first, *(p.grad for p in rest))
        torch.testing.assert_close(found, wanted)


def test_gradient_of_the_lower_bounds_matches_finite_differences() -> None:
    criterion, z = build(), make(3)

    def total(*values: Tensor) -> Tensor:
        out = criterion(dict(zip(z, values, strict=True)))
        return torch.stack([out[name] for name in LOWER]).sum()

    assert torch.autograd.gradcheck(total, [x.requires_grad_() for x in z.values()])


def test_every_critic_learns() -> None:
    criterion = build()
    criterion(make())['loss'].backward()
    for name, parameter in criterion.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


class TestBounds:
    def test_bounds_reach_their_limits(self) -> None:
        independent, certain = torch.zeros(8, 8), 100 * torch.eye(8)
        assert info_nce_bound(independent).item() == pytest.approx(0, abs=1e-6)
        assert info_nce_bound(certain).item() == pytest.approx(math.log(8))
        assert nce_club_bound(independent).item() == 0

    def test_a_constant_of_all_scores_cancels(self) -> None:
        scores = torch.randn(5, 5, dtype=torch.double)
        for bound in (info_nce_bound, nce_club_bound):
            torch.testing.assert_close(bound(scores + 3), bound(scores))

    def test_they_enclose_the_information_of_correlated_gaussians(self) -> None:
        # With the best critic, the log of the density ratio.
        r, n = 0.8, 512
        truth = -math.log(1 - r * r) / 2
        generator = torch.Generator().manual_seed(0)
        found = []
        for _ in range(8):
            x, e = torch.randn(2, n, generator=generator, dtype=torch.double)
            y = r * x + math.sqrt(1 - r * r) * e
            spread = y[None] - r * x[:, None]
            scores = y[None] ** 2 / 2 - spread**2 / (2 * (1 - r * r))
            found.append([info_nce_bound(scores), nce_club_bound(scores)])
        lower, upper = (
            fmean(float(b) for b in bounds) for bounds in zip(*found, strict=True)
        )
        assert truth - 0.1 < lower < truth + 0.02 < truth + 0.3 < upper


class TestCritic:
    def test_parts_equal_the_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        criterion, found = build(), []
        for largest in (factorcl._LARGEST, 2 * 6 * HIDDEN):
            monkeypatch.setattr(factorcl, '_LARGEST', largest)
            z = {m: x.requires_grad_() for m, x in make().items()}
            criterion.zero_grad()
            out = criterion(z)
            out['loss'].backward()
            gradients = [p.grad.clone() for p in criterion.parameters()]
            found.append((out['loss'], *[x.grad for x in z.values()], *gradients))
        torch.testing.assert_close(found[0], found[1])

    def test_critic_limits_the_memory_of_a_part(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(factorcl, '_LARGEST', 2 * 7 * HIDDEN)
        sizes: list[int] = []
        linear = factorcl.linear

        def counted(x: Tensor, *weights: Tensor) -> Tensor:
            sizes.append(x.numel())
            return linear(x, *weights)

        monkeypatch.setattr(factorcl, 'linear', counted)
        Critic(DIM, HIDDEN)(torch.randn(6, DIM), torch.randn(7, DIM)).sum().backward()
        assert max(sizes) == 2 * 7 * HIDDEN


def test_sixty_steps_separate_shared_and_unique_inputs() -> None:
    """Select, with each part of a linear embedding, the inputs of its bound."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    criterion = FactorCLLoss(1, 16)
    heads = {m: nn.Linear(2, 5, bias=False) for m in 'ab'}
    parameters = [p for head in heads.values() for p in head.parameters()]
    optimizer = torch.optim.Adam([*parameters, *criterion.parameters()], lr=0.05)
    for _ in range(60):
        common, *own = torch.randn(3, 64, 1, generator=generator)
        noise = 0.2 * torch.randn(2, 2, 64, 2, generator=generator)
        z = {
            m: heads[m](torch.cat([common, own[i]], dim=1) + noise[i])
            for i, m in enumerate('ab')
        }
        optimizer.zero_grad()
        out = criterion(z)
        out['loss'].backward()
        optimizer.step()
    assert all(out[name] > 1 for name in LOWER)
    assert all(out[name].abs() < 0.1 for name in UPPER)
    for head in heads.values():
        shared, own = head.weight.abs().T
        # In the order of nce_shared, club_shared, nce_unique, club_unique and
        # nce_conditional.
        assert all(shared[i] > 5 * own[i] for i in (0, 4))
        assert all(own[i] > 3 * shared[i] for i in (1, 3))
        assert min(shared[2], own[2]) > 0.3


def test_autocast_changes_nothing() -> None:
    z, criterion = {m: x.float() for m, x in make().items()}, build().float()
    expected = criterion(z)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(criterion(z), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ('z', 'message'),
    [
        (make(names='abc'), r"two modalities for FactorCL, got \['a', 'b', 'c'\]"),
        (make(names='a'), r"two modalities for FactorCL, got \['a'\]"),
        (make(dim=4), 'must have 5 parts of 3 dimensions, got 20 dimensions'),
        (make(n=1), r'got shape \(2, 1, 15\)'),
    ],
)
def test_refuses_wrong_embeddings(z: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()(z)


@pytest.mark.parametrize('option', ['dim', 'critic_dim'])
def test_refuses_arguments_below_one(option: str) -> None:
    with pytest.raises(ValueError, match=f'{option} must be positive, got 0'):
        FactorCLLoss(**{'dim': 4, option: 0})
