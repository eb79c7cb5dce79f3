"""Compare value and gradient of two processes with one process that has all data."""

from collections.abc import Callable

import pytest
import torch
from lightly import loss as lightly
from torch import Tensor

from torchgeo_decur import losses
from torchgeo_decur.losses import CrossModalLoss, EmbeddingLoss

# A loss, its arguments, one more name than the modalities, and what computes the same.
CASES: dict[str, tuple[str, dict, str, Callable[[], EmbeddingLoss]]] = {
    'decur': ('DeCURLoss', {'common_dim': 4}, '', lambda: losses.DeCURLoss(4)),
    'barlow_twins': (
        'BarlowTwinsLoss',
        {},
        '',
        lambda: CrossModalLoss(lightly.BarlowTwinsLoss(0.0051)),
    ),
    'vicreg': ('VICRegLoss', {}, '', lambda: CrossModalLoss(lightly.VICRegLoss())),
    'simclr': ('SimCLRLoss', {}, '', lambda: CrossModalLoss(lightly.NTXentLoss(0.1))),
    'clip': ('CLIPLoss', {}, '', losses.CLIPLoss),
    'comm': ('CoMMLoss', {}, 'joint', losses.CoMMLoss),
    'coral': ('COrALLoss', {}, 'shared', losses.COrALLoss),
    'infmasking': ('InfMaskingLoss', {}, 'joint', losses.InfMaskingLoss),
    'factorcl': (
        'FactorCLLoss',
        {'dim': 2, 'critic_dim': 4},
        '',
        lambda: losses.FactorCLLoss(2, 4),
    ),
}

# Losses that take masks of samples without a modality.
PARTLY = [name for name in CASES if name not in ('infmasking', 'factorcl')]


def case(name: str, partly: bool = False) -> dict:
    loss, arguments, extra, _ = CASES[name]
    generator = torch.Generator().manual_seed(0)
    modalities = 'ab' if name == 'factorcl' else 'abc'
    names = [*modalities, *([extra] if extra else [])]

    def randn(*shape: int) -> dict[str, Tensor]:
        return {
            m: torch.randn(shape, generator=generator, dtype=torch.double)
            for m in names
        }

    # Half of the batch has N < D and the whole N > D, so both forms take part. The mean
    # moves over the batch, so that statistics of one process are not those of all.
    x = {m: v + torch.arange(8.0)[:, None] for m, v in randn(2, 8, 4).items()}
    # The second process has no b.
    number = torch.arange(8)
    masks = {'a': number != 1, 'b': number < 4, 'c': number % 4 != 2} if partly else {}
    weight = randn(4, 10 if name == 'factorcl' else 6)
    if name == 'infmasking':
        x['masked'] = x['joint'][:, :, None] + torch.arange(3.0)[:, None]
        weight['masked'] = weight['joint'].clone()
    given = {'x': x, 'weight': weight, 'loss': loss, 'arguments': arguments}
    return {**given, 'masks': masks}


@pytest.fixture(scope='module')
def ranks(run_processes: Callable[[dict[str, dict]], list[dict]]) -> list[dict]:
    cases = {name: case(name) for name in CASES}
    partly = {f'partly {name}': case(name, partly=True) for name in PARTLY}
    return run_processes({**cases, **partly})


class TestTwoProcesses:
    @pytest.mark.parametrize('name', CASES)
    def test_two_processes_equal_one(self, name: str, ranks: list[dict]) -> None:
        torch.manual_seed(0)
        given, criterion = case(name), CASES[name][3]().double()
        weight = {m: w.requires_grad_() for m, w in given['weight'].items()}
        expected = criterion({m: v @ weight[m] for m, v in given['x'].items()})
        expected['loss'].backward()
        parts = {k: v.detach() for k, v in expected.items()}
        weight |= dict(criterion.named_parameters())
        gradient = {m: w.grad for m, w in weight.items()}
        for rank in ranks:
            found = rank[name]
            assert found['local'] != pytest.approx(expected['loss'].item(), rel=1e-3)
            torch.testing.assert_close(found['out'], parts, rtol=0, atol=1e-6)
            torch.testing.assert_close(found['gradient'], gradient, rtol=0, atol=1e-6)

    @pytest.mark.parametrize('name', PARTLY)
    def test_equal_one_if_samples_lack_modalities(
        self, name: str, ranks: list[dict]
    ) -> None:
        given = case(name, partly=True)
        criterion = getattr(losses, given['loss'])(**given['arguments']).double()
        weight = {m: w.requires_grad_() for m, w in given['weight'].items()}
        z = {m: v @ weight[m] for m, v in given['x'].items()}
        expected = criterion(z, given['masks'])
        expected['loss'].backward()
        parts = {k: v.detach() for k, v in expected.items()}
        weight |= dict(criterion.named_parameters())
        gradient = {m: w.grad for m, w in weight.items()}
        assert parts['pairs_a_c'].item() == 5 and any(
            w.any() for w in gradient.values()
        )
        for rank in ranks:
            found = rank[f'partly {name}']
            torch.testing.assert_close(found['out'], parts, rtol=0, atol=1e-6)
            torch.testing.assert_close(found['gradient'], gradient, rtol=0, atol=1e-6)
