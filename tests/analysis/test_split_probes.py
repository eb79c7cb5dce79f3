"""Fit probes on one split and score them on another."""

import pytest
import torch

from torchgeo_decur.analysis.embeddings import Embeddings
from torchgeo_decur.analysis.probes import probe_parts
from torchgeo_decur.analysis.result import NotApplicable
from torchgeo_decur.analysis.split_probes import probe_splits

CLASSES = 4


def made(number: int, seed: int, **more: torch.Tensor) -> Embeddings:
    """Return embeddings whose first 8 dimensions of `s1` encode the label."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(number) % CLASSES
    z = torch.randn(number, 16, generator=generator)
    z[:, :CLASSES] += 6 * torch.nn.functional.one_hot(label, CLASSES)
    other = torch.randn(number, 16, generator=generator)
    return Embeddings.of(
        {'s1': z, 's2': other},
        common_dim=8,
        labels={'label': label, **more},
        h={'s1': z[:, :4], 's2': other},
    )


def test_finds_the_part_that_holds_the_label() -> None:
    rows = probe_splits(made(200, 0), made(400, 1), times=50)
    found = {(row['name'], row['part']): row for row in rows}
    for name, part in (('s1', 'common'), ('s1', 'features'), ('together', 'features')):
        assert found[name, part]['score'] > 95
        assert found[name, part]['low'] > 90
    for name, part in (('s1', 'unique'), ('s2', 'all'), ('s2', 'features')):
        assert found[name, part]['score'] == pytest.approx(25, abs=8)
    assert {row['chance'] for row in rows} == {25}
    assert {(row['fitted'], row['scored']) for row in rows} == {(200, 400)}
    assert found['together', 'features']['dimensions'] == 20


def test_fraction_keeps_every_class() -> None:
    rows = probe_splits(made(200, 0), made(400, 1), fractions=[0.03, 0.1], times=10)
    fitted = {row['fraction']: row['fitted'] for row in rows}
    # The same of each class: of 50, 1.5 is rounded to 2.
    assert fitted == {0.03: 8, 0.1: 20}
    best = [r['score'] for r in rows if (r['name'], r['part']) == ('s1', 'common')]
    assert min(best) > 60


def test_scores_other_samples_than_it_fits() -> None:
    """Score random labels, which no probe can predict."""
    fit, score = made(100, 0), made(1000, 1)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(2))
    shuffled = Embeddings.of(
        score.z, 8, {'label': score.labels['label'][order]}, score.h
    )
    rows = probe_splits(fit, shuffled, times=10)
    assert all(row['score'] == pytest.approx(25, abs=6) for row in rows)


def test_joint_features_stand_for_all() -> None:
    z = torch.randn(40, 4)
    label = (z[:, 0] > 0).long()
    data = Embeddings.of({'s1': z, 's2': z}, None, {'label': label}, {'s1': z})
    data.h['joint'] = z[:, :2]  # type: ignore[index]
    (row,) = [r for r in probe_splits(data, data, times=5) if r['name'] == 'together']
    assert row['dimensions'] == 2


def test_rejects_invalid_arguments() -> None:
    data = made(40, 0)
    with pytest.raises(ValueError, match=r'fractions must be in \(0, 1\], got 2'):
        probe_splits(data, data, fractions=[2])
    with pytest.raises(ValueError, match=r"labels must be among \['label'\], got 'x'"):
        probe_splits(data, data, labels=['x'])
    same = Embeddings.of(data.z, 8, {'label': torch.zeros(40)}, data.h)
    with pytest.raises(NotApplicable, match='labels of at least two classes'):
        probe_splits(same, same)


def test_numbers_are_probed_by_regression() -> None:
    z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    data = Embeddings.of({'s1': z, 's2': -z}, labels={'label': 100 + z[:, 0]})
    rows = probe_splits(data, data, fractions=[0.5], times=10)
    assert {(row['metric'], row['fitted']) for row in rows} == {('R2', 32)}
    assert all(row['score'] > 95 for row in rows)
    result = probe_parts(data, times=10)
    assert {row['metric'] for row in result.tables['probes']} == {'R2'}
    assert 'R2 for regression' in result.text
