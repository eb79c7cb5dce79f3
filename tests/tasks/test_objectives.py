"""Check every objective as a task."""

import math
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.helpers.small_fits import MODALITIES, datamodule, trainer
from torchgeo_decur.callbacks import ExportEncoders, OnlineProbe
from torchgeo_decur.callbacks.export import export_checkpoint
from torchgeo_decur.losses.factorcl import PARTS
from torchgeo_decur.models import JointHead, load_fusion_head, save_encoder
from torchgeo_decur.tasks import (
    CLIP,
    BarlowTwins,
    CoMM,
    COrAL,
    CrossModalSimCLR,
    DeCUR,
    FactorCL,
    InfMasking,
    LateFusionClassification,
    MultimodalPretraining,
    VICReg,
)
from torchgeo_decur.tasks.coral import mask_tokens
from torchgeo_decur.tasks.infmasking import keep_random_tokens

THREE = {**MODALITIES, 'dem': 1}
FUSED = (CoMM, COrAL, InfMasking)
OBJECTIVES = (BarlowTwins, VICReg, CrossModalSimCLR, CLIP, FactorCL, *FUSED)


def task(objective: Any, **kwargs: Any) -> Any:
    options: dict[str, Any] = {'model': 'test_resnet', 'projector': [32, 16]}
    options |= {'size': 32, 'optimizer': 'adamw', 'lr': 1e-3}
    if objective in FUSED:
        options |= {'embed_dim': 32, 'num_heads': 4}
    if objective is FactorCL:
        options |= {'critic_dim': 32}
    torch.manual_seed(0)
    return objective(**{'modalities': MODALITIES, **options, **kwargs})


def images(
    batch: int = 8, modalities: dict[str, int] = MODALITIES
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        m: torch.rand(batch, c, 64, 64, generator=generator)
        for m, c in modalities.items()
    }


@pytest.mark.parametrize('objective', OBJECTIVES)
class TestEach:
    @pytest.mark.parametrize('modalities', [MODALITIES, THREE])
    def test_every_parameter_gets_a_gradient(
        self, objective: Any, modalities: dict[str, int]
    ) -> None:
        if objective is FactorCL and modalities is THREE:
            pytest.skip('FactorCL has two modalities')
        model = task(objective, modalities=modalities)
        terms, _, z = model.compute_loss(images(modalities=modalities))
        terms['loss'].backward()
        assert not [n for n, p in model.named_parameters() if p.grad is None]
        shapes = {m: (2, 8, 5 * 16 if objective is FactorCL else 16) for m in z}
        if objective is InfMasking:
            shapes['masked'] = (2, 8, 6, 16)
        assert {m: x.shape for m, x in z.items()} == shapes
        expected = model.criterion(z)
        torch.testing.assert_close(terms, expected)

    def test_loss_falls_on_a_fixed_batch(self, objective: Any) -> None:
        same = {m: nn.Identity() for m in MODALITIES}
        model = task(objective, augmentations=same)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        x, losses = images(), []
        for _ in range(30):
            torch.manual_seed(0)
            loss = model.compute_loss(x)[0]['loss']
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert all(map(math.isfinite, losses))
        assert sum(losses[-3:]) < 0.8 * sum(losses[:3])

    @pytest.mark.parametrize('modality', MODALITIES)
    def test_encodes_each_modality_without_the_other(
        self, objective: Any, modality: str
    ) -> None:
        model, x = task(objective).eval(), images()
        both, one = model(x), model({modality: x[modality]})
        torch.testing.assert_close(one[modality], both[modality])
        assert set(both) - set(one) == set(MODALITIES) - {modality}
        assert set(model.embed({modality: x[modality]})) >= {modality}

    def test_collapse_metrics_are_finite(self, objective: Any) -> None:
        model = task(objective)
        _, h, z = model.compute_loss(images())
        with torch.no_grad():
            metrics = model.collapse_metrics(h, z)
        names = {f'std_{n}' for n in h} | {f'rank_{n}' for n in z if n != 'masked'}
        assert names <= set(metrics)
        assert all(math.isfinite(v) for v in metrics.values())


@pytest.mark.parametrize('objective', [BarlowTwins, VICReg, CrossModalSimCLR])
def test_a_single_modality_compares_its_views(objective: Any) -> None:
    model = task(objective, modalities={'s2': 13})
    terms, _, _ = model.compute_loss({'s2': images()['s2']})
    assert set(terms) == {'loss', 'intra_s2'}


def test_checkpoints_of_older_criteria_load() -> None:
    """Check the state of losses in older checkpoints."""
    for objective in OBJECTIVES:
        keys = {k for k in task(objective).state_dict() if k.startswith('criterion')}
        if objective is FactorCL:
            assert {k.split('.')[1] for k in keys} == {'lower', 'upper'}
            continue
        assert keys == ({'criterion.pair.log_scale'} if objective is CLIP else set())


def test_clip_learns_its_temperature() -> None:
    model = task(CLIP)
    terms, h, z = model.compute_loss(images())
    assert model.collapse_metrics(h, z)['temperature'].item() == pytest.approx(0.07)
    terms['loss'].backward()
    assert model.criterion.pair.log_scale.grad != 0


class TestAblations:
    @pytest.mark.parametrize(
        ('options', 'parts'),
        [
            ({'intra': False}, {'common_s1_s2', 'unique_s1_s2'}),
            (
                {'common_ratio': 1.0},
                {'intra_s1', 'intra_s2', 'common_s1_s2', 'unique_s1_s2'},
            ),
            ({'common_ratio': 1.0, 'intra': False}, {'common_s1_s2', 'unique_s1_s2'}),
        ],
        ids=['no intra', 'no unique', 'neither'],
    )
    def test_ablations_leave_out_their_terms(
        self, options: dict[str, Any], parts: set[str]
    ) -> None:
        terms, _, _ = task(DeCUR, **options).compute_loss(images())
        assert set(terms) == {'loss', *parts} and terms['loss'].isfinite()
        if 'common_ratio' in options:
            assert terms['unique_s1_s2'] == 0

    def test_without_projector_embeddings_are_features(self) -> None:
        model = task(DeCUR, projector=[]).eval()
        h, z = model(images()), model.embed(images())
        assert all(h[m].equal(z[m]) for m in MODALITIES)
        assert model.common_dim == 84
        assert model.compute_loss(images())[0]['loss'].isfinite()


class TestCoMM:
    @pytest.mark.parametrize(
        'model',
        ['test_vit', {'s1': 'test_resnet', 's2': 'swin_tiny_patch4_window7_224'}],
    )
    def test_every_parameter_of_any_backbone_gets_a_gradient(self, model: Any) -> None:
        fused = task(CoMM, model=model, size=224 if isinstance(model, dict) else 32)
        fused.compute_loss(images(2))[0]['loss'].backward()
        assert not [n for n, p in fused.named_parameters() if p.grad is None]

    def test_joint_of_one_modality_is_its_embedding(self) -> None:
        model, x = task(CoMM).eval(), images()
        z = model.embed({'s1': x['s1']})
        torch.testing.assert_close(z['s1'], z['joint'])
        torch.testing.assert_close(z['s1'], model.embed(x)['s1'])

    def test_joint_needs_both(self) -> None:
        model, x = task(CoMM).eval(), images()
        first = model(x)['joint']
        for m in MODALITIES:
            other = model({**x, m: x[m].flip(0)})['joint']
            assert not torch.allclose(first, other, atol=1e-3)


class TestCOrAL:
    def masked(self, model: Any, modalities: dict[str, int]) -> list[list[str]]:
        """Return the modalities with zero tokens in each call of the transformer."""
        seen: list[list[str]] = []
        hook = model.fusion.transformer.register_forward_pre_hook(
            lambda _, arguments: seen.append(
                [m for m, x in arguments[0].items() if (x == 0).all(-1).any()]
            )
        )
        model.compute_loss(images(modalities=modalities))
        hook.remove()
        return seen

    def test_each_view_masks_another_modality(self) -> None:
        assert self.masked(task(COrAL), MODALITIES) == [['s1'], ['s2']]

    def test_three_modalities_rotate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, seen = task(COrAL, modalities=THREE), []
        for step in range(3):
            monkeypatch.setattr(COrAL, 'global_step', step)
            seen += self.masked(model, THREE)
        assert seen == [[m] for m in ('s1', 's2', 'dem', 's1', 's2', 'dem')]

    def test_nothing_is_masked_outside_training(self) -> None:
        assert self.masked(task(COrAL).eval(), MODALITIES) == [[], []]
        assert self.masked(task(COrAL, mask_ratio=0.0), MODALITIES) == [[], []]

    def test_masks_the_requested_share_of_tokens(self) -> None:
        torch.manual_seed(0)
        x = mask_tokens(torch.ones(64, 50, 3), 0.75)
        assert (x[..., :1] == x).all()
        assert (x == 0).float().mean().item() == pytest.approx(0.75, abs=0.02)

    def test_schedule_is_linear(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = task(COrAL, mask_ratio=[0.2, 0.8])
        assert model.mask_ratio == 0.2
        model._steps, found = 10, []
        for step in (0, 5, 10, 11):
            monkeypatch.setattr(COrAL, 'global_step', step)
            found.append(model.mask_ratio)
        assert found == pytest.approx([0.2, 0.5, 0.8, 0.8])

    def test_joint_is_shared_and_unique(self) -> None:
        model, x = task(COrAL).eval(), images()
        h = model(x)
        parts = [h['shared'], h['s1'], h['s2']]
        assert h['joint'].equal(torch.cat(parts, dim=1))
        alone = model({'s2': x['s2']})['joint']
        assert not alone[:, 32:64].any() and alone[:, 64:].equal(h['s2'])


@pytest.mark.parametrize('objective', [InfMasking, FactorCL])
def test_samples_without_a_modality_are_refused(objective: Any) -> None:
    x, masks = images(), {m: torch.arange(8) != i for i, m in enumerate(MODALITIES)}
    model = task(objective)
    for part in model.encoders.encoders.values():
        part.forward_features = None  # The error comes before a step is computed.
    with pytest.raises(
        ValueError, match=rf"{objective.__name__}Loss does not support .*'CoMMLoss'"
    ):
        model.compute_loss(x, masks)


class TestInfMasking:
    def test_features_and_embeddings_are_those_of_comm(self) -> None:
        x, comm, model = images(), task(CoMM).eval(), task(InfMasking).eval()
        model.load_state_dict(comm.state_dict())
        torch.testing.assert_close(model(x), comm(x), rtol=0, atol=0)
        torch.testing.assert_close(model.embed(x), comm.embed(x), rtol=0, atol=0)

    def test_all_masks_pass_the_transformer_at_once(self) -> None:
        model, seen = task(InfMasking, num_masks=5, size=64), []
        model.fusion.transformer.register_forward_pre_hook(
            lambda _, arguments: seen.append(
                {m: tuple(x.shape[:2]) for m, x in arguments[0].items()}
            )
        )
        model.compute_loss(images())
        # All tokens together, those of each modality, and those that masks keep.
        view = [{'s1': (8, 4), 's2': (8, 4)}, {'s1': (8, 4)}, {'s2': (8, 4)}]
        assert seen == 2 * [*view, {'s1': (40, 1), 's2': (40, 1)}]

    def test_kept_tokens_are_distinct_and_of_the_sample(self) -> None:
        torch.manual_seed(0)
        tokens = torch.arange(3 * 10.0).view(3, 10, 1)
        kept = keep_random_tokens({'s1': tokens}, 0.7, 200)['s1'].view(3, 200, 3)
        assert all(len(set(k.tolist())) == 3 for sample in kept for k in sample)
        for i, sample in enumerate(kept):
            numbers = torch.bincount(sample.flatten().int() - 10 * i, minlength=10)
            assert len(numbers) == 10 and 30 < min(numbers) and max(numbers) < 90

    @pytest.mark.parametrize(
        ('number', 'ratio', 'keep'),
        [(4, 0.7, 1), (10, 0.9, 1), (2, 0.9, 1), (49, 0.7, 14), (5, 0.0, 5)],
    )
    def test_keeps_the_requested_share_of_tokens(
        self, number: int, ratio: float, keep: int
    ) -> None:
        kept = keep_random_tokens({'s1': torch.rand(2, number, 3)}, ratio, 4)
        assert kept['s1'].shape == (8, keep, 3)

    def test_gradient_reaches_the_kept_tokens(self) -> None:
        tokens = torch.rand(2, 5, 3, requires_grad=True)
        keep_random_tokens({'s1': tokens}, 0.5, 4)['s1'].sum().backward()
        assert tokens.grad is not None
        # Each mask keeps two of five tokens.
        assert tokens.grad.sum(dim=1).equal(torch.full((2, 3), 8.0))

    def test_variance_gains_weight_until_the_end_of_the_fit(self) -> None:
        seen = []

        class Watch(Callback):
            def on_train_batch_end(self, *args: Any) -> None:
                seen.append(args[1].criterion.progress.item())

        model = task(InfMasking)
        assert model.criterion.progress == 1
        trainer(max_epochs=2, callbacks=[Watch()]).fit(model, datamodule=datamodule())
        assert seen == [0.25, 0.5, 0.75, 1.0]

    def test_progress_of_an_open_ended_fit(self) -> None:
        model = task(InfMasking)
        assert model.progress == 1
        model._steps = 4
        assert model.progress == 0.25

    def test_images_are_checked(self) -> None:
        class Scaled(Callback):
            def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
                args[1]['image_s2'] *= 3

        with pytest.raises(ValueError, match=r's2.*\[0, 1\]'):
            trainer(callbacks=[Scaled()]).fit(task(InfMasking), datamodule=datamodule())


class TestFactorCL:
    def test_shared_dimensions_come_first(self) -> None:
        model = task(FactorCL).eval()
        h, z = model.encode_and_project(images())
        heads = model.projectors['s1'].heads
        assert model.common_dim == 32 and list(heads)[:2] == list(PARTS)[:2]
        for i, head in enumerate(heads.values()):
            torch.testing.assert_close(z['s1'][:, 16 * i : 16 * (i + 1)], head(h['s1']))

    def test_without_projector_parts_are_features(self) -> None:
        model = task(FactorCL, projector=[]).eval()
        h, z = model(images()), model.embed(images())
        assert all(z[m].equal(h[m].repeat(1, 5)) for m in MODALITIES)
        assert model.compute_loss(images())[0]['loss'].isfinite()

    def test_fits_and_resumes(self, tmp_path: Any) -> None:
        def fit(*callbacks: Callback, ckpt_path: Any = None) -> Any:
            model = task(FactorCL)
            saved = ModelCheckpoint(tmp_path, save_last=True)
            run = trainer(
                max_epochs=2,
                default_root_dir=tmp_path,
                enable_checkpointing=True,
                callbacks=[saved, *callbacks],
            )
            run.fit(model, datamodule=datamodule(), ckpt_path=ckpt_path)
            return model.state_dict()

        whole = fit()
        (tmp_path / 'last.ckpt').unlink()
        with pytest.raises(SystemExit):
            fit(Stop())
        resumed = fit(ckpt_path=tmp_path / 'last.ckpt')
        assert all(v.equal(whole[k]) for k, v in resumed.items())


class Stop(Callback):
    """End a process."""

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 3:
            raise SystemExit


class TestFit:
    """Check fit, resume, export, probe and predict of tasks that fuse tokens."""

    @pytest.mark.parametrize('objective', FUSED)
    def test_fits_resumes_exports_probes_and_predicts(
        self, objective: Any, tmp_path: Any
    ) -> None:
        def fit(folder: str, *callbacks: Callback, ckpt_path: Any = None) -> Any:
            model, probe = task(objective), OnlineProbe(k=2)
            saved = ModelCheckpoint(tmp_path / folder, save_last=True)
            export = ExportEncoders(tmp_path / folder / 'encoders')
            run = trainer(
                max_epochs=2,
                default_root_dir=tmp_path / folder,
                enable_checkpointing=True,
                callbacks=[saved, probe, export, *callbacks],
            )
            run.fit(model, datamodule=datamodule(val_length=24), ckpt_path=ckpt_path)
            return model, probe, run

        model, probe, run = fit('whole')
        with pytest.raises(SystemExit):
            fit('stopped', Stop())
        last = tmp_path / 'stopped' / 'last.ckpt'
        resumed, _, _ = fit('stopped', ckpt_path=last)
        state = model.state_dict()
        assert all(v.equal(state[k]) for k, v in resumed.state_dict().items())
        names = {r['features'] for r in probe.rows}
        expected = {'s1', 's2', 's1+s2', 'joint'}
        assert names == expected | ({'shared'} if objective is COrAL else set())
        assert {r['epoch'] for r in probe.rows} == {-1, 0, 1}
        assert math.isfinite(run.callback_metrics['val_loss'])

        unique = ['s1_unique', 's2_unique'] if objective is COrAL else []
        files = {
            f'{n}.{s}' for n in ['s1', 's2', *unique] for s in ('pt', 'safetensors')
        }
        folder = tmp_path / 'whole' / 'encoders'
        assert {p.name for p in folder.iterdir()} == files | {'fusion.safetensors'}
        head = load_fusion_head(folder / 'fusion.safetensors')
        state = model.fusion.state_dict()
        assert all(v.equal(state[k]) for k, v in head.state_dict().items())

        last = tmp_path / 'whole' / 'last.ckpt'
        again = export_checkpoint(last, tmp_path / 'again')
        assert {p.name for p in again} == files | {'fusion.safetensors'}
        both = [load_file(f / 's1.safetensors') for f in (folder, again[0].parent)]
        assert all(v.equal(both[1][k]) for k, v in both[0].items())
        restored = objective.load_from_checkpoint(last)
        assert all(v.equal(state[k]) for k, v in restored.fusion.state_dict().items())
        with pytest.raises(ValueError, match=r'embed_dim: expected 16, found 32'):
            trainer(max_epochs=3).fit(
                task(objective, embed_dim=16), datamodule=datamodule(), ckpt_path=last
            )
        (output,) = trainer().predict(model, datamodule(val_length=8)) or []
        assert set(output['features']) == expected - {'s1+s2'} | (
            {'shared'} if objective is COrAL else set()
        )


class TestErrors:
    @pytest.mark.parametrize(
        ('objective', 'kwargs', 'message'),
        [
            (
                CLIP,
                {'modalities': {'s1': 2}},
                r"at least two modalities for CLIP, got \['s1'\]",
            ),
            (CLIP, {'temperature': 0}, 'temperature must be at least 0.01, got 0'),
            (CrossModalSimCLR, {'temperature': -1}, 'temperature must be .* got -1'),
            (BarlowTwins, {'lambda_param': -1}, 'lambda_param must be >= 0, got -1'),
            (VICReg, {'covariance': -1}, 'covariance must be >= 0, got -1'),
            (CoMM, {'modalities': {'joint': 2}}, r"got \['joint'\]"),
            (
                COrAL,
                {'modalities': {'s1': 2, 's1_unique': 2, 'fusion': 1}},
                r"outputs use, got \['fusion', 's1_unique'\]; rename",
            ),
            (
                CoMM,
                {'num_heads': 5},
                'embed_dim must be a multiple of num_heads 5, got 32',
            ),
            (CoMM, {'depth': 0}, 'depth must be positive, got 0'),
            (COrAL, {'mask_ratio': 1.5}, r'mask_ratio must be .* got 1.5'),
            (
                COrAL,
                {'mask_ratio': [0, 0.5, 1]},
                r'mask_ratio must be .* got \[0, 0.5, 1\]',
            ),
            (COrAL, {'unique_weight': -1}, 'unique_weight must be >= 0, got -1'),
            (InfMasking, {'mask_ratio': 1}, r'mask_ratio must be in \[0, 1\), got 1'),
            (InfMasking, {'num_masks': 0}, 'num_masks must be positive, got 0'),
            (InfMasking, {'mask_lambda': -1}, 'mask_lambda must be >= 0, got -1'),
            (
                InfMasking,
                {'modalities': {'masked': 2}},
                r"got \['masked'\]; rename the",
            ),
            (FactorCL, {'critic_dim': 0}, 'critic_dim must be positive, got 0'),
            (
                FactorCL,
                {'modalities': THREE},
                r"must name exactly two modalities for FactorCL, got \['s1', 's2', 'dem'\]; for more, use",
            ),
        ],
    )
    def test_rejects_invalid_arguments(
        self, objective: Any, kwargs: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            task(objective, **kwargs)


def test_all_share_one_training_step() -> None:
    for objective in (*OBJECTIVES, DeCUR):
        for name in ('training_step', 'compute_loss', 'configure_optimizers'):
            assert getattr(objective, name) is getattr(MultimodalPretraining, name)


@pytest.mark.parametrize('objective', FUSED)
def test_exports_start_a_transfer(objective: Any, tmp_path: Any) -> None:
    export = ExportEncoders(tmp_path)
    pretrained = task(objective)
    trainer(callbacks=[export]).fit(pretrained, datamodule=datamodule())
    options: dict[str, Any] = {
        'modalities': MODALITIES,
        'model': 'test_resnet',
        'num_classes': 8,
        'label_key': 'label_common',
        'freeze_backbone': True,
    }
    model = LateFusionClassification(
        weights={m: str(tmp_path / f'{m}.safetensors') for m in MODALITIES},
        fusion=str(tmp_path / 'fusion.safetensors'),
        cache_features=True,
        modality_dropout=0.3,
        test_modality_subsets=True,
        **options,
    )
    before = {k: v.clone() for k, v in model.state_dict().items()}
    run = trainer()
    run.fit(model, datamodule=datamodule())
    state = model.state_dict()
    changed = {k for k, v in state.items() if not v.equal(before[k])}
    assert changed == {'model.head.weight', 'model.head.bias'}
    (found,) = run.test(model, datamodule=datamodule(), verbose=False)
    assert {f'test_OverallAccuracy{s}' for s in ('', '_s1', '_s2')} <= set(found)
    # The classifier sees the joint features of the pretrained task.
    model.eval(), pretrained.eval()
    for some in (['s1', 's2'], ['s2']):
        x = {m: images()[m] for m in some}
        expected = model.model.head(pretrained(x)['joint'])
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    # A checkpoint needs the exported files no more.
    run.save_checkpoint(tmp_path / 'x.ckpt')
    for file in tmp_path.glob('*.safetensors'):
        file.unlink()
    again = LateFusionClassification.load_from_checkpoint(tmp_path / 'x.ckpt')
    assert all(v.equal(again.state_dict()[k]) for k, v in state.items())


def test_command_line_takes_a_fusion_head(runner: Any, tmp_path: Any) -> None:
    head = JointHead(dict.fromkeys(MODALITIES, 96), embed_dim=16, num_heads=4)
    about = {'fusion': head.description}
    (file,) = save_encoder(head, tmp_path / 'fusion', '', about, ['safetensors'])
    run = runner('late_fusion_classification.yaml')
    assert 'val_OverallAccuracy' in run('fit', fusion=str(file))
    assert 'test_OverallAccuracy_s1' in run('test', fusion=str(file))
