"""Compare analyses with known answers."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchgeo_decur.analysis import (
    AnalysisResult,
    Embeddings,
    NotApplicable,
    alignment_histogram,
    alignment_loss,
    cross_modal_retrieval,
    dimension_map,
    dropped_dimensions,
    effective_ranks,
    probe_parts,
    training_curves,
)
from torchgeo_decur.analysis.dimension_maps import (
    Marks,
    correlation_distance,
    silhouettes,
)

COMMON, UNIQUE, N = 24, 16, 600


def only(result: AnalysisResult, table: str, **values: Any) -> dict[str, Any]:
    """Return the only row of a table with these values."""
    rows = [
        r for r in result.tables[table] if all(r[k] == v for k, v in values.items())
    ]
    assert len(rows) == 1, (values, len(rows))
    return dict(rows[0])


@pytest.fixture(scope='module')
def mapped(known: Embeddings) -> AnalysisResult:
    return dimension_map(known)


@pytest.fixture(scope='module')
def probed(known: Embeddings) -> AnalysisResult:
    return probe_parts(known, times=200)


class TestAlignment:
    def test_common_dimensions_align_and_unique_do_not(self, known: Embeddings) -> None:
        result = alignment_histogram(known)
        common = only(result, 'alignment', part='common')
        assert common['dimensions'] == COMMON
        assert common['mean_loss'] == pytest.approx(0, abs=1e-4)
        assert common['aligned_percent'] == 100
        unique = only(result, 'alignment', part='unique')
        assert unique['dimensions'] == UNIQUE
        assert unique['mean_loss'] == pytest.approx(1, abs=0.05)
        assert unique['aligned_percent'] == 0
        each = result.tables['dimensions']
        assert [r['part'] for r in each] == ['common'] * COMMON + ['unique'] * UNIQUE
        assert all(r['loss'] < 1e-4 for r in each[:COMMON])
        assert all(0.6 < r['loss'] < 1.5 for r in each[COMMON:])

    def test_histogram_holds_every_dimension(self, known: Embeddings) -> None:
        (axis,) = alignment_histogram(known).figures['histogram'].axes
        # Polygons of common, unique and all: shares that add up to 100 percent.
        assert len(axis.patches) == 3
        for patch in axis.patches:
            heights = patch.get_path().vertices[:, 1]
            assert heights.max() <= 100.0001
        assert 'loss' in axis.get_xlabel() and '%' in axis.get_ylabel()

    def test_adds_a_row_of_the_baseline(self, known: Embeddings) -> None:
        z = next(iter(known.z.values()))
        other = Embeddings.of({'s1': z, 's2': -z})
        result = alignment_histogram(known, other)
        row = only(result, 'alignment', part='baseline')
        assert row['mean_loss'] == pytest.approx(4, abs=1e-3)

    def test_compares_every_pair(self) -> None:
        z = torch.randn(50, 3)
        result = alignment_histogram(Embeddings.of({'a': z, 'b': z, 'c': -z}))
        losses = [(r['modalities'], r['mean_loss']) for r in result.tables['alignment']]
        assert losses == [
            ('a and b', pytest.approx(0, abs=1e-3)),
            ('a and c', pytest.approx(4, abs=1e-3)),
            ('b and c', pytest.approx(4, abs=1e-3)),
        ]

    def test_loss_is_the_squared_distance_to_one(self) -> None:
        assert alignment_loss(torch.tensor([1.0, 0.0, -1.0])).tolist() == [0, 1, 4]

    def test_needs_two_modalities(self) -> None:
        with pytest.raises(
            NotApplicable, match=r"needs two modalities .*, got \{'s1': 2\}"
        ):
            alignment_histogram(Embeddings.of({'s1': torch.rand(4, 2)}))


class TestDimensions:
    def test_common_dimensions_cluster_in_pairs(self, mapped: AnalysisResult) -> None:
        def silhouette(part: str, space: str) -> float:
            row = only(mapped, 'silhouettes', clusters='pairs', part=part, space=space)
            return float(row['silhouette'])

        assert silhouette('common', 'dimensions') > 0.99
        assert silhouette('common', 'picture') > 0.9
        assert abs(silhouette('unique', 'dimensions')) < 0.2

    def test_silhouette_falls_with_shuffled_marks(self, known: Embeddings) -> None:
        z = known.z['s1'].numpy()[:, :COMMON].T
        distance = correlation_distance(np.concatenate([z, z]))
        part = np.array(['common'] * 2 * COMMON)
        number = np.repeat([0, 1], COMMON)
        shuffled = np.random.default_rng(0).permutation(COMMON)
        right = np.tile(np.arange(COMMON), 2)
        wrong = np.concatenate([np.arange(COMMON), shuffled])
        found = [
            silhouettes(distance, Marks(number, part, place))[0]['silhouette']
            for place in (right, wrong)
        ]
        assert found[0] == pytest.approx(1)
        assert found[1] < 0.15

    def test_separates_groups_that_lie_apart(self) -> None:
        # Each group of dimensions follows a factor of its own.
        random = torch.Generator().manual_seed(0)
        factors = torch.randn(200, 3, generator=random)
        groups = {'a': [0] * 8 + [1] * 8, 'b': [0] * 8 + [2] * 8}
        z = {
            m: factors[:, places] + 0.1 * torch.randn(200, 16, generator=random)
            for m, places in groups.items()
        }
        mapped = dimension_map(Embeddings.of(z, common_dim=8))
        for space in ('dimensions', 'picture'):
            for part in ('common', 'unique'):
                row = only(
                    mapped, 'silhouettes', clusters='groups', part=part, space=space
                )
                assert row['silhouette'] > 0.8
            values = {
                part: only(
                    mapped, 'silhouettes', clusters='modalities', part=part, space=space
                )['silhouette']
                for part in ('common', 'unique')
            }
            assert values['common'] < 0.1 and values['unique'] > 0.8

    def test_table_has_every_point(self, mapped: AnalysisResult) -> None:
        points = mapped.tables['points']
        assert len(points) == 2 * (COMMON + UNIQUE)
        assert {r['modality'] for r in points} == {'s1', 's2'}

    def test_draws_at_most_max_points(self, known: Embeddings) -> None:
        points = dimension_map(known, max_points=20).tables['points']
        parts = [r['part'] for r in points]
        assert (parts.count('common'), parts.count('unique')) == (12, 8)
        places = {
            m: [r['dimension'] for r in points if r['modality'] == m] for m in known.z
        }
        assert places['s1'] == places['s2']

    def test_distance_is_one_minus_the_correlation(self) -> None:
        x = np.array([[1.0, -1, 0], [2, -2, 0], [-1, 1, 0], [1, 1, -2]])
        expected = [[0, 0, 2, 1], [0, 0, 2, 1], [2, 2, 0, 1], [1, 1, 1, 0]]
        np.testing.assert_allclose(correlation_distance(x), expected, atol=1e-12)


class TestProbes:
    @pytest.mark.parametrize('classifier', ['knn', 'linear'])
    def test_finds_a_label_in_the_common_dimensions(
        self, probed: AnalysisResult, classifier: str
    ) -> None:
        for name in ('s1', 's2', 's1+s2'):
            what = {'label': 'label', 'name': name, 'classifier': classifier}
            assert only(probed, 'probes', part='common', **what)['score'] > 95
            unique = only(probed, 'probes', part='unique', **what)
            assert unique['score'] == pytest.approx(100 / 3, abs=8)
            assert unique['low'] < unique['chance'] < unique['high']
            rows = [
                r
                for r in probed.tables['differences']
                if all(r[k] == v for k, v in what.items())
            ]
            (all_of_each, as_many) = rows
            assert all_of_each['verdict'] == 'common significantly better'
            assert all_of_each['low'] > 50 < all_of_each['difference']
            widths = (2 * COMMON, 2 * UNIQUE) if name == 's1+s2' else (COMMON, UNIQUE)
            assert all_of_each['dimensions'] == '{} and {}'.format(*widths)
            assert as_many['dimensions'] == f'{widths[1]} and {widths[1]}'

    def test_finds_a_label_in_the_unique_dimensions_of_s1(
        self, probed: AnalysisResult
    ) -> None:
        def verdict(name: str) -> str:
            rows = [
                r
                for r in probed.tables['differences']
                if (r['label'], r['name'], r['classifier'])
                == ('label_s1', name, 'linear')
            ]
            return str(rows[0]['verdict'])

        assert verdict('s1') == 'unique significantly better'
        assert verdict('s2') == 'embeddings and features at chance'
        assert '- unique significantly better: label_s1 in s1' in probed.text

    def test_probes_features_before_the_projector(self, probed: AnalysisResult) -> None:
        for name, score in (('s1', 33), ('s2', 100)):
            row = only(
                probed,
                'probes',
                label='label',
                name=name,
                part='features',
                classifier='linear',
            )
            assert row['score'] == pytest.approx(score, abs=8)

    def test_scores_several_labels_by_average_precision(
        self, probed: AnalysisResult
    ) -> None:
        what = {'label': 'label_several', 'name': 's1', 'classifier': 'linear'}
        row = only(probed, 'probes', part='all', **what)
        assert row['metric'] == 'average precision' and row['score'] > 95

    def test_draws_one_panel_for_each_label(self, probed: AnalysisResult) -> None:
        titles = [a.get_title(loc='left') for a in probed.figures['probes'].axes]
        labels = ['label', 'label_s1', 'label_several']
        assert titles[:3] == [f'{label}, linear probe' for label in labels]

    def test_probes_all_dimensions_without_common_and_unique_ones(
        self, known: Embeddings
    ) -> None:
        result = probe_parts(replace(known, common_dim=None), times=20)
        assert {r['part'] for r in result.tables['probes']} == {'all', 'features'}
        assert 'differences' not in result.tables
        assert 'does not distinguish common and unique dimensions' in result.text

    def test_needs_labels(self, known: Embeddings) -> None:
        for analyse in (probe_parts, dropped_dimensions):
            with pytest.raises(NotApplicable, match=r'need labels .*\(keys label\*\)'):
                analyse(replace(known, labels={}))


class TestDropping:
    def test_scores_fall_with_the_dimensions_of_the_label(
        self, known: Embeddings
    ) -> None:
        result = dropped_dimensions(known, (0.0, COMMON / (COMMON + UNIQUE)), times=50)

        def score(label: str, dropped: str, number: int) -> float:
            row = only(
                result,
                'dropped',
                label=label,
                modality='s1',
                dropped=dropped,
                dimensions_dropped=number,
            )
            return float(row['score'])

        assert score('label', 'most aligned', 0) > 95
        assert score('label', 'most aligned', 0) == score('label', 'at random', 0)
        assert score('label', 'most aligned', COMMON) == pytest.approx(33, abs=10)
        assert score('label_s1', 'most aligned', COMMON) > 95

    def test_refuses_shares_out_of_range(self, known: Embeddings) -> None:
        with pytest.raises(
            ValueError, match=r'shares must be in \[0, 1\), got \[1.0\]'
        ):
            dropped_dimensions(known, [1.0])


class TestRetrieval:
    def test_common_dimensions_retrieve_and_unique_stay_at_chance(
        self, known: Embeddings
    ) -> None:
        result = cross_modal_retrieval(known)
        for m, n in (('s1', 's2'), ('s2', 's1')):
            way = {'from': m, 'to': n}
            common = only(result, 'retrieval', part='common', **way)
            assert [common[f'recall_{k}'] for k in (1, 5, 10)] == [100, 100, 100]
            unique = only(result, 'retrieval', part='unique', **way)
            for k in (1, 5, 10):
                assert unique[f'recall_{k}'] == pytest.approx(100 * k / N, abs=1.5)
            low, high = unique['low_10'], unique['high_10']
            assert low < 1000 / N < high
        assert 'from all samples in the other modality' in result.text

    def test_collapse_scores_as_chance(self) -> None:
        z = torch.ones(50, 4)
        row = cross_modal_retrieval(Embeddings.of({'a': z, 'b': z})).tables[
            'retrieval'
        ][0]
        assert [row[f'recall_{k}'] for k in (1, 5, 10)] == [2, 10, 20]


class TestRank:
    def test_rank_counts_the_directions_in_use(self) -> None:
        random = torch.Generator().manual_seed(0)
        full = torch.linalg.qr(torch.randn(64, 8, generator=random))[0]
        low = full[:, :2] @ torch.randn(2, 8, generator=random)
        result = effective_ranks(Embeddings.of({'a': full, 'b': low}, h={'a': full}))
        ranks = {(r['name'], r['part']): r['rank'] for r in result.tables['ranks']}
        assert ranks['a', 'all'] == ranks['a', 'features'] == pytest.approx(8, abs=0.01)
        assert 1 < ranks['b', 'all'] <= 2.01


class TestCurves:
    def test_summarizes_each_metric(self, tmp_path: Path) -> None:
        file = tmp_path / 'metrics.csv'
        with file.open('w', newline='') as opened:
            writer = csv.writer(opened)
            writer.writerow(['epoch', 'step', 'train_loss', 'std_s1', 'other'])
            writer.writerows(
                [[0, 0, 3.0, '', 1], [0, 1, 2.0, 0.5, ''], [1, 2, 2.5, '', '']]
            )
        result = training_curves(file)
        row = only(result, 'metrics', metric='train_loss')
        assert [row[k] for k in ('first', 'lowest', 'highest', 'last')] == [
            3,
            2,
            3,
            2.5,
        ]
        axes = result.figures['curves'].axes
        assert [a.get_title(loc='left') for a in axes] == [
            'Loss',
            'Spread of the features',
        ]
        assert list(axes[0].get_lines()[0].get_xdata()) == [0, 1, 2]

    def test_draws_a_panel_for_each_label_and_validation_dashed(
        self, tmp_path: Path
    ) -> None:
        file = tmp_path / 'metrics.csv'
        names = ['probe_label_a_s1_linear', 'probe_label_a_s1+s2_linear']
        names += ['probe_label_b_s1_linear', 'probe_label_b_s1_knn']
        names += ['train_intra_s1', 'val_intra_s1']
        rows = [['step', *names], [0, *range(6)], [1, *range(6)]]
        file.write_text('\n'.join(','.join(map(str, row)) for row in rows))
        axes = training_curves(file).figures['curves'].axes[:3]
        assert [a.get_title(loc='left') for a in axes] == [
            'Parts of the loss (validation dashed)',
            'Linear probe of label_a',
            'Linear probe of label_b',
        ]
        assert [line.get_linestyle() for line in axes[0].get_lines()] == ['-', '--']
        texts = [text.get_text() for text in axes[1].get_legend().get_texts()]
        assert texts == ['s1+s2', 's1']

    @pytest.mark.parametrize('text', [None, 'epoch\n1\n', 'step,epoch\n1,1\n'])
    def test_needs_metrics_to_draw(self, tmp_path: Path, text: str | None) -> None:
        file = tmp_path / 'metrics.csv'
        if text is not None:
            file.write_text(text)
        with pytest.raises(NotApplicable, match=r'metrics\.csv'):
            training_curves(file)
