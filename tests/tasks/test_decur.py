import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torchgeo.tasks import Classification, SemanticSegmentation
from torchgeo.tasks.utils import extract_backbone

from tests.helpers.small_fits import MODALITIES, datamodule, trainer
from torchgeo_decur.callbacks import ExportEncoders
from torchgeo_decur.losses import DeCURLoss
from torchgeo_decur.models import create_encoder, save_encoder
from torchgeo_decur.tasks import DeCUR
from torchgeo_decur.tasks.optimizers import build_optimizer


def task(**kwargs: Any) -> DeCUR:
    options = {'model': 'test_resnet', 'projector': [16, 16], 'size': 32}
    return DeCUR(**{'modalities': MODALITIES, **options, **kwargs})


def images(batch: int = 4, dates: int | None = None) -> dict[str, Tensor]:
    shape = (batch,) if dates is None else (batch, dates)
    return {m: torch.rand(*shape, c, 32, 32) for m, c in MODALITIES.items()}


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


class TestCommandLine:
    """Check one fit by `torchgeo fit --config`, and its files."""

    def test_every_part_is_logged(self, fitted: Path) -> None:
        rows = table(fitted / 'metrics.csv')
        for stage in ('train', 'val'):
            for part in (
                'loss',
                'intra_s1',
                'intra_s2',
                'common_s1_s2',
                'unique_s1_s2',
            ):
                values = [
                    float(r[f'{stage}_{part}']) for r in rows if r[f'{stage}_{part}']
                ]
                assert len(values) >= 2 and all(map(math.isfinite, values))
        last = {k: float(v) for r in rows for k, v in r.items() if v}
        # Once an epoch, and not as a step: the logging interval must not hide them.
        steps = [float(r['std_s1']) for r in rows if r['std_s1'] and r['train_loss']]
        signs = [float(r['std_s1']) for r in rows if r['std_s1']]
        assert len(signs) == 2 and not steps
        assert min(last[f'std_{m}'] for m in MODALITIES) > 0
        assert min(last[f'rank_{m}'] for m in MODALITIES) > 1
        assert all(-1 <= v <= 1 for k, v in last.items() if k.startswith('alignment_'))
        assert {'alignment_common_s1_s2', 'alignment_unique_s1_s2'} <= set(last)

    def test_learning_rate_warms_up_and_decays_to_zero(self, fitted: Path) -> None:
        rows = table(fitted / 'metrics.csv')
        rates = [float(r['lr']) for r in rows if r['lr']]
        assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 0])

    @pytest.mark.parametrize(('modality', 'bands'), MODALITIES.items())
    def test_stock_classification_loads_the_encoders(
        self, fitted: Path, modality: str, bands: int
    ) -> None:
        path = fitted / 'encoders' / f'{modality}.pt'
        stored = torch.load(path, weights_only=True)['state_dict']
        stock = Classification(
            model='test_resnet',
            weights=str(path),
            in_channels=bands,
            num_classes=4,
            task='multiclass',
        )
        state = stock.model.state_dict()
        assert all(torch.equal(state[k[6:]], v) for k, v in stored.items())
        assert stock(torch.rand(2, bands, 32, 32)).shape == (2, 4)

    def test_stock_segmentation_loads_an_export(self, tmp_path: Path) -> None:
        encoder = create_encoder('resnet18', in_chans=2)
        path, _ = save_encoder(encoder, tmp_path / 's1', 'resnet18', {})
        stock = SemanticSegmentation(
            model='unet',
            backbone='resnet18',
            weights=str(path),
            in_channels=2,
            num_classes=4,
            task='multiclass',
        )
        state = stock.model.encoder.state_dict()
        assert all(torch.equal(state[k], v) for k, v in encoder.state_dict().items())
        assert stock(torch.rand(2, 2, 64, 64)).shape == (2, 4, 64, 64)

    def test_export_says_what_the_encoder_expects(self, fitted: Path) -> None:
        with safe_open(fitted / 'encoders' / 's1.safetensors', 'pt') as file:
            metadata = file.metadata()
        assert json.loads(metadata['bands']) == ['VV', 'VH']
        assert metadata['unit'] == 'dB' and metadata['model'] == 'test_resnet'
        assert json.loads(metadata['limits'])[0] == pytest.approx([-23.11, -32.08])
        assert json.loads(metadata['hyper_parameters'])['common_ratio'] == 0.875
        assert not list((fitted / 'encoders').glob('*partial*'))

    def test_checkpoint_holds_plain_types(self, fitted: Path) -> None:
        (path,) = fitted.rglob('*.ckpt')
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint['task_hyper_parameters']['projector'] == [16, 16]
        restored = DeCUR.load_from_checkpoint(path)
        assert restored.common_dim == 14

    def test_torchgeo_takes_an_exported_encoder(self, fitted: Path) -> None:
        (path,) = fitted.rglob('*.ckpt')
        # Two encoders are no backbone of TorchGeo, and its own error says so.
        with pytest.raises(ValueError, match=r'^Unknown checkpoint task'):
            extract_backbone(str(path))
        name, state = extract_backbone(str(fitted / 'encoders' / 's1.pt'))
        encoder = DeCUR.load_from_checkpoint(path).encoders.encoders['s1']
        assert name == 'test_resnet' and set(state) == set(encoder.state_dict())

    def test_exported_encoder_starts_another_fit(self, fitted: Path) -> None:
        files = {m: str(fitted / 'encoders' / f'{m}.safetensors') for m in MODALITIES}
        (path,) = fitted.rglob('*.ckpt')
        trained = DeCUR.load_from_checkpoint(path).encoders.state_dict()
        for weights in (files, str(path)):
            started = task(weights=weights).encoders.state_dict()
            assert all(torch.equal(started[k], v) for k, v in trained.items())

    def test_validates_tests_and_predicts(
        self,
        fitted: Path,
        torchgeo: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (path,) = fitted.rglob('*.ckpt')
        for subcommand in ('validate', 'test', 'predict'):
            torchgeo(
                subcommand,
                '--config',
                fitted.parent / 'conf.yaml',
                f'--trainer.logger.init_args.version={subcommand}',
                '--ckpt_path',
                path,
            )
        printed = capsys.readouterr().out
        assert 'val_loss' in printed and 'test_unique_s1_s2' in printed


class TestObjective:
    def test_equals_the_loss_of_its_own_embeddings(self) -> None:
        model = task()
        terms, h, z = model.compute_loss(images())
        expected = DeCURLoss(14)(z)
        assert set(terms) == set(expected)
        torch.testing.assert_close(terms['loss'], expected['loss'])
        assert {m: tuple(x.shape) for m, x in z.items()} == {
            m: (2, 4, 16) for m in MODALITIES
        }
        assert {m: tuple(x.shape) for m, x in h.items()} == {
            m: (4, 96) for m in MODALITIES
        }

    def test_every_parameter_gets_a_gradient(self) -> None:
        model = task(modalities={**MODALITIES, 'dem': 1})
        x = {**images(), 'dem': torch.rand(4, 1, 32, 32)}
        model.compute_loss(x)[0]['loss'].backward()
        assert not [n for n, p in model.named_parameters() if p.grad is None]

    def test_views_and_modalities_draw_independently(self) -> None:
        same = torch.rand(4, 2, 32, 32)
        model = task(modalities={'a': 2, 'b': 2})
        seen: list[Tensor] = []
        model.encoders.register_forward_pre_hook(
            lambda _, x: seen.extend(x[0].values())
        )
        model.compute_loss({'a': same, 'b': same})
        assert len(seen) == 4
        assert not any(
            torch.equal(seen[i], seen[j]) for i in range(4) for j in range(i)
        )

    def test_each_view_and_modality_draws_its_own_date(self) -> None:
        model = task(
            modalities={'a': 1, 'b': 1},
            augmentations={'a': nn.Identity(), 'b': nn.Identity()},
        )
        x = torch.arange(64.0).reshape(1, 64, 1, 1, 1).expand(8, 64, 1, 32, 32)
        seen: list[Tensor] = []
        model.encoders.register_forward_pre_hook(
            lambda _, x: seen.extend(x[0].values())
        )
        model.compute_loss({'a': x, 'b': x})
        dates = [s[:, 0, 0, 0].tolist() for s in seen]
        assert len({tuple(d) for d in dates}) == 4
        assert all(len(set(d)) > 1 for d in dates)

    def test_augmentation_is_float32_under_autocast(self) -> None:
        model = task()
        seen: list[Tensor] = []
        model.encoders.register_forward_pre_hook(
            lambda _, x: seen.extend(x[0].values())
        )
        with torch.autocast('cpu', torch.bfloat16):
            terms, _, _ = model.compute_loss(images())
        assert {s.dtype for s in seen} == {torch.float32}
        assert terms['loss'].dtype == torch.float32

    def test_given_augmentation_replaces_the_preset(self) -> None:
        model = task(augmentations={'s1': nn.Identity()})
        assert isinstance(model.augmentations['s1'], nn.Identity)
        assert len(list(model.augmentations['s2'])) == 7


class TestStages:
    def test_loss_falls(self) -> None:
        torch.manual_seed(0)
        model = task(lr=3e-3, optimizer='adamw')
        losses: list[float] = []
        step = model.training_step

        def record(*args: Any, **kwargs: Any) -> Tensor:
            loss = step(*args, **kwargs)
            losses.append(loss.item())
            return loss

        model.training_step = record  # type: ignore[method-assign]
        trainer(max_epochs=8, limit_val_batches=0).fit(
            model, datamodule=datamodule(length=32, batch_size=16)
        )
        assert sum(losses[-4:]) < 0.9 * sum(losses[:4])

    def test_validation_views_are_the_same_in_every_epoch(self) -> None:
        model, data = task(lr=0.0, optimizer='adamw'), datamodule()
        model.eval()
        losses = [
            trainer().validate(model, data, verbose=False)[0]['val_loss']
            for _ in range(2)
        ]
        assert losses[0] == losses[1]

    def test_validation_skips_a_last_batch_of_one(self) -> None:
        results = trainer().validate(task(), datamodule(val_length=9), verbose=False)
        assert math.isfinite(results[0]['val_loss'])

    def test_validation_batch_of_one_is_an_error(self) -> None:
        with pytest.raises(
            ValueError, match=r'at least 2 samples on each device.* got 1'
        ):
            trainer().validate(task(), datamodule(val_length=1), verbose=False)

    def test_predict_returns_features_embeddings_and_metadata(self) -> None:
        outputs = trainer().predict(task(), datamodule(val_length=8, num_dates=2))
        assert outputs is not None
        (output,) = outputs
        assert isinstance(output, dict)
        assert output['features']['s1'].shape == (8, 96)
        assert output['embeddings']['s2'].shape == (8, 16)
        assert {'label_common', 'mask'} <= set(output)
        assert not [k for k in output if str(k).startswith('image')]

    def test_forward_takes_any_subset(self) -> None:
        model = task().eval()
        x = images()
        both, one = model(x), model({'s2': x['s2']})
        torch.testing.assert_close(both['s2'], one['s2'])
        assert set(one) == {'s2'} and model.embed({'s2': x['s2']})['s2'].shape == (
            4,
            16,
        )

    def test_diverged_model_is_not_stored(self) -> None:
        model = task()
        model._trainer = trainer()
        model._guard.add(
            {'loss': torch.tensor(torch.inf), 'a': torch.tensor(torch.inf)}
        )
        with pytest.raises(FloatingPointError, match=r"\['a'\]"):
            model.on_save_checkpoint({})

    def test_divergence_stops_a_fit(self) -> None:
        model = task(optimizer='adamw', lr=1e30)
        with pytest.raises(FloatingPointError, match=r'must be finite.*lower lr'):
            trainer(max_epochs=5, limit_val_batches=0).fit(
                model, datamodule=datamodule()
            )

    def test_next_fit_resets_the_guard(self) -> None:
        model = task()
        nan = torch.tensor(torch.nan)
        model._guard.add({'loss': nan, 'intra_s1': nan})
        trainer(limit_val_batches=0).fit(model, datamodule=datamodule())

    def test_diverged_model_is_not_exported(self, tmp_path: Path) -> None:
        class Late(DeCUR):
            """Task that diverges in a last step that is not checked, as on a GPU."""

            def training_step(self, *args: Any) -> Tensor:
                loss = super().training_step(*args)
                nan = torch.full_like(loss, torch.nan)
                self._guard.add(dict.fromkeys(('loss', *self._guard.parts), nan))
                return loss

        export = ExportEncoders(tmp_path / 'encoders')
        run = trainer(max_steps=1, limit_val_batches=0, callbacks=[export])
        with pytest.raises(FloatingPointError, match=r"'intra_s1', .* by step 1"):
            run.fit(
                Late(MODALITIES, 'test_resnet', projector=[16], size=32),
                datamodule=datamodule(),
            )
        assert not (tmp_path / 'encoders').exists()

    def test_fits_without_logging(self) -> None:
        run = trainer(log_every_n_steps=0, limit_val_batches=0)
        run.fit(task(), datamodule=datamodule())
        assert run.global_step == 2


class TestOptimizer:
    def test_default_is_lars_for_plain_resnets_else_adamw(self) -> None:
        model = task()
        for name, expected in (
            ('resnet50', 'InPlaceLARS'),
            ('resnet18d.ra2_in1k', 'InPlaceLARS'),
            ('resnet50_rda', 'AdamW'),
            ('vit_small_patch16_224', 'AdamW'),
        ):
            assert type(build_optimizer(model, [name])).__name__ == expected

    @pytest.mark.parametrize(
        ('name', 'rates', 'decay'),
        [('lars', (0.05, 0.0048), 1e-6), ('adamw', (1e-4, 1e-4), 0.01)],
    )
    def test_biases_and_norms_have_their_own_group(
        self, name: Any, rates: tuple[float, float], decay: float
    ) -> None:
        model = task()
        weights, biases = build_optimizer(model, [], name).param_groups
        assert (weights['lr'], biases['lr']) == pytest.approx(rates)
        assert (weights['weight_decay'], biases['weight_decay']) == (decay, 0)
        assert {p.ndim for p in biases['params']} == {1}
        total = len(weights['params']) + len(biases['params'])
        assert total == len(list(model.parameters()))

    def test_every_rate_can_be_set(self) -> None:
        groups = build_optimizer(task(), [], 'lars', 0.2, 0.1, 0.3).param_groups
        assert [(g['lr'], g['weight_decay']) for g in groups] == [(0.2, 0.3), (0.1, 0)]

    def test_open_ended_fit_keeps_its_rate(self) -> None:
        model = task(optimizer='adamw', lr=0.1)
        rates: list[float] = []

        class Watch(Callback):
            def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
                rates.append(trainer.optimizers[0].param_groups[0]['lr'])
                trainer.should_stop = len(rates) == 5

        trainer(max_epochs=-1, limit_val_batches=0, callbacks=[Watch()]).fit(
            model, datamodule=datamodule()
        )
        assert rates == [0.1] * 5

    @pytest.mark.parametrize(
        ('options', 'warmup', 'steps'),
        [
            ({'max_epochs': 3}, 2, 6),
            ({'max_steps': 5, 'max_epochs': None}, 2, 5),
            ({'max_steps': 5, 'max_epochs': 5}, 1, 5),
            ({'max_epochs': -1, 'max_time': {'minutes': 1}}, 2, math.inf),
            ({'max_epochs': 3, 'accumulate_grad_batches': 2}, 1, 3),
        ],
    )
    def test_warmup_lasts_its_epochs_however_the_fit_ends(
        self, options: dict[str, Any], warmup: int, steps: float
    ) -> None:
        found: list[float] = []

        class Stop(Callback):
            def on_train_batch_start(
                self, trainer: Trainer, module: Any, *_: Any
            ) -> int:
                schedule = module.lr_schedulers()
                found[:] = [schedule.warmup_epochs, schedule.max_epochs]
                trainer.should_stop = True
                return -1

        run = trainer(limit_val_batches=0, callbacks=[Stop()], **options)
        run.fit(task(warmup_epochs=1), datamodule=datamodule())
        assert found == [warmup, steps]

    def test_data_without_a_length_have_no_warmup(self) -> None:
        class Endless(IterableDataset[dict[str, Tensor]]):
            def __iter__(self) -> Iterator[dict[str, Tensor]]:
                while True:
                    yield {f'image_{m}': x[0] for m, x in images(1).items()}

        loader: DataLoader[Any] = DataLoader(Endless(), batch_size=2)
        run = trainer(limit_train_batches=2, limit_val_batches=0)
        run.fit(task(warmup_epochs=0.5), loader, loader)
        assert run.global_step == 2
        with pytest.raises(
            ValueError, match='must be 0 for data without a length, got 1'
        ):
            trainer(limit_val_batches=0).fit(task(warmup_epochs=1), loader, loader)

    def test_lars_trains(self) -> None:
        model = task(optimizer='lars')
        before = [p.detach().clone() for p in model.parameters()]
        trainer(max_epochs=3, limit_val_batches=0).fit(model, datamodule=datamodule())
        changed = [
            not torch.equal(a, b)
            for a, b in zip(before, model.parameters(), strict=True)
        ]
        assert sum(changed) > 0.9 * len(changed)


class TestErrors:
    @pytest.mark.parametrize(
        ('kwargs', 'message'),
        [
            (
                {'modalities': {'s1': 2}},
                r"at least two modalities for DeCUR, got \['s1'\]",
            ),
            ({'common_ratio': 1.2}, r'common_ratio must be in \[0, 1\], got 1.2'),
            ({'common_ratio': -0.1}, r'common_ratio must be in \[0, 1\], got -0.1'),
            (
                {'projector': [8, 0]},
                'projector must be a list of positive layer widths',
            ),
            (
                {'projector': [], 'model': {'s1': 'test_resnet', 's2': 'resnet18'}},
                r"'s1': 96, 's2': 512}\), got \[\]",
            ),
            ({'model': 'resnet51'}, "got 'resnet51'; did you mean one of"),
            (
                {'model': {'s1': 'resnet18', 'S2': 'resnet18'}},
                r"unknown \['S2'\], missing \['s2'\]",
            ),
            (
                {'augmentations': {'sar': nn.Identity()}},
                r"augmentations must be .* unknown \['sar'\]",
            ),
            ({'weights': 'ResNet50_Weights.NONE'}, "got 'ResNet50_Weights.NONE'"),
            ({'optimizer': 'sgd'}, "optimizer must be 'adamw' or 'lars', got 'sgd'"),
            ({'lambda_param': -1}, 'lambda_param must be >= 0, got -1'),
        ],
    )
    def test_invalid_arguments_are_refused(
        self, kwargs: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            task(**kwargs)

    def test_warmup_longer_than_the_fit_is_refused(self) -> None:
        model = task(warmup_epochs=3)
        with pytest.raises(
            ValueError,
            match=r'warmup_epochs must be in \[0, 1\], the number of epochs in this fit, got 3',
        ):
            trainer().fit(model, datamodule=datamodule())

    def test_training_batch_of_one_is_refused(self) -> None:
        for data in (datamodule(batch_size=1), datamodule(length=4)):
            with pytest.raises(
                ValueError, match='batch_size must be between 2 and the number'
            ):
                trainer().fit(task(), datamodule=data)

    def test_checkpoint_of_another_model_is_refused(self, fitted: Path) -> None:
        (path,) = fitted.rglob('*.ckpt')
        with pytest.raises(
            ValueError,
            match=r'another model; projector: expected \[8\], found \[16, 16\]',
        ):
            trainer(max_epochs=3).fit(
                task(projector=[8]), datamodule=datamodule(), ckpt_path=path
            )
