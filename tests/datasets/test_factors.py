"""Scenes with controlled factors: what each sensor shows, and what it does not."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from torchgeo_decur.datamodules import SyntheticFactorsDataModule
from torchgeo_decur.datasets import SyntheticFactors
from torchgeo_decur.modalities import MODALITIES


@pytest.fixture(scope='module')
def dataset() -> SyntheticFactors:
    return SyntheticFactors(length=64, size=32, num_dates=2)


def test_sample_has_images_factors_and_labels(dataset: SyntheticFactors) -> None:
    sample = dataset[3]
    assert sample['image_s1'].shape == (2, 2, 32, 32)
    assert sample['image_s2'].shape == (2, 13, 32, 32)
    assert sample['image_s2'].equal(sample['image_s2'].round())
    for group in ('shared', 's1', 's2'):
        values = sample[f'factors_{group}']
        assert values.shape == (2,) and values.dtype == torch.float32
        found = [int(sample[f'label_{group}_{i}']) for i in range(2)]
        assert found == (values * 4).int().tolist()
    assert dataset.num_classes == {
        f'label_{g}_{i}': 4 for g in ('shared', 's1', 's2') for i in range(2)
    }
    with pytest.raises(IndexError, match=r'must be in \[0, 63\], got 64'):
        dataset[64]


def test_seed_and_index_determine_a_scene(dataset: SyntheticFactors) -> None:
    again = SyntheticFactors(length=8, size=32, num_dates=2, cache=True)
    for _ in range(2):
        for key, value in again[3].items():
            assert value.equal(dataset[3][key]), key
    other = SyntheticFactors(length=8, size=32, num_dates=2, seed=1)[3]
    assert not other['factors_shared'].equal(dataset[3]['factors_shared'])


@pytest.mark.parametrize(
    ('group', 'changed'), [('shared', ['s1', 's2']), ('s1', ['s1']), ('s2', ['s2'])]
)
def test_factor_changes_only_the_sensors_that_see_it(
    dataset: SyntheticFactors, group: str, changed: list[str]
) -> None:
    low, high = (dataset.render(0, **{group: [v, v]}) for v in (0.1, 0.9))
    found = [m for m in ('s1', 's2') if not low[f'image_{m}'].equal(high[f'image_{m}'])]
    assert found == changed


def test_factors_are_independent_and_uniform() -> None:
    dataset = SyntheticFactors(length=2000, shared=2, unique={'s1': 1, 's2': 3})
    drawn = [dataset.draw_factors(i) for i in range(2000)]
    values = np.array([np.concatenate(list(d.values())) for d in drawn])
    assert values.shape == (2000, 6)
    assert np.abs(np.corrcoef(values.T) - np.eye(6)).max() < 0.08
    np.testing.assert_allclose(values.mean(0), 0.5, atol=0.03)
    np.testing.assert_allclose(values.std(0), 12**-0.5, atol=0.02)


def test_discrete_factors_have_each_state() -> None:
    dataset = SyntheticFactors(
        length=200, states=3, shared=1, unique={'s1': 1, 's2': 0}
    )
    drawn = [dataset.draw_factors(i) for i in range(200)]
    assert {float(d['shared'][0]) for d in drawn} == {0, 0.5, 1}
    assert all(len(d['s2']) == 0 for d in drawn)
    found = [int(dataset.render(i)['label_shared_0']) for i in range(8)]
    assert found == [round(2 * float(d['shared'][0])) for d in drawn[:8]]


def test_strength_of_zero_hides_the_factors() -> None:
    dataset = SyntheticFactors(size=32, strength=0)
    low, high = (dataset.render(0, shared=[v, v]) for v in (0.1, 0.9))
    assert low['image_s1'].equal(high['image_s1'])


def test_values_lie_in_the_range_of_the_sensors(dataset: SyntheticFactors) -> None:
    for m, name in dataset.all_modalities.items():
        x = torch.stack([dataset[i][f'image_{m}'] for i in range(16)])
        mean, std = (
            torch.tensor(v) for v in (MODALITIES[name].mean, MODALITIES[name].std)
        )
        middle = x.mean((0, 1, 3, 4))
        assert ((middle - mean).abs() < 2 * std).all(), m


def test_datamodule_has_other_scenes_in_each_split() -> None:
    datamodule = SyntheticFactorsDataModule(
        length=8, val_length=4, batch_size=4, size=32, label_fraction=0.5, seed=2
    )
    datamodule.setup('fit')
    (batch,) = datamodule.train_dataloader()
    val = next(iter(datamodule.val_dataloader()))
    assert batch['image_s1'].shape == val['image_s1'].shape == (4, 2, 32, 32)
    assert not batch['factors_s1'].equal(val['factors_s1'])


def test_plot_shows_every_date(dataset: SyntheticFactors) -> None:
    figure = dataset.plot(dataset[0])
    assert len(figure.axes) == 4
    plt.close(figure)


def test_plot_leaves_out_the_absent_modality() -> None:
    dataset = SyntheticFactors(length=20, size=16, paired=0.0)
    figure = dataset.plot(dataset[0])
    assert len(figure.axes) == 1
    plt.close(figure)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'shared': -1}, 'shared must be at least 0, got -1'),
        (
            {'states': 1},
            r'states must be 0 \(continuous factors\) or at least 2, got 1',
        ),
        (
            {'unique': {'s1': 1}},
            r"unique must have the keys \['s1', 's2'\], got \['s1'\]",
        ),
        ({'shared': 40}, '2 bands must have at most 17 factors, got 42'),
    ],
)
def test_errors_name_what_was_given(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticFactors(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'s3': [1]}, "got 1 for 's3'"),
        ({'s1': [1]}, 'got 1 for'),
        ({'s1': [2, 0]}, r'in \[0, 1\]'),
    ],
)
def test_render_refuses_other_factors(
    values: dict[str, list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticFactors().render(0, **values)


def test_unpaired_scenes_have_one_modality() -> None:
    dataset = SyntheticFactors(length=400, size=16, paired=0.25)
    has = np.stack(list(dataset.availability.values()))
    assert has.any(0).all()
    assert has.all(0).mean() == pytest.approx(0.25, abs=0.06)
    assert has.mean(1) == pytest.approx([0.625, 0.625], abs=0.08)
    index = int(np.flatnonzero(~has[0])[0])
    sample = dataset[index]
    assert not sample['image_s1'].any() and sample['image_s2'].any()
    assert not sample['available_s1'] and sample['available_s2']
    whole = SyntheticFactors(length=400, size=16)[index]
    assert sample['image_s2'].equal(whole['image_s2'])
    assert 'available_s1' not in whole
    with pytest.raises(ValueError, match=r'paired must be in \[0, 1\], got 2'):
        SyntheticFactors(paired=2)


def test_drops_unpaired_scenes_for_training_only() -> None:
    datamodule = SyntheticFactorsDataModule(
        length=40, val_length=8, size=16, paired=0.5, drop_unpaired=True
    )
    datamodule.setup('fit')
    assert 8 < len(datamodule.train_dataset) < 32
    assert all(
        s['available_s1'] and s['available_s2'] for s in datamodule.train_dataset
    )
    assert 'available_s1' not in datamodule.val_dataset[0]
