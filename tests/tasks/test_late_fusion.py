"""Check classification, and the common parts of the transfer tasks."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.helpers.small_fits import MODALITIES, datamodule, trainer
from torchgeo_decur.datasets import SyntheticEO
from torchgeo_decur.models.eval_mode import eval_mode
from torchgeo_decur.tasks import LateFusionClassification
from torchgeo_decur.tasks.optimizers import build_transfer_optimizer

Runner = Callable[..., dict[str, float]]


def classification(**kwargs: Any) -> LateFusionClassification:
    options: dict[str, Any] = {
        'modalities': MODALITIES,
        'model': 'test_resnet',
        'num_classes': 8,
        'label_key': 'label_common',
    }
    return LateFusionClassification(**{**options, **kwargs})


class Multilabel(LightningDataModule):
    """Random images with random labels, each class seen at least once."""

    def __init__(self, length: int = 23, available: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.samples = [
            {
                'image_s1': torch.rand(2, 32, 32, generator=generator),
                'image_s2': torch.rand(13, 32, 32, generator=generator),
                'label': (torch.rand(5, generator=generator) < 0.4).long(),
                **({'available_s1': torch.tensor(i % 2 == 0)} if available else {}),
            }
            for i in range(length)
        ]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.samples, batch_size=8, drop_last=True)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.samples, batch_size=7)  # type: ignore[arg-type]

    test_dataloader = predict_dataloader = val_dataloader


def multilabel(**kwargs: Any) -> LateFusionClassification:
    options = {'task': 'multilabel', 'num_labels': 5, 'loss': 'soft_margin'}
    return classification(
        **{'num_classes': None, 'label_key': 'label', **options, **kwargs}
    )


class TestCommandLine:
    """`torchgeo fit|validate|test|predict` of a classifier."""

    def test_fits_validates_tests_and_predicts(
        self, runner: Callable[[str], Runner], caplog: Any
    ) -> None:
        run = runner('late_fusion_classification.yaml')
        values = run('fit')
        assert {'train_loss', 'val_loss', 'val_OverallAccuracy'} <= set(values)
        validated = run('validate')['val_OverallAccuracy']
        assert validated == pytest.approx(values['val_OverallAccuracy'])
        run('predict')
        for logger in ('lightning.pytorch', 'lightning.fabric'):
            logging.getLogger(logger).propagate = True
        with caplog.at_level(logging.INFO):
            values = run('test')
        names = {f'test_OverallAccuracy{s}' for s in ('', '_s1', '_s2')}
        assert names <= set(values) and all(map(math.isfinite, values.values()))
        lines = [line.split() for line in caplog.text.splitlines()]
        rows = {line[0]: line[1:] for line in lines if len(line) == 3}
        for name, suffix in (('s1', '_s1'), ('s2', '_s2'), ('s1+s2', '')):
            expected = 100 * values[f'test_OverallAccuracy{suffix}']
            assert float(rows[name][0]) == pytest.approx(expected, abs=0.051)
        for missing, other in (('s1', '_s2'), ('s2', '_s1')):
            alone = run(
                'test', missing_modalities=[missing], test_modality_subsets=False
            )
            expected = values[f'test_OverallAccuracy{other}']
            assert alone['test_OverallAccuracy'] == pytest.approx(expected)

    @pytest.mark.parametrize('modality', MODALITIES)
    def test_trains_with_one_modality(
        self, runner: Callable[[str], Runner], modality: str
    ) -> None:
        run = runner('late_fusion_classification.yaml')
        options = {'modalities': {modality: MODALITIES[modality]}}
        run('fit', **options)
        assert math.isfinite(run('test', **options)['test_loss'])


class TestMetrics:
    def test_average_precision_is_computed_over_the_whole_split(self) -> None:
        torch.manual_seed(0)
        data, task = Multilabel(), multilabel()
        (found,) = trainer().test(task, data, verbose=False)
        (whole,) = DataLoader(data.samples, batch_size=len(data.samples))  # type: ignore[arg-type]
        task.eval()
        with torch.no_grad():
            logits = task({m: whole[f'image_{m}'] for m in MODALITIES})
        for average in ('micro', 'macro'):
            expected = average_precision_score(
                whole['label'].numpy(), logits.sigmoid().numpy(), average=average
            )
            assert found[f'test_mAP_{average}'] == pytest.approx(expected, abs=1e-5)
        loss = torch.nn.functional.multilabel_soft_margin_loss(logits, whole['label'])
        assert found['test_loss'] == pytest.approx(loss.item(), rel=1e-4)

    def test_accuracy_is_computed_over_the_whole_split(self) -> None:
        torch.manual_seed(0)
        data, task = datamodule(), classification()
        (found,) = trainer().test(task, data, verbose=False)
        batches = trainer().predict(task, datamodule())
        assert batches is not None and [x.shape for x in batches] == [(8, 8), (4, 8)]
        assert torch.allclose(torch.cat(batches).sum(1), torch.ones(12))
        data.setup('test')
        labels = [data.test_dataset[i]['label_common'] for i in range(12)]
        task.eval()
        scaled = [data.aug(b) for b in DataLoader(data.test_dataset, batch_size=12)]
        with torch.no_grad():
            logits = task({m: scaled[0][f'image_{m}'] for m in MODALITIES})
        correct = (logits.argmax(1) == torch.stack(labels)).float().mean().item()
        assert found['test_OverallAccuracy'] == pytest.approx(correct)

    def test_scores_binary_labels(self) -> None:
        class Binary(Multilabel):
            def __init__(self) -> None:
                super().__init__()
                for sample in self.samples:
                    sample['label'] = sample['label'][0]

        task = classification(
            task='binary',
            loss='bce',
            num_classes=None,
            label_key='label',
            test_modality_subsets=True,
        )
        run = trainer()
        run.fit(task, Binary())
        (found,) = run.test(task, Binary(), verbose=False)
        assert {'test_OverallF1Score', 'test_OverallF1Score_s1'} <= set(found)
        predictions = run.predict(task, Binary())
        assert predictions is not None and predictions[0].shape == (7, 1)


class TestMissing:
    def test_samples_may_lack_a_modality(self) -> None:
        torch.manual_seed(0)
        data, task = Multilabel(available=True), multilabel(test_modality_subsets=True)
        run = trainer()
        run.fit(task, data)
        (found,) = run.test(task, data, verbose=False)
        batches = run.predict(task, data)
        assert batches is not None
        logits = torch.cat(batches).logit()
        task.eval()
        with torch.no_grad():
            for i in (0, 1):
                images = {f: data.samples[i][f'image_{f}'][None] for f in MODALITIES}
                if i == 1:
                    del images['s1']
                torch.testing.assert_close(
                    task(images)[0], logits[i], rtol=1e-4, atol=1e-4
                )
        assert {'test_mAP_micro_s1', 'test_mAP_micro_s2'} <= set(found)

    def test_images_of_a_missing_modality_are_not_needed(self) -> None:
        class Optical(Multilabel):
            def __init__(self) -> None:
                super().__init__()
                for sample in self.samples:
                    del sample['image_s1']

        task = multilabel(missing_modalities=['s1'])
        trainer().test(task, Optical(), verbose=False)
        with pytest.raises(ValueError, match=r"batch must have \['image_s1'\]"):
            trainer().fit(task, Optical())

    def test_leaves_out_channels_of_stacked_images(self) -> None:
        task = multilabel(missing_modalities=['s1']).eval()
        images = Multilabel().samples[0]
        stacked = torch.cat([images['image_s1'], images['image_s2']])[None]
        features, _ = task._encode({'image': stacked}, 'test')
        assert list(features) == ['s2']


class TestTraining:
    def test_every_parameter_gets_a_gradient(self) -> None:
        task = classification(modalities={'s1': 2, 's2': 13, 'dem': 1})
        x = {m: torch.rand(8, c, 33, 47) for m, c in task.hparams['modalities'].items()}
        task(x).square().sum().backward()
        assert [n for n, p in task.named_parameters() if p.grad is None] == []

    def test_frozen_encoders_do_not_change(self) -> None:
        task = multilabel(freeze_backbone=True, lr=0.1)
        before = {k: v.clone() for k, v in task.state_dict().items()}
        trainer(max_epochs=2).fit(task, Multilabel())
        changed = {k for k, v in task.state_dict().items() if not v.equal(before[k])}
        assert changed == {'model.head.weight', 'model.head.bias'}

    def test_trains_on_several_dates(self) -> None:
        task = classification()
        trainer().fit(task, datamodule(num_dates=2))

    def test_a_checkpoint_restores_all(self, tmp_path: Path) -> None:
        task = multilabel(modality_dropout=0.2, lr=0.02)
        run = trainer()
        run.fit(task, Multilabel())
        run.save_checkpoint(tmp_path / 'x.ckpt')
        again = LateFusionClassification.load_from_checkpoint(tmp_path / 'x.ckpt')
        assert dict(again.hparams) == dict(task.hparams)
        assert all(v.equal(again.state_dict()[k]) for k, v in task.state_dict().items())

    @pytest.mark.parametrize(
        ('lr_schedule', 'expected'),
        [
            ('step', [1.0] * 6 + [0.1] * 2 + [0.01] * 2),
            ('constant', [1.0] * 10),
            ('cosine', [(1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)]),
        ],
    )
    def test_schedules_change_all_rates_as_documented(
        self, lr_schedule: str, expected: list[float]
    ) -> None:
        model = classification().model
        optimizer, scheduler = build_transfer_optimizer(
            model, 'sgd', 1.0, 0.5, lr_schedule=lr_schedule, epochs=10
        )
        rates = []
        for _ in range(10):
            rates.append([g['lr'] for g in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        assert [r[0] for r in rates] == pytest.approx(expected)
        assert [r[1] for r in rates] == pytest.approx([e / 2 for e in expected])
        numbers = [sum(p.numel() for p in g['params']) for g in optimizer.param_groups]
        assert sum(numbers) == sum(p.numel() for p in model.parameters())

    def test_logs_figures_of_validation(self, tmp_path: Path) -> None:
        figures: list[Any] = []

        class Experiment:
            def add_figure(self, name: str, figure: Any, global_step: int) -> None:
                figures.append(name)

        task = classification()
        run = trainer()
        type(task).logger, before = (
            Logger(Experiment()),
            LateFusionClassification.logger,
        )
        try:
            run.validate(task, datamodule(), verbose=False)
        finally:
            type(task).logger = before
        assert figures == ['image/0', 'image/1']


class Logger:
    def __init__(self, experiment: Any) -> None:
        self.experiment = experiment


class TestAugmentation:
    def test_only_training_is_augmented(self) -> None:
        seen: dict[str, list[tuple[int, ...]]] = {'train': [], 'eval': []}
        task = classification(size=48, crop_scale=[0.8, 1.0])

        def look(module: Any, arguments: Any) -> None:
            stage = 'train' if module.training else 'eval'
            seen[stage] += [tuple(x.shape[-2:]) for x in arguments[0].values()]

        task.model.encoders.register_forward_pre_hook(look)
        trainer().fit(task, datamodule(num_dates=2))
        assert set(seen['train']) == set(seen['eval']) == {(48, 48)}
        batch = {'image': torch.rand(2, 15, 32, 32), 'label_common': torch.ones(2)}
        assert task._augment(batch)['image'].shape == (2, 15, 48, 48)
        assert classification()._augment(batch) is batch

    def test_refuses_a_crop_scale_out_of_range(self) -> None:
        with pytest.raises(ValueError, match=r'crop_scale .* got \(0, 2\)'):
            trainer().fit(classification(crop_scale=[0, 2]), datamodule())


class TestCache:
    """Check that a linear probe on cached features equals one on images."""

    def fit(self, cache: bool, **kwargs: Any) -> tuple[dict[str, Tensor], Tensor, int]:
        torch.manual_seed(0)
        task = classification(
            freeze_backbone=True, cache_features=cache, optimizer='sgd', **kwargs
        )
        calls: list[int] = []
        task.model.encoders.register_forward_hook(lambda *_: calls.append(1))
        data, run = datamodule(), trainer(max_epochs=3)
        run.fit(task, data)
        assert isinstance(data.train_dataset, SyntheticEO)
        return task.state_dict(), run.callback_metrics['val_loss'], len(calls)

    def test_equals_the_probe_on_images(self) -> None:
        (a, loss_a, calls_a), (b, loss_b, calls_b) = self.fit(True), self.fit(False)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(loss_a, loss_b, rtol=1e-4, atol=1e-6)
        # Two batches of each split, once or in each epoch.
        assert (calls_a, calls_b) == (4, 12)

    def test_equals_it_with_dropout_and_a_missing_modality(self) -> None:
        state, loss, _ = self.fit(True, modality_dropout=0.4, missing_modalities=['s1'])
        assert loss.isfinite()
        other, _, _ = self.fit(True)
        assert not state['model.head.weight'].equal(other['model.head.weight'])

    def test_rejects_invalid_arguments(self) -> None:
        with pytest.raises(
            ValueError, match=r'needs frozen encoders, got freeze_backbone=False'
        ):
            classification(cache_features=True)
        with pytest.raises(ValueError, match=r'without random crops, got crop_scale'):
            classification(
                cache_features=True, freeze_backbone=True, crop_scale=[0.8, 1]
            )
        task = classification(freeze_backbone=True, cache_features=True)
        with pytest.raises(ValueError, match=r'needs a datamodule, got data loaders'):
            data = Multilabel()
            trainer().fit(task, data.train_dataloader(), data.val_dataloader())
        task = multilabel(freeze_backbone=True, cache_features=True)
        with pytest.raises(ValueError, match=r'train_dataset with .* got NoneType'):
            trainer().fit(task, Multilabel())


class TestErrors:
    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'task': 'both'}, r"task must be one of .*, got 'both'"),
            ({'loss': 'soft_margin'}, r"for task 'multiclass', got 'soft_margin'"),
            ({'num_classes': None}, r'num_classes must be set .* got None'),
            ({'num_labels': 3}, r'num_labels must be None .* got 3'),
            (
                {'missing_modalities': ['dem']},
                r"missing_modalities must name some .* got \['dem'\]",
            ),
            ({'missing_modalities': ['s1', 's2']}, r'but not all .*'),
            ({'modality_dropout': -1}, r'modality_dropout .* got -1'),
        ],
    )
    def test_rejects_invalid_options(
        self, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            classification(**options)

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'optimizer': 'lars'}, r"optimizer must be .* got 'lars'"),
            ({'lr_schedule': 'poly'}, r"lr_schedule must be .* got 'poly'"),
            ({'lr_schedule': 'step', 'epochs': -1}, r'max_epochs .* got -1'),
        ],
    )
    def test_refuses_wrong_optimizer_options(
        self, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            build_transfer_optimizer(torch.nn.Linear(2, 2), **options)

    def test_a_batch_without_target_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"must have the target 'label', got only"):
            trainer().test(multilabel(), datamodule(), verbose=False)


def test_images_are_tensors() -> None:
    x: dict[str, Tensor] = {m: torch.rand(2, c, 32, 32) for m, c in MODALITIES.items()}
    assert classification().eval()(x).shape == (2, 8)


def test_an_error_ends_evaluation_mode() -> None:
    module = nn.Linear(1, 1)
    with pytest.raises(ValueError, match='damaged'), eval_mode(module):
        assert not module.training
        raise ValueError('damaged')
    assert module.training
