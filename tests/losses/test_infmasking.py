"""Check InfMaskingLoss: CoMM, and the bound of InfoNCE over infinitely many masks."""

import math
from statistics import fmean, pvariance

import pytest
import torch
from torch import Tensor

from tests.losses.test_contrastive import cosine, make, reference_comm
from torchgeo_decur.losses import CoMMLoss, InfMaskingLoss
from torchgeo_decur.losses.infmasking import contrast_masked
from torchgeo_decur.losses.info_nce import Directions

Embeddings = dict[str, Tensor]


def masked(n: int = 6, masks: int = 4, d: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, n, masks, d, generator=generator, dtype=torch.double)


def embeddings(names: str = 'ab', n: int = 6, masks: int = 4) -> Embeddings:
    return make([*names, 'joint'], n=n) | {'masked': masked(n, masks)}


def slow_masked(joint: Tensor, masked: Tensor, weight: float) -> float:
    """Compute the term sample by sample, from all pairs and masks."""
    q, u = joint.tolist(), masked.tolist()
    losses = []
    for i, x in enumerate(q):
        own = [cosine(x, y) / 0.1 for y in u[i]]
        others = [cosine(x, y) / 0.1 for j, ys in enumerate(u) if j != i for y in ys]
        others += [cosine(x, y) / 0.1 for j, y in enumerate(q) if j != i]
        mu = fmean(own)
        positive = math.exp(mu + weight * pvariance(own) / 2)
        losses.append(math.log(positive + sum(map(math.exp, others))) - mu)
    return fmean(losses)


@pytest.mark.parametrize('names', ['ab', 'abc'])
@pytest.mark.parametrize(('n', 'masks'), [(2, 1), (6, 4)])
def test_equals_the_reference(names: str, n: int, masks: int) -> None:
    z = embeddings(names, n, masks)
    criterion = InfMaskingLoss(mask_lambda=0.8)
    criterion.progress.fill_(0.25)
    out = criterion(z)
    parts = reference_comm({k: x for k, x in z.items() if k != 'masked'})
    parts.pop('loss')
    terms = [slow_masked(z['joint'][v], z['masked'][v], 0.8 * 0.25) for v in (0, 1)]
    expected = {'loss': fmean([*terms, *parts.values()]), 'masked': fmean(terms)}
    expected |= parts
    assert {k: v.item() for k, v in out.items()} == pytest.approx(expected, abs=1e-8)


def test_variance_along_the_joint_embedding_is_that_of_the_covariance() -> None:
    """Compare with the published form, which has a covariance matrix."""
    q = torch.nn.functional.normalize(make('a')['a'][0], dim=1)
    u = torch.nn.functional.normalize(masked()[0], dim=2)
    centred = u - u.mean(dim=1, keepdim=True)
    covariance = centred.mT @ centred / u.shape[1]
    along = torch.einsum('nd,nde,ne->n', q, covariance, q) / 0.1**2
    similarity = torch.einsum('nd,nkd->nk', q, u) / 0.1
    torch.testing.assert_close(similarity.var(dim=1, correction=0), along)


def test_it_bounds_infonce_of_normal_masks() -> None:
    """Compare the term, with the whole variance, with the mean over single masks."""
    torch.manual_seed(0)
    z = torch.randn(6, 8, dtype=torch.double)
    u = z[:, None] + 0.2 * torch.randn(6, 64, 8, dtype=torch.double)
    bound = contrast_masked(Directions(z, 1.0), u, 1.0).item()
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (z, u))
    own = torch.einsum('nd,nkd->nk', q, k)
    all_pairs = torch.einsum('nd,jkd->njk', q, k).exp().sum(dim=(1, 2))
    negatives = all_pairs - own.exp().sum(dim=1)
    negatives = negatives + (q @ q.T).exp().sum(dim=1) - math.e
    exact = ((own.exp() + negatives[:, None]).log() - own).mean().item()
    assert exact <= bound < exact + 1e-3


class TestLimits:
    def test_equal_masks_have_no_variance(self) -> None:
        z = embeddings(masks=1)
        z['masked'] = z['masked'].expand(-1, -1, 4, -1)
        without = InfMaskingLoss(mask_lambda=0.0)(z)
        torch.testing.assert_close(InfMaskingLoss()(z), without)

    def test_progress_weighs_the_variance(self) -> None:
        z, criterion = embeddings(), InfMaskingLoss()
        full = criterion(z)['masked']
        criterion.progress.zero_()
        assert criterion(z)['masked'] < full
        torch.testing.assert_close(criterion(z), InfMaskingLoss(mask_lambda=0.0)(z))

    def test_other_terms_are_those_of_comm(self) -> None:
        z = embeddings()
        out = InfMaskingLoss()(z)
        comm = CoMMLoss()({n: x for n, x in z.items() if n != 'masked'})
        comm.pop('loss')
        assert all(out[name].equal(value) for name, value in comm.items())

    def test_ignores_the_order_of_samples_and_masks(self) -> None:
        z, criterion = embeddings(), InfMaskingLoss()
        moved = {n: x.flip(1) for n, x in z.items()}
        moved['masked'] = moved['masked'].flip(2)
        torch.testing.assert_close(criterion(moved), criterion(z))

    def test_agreement_is_better_than_chance(self) -> None:
        z, criterion = embeddings(), InfMaskingLoss()
        chance = criterion(z)['masked']
        z['masked'] = z['joint'][:, :, None] + 0.1 * z['masked']
        assert criterion(z)['masked'] < chance

    def test_state_is_that_of_comm(self) -> None:
        assert not InfMaskingLoss().state_dict()


def test_gradient_matches_finite_differences() -> None:
    z, criterion = embeddings(n=3, masks=2), InfMaskingLoss()

    def total(*values: Tensor) -> Tensor:
        loss: Tensor = criterion(dict(zip(z, values, strict=True)))['loss']
        return loss

    assert torch.autograd.gradcheck(total, [x.requires_grad_() for x in z.values()])


def test_autocast_changes_nothing() -> None:
    z, criterion = {n: x.float() for n, x in embeddings().items()}, InfMaskingLoss()
    expected = criterion(z)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(criterion(z), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ('z', 'message'),
    [
        (make(['a', 'joint']), r"z must have 'masked', got \['a', 'joint'\]"),
        (make('a') | {'masked': masked()}, r"z must have 'joint', got \['a'\]"),
        (
            make(['a', 'joint']) | {'masked': masked(5)},
            r"z\['masked'\] must have shape \(V, N, K, D\) = \(2, 6, K, 5\) with K masks, "
            r'got \(2, 5, 4, 5\)',
        ),
        (make(['a', 'joint', 'masked']), r'K masks, got \(2, 6, 5\)'),
        (make(['a', 'joint']) | {'masked': masked(masks=0)}, r'got \(2, 6, 0, 5\)'),
    ],
)
def test_refuses_wrong_embeddings(z: Embeddings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InfMaskingLoss()(z)


def test_refuses_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r'mask_lambda must be >= 0, got -1'):
        InfMaskingLoss(mask_lambda=-1)
    with pytest.raises(ValueError, match=r'temperature must be positive, got 0'):
        InfMaskingLoss(0)
