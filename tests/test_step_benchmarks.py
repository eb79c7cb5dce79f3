"""Run each benchmark with small data, and check the loss that it compares with."""

import csv
import importlib
import re
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from torchgeo_decur import tasks
from torchgeo_decur.losses import DeCURLoss

FOLDER = Path(__file__).parents[1] / 'experiments' / 'benchmarks'

TINY: dict[str, Any] = {'model': 'test_resnet', 'projector': [16], 'size': 32}
SMALL: dict[str, dict[str, Any]] = {
    'loss': {'samples': [4], 'dimensions': [16]},
    'augmentation': {'batch_size': 2, 'sizes': [16]},
    'step': {**TINY, 'batch_sizes': [2]},
}


@pytest.mark.parametrize('name', SMALL)
def test_benchmarks_record_positive_values(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f'experiments.benchmarks.{name}').main
    path = tmp_path / 'results.csv'
    main(**SMALL[name], repeats=1, results=path)
    with path.open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 3 and {row['benchmark'] for row in rows} == {name}
    assert all(float(row['value']) > 0 for row in rows)
    assert 'times' in {row['unit'] for row in rows}
    assert rows[-1]['case'] in capsys.readouterr().out
    sizes = re.compile(r'N=256 D=8192 (\.\*)?')
    for target in importlib.import_module('experiments.benchmarks.targets').TARGETS:
        found = [r for r in rows if re.search(sizes.sub('', target.case), r['case'])]
        assert bool(found) == (target.benchmark == name)


def test_matrix_loss_is_the_same_loss() -> None:
    loss = importlib.import_module('experiments.benchmarks.published').matrix_loss
    z = {m: torch.randn(2, 6, 16, dtype=torch.float64) for m in ('s1', 's2')}
    torch.testing.assert_close(loss(z, 14), DeCURLoss(14)(z)['loss'])


def test_step_benchmark_prints_a_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module('experiments.benchmarks.step').main
    path = tmp_path / 'results.csv'
    main(**SMALL['step'], profile=True, results=path)
    assert not path.exists()
    assert 'aten::convolution' in capsys.readouterr().out


def test_startup_benchmark_prints_import_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    startup = importlib.import_module('experiments.benchmarks.startup')
    monkeypatch.setattr(startup, 'IMPORTS', {'nothing': 'pass'})
    startup.main(repeats=1, results=tmp_path / 'results.csv')
    assert '| import=nothing | 0.' in capsys.readouterr().out


def test_scaling_benchmark_records_rate_and_efficiency(tmp_path: Path) -> None:
    main = importlib.import_module('experiments.benchmarks.scaling').main
    path = tmp_path / 'results.csv'
    main([1, 10**6], **TINY, batch_size=2, steps=2, results=path)
    with path.open(newline='') as file:
        rate, efficiency = csv.DictReader(file)
    assert [rate['unit'], rate['repeats']] == ['samples/s', '2']
    assert 0 < float(rate['value']) and float(efficiency['value']) == 1


def test_cost_benchmark_records_every_objective(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = importlib.import_module('experiments.benchmarks.cost')
    path = tmp_path / 'results.csv'
    names = ['DeCUR', 'InfMasking', 'FactorCL']
    small = {**TINY, 'projector': [16], 'batch_size': 2}
    cost.main(names, **small, repeats=2, results=path)
    with path.open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['case'].split()[0] for row in rows[::3]] == [
        f'objective={name}' for name in names
    ]
    assert [row['unit'] for row in rows[:3]] == ['images/s', '%', 'MiB']
    assert [row['repeats'] for row in rows[:3]] == ['2', '2', '1']
    assert all(float(row['value']) > 0 for row in rows)
    assert all(float(row['value']) < 100 for row in rows if row['unit'] == '%')
    assert '| InfMasking | ' in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"only must name some of .*got \['BYOL'\]"):
        cost.main(['BYOL'], results=path)


def test_compile_benchmark_compares_with_the_eager_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module('experiments.benchmarks.compile')
    # Without inductor, which takes long to compile.
    compiled = partial(torch.compile, backend='eager')
    monkeypatch.setattr(module, 'compile_encoder', compiled)
    path = tmp_path / 'results.csv'
    module.main(['test_resnet'], batch_size=2, size=32, repeats=2, results=path)
    monkeypatch.setattr(module, 'compile_encoder', lambda _: torch.nn.Identity())
    module.main(['test_resnet'], batch_size=2, size=32, repeats=2, results=path)
    with path.open(newline='') as file:
        rows = list(csv.DictReader(file))
    cases = [row['case'].rpartition('what=')[2] for row in rows]
    assert cases == ['first', 'plain', 'compiled', 'faster', 'broken-RuntimeError']
    assert [row['unit'] for row in rows] == ['s', 'ms', 'ms', 'times', '-']
    assert all(float(row['value']) > 0 for row in rows)


def test_every_objective_has_a_cost() -> None:
    cost = importlib.import_module('experiments.benchmarks.cost')
    pretraining = (tasks.MultimodalPretraining, tasks.FusionPretraining)
    objectives = {
        task
        for task in (getattr(tasks, name) for name in tasks.__all__)
        if issubclass(task, tasks.MultimodalPretraining) and task not in pretraining
    }
    assert set(cost.OBJECTIVES.values()) == objectives


def test_turns_end_after_a_while() -> None:
    measure = importlib.import_module('experiments.benchmarks.measure')
    calls: list[str] = []
    cases = {name: partial(calls.append, name) for name in 'ab'}
    seconds = measure.take_turns(cases, repeats=5, minutes=0)
    assert calls == ['a', 'b', 'a', 'b']
    assert {name: len(s) for name, s in seconds.items()} == {'a': 1, 'b': 1}


class TestTargets:
    @pytest.fixture
    def targets(self) -> ModuleType:
        return importlib.import_module('experiments.benchmarks.targets')

    def test_worst_of_the_last_commit_counts(
        self, targets: ModuleType, tmp_path: Path
    ) -> None:
        rows = [('old', 9), ('new', 2), ('new', 0.5)]
        lines = [f'N={n} what=faster,{v},{c}' for n, (c, v) in enumerate(rows)]
        path = tmp_path / 'results_loss.csv'
        path.write_text('\n'.join(['case,value,commit', *lines]))
        target = partial(targets.Target, 'speed', 'loss', 'what=faster$')
        table = targets.render_targets(
            [target(at_least=0.4), target(at_least=1), target(at_most=2)], tmp_path
        )
        assert table.splitlines()[2:] == [
            '| speed | at least 0.4 | 0.5 | met |',
            '| speed | at least 1 | 0.5 | missed |',
            '| speed | at most 2 | 2 | met |',
        ]

    def test_says_which_targets_are_not_measured(
        self, targets: ModuleType, tmp_path: Path
    ) -> None:
        assert targets.render_targets(folder=tmp_path).count('not measured') == len(
            targets.TARGETS
        )


def test_run_refuses_unknown_names() -> None:
    run = importlib.import_module('experiments.benchmarks.run')
    with pytest.raises(ValueError, match=r"only must name some of .*got \['speed'\]"):
        run.main(['speed'])
