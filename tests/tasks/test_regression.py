"""Regression of scenes and pixels, and weights of positive labels."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Dataset
from torchgeo.tasks import Regression

from tests.helpers.small_fits import trainer
from torchgeo_decur.datamodules import MultimodalDataModule
from torchgeo_decur.datasets.plotting import plot_images
from torchgeo_decur.modalities import Modality
from torchgeo_decur.tasks import (
    LateFusionClassification,
    LateFusionPixelwiseRegression,
    LateFusionRegression,
)
from torchgeo_decur.tasks.transfer.masked_loss import MaskedLoss
from torchgeo_decur.tasks.transfer.masked_regression import (
    MaskedMeanSquaredError,
    MaskedR2Score,
    MaskedRegressionLoss,
    target_moments,
)

MODALITIES = {'s1': 2, 's2': 3}
RECORDS: dict[str, Any] = {
    m: {'bands': [f'b{i}' for i in range(n)], 'kind': 'multispectral', 'unit': 'unit'}
    for m, n in MODALITIES.items()
}


class Numbers(MultimodalDataModule):
    """Scenes whose brightness gives their number, with some numbers unknown."""

    def __init__(
        self,
        length: int = 20,
        outputs: int = 1,
        size: int = 0,
        unknown: float = math.nan,
        **options: Any,
    ) -> None:
        super().__init__(RECORDS, 8, **options)
        generator = torch.Generator().manual_seed(1)
        self.samples: list[dict[str, Tensor]] = []
        for i in range(length):
            level = torch.rand(1, 32, 32, generator=generator) * 0.2 + (i % 7) / 9
            target = 2000 + 30 * (level[0] if size else level.mean())
            if outputs > 1:
                target = torch.stack([target, *[-target] * (outputs - 1)])
            if i % 5 == 1:
                gone = torch.full_like(target, unknown)
                target = target.where(level[0] > level.mean(), gone) if size else gone
            images = {
                f'image_{m}': level.expand(n, -1, -1) for m, n in MODALITIES.items()
            }
            self.samples.append({**images, 'mask' if size else 'label': target})

    def setup(self, stage: str) -> None:
        self.train_dataset = self.val_dataset = self.test_dataset = (
            self.predict_dataset
        ) = (  # type: ignore[assignment]
            Samples(self.samples)
        )


class Samples(Dataset[Any]):
    def __init__(self, samples: list[dict[str, Tensor]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(self.samples[index])

    def plot(self, sample: dict[str, Tensor]) -> Any:
        maps = {k: sample[k] for k in ('mask', 'prediction') if k in sample}
        images = {
            k.removeprefix('image_'): v for k, v in sample.items() if 'image' in k
        }
        records = {m: Modality.of(record) for m, record in RECORDS.items()}
        return plot_images(
            images, records, {k: v for k, v in maps.items() if v.ndim > 1}
        )


def regression(**options: Any) -> LateFusionRegression:
    torch.manual_seed(0)
    return LateFusionRegression(
        MODALITIES, 'test_resnet', standardize_targets=True, **options
    )


def pixelwise(**options: Any) -> LateFusionPixelwiseRegression:
    torch.manual_seed(0)
    return LateFusionPixelwiseRegression(
        MODALITIES, 'fcn', 'test_resnet', standardize_targets=True, **options
    )


def predictions(batches: Any) -> Tensor:
    return torch.cat([b['values'] if isinstance(b, dict) else b for b in batches])


@pytest.mark.parametrize('size', [0, 32])
def test_metrics_are_those_of_sklearn_over_known_targets_in_their_unit(
    size: int, tmp_path: Path
) -> None:
    data = Numbers(size=size)
    task: Any = (pixelwise if size else regression)(test_modality_subsets=True, lr=0.01)
    logger = TensorBoardLogger(tmp_path)
    run = trainer(max_epochs=2, logger=logger)
    run.fit(task, data)
    known = torch.stack([s['mask' if size else 'label'] for s in data.samples])
    valid = ~known.isnan()
    torch.testing.assert_close(task.target_mean, known[valid].mean()[None])
    torch.testing.assert_close(
        task.target_std, known[valid].std(correction=0)[None], rtol=1e-3, atol=0
    )
    (found,) = run.test(task, data, verbose=False)
    y_hat = predictions(run.predict(task, data))
    assert y_hat.shape == (20, 1, *known.shape[1:])
    y, p = known[valid].double().numpy(), y_hat[:, 0][valid].double().numpy()
    expected = {
        'RMSE': root_mean_squared_error(y, p),
        'MSE': root_mean_squared_error(y, p) ** 2,
        'MAE': mean_absolute_error(y, p),
        'R2': r2_score(y, p),
    }
    for name, value in expected.items():
        assert found[f'test_{name}'] == pytest.approx(value, rel=1e-3)
    # The loss is in the units of the model.
    loss = expected['MSE'] / task.target_std.item() ** 2
    assert found['test_loss'] == pytest.approx(loss, rel=1e-3)
    assert {f'test_R2_{m}' for m in MODALITIES} <= set(found)


def test_figures_show_numbers_in_their_unit() -> None:
    mask = torch.tensor([[1.0, 2.0], [torch.nan, 5.0]])
    figure = plot_images({}, {}, {'mask': mask, 'prediction': mask[None] + 1})
    images = [axis.images[0] for axis in figure.axes[:2]]
    assert all(image.get_clim() == (1, 6) for image in images)
    assert np.isnan(np.asarray(images[0].get_array()).astype(float)).sum() == 1
    seen: list[Any] = []

    class Experiment:
        def add_figure(self, name: str, figure: Any, global_step: int) -> None:
            seen.append(np.asarray(figure.axes[3].images[0].get_array()))

    class Logger:
        experiment = Experiment()

    data, task = Numbers(length=4, size=32), pixelwise()
    task.target_mean += 2000
    before = LateFusionPixelwiseRegression.logger
    try:
        LateFusionPixelwiseRegression.logger = Logger()  # type: ignore[assignment]
        trainer().validate(task, data, verbose=False)
    finally:
        LateFusionPixelwiseRegression.logger = before  # type: ignore[method-assign]
    assert len(seen) == 1 and abs(seen[0].mean() - 2000) < 100


def test_several_outputs_have_metrics_of_their_own() -> None:
    data = Numbers(outputs=2)
    task = regression(num_outputs=2, labels=['up', 'down'], loss='huber')
    run = trainer()
    run.fit(task, data)
    (found,) = run.test(task, data, verbose=False)
    y_hat = predictions(run.predict(task, data))
    known = torch.stack([s['label'] for s in data.samples])
    valid = ~known[:, 0].isnan()
    known, y_hat = known.double(), y_hat.double()
    scores = r2_score(known[valid], y_hat[valid], multioutput='raw_values')
    for name, score in zip(('up', 'down'), scores, strict=True):
        assert found[f'test_R2_{name}'] == pytest.approx(score, rel=1e-2)
    assert found['test_R2'] == pytest.approx(scores.mean(), rel=1e-2)
    assert {'test_RMSE_up', 'test_MAE_down', 'test_MSE_up'} <= set(found)


def test_a_checkpoint_keeps_the_units_and_a_resumed_fit_is_exact(
    tmp_path: Path,
) -> None:
    def fit(epochs: int, checkpoint: Path | None = None) -> tuple[Any, Any]:
        task, run = regression(lr=0.01), trainer(max_epochs=epochs)
        run.fit(task, Numbers(seed=0), ckpt_path=checkpoint)
        return task, run

    whole, _ = fit(2)
    _, run = fit(1)
    run.save_checkpoint(tmp_path / 'half.ckpt')
    task = regression(lr=0.01)
    other = Numbers(seed=0)
    # The units are those of the first fit, even if the targets have changed.
    other.setup('fit')
    run = trainer(max_epochs=2)
    run.fit(task, other, ckpt_path=tmp_path / 'half.ckpt')
    state = task.state_dict()
    assert all(v.equal(state[k]) for k, v in whole.state_dict().items())
    run.save_checkpoint(tmp_path / 'x.ckpt')
    again = LateFusionRegression.load_from_checkpoint(tmp_path / 'x.ckpt')
    expected = predictions(run.predict(task, other))
    assert predictions(trainer().predict(again, other)).equal(expected)
    assert abs(expected.mean() - 2000) < 40


def test_a_cached_probe_with_a_missing_modality_equals_one_on_images() -> None:
    def fit(cache: bool) -> Tensor:
        task = regression(
            freeze_backbone=True,
            cache_features=cache,
            missing_modalities=['s1'],
            optimizer='sgd',
        )
        run, data = trainer(max_epochs=2), Numbers(length=16)
        run.fit(task, data)
        (found,) = run.validate(task, data, verbose=False)
        assert math.isfinite(found['val_R2'])
        return task.model.head.weight.detach()

    torch.testing.assert_close(fit(True), fit(False), rtol=1e-4, atol=1e-6)


def test_ignores_nodata_of_cropped_maps() -> None:
    data = Numbers(size=32, unknown=-9999.0)
    task = pixelwise(nodata=-9999.0, crop_scale=[0.8, 1.0])
    run = trainer()
    run.fit(task, data)
    assert 1990 < task.target_mean.item() < 2040
    (found,) = run.test(task, data, verbose=False)
    assert found['test_RMSE'] < 100
    y = torch.tensor([[[1.0, torch.nan], [1.0, 2.0]]])[:, None]
    assert pixelwise(nodata=2)._target({'mask': y}).isnan().sum() == 2


def test_unknown_targets_have_no_gradient() -> None:
    y_hat = torch.randn(3, 2, requires_grad=True)
    y = torch.tensor([[1.0, torch.nan], [torch.nan] * 2, [3.0, 4.0]])
    for loss in ('mse', 'mae', 'huber'):
        (gradient,) = torch.autograd.grad(MaskedRegressionLoss(loss)(y_hat, y), y_hat)  # type: ignore[arg-type]
        assert gradient.isfinite().all() and gradient[y.isnan()].eq(0).all()
    assert MaskedRegressionLoss()(y_hat, torch.full_like(y, torch.nan)) == 0


def test_metrics_of_few_targets_are_nan() -> None:
    one, unknown = torch.ones(1, 1), torch.full((1, 1), torch.nan)
    score = MaskedR2Score()
    score.update(one, one)
    assert score.compute().isnan()
    error = MaskedMeanSquaredError()
    error.update(one, unknown)
    assert error.compute().isnan()


@pytest.mark.parametrize(
    ('label', 'options', 'message'),
    [
        (
            torch.full((4,), -3.4e38),
            {},
            r'label must contain finite numbers, .* set nodata',
        ),
        (torch.full((4,), torch.inf), {}, r'got inf; set nodata'),
        (torch.rand(4, 3), {}, r'shape \(B, 1\) .* got \(4, 3\); set num_outputs'),
    ],
)
def test_targets_that_no_sensor_measures_are_refused(
    label: Tensor, options: dict[str, Any], message: str
) -> None:
    task = LateFusionRegression({'s1': 2}, 'test_resnet', **options)
    samples = [{'image_s1': torch.rand(2, 32, 32), 'label': y} for y in label]
    loader: Any = DataLoader(samples, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        trainer().test(task, loader, verbose=False)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'loss': 'ce'}, r"loss must be one of \['mse', 'mae', 'huber'\], got 'ce'"),
        ({'num_outputs': 0}, 'num_outputs must be positive, got 0'),
        (
            {'labels': ['a', 'b']},
            r"labels must have the length 1 of num_outputs, got \['a', 'b'\]",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        regression(**options)


def test_standardizing_needs_targets_that_differ() -> None:
    with pytest.raises(ValueError, match=r'needs two different known targets .* \[4\]'):
        target_moments([torch.ones(4, 1)], 1)
    loader: Any = DataLoader(Numbers().samples, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r'standardize_targets needs a datamodule'):
        trainer().fit(regression(), loader, loader)


def test_options_have_the_names_of_torchgeo() -> None:
    same = {'num_outputs': 2, 'labels': ['a', 'b'], 'loss': 'mae', 'lr': 0.1}
    theirs = Regression('resnet18', **same)  # type: ignore[arg-type]
    ours = regression(**same)
    assert {k: ours.hparams[k] for k in same} == {k: theirs.hparams[k] for k in same}
    names = {k.removeprefix('val_') for k in theirs.val_metrics}
    assert names <= {k.removeprefix('val_') for k in ours.val_metrics} | {
        f'{k}' for k in names
    }


class Multilabel(Numbers):
    """Scenes with three labels, of which the last is rare."""

    def __init__(self, ignored: bool = False) -> None:
        super().__init__(length=16)
        for i, sample in enumerate(self.samples):
            sample['label'] = torch.tensor([i % 2, i % 4 == 0, i == 3]).long()
            if ignored and i == 0:
                sample['label'] = torch.full((3,), -1)


def multilabel(**options: Any) -> LateFusionClassification:
    torch.manual_seed(0)
    kind: dict[str, Any] = {'task': 'multilabel', 'num_labels': 3, 'loss': 'bce'}
    return LateFusionClassification(MODALITIES, 'test_resnet', **{**kind, **options})


class TestPositiveWeights:
    @pytest.mark.parametrize('shape', [(5, 3), (5, 3, 4, 4)])
    def test_loss_equals_that_of_torch(self, shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        logits, y = torch.randn(shape), torch.randint(0, 2, shape)
        weight = torch.tensor([1.0, 2.0, 9.0])
        spread = weight.reshape(-1, *[1] * (len(shape) - 2))
        expected = binary_cross_entropy_with_logits(
            logits, y.float(), pos_weight=spread
        )
        found = MaskedLoss(False, pos_weight=weight)(logits, y)
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize('ignored', [False, True])
    def test_balanced_counts_the_training_labels_once(
        self, ignored: bool, tmp_path: Path
    ) -> None:
        task = multilabel(pos_weight='balanced', ignore_index=-1 if ignored else None)
        run = trainer()
        run.fit(task, Multilabel(ignored))
        expected = [7 / 8, 12 / 3, 14] if ignored else [1, 3, 15]
        assert task.criterion.pos_weight.tolist() == pytest.approx(expected)
        run.save_checkpoint(tmp_path / 'x.ckpt')
        again = LateFusionClassification.load_from_checkpoint(tmp_path / 'x.ckpt')
        (a,), (b,) = (
            trainer().test(t, Multilabel(ignored), verbose=False) for t in (task, again)
        )
        assert a == b and math.isfinite(a['test_loss'])
        (plain,) = trainer().test(multilabel(), Multilabel(), verbose=False)
        assert plain['test_loss'] != a['test_loss']

    def test_a_list_is_no_part_of_a_checkpoint(self) -> None:
        task = multilabel(pos_weight=[1.0, 2.0, 3.0])
        assert not [k for k in task.state_dict() if 'pos_weight' in k]
        trainer().fit(task, Multilabel())

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'pos_weight': [1.0, 2.0]}, r'a list of 3 numbers, one per label'),
            ({'pos_weight': 'even'}, r"must be 'balanced' or a list .* got 'even'"),
            ({'pos_weight': [1.0, 0.0, 1.0]}, r'pos_weight must be positive'),
            (
                {'pos_weight': 'balanced', 'loss': 'dice'},
                r"pos_weight must be None for loss 'dice'",
            ),
        ],
    )
    def test_options_that_do_not_fit_are_refused(
        self, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            multilabel(**options)

    def test_a_label_without_positive_samples_is_named(self) -> None:
        data = Multilabel()
        for sample in data.samples:
            sample['label'][2] = 0
        task = multilabel(pos_weight='balanced', labels=['a', 'b', 'rare'])
        with pytest.raises(ValueError, match=r"only one kind for \['rare'\] in 16"):
            trainer().fit(task, data)


Runner = Callable[..., dict[str, float]]


def test_the_command_runs_every_step(runner: Callable[[str], Runner]) -> None:
    run = runner('late_fusion_regression.yaml')
    assert 'val_R2' in run('fit')
    run('validate')
    run('predict')
    values = run('test')
    assert {'test_RMSE', 'test_R2_s1', 'test_R2_s2'} <= set(values)
    alone = run('test', missing_modalities=['s1'], test_modality_subsets=False)
    assert alone['test_RMSE'] == pytest.approx(values['test_RMSE_s2'], rel=1e-4)
