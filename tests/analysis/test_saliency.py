from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.toy_pretrained import ToyPretrained, corner
from torchgeo_decur.analysis import AnalysisResult, spatial_saliency, spectral_saliency
from torchgeo_decur.modalities import MODALITIES, Modality
from torchgeo_decur.tasks import CoMM, COrAL, DeCUR

S1, S2 = MODALITIES['sentinel1_grd'], MODALITIES['sentinel2_l1c']
DEM = MODALITIES['geonrw_dem']
THREE = Modality(bands=('R', 'G', 'B'), kind='rgb', unit='uint8')


def batches(
    number: int = 2, size: int = 64, **channels: int
) -> list[dict[str, Tensor]]:
    return [
        {m: torch.rand(3, c, size, size) for m, c in channels.items()}
        for _ in range(number)
    ]


def rows(result: AnalysisResult, table: str, **wanted: Any) -> list[dict[str, Any]]:
    return [
        dict(r)
        for r in result.tables[table]
        if all(r[k] == v for k, v in wanted.items())
    ]


@pytest.fixture
def toy() -> ToyPretrained:
    """Return a model: common uses band 1; unique uses band 2 of a and band 3 of b."""
    a = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    b = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -2.0]])
    return ToyPretrained(a=a, b=b)


class TestSpatial:
    def test_overlap_separates_same_and_other_positions(
        self, toy: ToyPretrained
    ) -> None:
        # Each band has a corner, one further in each sample, the same in both modalities.
        corners = [corner(1, 1, *c) for c in ((0, 0), (0, 1), (1, 1), (1, 0))]
        x = torch.cat(
            [
                torch.cat([corners[(i + band) % 4] for band in range(3)], 1)
                for i in range(4)
            ]
        )
        found = spatial_saliency(toy, [{'a': x, 'b': x}], {'a': THREE, 'b': THREE}, 1)
        (common,) = rows(found, 'overlap', part='common')
        (unique,) = rows(found, 'overlap', part='unique')
        assert common['overlap'] == pytest.approx(1)
        assert common['overlap_of_different_samples'] == pytest.approx(0)
        assert common['correlation'] == pytest.approx(1)
        assert common['overlap_of_positive_parts'] == pytest.approx(1)
        assert unique['overlap'] == pytest.approx(0)
        # The third band of a sample is where the second is in the next.
        assert unique['overlap_of_different_samples'] == pytest.approx(1)
        # The unique output of b has no positive part.
        assert (unique['samples'], unique['positive_samples']) == (4, 0)
        assert unique['overlap_of_positive_parts'] is None
        assert 'a and b: common minus unique is 1.00 (95 %' in found.text
        assert 'the difference is 2.00 (2.00 to 2.00): unique dimensions' in found.text
        assert 'overlap significantly less, as in the paper' in found.text
        assert [r['overlap'] for r in rows(found, 'samples', part='common')] == [1] * 4

    def test_a_fixed_habit_is_not_significant(self, toy: ToyPretrained) -> None:
        # All samples are alike, so the same overlap is found between them.
        x = torch.cat([corner(4, 1, *c) for c in ((0, 0), (0, 1), (1, 1))], 1)
        found = spatial_saliency(toy, [{'a': x, 'b': x}], {'a': THREE, 'b': THREE}, 1)
        assert 'common minus unique is 1.00' in found.text
        assert (
            'the difference is 0.00 (0.00 to 0.00): no significant difference'
            in found.text
        )

    def test_panel_shows_the_corner(self, toy: ToyPretrained) -> None:
        x = torch.cat([corner(1, 1, *c) for c in ((0, 0), (0, 1), (1, 1))], 1)
        found = spatial_saliency(toy, [{'a': x, 'b': x}], {'a': THREE, 'b': THREE}, 1)
        axes = found.figures['examples'].axes
        titles = [ax.get_title() for ax in axes[:6]]
        assert titles[:3] == ['a\nR G B', 'a\ncommon', 'a\nunique']
        shown = [torch.tensor(ax.images[0].get_array()) for ax in axes[:6]]
        for panel, band in ((1, 0), (2, 1), (4, 0), (5, 2)):
            torch.testing.assert_close(shown[panel], x[0, band])

    def test_empty_maps_do_not_count(self, toy: ToyPretrained) -> None:
        x = torch.rand(4, 3, 8, 8)
        x[:2] = 0
        found = spatial_saliency(toy, [{'a': x, 'b': x}], {'a': THREE, 'b': THREE}, 1)
        (common,) = rows(found, 'overlap', part='common')
        assert common['samples'] == 2
        assert rows(found, 'samples', part='common', sample=0)[0]['overlap'] is None
        nothing = torch.zeros(2, 3, 8, 8)
        found = spatial_saliency(
            toy, [{'a': nothing, 'b': nothing}], {'a': THREE, 'b': THREE}, 1
        )
        assert 'common: no sample has maps in both' in found.text

    @pytest.mark.parametrize(
        ('common_dim', 'parts'), [(None, {'all'}), (2, {'all'}), (0, {'unique'})]
    )
    def test_reports_only_parts_with_dimensions(
        self, toy: ToyPretrained, common_dim: int | None, parts: set[str]
    ) -> None:
        data = batches(1, 8, a=3, b=3)
        modalities = {'a': THREE, 'b': THREE}
        found = spatial_saliency(toy, data, modalities, common_dim)
        assert {r['part'] for r in found.tables['overlap']} == parts
        found = spectral_saliency(toy, data, modalities, common_dim)
        assert {r['part'] for r in found.tables['bands']} == parts

    def test_one_modality_has_no_overlap(self, toy: ToyPretrained) -> None:
        found = spatial_saliency(toy, batches(1, 8, a=3), {'a': THREE}, 1)
        assert not found.tables
        assert list(found.figures) == ['examples']

    def test_draws_no_examples_if_none_are_requested(self, toy: ToyPretrained) -> None:
        found = spatial_saliency(
            toy, batches(1, 8, a=3, b=3), {'a': THREE, 'b': THREE}, 1, examples=0
        )
        assert list(found.figures) == ['overlap']


class TestSpectral:
    def test_shares_follow_known_weights(self) -> None:
        weights = torch.tensor([[1.0, 3.0], [-1.0, 0.0]])
        toy = ToyPretrained(s1=weights, dem=torch.ones(2, 1))
        x = torch.full((4, 2, 8, 8), 0.5)
        data = [{'s1': x, 'dem': x[:, :1]}]
        found = spectral_saliency(toy, data, {'s1': S1, 'dem': DEM}, 1)
        shares = {
            (r['part'], r['band']): r['median']
            for r in rows(found, 'bands', modality='s1')
        }
        expected = {
            ('common', 'VV'): 0.25,
            ('common', 'VH'): 0.75,
            ('unique', 'VV'): 1,
            ('unique', 'VH'): 0,
        }
        assert shares == pytest.approx(expected, abs=1e-6)
        assert 's1: common dimensions mostly use VH (75%), VV (25%)' in found.text
        assert (
            's1: the mean attributions of common and unique dimensions differ by 75%'
            in found.text
        )
        assert 'dem has only one band' in found.text
        (row,) = rows(found, 'bands', modality='dem', part='common')
        assert (row['mean'], row['wavelength_nm']) == (1, None)
        (figure,) = found.figures.values()
        assert [ax.get_title(loc='left') for ax in figure.axes] == [
            'Bands used by s1 embeddings'
        ]

    def test_bands_have_names_and_wavelengths(self) -> None:
        toy = ToyPretrained(s2=torch.rand(2, 13), s1=torch.rand(2, 2))
        found = spectral_saliency(
            toy, batches(1, 8, s2=13, s1=2), {'s2': S2, 's1': S1}, 1, steps=4
        )
        b8a = rows(found, 'bands', band='B8A')
        assert [r['wavelength_nm'] for r in b8a] == [865, 865]
        optical, radar = found.figures['bands'].axes
        labels = [t.get_text() for t in optical.get_xticklabels()]
        assert labels[0] == 'B1, 443 nm' and labels[-1] == 'B12, 2190 nm'
        assert [t.get_text() for t in radar.get_xticklabels()] == [
            'VV, 5.5 cm',
            'VH, 5.5 cm',
        ]
        assert radar.get_xlabel() == 'band, central wavelength'

    def test_a_sample_without_attribution_does_not_count(
        self, toy: ToyPretrained
    ) -> None:
        x = torch.rand(4, 3, 8, 8)
        x[0] = 0
        found = spectral_saliency(toy, [{'a': x, 'b': x}], {'a': THREE, 'b': THREE}, 1)
        assert {r['samples'] for r in found.tables['bands']} == {3}
        nothing = [{'a': x[:1], 'b': x[:1]}]
        found = spectral_saliency(toy, nothing, {'a': THREE, 'b': THREE}, 1)
        assert not found.tables['bands'] and not found.figures


class TestTasks:
    @pytest.mark.parametrize('model', ['test_resnet', 'test_vit', 'resnet18_rda'])
    def test_explains_every_backbone(self, model: str) -> None:
        task = DeCUR({'s1': 2, 's2': 13}, model, projector=[16, 16])
        data, known = batches(s1=2, s2=13), {'s1': S1, 's2': S2}
        found = spatial_saliency(task, data, known, task.common_dim, max_samples=5)
        assert [r['samples'] for r in found.tables['overlap']] == [5, 5]
        # Of tokens or places that differ, so that maps can.
        assert len({r['overlap'] for r in found.tables['samples']}) > 5
        found = spectral_saliency(task, data, known, task.common_dim, 2, steps=2)
        assert len(found.tables['bands']) == 2 * (2 + 13)
        assert all(m.training for m in task.modules())
        assert all(p.grad is None for p in task.parameters())

    def test_compares_each_pair_of_three_modalities(self) -> None:
        channels = {'s1': 2, 's2': 13, 'dem': 1}
        models = {'s1': 'test_resnet', 's2': 'test_vit', 'dem': 'test_resnet'}
        task = DeCUR(channels, models, projector=[16])
        known = {'s1': S1, 's2': S2, 'dem': DEM}
        found = spatial_saliency(task, batches(1, **channels), known, 12, examples=2)
        pairs = [r['modalities'] for r in rows(found, 'overlap', part='unique')]
        assert pairs == ['s1 and s2', 's1 and dem', 's2 and dem']
        assert '2 x 2 for s1, 4 x 4 for s2' in found.text
        # Two samples, three modalities with two maps each, and the scale.
        assert len(found.figures['examples'].axes) == 2 * 3 * 3 + 1

    def test_explains_tasks_with_fusion(self) -> None:
        options = {
            'model': 'test_resnet',
            'embed_dim': 32,
            'num_heads': 4,
            'projector': [16],
        }
        data, known = batches(1, s1=2, s2=13), {'s1': S1, 's2': S2}
        comm = CoMM({'s1': 2, 's2': 13}, **options)
        found = spatial_saliency(comm, data, known, None)
        assert [r['part'] for r in found.tables['overlap']] == ['all']
        coral = COrAL({'s1': 2, 's2': 13}, **options)
        with pytest.raises(ValueError, match='encoders, got COrAL, which has separate'):
            spatial_saliency(coral, data, known, None)
        found = spectral_saliency(coral, data, known, None, steps=2)
        assert len(found.tables['bands']) == 15

    def test_repeats_its_numbers_and_keeps_the_random_state(self) -> None:
        task = DeCUR({'s1': 2, 's2': 13}, 'test_resnet', projector=[16])
        data, known = batches(1, s1=2, s2=13), {'s1': S1, 's2': S2}
        state = torch.get_rng_state()
        first = spatial_saliency(task, data, known, 12).tables
        assert spatial_saliency(task, data, known, 12).tables == first
        assert spectral_saliency(task, data, known, 12, steps=2).tables
        assert torch.equal(torch.get_rng_state(), state)
