"""Check the drawings and pairs of Trifeatures, and the information in each label."""

import multiprocessing
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torchgeo.datasets import NonGeoDataset

from torchgeo_decur.datasets import Trifeatures
from torchgeo_decur.datasets.trifeatures.dataset import draw_pairs
from torchgeo_decur.datasets.trifeatures.drawing import COLOURS, SHAPES, TEXTURES, draw
from torchgeo_decur.modalities import check

LABELS = ('label_share', 'label_unique1', 'label_unique2', 'label_synergy')
SPLITS = ('train', 'val', 'test')


def pairs_of(split: str, pairing: Any, length: int = 20_000) -> np.ndarray:
    return draw_pairs(np.random.default_rng(7), length, split == 'test', pairing)


def p_value(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the p-value of the chi-squared test of two independent, uniform columns."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    expected = len(a) / table.size
    return float(chi2.sf(((table - expected) ** 2 / expected).sum(), table.size - 1))


def make(index: int) -> dict[str, np.ndarray]:
    sample = Trifeatures('val', length=8, size=32, seed=5)[index]
    return {k: v.numpy() for k, v in sample.items()}


class TestSample:
    @pytest.mark.parametrize('size', [16, 33, 64])
    def test_sample_has_the_documented_shapes_and_types(self, size: int) -> None:
        dataset = Trifeatures(length=3, size=size)
        assert isinstance(dataset, NonGeoDataset)
        assert len(dataset) == len(list(dataset)) == 3  # type: ignore[call-overload]
        sample = dataset[0]
        for m in ('first', 'second'):
            assert sample[f'image_{m}'].shape == (3, size, size)
            assert sample[f'image_{m}'].dtype == torch.float32
        for name in LABELS:
            assert sample[name].shape == ()
            assert sample[name].dtype == torch.long
        assert {k: int(sample[k]) for k in LABELS} == dataset.draw_labels(0)

    def test_values_have_the_unit_of_the_record(self) -> None:
        dataset = Trifeatures(length=16, size=32)
        images = {
            m: torch.stack([dataset[i][f'image_{m}'] for i in range(16)])
            for m in dataset.all_modalities
        }
        check(images, dataset.all_modalities)
        assert images['first'].max() > 200
        assert torch.equal(images['first'], images['first'].round())

    def test_caller_cannot_change_the_drawing(self) -> None:
        dataset = Trifeatures(length=1, size=16)
        before = dataset[0]['image_first'].clone()
        dataset[0]['image_first'].zero_()
        assert torch.equal(dataset[0]['image_first'], before)

    def test_has_ten_shapes_textures_and_colors(self) -> None:
        dataset = Trifeatures(length=2)
        assert dataset.num_classes == dict(zip(LABELS, (10, 10, 10, 2), strict=True))
        assert len(set(SHAPES)) == len(set(TEXTURES)) == len(COLOURS) == 10

    def test_applies_transforms(self) -> None:
        dataset = Trifeatures(length=2, size=16, transforms=lambda s: {'n': len(s)})
        assert dataset[0] == {'n': 6}

    def test_draws_a_sample(self) -> None:
        dataset = Trifeatures(length=1, size=32)
        figure = dataset.plot(dataset[0])
        labels = dataset.draw_labels(0)
        assert SHAPES[labels['label_share']] in figure.get_suptitle()
        assert len(figure.axes) == 2
        assert dataset.plot(dataset[0], show_titles=False).get_suptitle() == ''

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'split': 'all'}, r"split must be one of \['train', .*\], got 'all'"),
            ({'pairing': True}, r"pairing must be one of \['unbiased', .*\], got True"),
            ({'length': 0}, 'length must be at least 1, got 0'),
            ({'size': 8}, 'size must be at least 16, got 8'),
            ({'seed': -1}, 'seed must be at least 0, got -1'),
        ],
    )
    def test_rejects_invalid_arguments(
        self, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            Trifeatures(**options)

    @pytest.mark.parametrize('index', [-1, 2])
    def test_refuses_an_index_out_of_range(self, index: int) -> None:
        with pytest.raises(IndexError, match=rf'in \[0, 1\], got {index}'):
            Trifeatures(length=2)[index]


class TestDeterminism:
    @pytest.mark.filterwarnings('ignore:.*fork:DeprecationWarning')
    def test_processes_draw_the_same_pair(self) -> None:
        with multiprocessing.get_context('fork').Pool(1) as pool:
            other = pool.map(make, [3])[0]
        here = make(3)
        assert all(np.array_equal(here[k], other[k]) for k in here)

    def test_order_and_length_do_not_matter(self) -> None:
        a, b = Trifeatures(length=6, size=16), Trifeatures(length=99, size=16)
        backward = [b[i] for i in reversed(range(6))][::-1]
        for i in range(6):
            assert all(torch.equal(v, backward[i][k]) for k, v in a[i].items())

    @pytest.mark.parametrize('pairing', ['unbiased', 'biased', 'balanced'])
    def test_fewer_pairs_are_the_first_of_more(self, pairing: Any) -> None:
        few, many = (pairs_of('train', pairing, n) for n in (100, 1000))
        assert np.array_equal(few, many[:100])

    def test_seeds_and_splits_differ(self) -> None:
        drawn = [
            Trifeatures(split, 50, 16, seed)  # type: ignore[arg-type]
            for split in SPLITS
            for seed in (0, 1)
        ]
        for a, b in combinations(drawn, 2):
            assert not np.array_equal(a.pairs, b.pairs)
        # The same combination is drawn anew for each seed and for validation.
        images = [dataset._image(3, 4, 5, 0) for dataset in drawn]
        for x, y in combinations(images, 2):
            assert not torch.equal(x, y)


class TestPairs:
    def test_combinations_of_the_test_are_new(self) -> None:
        found = {
            split: {tuple(c) for c in pairs_of(split, 'unbiased').reshape(-1, 4)[:, :3]}
            for split in SPLITS
        }
        assert len(found['train']) == 800
        assert len(found['test']) == 200
        assert not found['train'] & found['test']
        assert found['val'] == found['train']

    def test_draws_each_combination_three_times(self) -> None:
        drawn = np.unique(pairs_of('train', 'unbiased').reshape(-1, 4), axis=0)
        assert len(drawn) == 2400

    def test_two_features_meet_equally_often(self) -> None:
        drawn = pairs_of('test', 'unbiased').reshape(-1, 4)
        once = np.unique(drawn[:, :3], axis=0)
        for a, b in combinations(range(3), 2):
            table = np.zeros((10, 10))
            np.add.at(table, (once[:, a], once[:, b]), 1)
            assert (table == 2).all()

    @pytest.mark.parametrize('split', ['train', 'test'])
    @pytest.mark.parametrize('pairing', ['unbiased', 'biased', 'balanced'])
    def test_shape_is_shared(self, split: str, pairing: Any) -> None:
        pairs = pairs_of(split, pairing)
        assert np.array_equal(pairs[:, 0, 0], pairs[:, 1, 0])
        assert pairs.min() == 0
        assert pairs.max(axis=(0, 1)).tolist() == [9, 9, 9, 2]

    @pytest.mark.parametrize('split', ['train', 'test'])
    def test_unbiased_features_are_independent(self, split: str) -> None:
        """Check that textures are independent of the shape, each other and the other image."""
        pairs = pairs_of(split, 'unbiased')
        shape, (colour1, texture1), (colour2, texture2) = (
            pairs[:, 0, 0],
            pairs[:, 0, 1:3].T,
            pairs[:, 1, 1:3].T,
        )
        for a, b in (
            (shape, texture1),
            (shape, texture2),
            (texture1, texture2),
            (texture1, colour2),
            (texture2, colour1),
        ):
            assert p_value(a, b) > 0.001

    @pytest.mark.parametrize('split', ['train', 'test'])
    def test_biased_pairs_share_texture_and_color(self, split: str) -> None:
        pairs = pairs_of(split, 'biased')
        assert np.array_equal(pairs[:, 0, 2], pairs[:, 1, 1])
        assert p_value(pairs[:, 0, 2], pairs[:, 0, 0]) > 0.001

    @pytest.mark.parametrize('split', ['train', 'test'])
    def test_balanced_labels_depend_on_both_images(self, split: str) -> None:
        """Check that no feature of one image reveals the label, nor do any two."""
        pairs = pairs_of(split, 'balanced')
        label = (pairs[:, 0, 2] == pairs[:, 1, 1]).astype(int)
        assert np.array_equal(label, 1 - np.arange(len(pairs)) % 2)
        for image in (0, 1):
            shape, colour, texture = pairs[:, image, :3].T
            for feature in (shape, colour, texture, *combine(shape, colour, texture)):
                assert p_value(feature, label) > 0.001
        table = np.zeros((10, 10))
        np.add.at(table, (pairs[:, 0, 2], pairs[:, 1, 1]), 1)
        assert (table > 0).all()

    def test_labels_follow_the_drawn_features(self) -> None:
        dataset = Trifeatures(length=200, pairing='balanced')
        for i in range(200):
            (shape, _, texture, _), (_, colour, other, _) = dataset.pairs[i].tolist()
            assert dataset.draw_labels(i) == {
                'label_share': shape,
                'label_unique1': texture,
                'label_unique2': other,
                'label_synergy': int(texture == colour),
            }


def combine(*features: np.ndarray) -> list[np.ndarray]:
    return [10 * a + b for a, b in combinations(features, 2)]


class TestDrawing:
    @pytest.mark.parametrize('shape', SHAPES)
    @pytest.mark.parametrize('size', [16, 64])
    def test_lies_on_the_canvas(self, shape: str, size: int) -> None:
        """Allow for rotation: the bounding box is at most 128 / 224 times the root of 2."""
        for seed in range(20):
            image = draw(shape, 'red', 'solid', size, np.random.default_rng(seed))
            assert image.dtype == np.uint8
            seen = (image != 128).any(axis=0)
            assert seen.any(axis=0).sum() <= size * 128 / 224 * 2**0.5 + 2
            # Edges are grey, but for the smooth rim of a corner that touches one.
            assert seen[0].mean() < 0.4 and seen[:, -1].mean() < 0.4

    def test_places_and_angles_vary(self) -> None:
        images = [
            draw('tee', 'white', 'solid', 64, np.random.default_rng(s))
            for s in range(40)
        ]
        y, x = np.mgrid[:64, :64]
        weights = np.stack([image[0] - 128.0 for image in images])
        for axis in (x, y):
            centres = (weights * axis).sum((1, 2)) / weights.sum((1, 2))
            assert centres.min() < 28 and centres.max() > 36

    @pytest.mark.parametrize('colour', COLOURS)
    def test_draws_the_color_on_gray(self, colour: str) -> None:
        image = draw('circle', colour, 'solid', 64, np.random.default_rng(0))
        pixels, counts = np.unique(image.reshape(3, -1), axis=1, return_counts=True)
        two = pixels[:, counts.argsort()[-2:]].T.tolist()
        assert sorted(two) == sorted([list(COLOURS[colour]), [128] * 3])

    def test_textures_differ(self) -> None:
        """Check that textures differ in pattern or in the fraction of dark pixels."""
        images = [
            draw('square', 'white', t, 64, np.random.default_rng(1))[0].astype(float)
            for t in TEXTURES
        ]
        for a, b in combinations(images, 2):
            assert np.abs(a - b)[(a != 128) | (b != 128)].mean() > 30
        inside = images[0] > 200
        for image in images[1:]:
            assert 0.2 < (image[inside] > 150).mean() < 0.75

    def test_shapes_differ_at_any_angle(self) -> None:
        """Compare area and second moments, which depend on the angle only by sampling."""

        def numbers(shape: str, seed: int) -> tuple[float, float, float]:
            image = draw(shape, 'white', 'solid', 96, np.random.default_rng(seed))
            mass = (image[0] - 128.0) / 127
            y, x = np.mgrid[:96, :96]
            area = mass.sum()
            dx, dy = x - (mass * x).sum() / area, y - (mass * y).sum() / area
            xx, yy, xy = ((mass * m).sum() / area for m in (dx * dx, dy * dy, dx * dy))
            spread, skew = xx + yy, np.hypot(xx - yy, 2 * xy)
            return area, spread, skew

        found = {s: np.array([numbers(s, k) for k in range(4)]) for s in SHAPES}
        for a, b in combinations(SHAPES, 2):
            apart = np.abs(found[a].mean(0) - found[b].mean(0))
            noise = found[a].std(0) + found[b].std(0)
            assert (apart > 4 * noise + 1).any(), (a, b)

    def test_edges_are_smooth(self) -> None:
        image = draw('circle', 'white', 'solid', 64, np.random.default_rng(0))
        between = (image[0] > 135) & (image[0] < 245)
        assert 40 < between.sum() < 300
