"""Check that analyses use the samples that have a modality, or both of a pair."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.small_fits import MODALITIES
from torchgeo_decur.analysis import (
    AnalysisResult,
    Embeddings,
    alignment_histogram,
    collect,
    cross_modal_retrieval,
    dimension_map,
    dropped_dimensions,
    effective_ranks,
    probe_parts,
    probe_splits,
    shared_directions_of,
)
from torchgeo_decur.cli.report.store import load_embeddings, save_embeddings
from torchgeo_decur.tasks import CoMM, DeCUR

type Parts = dict[str, Embeddings]


@pytest.fixture(scope='module')
def parts(known: Embeddings) -> Parts:
    """Return 600 samples with 150 pairs, and the samples with s1, with s2 and with both."""
    number = torch.arange(known.number)
    has = {'s1': number % 4 < 2, 's2': number % 4 > 0}
    both = has['s1'] & has['s2']

    def of(chosen: torch.Tensor, **more: Any) -> Embeddings:
        def rows(x: Any) -> dict[str, torch.Tensor]:
            return {name: value[chosen] for name, value in x.items()}

        z, h = rows(known.z), rows(known.h)
        labels = {'label': known.labels['label'][chosen]}
        return Embeddings.of(z, known.common_dim, labels, h, **more)

    partly = of(number >= 0, available=has)
    return {'partly': partly, 'both': of(both), **{m: of(x) for m, x in has.items()}}


def rows(result: AnalysisResult, **wanted: str) -> list[dict[str, Any]]:
    """Return the rows of all tables with these values."""
    return [
        dict(row)
        for table in result.tables.values()
        for row in table
        if all(row.get(key, value) == value for key, value in wanted.items())
    ]


@pytest.mark.parametrize(
    'analyse',
    [
        alignment_histogram,
        lambda e: cross_modal_retrieval(e, times=5),
        shared_directions_of,
        lambda e: dimension_map(e, max_points=16),
    ],
)
def test_pairs_are_compared_on_common_samples(
    parts: Parts, analyse: Callable[[Embeddings], AnalysisResult]
) -> None:
    found, expected = (analyse(parts[name]) for name in ('partly', 'both'))
    assert found.tables == expected.tables
    assert found.text == expected.text


def test_each_modality_is_analysed_on_its_samples(parts: Parts) -> None:
    def probes(e: Embeddings) -> AnalysisResult:
        return probe_parts(e, classifiers=['linear'], times=5)

    def dropped(e: Embeddings) -> AnalysisResult:
        # The order of the dimensions depends on the pairs.
        e = Embeddings(**{**vars(e), 'diagonals': parts['both'].diagonals})
        return dropped_dimensions(e, shares=[0, 0.5], times=5)

    for analyse, key in (
        (probes, 'name'),
        (dropped, 'modality'),
        (effective_ranks, 'name'),
    ):
        found = analyse(parts['partly'])
        for m in ('s1', 's2'):
            expected = rows(analyse(parts[m]), **{key: m})
            assert expected and rows(found, **{key: m}) == expected
    together = rows(probes(parts['partly']), name='s1+s2')
    assert together == rows(probes(parts['both']), name='s1+s2')


def test_probes_of_splits_use_present_samples(parts: Parts) -> None:
    options: dict[str, Any] = {'labels': ['label'], 'times': 5}
    found = probe_splits(parts['partly'], parts['partly'], **options)
    for name, of in (('s1', 's1'), ('s2', 's2'), ('together', 'both')):
        expected = probe_splits(parts[of], parts[of], **options)
        mine, theirs = ([r for r in x if r['name'] == name] for x in (found, expected))
        assert mine and mine == theirs


def test_stores_masks_and_numbers_of_pairs(parts: Parts, tmp_path: Path) -> None:
    data = parts['partly']
    save_embeddings(tmp_path / 'e.safetensors', data, 'key')
    found = load_embeddings(tmp_path / 'e.safetensors', 'key')
    assert found is not None and found.pair_numbers == data.pair_numbers
    assert found.pair_numbers == {('s1', 's2'): 150}
    for m, has in data.available.items():
        assert torch.equal(found.available[m], has)
        assert found.z[m][~has].isnan().all() and found.z[m][has].isfinite().all()


@pytest.mark.parametrize('task', [DeCUR, CoMM])
def test_collects_the_embeddings_of_present_samples(task: Any) -> None:
    options = {'projector': (8, 8)} if task is DeCUR else {}
    model = task(MODALITIES, 'test_resnet', size=32, **options)
    images = {m: torch.rand(6, c, 32, 32) for m, c in MODALITIES.items()}
    has = {
        's1': torch.tensor([1, 0, 0, 0, 1, 0]).bool(),
        's2': torch.tensor([1, 1, 1, 1, 0, 1]).bool(),
    }
    batch = {f'image_{m}': x for m, x in images.items()}
    batch |= {f'available_{m}': x for m, x in has.items()}
    halves = [{k: v[i : i + 3] for k, v in batch.items()} for i in (0, 3)]
    found = collect(model, halves)
    assert found.pair_numbers['s1', 's2'] == 1
    whole = collect(model, [{k: v for k, v in batch.items() if k[0] == 'i'}])
    for m, there in has.items():
        torch.testing.assert_close(found.z[m][there], whole.z[m][there])
        assert found.z[m][~there].isnan().all()
    if task is CoMM:
        # A sample with a single modality is embedded from this modality only.
        only = has['s2'] & ~has['s1']
        joint, single = (found.z[name][only] for name in ('joint', 's2'))
        torch.testing.assert_close(joint, single, rtol=1e-3, atol=1e-4)
        assert found.z['joint'].isfinite().all()
