"""Losses of samples that lack modalities, against plain losses of the samples that have them."""

from collections.abc import Callable, Iterable
from itertools import combinations

import pytest
import torch
from lightly import loss as lightly
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from torchgeo_decur import losses
from torchgeo_decur.losses import CrossModalLoss, EmbeddingLoss

Embeddings = dict[str, Tensor]
Masks = dict[str, Tensor]
Plain = Callable[[Tensor, Tensor], Tensor]

NAMES = ('a', 'b', 'c')
N, D, COMMON = 24, 7, 4


def correlation(a: Tensor, b: Tensor) -> Tensor:
    def standardized(x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()

    return standardized(a).T @ standardized(b) / len(a)


def distance(c: Tensor, target: int) -> Tensor:
    on = (target - c.diagonal()).square().sum()
    return on + 0.0051 * (c.square().sum() - c.diagonal().square().sum())


def decur(z: Embeddings, masks: Masks) -> Tensor:
    intra = [distance(correlation(*(v[masks[m]] for v in z[m])), 1) for m in z]
    cross = []
    for m, n in combinations(z, 2):
        both = masks[m] & masks[n]
        a, b = z[m][0][both], z[n][0][both]
        cross.append(distance(correlation(a[:, :COMMON], b[:, :COMMON]), 1) / 2)
        cross.append(distance(correlation(a[:, COMMON:], b[:, COMMON:]), 0) / 2)
    return sum([*intra, *cross], torch.zeros(())) / 6


def pairwise(plain: Plain) -> Callable[[Embeddings, Masks], Tensor]:
    def loss(z: Embeddings, masks: Masks) -> Tensor:
        terms = [
            plain(a[masks[m] & masks[n]], b[masks[m] & masks[n]])
            for m, n in combinations(z, 2)
            for a, b in zip(z[m], z[n], strict=True)
        ]
        return torch.stack(terms).mean()

    return loss


def clip(a: Tensor, b: Tensor) -> Tensor:
    logits = normalize(a) @ normalize(b).T / 0.07
    own = torch.arange(len(a))
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


info_nce = lightly.NTXentLoss(0.1)


def comm(z: Embeddings, masks: Masks) -> Tensor:
    terms = [
        info_nce(z[m][v][masks[m]], z['joint'][1 - v][masks[m]])
        for m in z
        for v in (0, 1)
    ]
    return torch.stack(terms).mean()


def coral(z: Embeddings, masks: Masks) -> Tensor:
    contrasts = [info_nce(*(v[masks[m]] for v in z[m])) for m in z]
    cosines = [
        cosine_similarity(a[masks[m] & masks[n]], b[masks[m] & masks[n]])
        .square()
        .mean()
        for m, n in combinations(z, 2)
        for a, b in zip(z[m], z[n], strict=True)
    ]
    return torch.stack([*contrasts, *cosines]).sum()


# The loss, the name of all modalities together, and the plain loss.
CASES: dict[
    str, tuple[Callable[[], EmbeddingLoss], str, Callable[[Embeddings, Masks], Tensor]]
] = {
    'decur': (lambda: losses.DeCURLoss(COMMON), '', decur),
    'barlow_twins': (
        losses.BarlowTwinsLoss,
        '',
        pairwise(lambda a, b: distance(correlation(a, b), 1)),
    ),
    'vicreg': (losses.VICRegLoss, '', pairwise(lightly.VICRegLoss())),
    'simclr': (losses.SimCLRLoss, '', pairwise(info_nce)),
    'clip': (losses.CLIPLoss, '', pairwise(clip)),
    'comm': (losses.CoMMLoss, 'joint', comm),
    'coral': (losses.COrALLoss, 'shared', coral),
}
LOSSES = pytest.mark.parametrize('name', CASES)


def make(extra: str = '', n: int = N, d: int = D) -> Embeddings:
    generator = torch.Generator().manual_seed(0)
    return {
        m: 1 + torch.randn(2, n, d, generator=generator, dtype=torch.float64)
        for m in [*NAMES, *([extra] if extra else [])]
    }


def masks_of(n: int = N, share: float = 0.7) -> Masks:
    masks = torch.rand(3, n, generator=torch.Generator().manual_seed(1)) < share
    masks[0] |= ~masks.any(0)
    return dict(zip(NAMES, masks, strict=True))


def gradients(loss: Tensor, z: Embeddings) -> Iterable[Tensor]:
    return torch.autograd.grad(
        loss, [*z.values()], retain_graph=True, allow_unused=True
    )


@LOSSES
@pytest.mark.parametrize('d', [D, 60])
def test_equals_the_loss_of_the_samples_that_have_the_modalities(
    name: str, d: int
) -> None:
    build, extra, plain = CASES[name]
    masks = masks_of()
    z = {m: x.requires_grad_() for m, x in make(extra, d=d).items()}
    everything = {
        **masks,
        **({extra: torch.ones(N, dtype=torch.bool)} if extra else {}),
    }
    out = build()(z, masks)
    expected = plain(z, everything)
    torch.testing.assert_close(out['loss'], expected, rtol=1e-6, atol=1e-6)
    found, wanted = gradients(out['loss'], z), gradients(expected, z)
    for (m, one), two in zip(zip(z, found, strict=True), wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
        assert not one[:, ~everything[m]].any()
    for m, n in combinations(NAMES, 2):
        assert out[f'pairs_{m}_{n}'].item() == (masks[m] & masks[n]).sum()


@LOSSES
def test_what_absent_samples_hold_does_not_matter(name: str) -> None:
    build, extra, _ = CASES[name]
    masks = masks_of()
    z = make(extra)
    expected = build()(z, masks)
    for m, mask in masks.items():
        z[m][:, ~mask] = 0
    torch.testing.assert_close(build()(z, masks), expected, rtol=0, atol=0)


@LOSSES
@pytest.mark.parametrize('d', [D, 60])
def test_everything_available_equals_no_masks(name: str, d: int) -> None:
    build, extra, _ = CASES[name]
    found = []
    for available in (None, {m: torch.ones(N, dtype=torch.bool) for m in NAMES}, {}):
        z = {m: x.requires_grad_() for m, x in make(extra, d=d).items()}
        out = build()(z, available)
        gradient = gradients(out['loss'], z)
        found.append(({k: v for k, v in out.items() if 'pairs' not in k}, gradient))
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], rtol=1e-13, atol=1e-15)


@LOSSES
@pytest.mark.parametrize('common', [0, 1, 4, 5])
def test_few_common_samples_contribute_nothing(name: str, common: int) -> None:
    build, extra, _ = CASES[name]
    criterion = build()
    first, second = torch.zeros(2, N, dtype=torch.bool)
    first[: 12 + common] = True
    second[12:] = True
    # The batch has only two modalities.
    z = {m: x.requires_grad_() for m, x in make(extra).items() if m != 'c'}
    out = criterion(z, {'a': first, 'b': second})
    assert all(x.isfinite() for x in out.values())
    assert out['pairs_a_b'].item() == common
    enough = common >= criterion.min_samples
    crossing = [k for k in out if k in ('cross_a_b', 'unique_a_b', 'orthogonal_a_b')]
    assert bool(crossing) is (name != 'comm')
    for key in crossing:
        assert bool(out[key] > 0) is enough
        for gradient in gradients(out[key], z):
            assert gradient is None or gradient.isfinite().all()
            assert enough or gradient is None or not gradient.any()
    assert all(gradient.isfinite().all() for gradient in gradients(out['loss'], z))
    # Each other term keeps its weight.
    if name == 'decur' and not enough:
        total = (out['intra_a'] + out['intra_b']) / 3
        torch.testing.assert_close(out['loss'], total)


@LOSSES
def test_a_modality_may_be_absent_from_the_batch(name: str) -> None:
    build, extra, _ = CASES[name]
    z = {m: x.requires_grad_() for m, x in make(extra).items()}
    masks = {'c': torch.zeros(N, dtype=torch.bool)}
    out = build()(z, masks)
    assert all(x.isfinite() for x in out.values())
    for m, gradient in zip(z, gradients(out['loss'], z), strict=True):
        assert gradient.isfinite().all() and bool(gradient.any()) is (m != 'c')


def test_a_small_batch_needs_only_its_own_samples() -> None:
    z = {m: x[:, :3] for m, x in make().items()}
    everything = {m: torch.ones(3, dtype=torch.bool) for m in NAMES}
    assert losses.DeCURLoss(COMMON)(z, everything)['common_a_b'] > 0
    everything['a'] = torch.tensor([True, True, False])
    assert losses.DeCURLoss(COMMON)(z, everything)['common_a_b'] == 0


@pytest.mark.parametrize(
    'criterion',
    [losses.DeCURLoss(1), losses.VICRegLoss(), losses.SimCLRLoss()],
    ids=['decur', 'vicreg', 'simclr'],
)
def test_gradients_match_finite_differences(criterion: EmbeddingLoss) -> None:
    z = [x[:, :6, :2].clone().requires_grad_() for x in make().values()][:2]
    masks = {'a': torch.arange(6) < 5}

    def total(a: Tensor, b: Tensor) -> Tensor:
        return criterion({'a': a, 'b': b}, masks)['loss']

    assert torch.autograd.gradcheck(total, z, fast_mode=True)
    assert torch.autograd.gradgradcheck(total, z, atol=1e-4, fast_mode=True)


class Own(CrossModalLoss):
    """A loss without masks."""


@pytest.mark.parametrize(
    ('criterion', 'available', 'message'),
    [
        (
            Own(nn.MSELoss()),
            {'a': torch.ones(N, dtype=torch.bool)},
            r"Own does not support samples that lack a modality; use one of .*'DeCURLoss'",
        ),
        (
            losses.DeCURLoss(2),
            {'a': torch.ones(N)},
            rf'boolean masks of shape \({N},\), got .*torch.float32',
        ),
        (losses.DeCURLoss(2), {'x': torch.ones(N, dtype=torch.bool)}, "got {'x'"),
        (losses.CoMMLoss(), {'joint': torch.ones(N, dtype=torch.bool)}, "got {'joint'"),
    ],
)
def test_rejects_invalid_arguments(
    criterion: EmbeddingLoss, available: Masks, message: str
) -> None:
    extra = criterion.joint or ''
    with pytest.raises(ValueError, match=message):
        criterion(make(extra), available)
