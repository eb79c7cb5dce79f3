"""Check experiments/adaptive.py: weights of 0 and 1 equal DeCUR, and both losses find known dimensions."""

import pytest
import torch

from experiments import adaptive
from torchgeo_decur.losses import DeCURLoss


def embeddings(common: int, dim: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return two views of two modalities that share only some dimensions."""
    generator = torch.Generator().manual_seed(seed)
    own = {m: torch.randn(64, dim, generator=generator) for m in ('s1', 's2')}
    own['s2'][:, :common] = own['s1'][:, :common]
    return {m: torch.stack([x, x + 0.1 * x.flip(0)]) for m, x in own.items()}


@pytest.mark.parametrize('kind', [adaptive.SwitchLoss, adaptive.GateLoss])
def test_weights_of_zero_and_one_are_decur(kind: type[adaptive.WeightedLoss]) -> None:
    z, common = embeddings(6, 16), torch.tensor([1.0] * 10 + [0.0] * 6)
    criterion = kind(16, 1, 0.0051)
    criterion.weights = lambda: common[None]  # type: ignore[method-assign]
    expected = DeCURLoss(10, 0.0051)(z)
    for name, value in criterion(z).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)


def test_switch_keeps_what_is_shared() -> None:
    criterion = adaptive.SwitchLoss(16, 1, 0.0051)
    for seed in range(40):
        criterion.progress = 0.0 if seed < 30 else 0.5
        criterion(embeddings(6, 16, seed))
        kept = 16 if seed < 30 else 6
        assert criterion.weights().sum() == kept
    assert criterion.weights()[0, :6].all()


def test_gates_keep_what_is_shared() -> None:
    torch.manual_seed(0)
    criterion = adaptive.GateLoss(16, 1, 0.0051)
    optimizer = torch.optim.AdamW(criterion.parameters(), lr=2e-3, weight_decay=0.0)
    criterion.progress = 0.5
    for seed in range(60):
        optimizer.zero_grad()
        criterion(embeddings(6, 16, seed))['loss'].backward()
        optimizer.step()
    criterion.progress = 0.8
    assert criterion.weights()[0].tolist() == [1.0] * 6 + [0.0] * 10
