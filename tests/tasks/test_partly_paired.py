"""Pretraining on samples that lack modalities."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torch import Tensor, nn

from tests.helpers.small_fits import MODALITIES, datamodule, trainer
from torchgeo_decur.callbacks import OnlineProbe
from torchgeo_decur.datasets import SyntheticEO
from torchgeo_decur.modalities.present_samples import read_masks
from torchgeo_decur.tasks import (
    CLIP,
    BarlowTwins,
    CoMM,
    COrAL,
    CrossModalSimCLR,
    DeCUR,
    VICReg,
)

FUSED = (CoMM, COrAL)
OBJECTIVES = pytest.mark.parametrize(
    'objective', [DeCUR, BarlowTwins, VICReg, CrossModalSimCLR, CLIP, *FUSED]
)
N = 12
MASKS = {'s1': torch.arange(N) % 4 != 1, 's2': torch.arange(N) % 6 != 2}


class IdentityThenFlip(nn.Module):
    """Views without chance: the image, then its mirror image, and so on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x if self.calls % 2 else x.flip(-1)


def task(objective: Any = DeCUR, **kwargs: Any) -> Any:
    options: dict[str, Any] = {'model': 'test_resnet', 'projector': [16, 16]}
    options |= {'optimizer': 'adamw', 'lr': 1e-3, 'size': 32}
    options['augmentations'] = {m: IdentityThenFlip() for m in MODALITIES}
    if objective in FUSED:
        options |= {'embed_dim': 16, 'num_heads': 2}
    if objective is COrAL:
        options['mask_ratio'] = 0.0
    torch.manual_seed(0)
    return objective(**{'modalities': MODALITIES, **options, **kwargs}).double()


def images(absent: float | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    made = {
        m: torch.rand(N, c, 32, 32, generator=generator).double()
        for m, c in MODALITIES.items()
    }
    if absent is not None:
        for m, x in made.items():
            x[~MASKS[m]] = absent
    return made


def step(model: Any, x: Any, masks: Any = MASKS) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the gradients of one step."""
    torch.manual_seed(2)
    loss: Tensor = model.compute_loss(x, masks)[0]['loss']
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters()}


def assert_equal(found: Any, expected: Any, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=0)
    one, other = (
        torch.cat([g.flatten() for g in x[1].values() if g is not None])
        for x in (found, expected)
    )
    assert (one - other).norm() < tolerance * other.norm()


@OBJECTIVES
class TestObjectives:
    def test_absent_images_do_not_matter(self, objective: Any) -> None:
        first, second = task(objective), task(objective)
        found = step(first, images(float('nan')))
        assert found[0] > 0
        assert_equal(found, step(second, images(0.5)))
        for one, other in zip(first.buffers(), second.buffers(), strict=True):
            assert one.equal(other)

    def test_absent_modality_has_zero_gradients(self, objective: Any) -> None:
        masks = {
            's1': torch.ones(N, dtype=torch.bool),
            's2': torch.zeros(N, dtype=torch.bool),
        }
        model = task(objective)
        before = {n: b.clone() for n, b in model.named_buffers()}
        loss, gradients = step(model, images(), masks)
        assert loss.isfinite()
        # The temperature of CLIP needs a pair.
        for name, gradient in gradients.items():
            assert gradient is not None and gradient.isfinite().all(), name
            if '.s2.' in name:
                assert not gradient.any(), name
        for name, buffer in model.named_buffers():
            if '.s2.' in name:
                assert buffer.equal(before[name]), name
        assert all(part.training for part in model.modules())


@pytest.mark.parametrize('objective', [DeCUR, *FUSED])
class TestEncoders:
    def test_everything_available_equals_no_masks(self, objective: Any) -> None:
        everything = {m: torch.ones(N, dtype=torch.bool) for m in MODALITIES}
        expected = step(task(objective), images(), None)
        assert_equal(step(task(objective), images(), everything), expected, 1e-10)

    def test_micro_batches_equal_the_batch(self, objective: Any) -> None:
        options: dict[str, Any] = {'model': 'test_vit', 'projector': [16]}
        expected = step(task(objective, **options), images(0))
        small = task(objective, micro_batch_size=3, **options)
        assert_equal(step(small, images(0)), expected)


def test_only_present_images_are_encoded() -> None:
    model, reference = task(), task()
    seen = []
    for m, encoder in model.encoders.encoders.items():
        encoder.register_forward_pre_hook(lambda _, x, m=m: seen.append((m, len(x[0]))))
    step(model, images(0))
    assert seen == [('s1', 9), ('s2', 10)] * 2
    for view in (lambda x: x, lambda x: x.flip(-1)):
        for m, x in images().items():
            present = view(x[MASKS[m]])
            reference.projectors[m](reference.encoders.encoders[m](present))
    expected = dict(reference.named_buffers())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, expected[name])


def test_features_are_those_of_present_samples() -> None:
    terms, h, z = task().compute_loss(images(0), MASKS)
    assert {m: len(x) for m, x in h.items()} == {'s1': 9, 's2': 10}
    for m, mask in MASKS.items():
        assert z[m].shape == (2, N, 16) and z[m][0].any(1).equal(mask)
    assert terms['pairs_s1_s2'].item() == (MASKS['s1'] & MASKS['s2']).sum() == 7


def test_single_sample_is_left_out_of_batch_statistics() -> None:
    masks = {**MASKS, 's2': torch.arange(N) == 0}
    model = task()
    terms, _, z = model.compute_loss(images(0), masks)
    assert not z['s2'].any() and terms['pairs_s1_s2'] == 0
    # Without batch statistics it is used.
    model = task(model='test_vit', projector=[16])
    terms, _, z = model.compute_loss(images(0), masks)
    assert z['s2'][0].any(1).sum() == 1 and terms['pairs_s1_s2'] == 1
    # In micro-batches of three samples, s1 has two or more in each, and s2 in one.
    masks['s2'] = torch.tensor([1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]).bool()
    z = task(micro_batch_size=3).compute_loss(images(0), masks)[2]
    assert z['s2'][0].any(1).nonzero().flatten().tolist() == [0, 1]


def test_synchronized_statistics_stay_without_any_sample() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(task())
    before = {n: b.clone() for n, b in model.named_buffers()}
    masks = {'s1': torch.ones(N).bool(), 's2': torch.zeros(N).bool()}
    _, gradients = step(model, images(), masks)
    assert all(x is not None and x.isfinite().all() for x in gradients.values())
    after = {n: b for n, b in model.named_buffers() if '.s2.' in n}
    assert after and all(b.equal(before[n]) for n, b in after.items())


def test_trains_with_dates_in_bf16() -> None:
    model = task(augmentations=None).float()
    x = {m: torch.rand(N, 3, c, 40, 40) for m, c in MODALITIES.items()}
    with torch.autocast('cpu', torch.bfloat16):
        loss = model.compute_loss(x, MASKS)[0]['loss']
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('objective', [DeCUR, CoMM])
def test_collapse_metrics_use_present_samples(objective: Any) -> None:
    _, h, z = task(objective).compute_loss(images(0), MASKS)
    some = {m: x[0].any(1) for m, x in z.items()}
    model = task(objective)
    found = model.collapse_metrics(h, z, some)
    both = MASKS['s1'] & MASKS['s2']
    pairs = {m: z[m][:, both] for m in MODALITIES}
    expected = model.collapse_metrics({}, pairs)
    names = [k for k in found if k.startswith('alignment') and k.endswith('s1_s2')]
    for name in names:
        torch.testing.assert_close(found[name], expected[name])
    assert names and all(x.isfinite() for x in found.values())
    assert model.collapse_metrics({'s1': h['s1'][:0]}, z, some)['std_s1'].isnan()


@pytest.mark.parametrize('objective', [DeCUR, COrAL])
def test_predicts_zeros_for_absent_modalities(objective: Any) -> None:
    model = task(objective).eval()
    x = images(float('nan'))
    batch = {f'image_{m}': image for m, image in x.items()}
    batch |= {f'available_{m}': mask for m, mask in MASKS.items()}
    with torch.no_grad():
        out = model.predict_step(batch, 0)
        for m, mask in MASKS.items():
            alone = model.encode_and_project({m: x[m][mask]})[0][m]
            torch.testing.assert_close(out['features'][m][mask], alone)
            assert not out['features'][m][~mask].any()
    assert all(h.isfinite().all() and len(h) == N for h in out['features'].values())
    assert all(e.isfinite().all() and len(e) == N for e in out['embeddings'].values())


@pytest.mark.parametrize(
    ('available', 'message'),
    [
        (
            {'available_s1': torch.arange(4) > 0, 'available_s2': torch.arange(4) > 1},
            r"at least one of \['s1', 's2'\], got 1 of 4 samples with none",
        ),
        (
            {'available_s1': torch.ones(3, dtype=torch.bool)},
            r'available_s1 must have shape \(4,\) and type bool, got \(3,\)',
        ),
        ({'available_s2': torch.ones(4)}, r'type bool, got \(4,\) and torch.float32'),
    ],
)
def test_rejects_invalid_arguments(available: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_masks(available, ['s1', 's2'], 4)


class Losses(Callback):
    """Record what is logged in each step."""

    def __init__(self) -> None:
        self.pairs: list[float] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.pairs.append(trainer.logged_metrics['train_pairs_s1_s2'].item())


def test_fit_reports_the_number_of_pairs(tmp_path: Path) -> None:
    data = datamodule(length=32, paired=0.4, paired_fraction=0.5)
    data.setup = lambda stage: None
    type(data).setup(data, 'fit')
    data.val_dataset = SyntheticEO(36, 32, seed=5, paired=0.8)
    record, probe = Losses(), OnlineProbe(k=3)
    seed_everything(0, verbose=False)
    fit = trainer(max_epochs=1, callbacks=[record, probe], default_root_dir=tmp_path)
    fit.fit(task().float(), datamodule=data)
    assert record.pairs == [4] * 4
    metrics = fit.callback_metrics
    assert metrics['val_pairs_s1_s2'] > 4
    assert all(x.isfinite() for x in metrics.values()), metrics
    assert {'std_s1', 'rank_s2', 'probe_label_s1_s1+s2_linear'} <= set(metrics)
