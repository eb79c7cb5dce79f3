"""Known values of modalities."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor

from torchgeo_decur.analysis import Embeddings, NotApplicable, modality_values
from torchgeo_decur.cli import main

N = 800


def data(third: bool = False) -> Embeddings:
    """Draw labels that both modalities tell, that one tells, and that need both."""
    random = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(N, 1, generator=random)

    both, own, a, b = draw(), draw(), draw(), draw()
    h = {'s1': torch.cat([both, own, a], 1), 's2': torch.cat([both, b, draw()], 1)}
    if third:
        h['dem'] = torch.cat([draw(), draw(), draw()], 1)
    labels = {
        'label_both': (both[:, 0] > 0).long(),
        'label_s1': (own[:, 0] > 0).long(),
        'label_sum': (a[:, 0] + b[:, 0] > 0).long(),
        'label_several': torch.stack([both[:, 0] > 0, own[:, 0] > 1], 1).long(),
        'label_number': own[:, 0],
    }
    return Embeddings.of(h, h=h, labels=labels)


def test_values_and_interactions_are_known() -> None:
    result = modality_values(data(), times=100)
    plt.close(result.figures['values'])
    values = {
        (r['label'], r['modality']): r['value']
        for r in result.tables['values']
        if r['class'] == 'all'
    }
    pairs = {r['label']: r for r in result.tables['pairs'] if r['class'] == 'all'}
    # Numbers are not classes.
    assert set(pairs) == {'label_both', 'label_s1', 'label_sum', 'label_several'}
    assert values['label_both', 's1'] == pytest.approx(25, abs=2)
    assert values['label_both', 's2'] == pytest.approx(25, abs=2)
    assert pairs['label_both']['interaction'] == pytest.approx(-50, abs=3)
    assert values['label_s1', 's1'] == pytest.approx(49, abs=3)
    assert abs(values['label_s1', 's2']) < 3
    assert abs(pairs['label_s1']['interaction']) < 4
    # One summand tells the sign in 75 % of the samples.
    assert values['label_sum', 's1'] == pytest.approx(25, abs=4)
    assert pairs['label_sum']['interaction'] == pytest.approx(0, abs=7)


def test_values_add_up_to_the_gain_of_all() -> None:
    result = modality_values(data(third=True), ['label_sum', 'label_several'], times=20)
    plt.close(result.figures['values'])
    keys = {(r['label'], r['class']) for r in result.tables['values']}
    names = ('all', '0', '1')
    assert keys == {(k, n) for k in ('label_sum', 'label_several') for n in names}
    for label, name in keys:
        scores = {
            r['subset']: r['score']
            for r in result.tables['subsets']
            if (r['label'], r['class']) == (label, name)
        }
        assert len(scores) == 8
        values = [
            r['value']
            for r in result.tables['values']
            if (r['label'], r['class']) == (label, name)
        ]
        gain = scores['s1+s2+dem'] - scores['none']
        assert sum(values) == pytest.approx(gain, abs=0.05)
        if label == 'label_sum' and name == 'all':
            assert abs(values[2]) < 3


def test_recall_of_classes_averages_to_the_score() -> None:
    result = modality_values(data(), ['label_sum'], times=10)
    plt.close(result.figures['values'])
    scores = {
        r['class']: r['score'] for r in result.tables['subsets'] if r['subset'] == 's1'
    }
    mean = np.mean([scores['0'], scores['1']])
    assert scores['all'] == pytest.approx(mean, abs=0.02)


def test_errors_name_what_was_given() -> None:
    with pytest.raises(ValueError, match=r"labels must be among .*got \['x'\]"):
        modality_values(data(), ['x'])
    z = {'s1': torch.randn(50, 2)}
    with pytest.raises(NotApplicable, match=r"at least two modalities, got \['s1'\]"):
        modality_values(Embeddings.of(z, h=z))
    both = {m: torch.randn(50, 2) for m in ('s1', 's2')}
    with pytest.raises(NotApplicable, match='probes need labels'):
        modality_values(Embeddings.of(both, h=both))


def test_command_writes_tables(fitted: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    main(['value', str(fitted / 'config.yaml'), f'--out={out}', '--device=cpu'])
    text = (out / 'values.csv').read_text()
    assert text.startswith('label,class,modality,value,low,high')
    assert 'label_common,all,s1' in text
    assert (out / 'values.png').stat().st_size > 1000
