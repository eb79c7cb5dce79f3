"""Check the differences of the segmentation task from classification."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torch.utils.data import DataLoader

from tests.helpers.small_fits import trainer
from torchgeo_decur.datamodules import SyntheticEODataModule
from torchgeo_decur.tasks import LateFusionSegmentation

Runner = Callable[..., dict[str, float]]
MODALITIES = {'s1': 2, 's2': 13, 'dem': 1}


def segmentation(number: int = 2, **kwargs: Any) -> LateFusionSegmentation:
    options: dict[str, Any] = {
        'modalities': dict(list(MODALITIES.items())[:number]),
        'backbone': 'test_resnet',
        'num_classes': 8,
        'ignore_index': 0,
    }
    return LateFusionSegmentation(**{**options, **kwargs})


def datamodule(number: int = 2, size: int = 48) -> SyntheticEODataModule:
    return SyntheticEODataModule(
        list(MODALITIES)[:number], length=4, val_length=6, batch_size=4, size=size
    )


class TestCommandLine:
    def test_fits_validates_tests_and_predicts(
        self, runner: Callable[[str], Runner]
    ) -> None:
        run = runner('late_fusion_segmentation.yaml')
        assert 'val_AverageJaccardIndex' in run('fit')
        run('validate')
        run('predict')
        values = run('test')
        assert all(
            math.isfinite(values[f'test_AverageJaccardIndex{s}'])
            for s in ('', '_s1', '_s2')
        )
        for missing, other in (('s1', '_s2'), ('s2', '_s1')):
            alone = run(
                'test', missing_modalities=[missing], test_modality_subsets=False
            )
            expected = values[f'test_AverageJaccardIndex{other}']
            assert alone['test_AverageJaccardIndex'] == pytest.approx(expected)

    @pytest.mark.parametrize('modality', ['s1', 's2'])
    def test_trains_with_one_modality(
        self, runner: Callable[[str], Runner], modality: str
    ) -> None:
        run = runner('late_fusion_segmentation.yaml')
        options = {'modalities': {modality: MODALITIES[modality]}, 'model': 'unet'}
        run('fit', **options)
        assert math.isfinite(run('test', **options)['test_loss'])

    def test_cmx_runs_with_each_modality_missing(
        self, runner: Callable[[str], Runner]
    ) -> None:
        run = runner('late_fusion_segmentation.yaml')
        options: dict[str, Any] = {'model': 'cmx', 'modality_dropout': 0.3}
        assert 'val_AverageJaccardIndex' in run('fit', **options)
        run('validate', **options)
        values = run('test', **options)
        for missing, other in (('s1', '_s2'), ('s2', '_s1')):
            expected = values[f'test_AverageJaccardIndex{other}']
            options |= {'missing_modalities': [missing], 'test_modality_subsets': False}
            alone = run('test', **options)
            assert alone['test_AverageJaccardIndex'] == pytest.approx(expected)
            assert math.isfinite(alone['test_loss'])
            run('predict', **options)


def test_mean_intersection_over_union_is_computed_over_the_whole_split() -> None:
    torch.manual_seed(0)
    data, task = datamodule(), segmentation()
    (found,) = trainer().test(task, data, verbose=False)
    data.setup('test')
    (batch,) = DataLoader(data.test_dataset, batch_size=6)
    batch = data.aug(batch)
    task.eval()
    with torch.no_grad():
        logits = task({m: batch[f'image_{m}'] for m in ('s1', 's2')})
    scored = batch['mask'] != 0
    truth = batch['mask'][scored].numpy()
    guess = logits.argmax(1)[scored].numpy()
    classes = sorted((set(np.unique(truth)) | set(np.unique(guess))) - {0})
    expected = jaccard_score(truth, guess, labels=classes, average='macro')
    assert found['test_AverageJaccardIndex'] == pytest.approx(expected, abs=1e-5)
    loss = torch.nn.functional.cross_entropy(logits, batch['mask'], ignore_index=0)
    assert found['test_loss'] == pytest.approx(loss.item(), rel=0.05)


@pytest.mark.parametrize('number', [1, 3])
def test_takes_any_number_of_modalities_and_odd_sizes(number: int) -> None:
    task, data = segmentation(number, model='unet'), datamodule(number, size=35)
    run = trainer()
    run.fit(task, data)
    batches = run.predict(task, data)
    assert batches is not None
    probabilities = batches[0]['probabilities']
    assert probabilities.shape == (4, 8, 35, 35)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4, 35, 35))
    assert batches[0]['bounds'] is None


def test_frozen_encoders_do_not_change() -> None:
    task = segmentation(freeze_backbone=True)
    before = {k: v.clone() for k, v in task.state_dict().items()}
    trainer().fit(task, datamodule())
    changed = {k for k, v in task.state_dict().items() if not v.equal(before[k])}
    assert changed and all(k.startswith('model.decoder.') for k in changed)


def test_frozen_cmx_learns_all_but_its_encoders() -> None:
    task = segmentation(model='cmx', freeze_backbone=True)
    before = {k: v.clone() for k, v in task.state_dict().items()}
    trainer().fit(task, datamodule())
    changed = {k for k, v in task.state_dict().items() if not v.equal(before[k])}
    assert not any(k.startswith('model.encoders.') for k in changed)
    for part in ('rectification', 'fusion', 'decoder'):
        assert any(k.startswith(f'model.{part}.') for k in changed)


def test_cmx_takes_samples_that_lack_a_modality() -> None:
    task = segmentation(model='cmx')
    batch = {
        'image_s1': torch.full((2, 2, 40, 40), torch.nan),
        'image_s2': torch.rand(2, 13, 40, 40),
        'available_s1': torch.zeros(2, dtype=torch.bool),
        'mask': torch.randint(8, (2, 40, 40)),
    }
    features, size = task._encode(batch, 'train')
    logits = task.model.decode(features, size)
    assert logits.shape == (2, 8, 40, 40) and logits.isfinite().all()


def test_cmx_refuses_three_modalities() -> None:
    with pytest.raises(
        ValueError,
        match=r"cmx requires exactly two modalities, got \['s1', 's2', 'dem'\]",
    ):
        segmentation(3, model='cmx')


@pytest.mark.parametrize('vertical', [True, False])
def test_upright_images_are_not_flipped_vertically(vertical: bool) -> None:
    torch.manual_seed(0)
    task = segmentation(crop_scale=[1.0, 1.0], vertical_flip=vertical)
    rows = torch.arange(48.0)[:, None].expand(16, 1, 48, 48) / 48
    batch = {
        'image_s1': rows.expand(-1, 2, -1, -1),
        'image_s2': rows.expand(-1, 13, -1, -1),
        'mask': torch.ones(16, 48, 48).long(),
    }
    moved = task._augment(batch)['image_s1']
    turned = moved[:, 0, 0].mean(1) > moved[:, 0, -1].mean(1)
    assert bool(turned.any()) == vertical


def test_maps_are_cropped_and_flipped_with_images() -> None:
    torch.manual_seed(0)
    task = segmentation(crop_scale=[0.8, 1.0])
    mask = (
        torch.randint(1, 8, (4, 6, 6)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    )
    image = mask[:, None] / 8.0
    batch = {
        'image_s1': image.expand(-1, 2, -1, -1),
        'image_s2': image.expand(-1, 13, -1, -1),
        'mask': mask,
    }
    moved = task._augment(batch)
    assert moved['mask'].shape == mask.shape and moved['mask'].dtype == mask.dtype
    assert not moved['mask'].equal(mask)
    assert set(moved['mask'].unique().tolist()) <= set(range(1, 8))
    for m in ('s1', 's2'):
        found = (moved[f'image_{m}'] * 8).round().long()
        # Only where classes meet is the image between two of them.
        same = (found == moved['mask'][:, None]).float().mean()
        assert same > 0.75
    trainer().fit(task, datamodule())


def test_takes_masks_with_a_band() -> None:
    mask = torch.ones(2, 1, 8, 8)
    assert segmentation()._target({'mask': mask}).shape == (2, 8, 8)


def test_segments_binary_masks() -> None:
    task = segmentation(
        task='binary', loss='bce', num_classes=None, ignore_index=None, model='fpn'
    )
    batch = {
        'image_s1': torch.rand(2, 2, 32, 32),
        'image_s2': torch.rand(2, 13, 32, 32),
        'mask': torch.randint(2, (2, 32, 32)),
    }
    features, size = task._encode(batch, 'train')
    logits = task.model.decode(features, size).squeeze(1)
    assert logits.shape == (2, 32, 32)
    assert task._loss(logits, batch['mask']).isfinite()


def test_a_last_training_batch_of_one_is_refused() -> None:
    task = LateFusionSegmentation(
        {'a': 2, 'b': 3}, 'deeplabv3+', 'resnet18', num_classes=3
    )
    batch = {
        'image_a': torch.rand(1, 2, 64, 64),
        'image_b': torch.rand(1, 3, 64, 64),
        'mask': torch.randint(3, (1, 64, 64)),
    }
    task.train()
    task._trainer = trainer()
    with pytest.raises(
        ValueError, match=r'at least two samples .*, got 1; drop the last'
    ):
        task.training_step(batch, 1)
