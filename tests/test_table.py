"""Check runs, records and output of experiments/table.py."""

import csv
import subprocess
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import pytest
import yaml

from experiments import definition, forked, provenance, rendering, summary, table
from torchgeo_decur.cli import main

ROOT = Path(__file__).parents[1]
TABLES = sorted((ROOT / 'experiments' / 'tables').glob('*.yaml'))


def write(folder: Path, fit: Path, **more: object) -> Path:
    path = folder / 'small.yaml'
    content = {'fit': [f'--config={fit}'], 'metrics': ['test_OverallAccuracy'], **more}
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize('path', TABLES, ids=lambda path: path.stem)
def test_every_table_file_names_existing_configs(path: Path) -> None:
    read = definition.Table.read(path)
    assert len({cell.name for cell in read.cells}) == len(read.cells)
    for cell in read.cells:
        for option in (*cell.fit, *chain.from_iterable(cell.pretrains)):
            if option.startswith('--config='):
                assert Path(option.removeprefix('--config=')).is_file()
    assert ' | '.join(read.axes) in rendering.render(path) or 'Not' in rendering.render(
        path
    )


@pytest.mark.parametrize('name', ['objectives', 'few_labels'])
def test_rates_are_those_chosen(name: str) -> None:
    """Check that each objective has the learning rate chosen by validation."""
    folder = ROOT / 'experiments' / 'tables'
    chosen = rendering.best(folder / 'learning_rates.yaml')
    default = yaml.safe_load((folder / '../evidence/pretrain.yaml').read_text())
    rates = {}
    for cell in definition.Table.read(folder / f'{name}.yaml').cells:
        given = [o for o in cell.pretrains[0] if o.startswith('--model.init_args.lr=')]
        rate = given[-1].split('=')[1] if given else default['model']['init_args']['lr']
        rates[cell.name[0]] = float(rate)
    shared = {names[0] for names in chosen} & set(rates)
    assert len(shared) > 6
    assert {n: rates[n] for n in shared} == {n: float(chosen[n,]) for n in shared}


def test_rate_of_lars_is_that_chosen() -> None:
    folder = ROOT / 'experiments' / 'tables'
    rate = rendering.best(folder / 'lars.yaml')['DeCUR',]
    cells = definition.Table.read(folder / 'sensitivity.yaml').cells
    (given,) = (cell.pretrains[0] for cell in cells if cell.name == ('LARS',))
    assert f'--model.init_args.lr={rate}' in given


def test_tables_have_the_documented_number_of_cells() -> None:
    sizes = {path.stem: len(definition.Table.read(path).cells) for path in TABLES}
    assert sizes['bigearthnet'] == 2 * 3 * 3
    assert sizes['geonrw'] == 2 * 2 * 2


def test_runs_each_step_once(
    torchgeo: Callable[..., None], decur_yaml: Callable[..., Path], tmp_path: Path
) -> None:
    """Check pretraining, fit and test, and that a second call runs nothing."""
    conf = ROOT / 'tests' / 'conf' / 'late_fusion_classification.yaml'
    fit = tmp_path / 'fit.yaml'
    fit.write_text(
        conf.read_text().replace('OUTPUT', str(tmp_path)).replace(', version: run', '')
    )
    pretrain = decur_yaml(trainer__logger__init_args={'save_dir': '.'})
    weights = {m: f'{{encoders}}/{m}.safetensors' for m in ('s1', 's2')}
    path = write(
        tmp_path,
        fit,
        pretrain={'DeCUR': [f'--config={pretrain}']},
        axes={
            'data': {
                'one date': [f'--model.init_args.weights={weights}'],
                'wrong': ['--model.init_args.lr=-1'],
            }
        },
    )
    calls: list[Sequence[str]] = []

    def command(args: Sequence[str]) -> None:
        calls.append(args)
        if '--model.init_args.lr=-1' in args:
            raise RuntimeError('a rate below 0')
        torchgeo(*args)

    results = tmp_path / 'results.csv'
    given = (path, [3], [], [], tmp_path / 'out', results, command)
    with pytest.raises(RuntimeError, match='DeCUR / wrong, seed 3: a rate below 0'):
        table.fill(*given)
    assert [args[0] for args in calls] == ['fit', 'fit', 'test', 'fit']
    assert all('--seed_everything=3' in args for args in calls)
    (exported,) = [a for a in calls[1] if a.startswith('--model.init_args.weights')]
    assert (Path(exported.split("'s1': '")[1].split("'")[0])).is_file()
    (checkpoint,) = [a for a in calls[2] if a.startswith('--ckpt_path=')]
    assert Path(checkpoint.removeprefix('--ckpt_path=')).is_file()
    with results.open() as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == table.COLUMNS
    assert (row['table'], row['cell'], row['seed']) == (
        'small',
        'DeCUR / one date',
        '3',
    )
    assert 0 <= float(row['value']) <= 1
    assert row['commit'] and row['hardware']

    calls.clear()
    with pytest.raises(RuntimeError, match='wrong'):
        table.fill(*given)
    assert len(calls) == 1  # the pretraining and the other cell are done
    shown = rendering.render(path, results)
    assert f'| DeCUR | one date | {100 * float(row["value"]):.1f} |' in shown
    assert '| DeCUR | wrong | not measured |' in shown
    assert row['commit'] in shown


def test_goes_on_where_it_stood_with_the_same_options_alone(
    torchgeo: Callable[..., None], tmp_path: Path
) -> None:
    """Check that an interrupted cell resumes, and other options start again."""
    conf = ROOT / 'tests' / 'conf' / 'late_fusion_classification.yaml'
    fit = tmp_path / 'fit.yaml'
    fit.write_text(
        conf.read_text().replace('OUTPUT', str(tmp_path)).replace(', version: run', '')
    )
    path = write(tmp_path, fit, axes={'a': {'x': []}})
    results, calls, stop = tmp_path / 'results.csv', [], True

    def command(args: Sequence[str]) -> None:
        calls.append(args)
        if stop and args[0] == 'test':
            raise RuntimeError('stopped')
        torchgeo(*args)

    def run(*options: str) -> None:
        table.fill(path, [0], options, [], tmp_path / 'out', results, command)

    def checkpoints() -> list[str]:
        return [a for a in calls[-2] if a.startswith('--ckpt_path=')]

    with pytest.raises(RuntimeError, match='stopped'):
        run()
    assert not checkpoints()
    stop = False
    run()
    (checkpoint,) = checkpoints()
    assert calls[-1][-1] == checkpoint  # and nothing was trained on top of it
    run('--model.init_args.lr=0.02')
    assert not checkpoints()
    with results.open() as file:
        found = [row['options'] for row in csv.DictReader(file)]
    assert found == ['', '--model.init_args.lr=0.02']


def test_interval_covers_seeds_of_the_latest_commit(tmp_path: Path) -> None:
    """Check the 95 % interval of 0.5, 0.6 and 0.7, 4.303 standard errors, without an old commit."""
    path = write(tmp_path, tmp_path / 'fit.yaml', axes={'a': {'x': []}})
    results = tmp_path / 'results.csv'
    row = {'table': 'small', 'cell': 'x', 'options': '', 'hardware': '1 x CPU'}
    row['metric'] = 'test_OverallAccuracy'
    provenance.append(
        results, table.COLUMNS, [row | {'commit': 'old', 'seed': '0', 'value': '0.1'}]
    )
    for seed, value in enumerate(('0.5', '0.6', '0.7')):
        new = row | {'commit': 'new', 'seed': str(seed), 'value': value}
        provenance.append(results, table.COLUMNS, [new])
    assert '| x | 60.0 ± 24.8 |' in rendering.render(path, results)
    assert results.read_text().count('table,cell') == 1


def test_commit_is_that_of_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that appended rows do not change the commit of a number."""

    def git(*args: str) -> str:
        names = ['-c', 'user.name=a', '-c', 'user.email=a@b.c']
        command = ['git', '-C', str(tmp_path), *names, *args]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout

    files = ['experiments/results.csv', 'experiments/benchmarks/results_a.csv']
    files += ['experiments/a.yaml', 'torchgeo_decur/a.py', 'docs/a.md']
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('1')
    git('init', '-q')
    git('add', '.')
    git('commit', '-qm', 'a')
    monkeypatch.setattr(provenance, 'ROOT', tmp_path)
    commit = provenance.commit.__wrapped__
    head = git('rev-parse', '--short', 'HEAD').strip()
    for name in (*files[:2], files[-1]):
        (tmp_path / name).write_text('2')
        assert commit() == head
    (tmp_path / 'experiments/a.yaml').write_text('2')
    assert commit().startswith(f'{head}+') and commit('torchgeo_decur') == head
    (tmp_path / 'torchgeo_decur/a.py').write_text('2')
    assert commit('torchgeo_decur').startswith(f'{head}+')


def test_compares_paired_seeds_with_a_reference(tmp_path: Path) -> None:
    """Check paired differences of 10, 20 and 30 points, with 4.303 standard errors of 24.8."""
    axes: dict[str, object] = {'a': {'DeCUR': [], 'CLIP': []}, 'b': {'x': []}}
    path = write(tmp_path, tmp_path / 'fit.yaml', axes=axes, against='DeCUR')
    results = tmp_path / 'results.csv'
    row = {'table': 'small', 'options': '', 'hardware': '1 x CPU', 'commit': 'a'}
    row['metric'] = 'test_OverallAccuracy'
    cells = {'DeCUR / x': (0.5, 0.3, 0.1), 'CLIP / x': (0.6, 0.5, 0.4, 0.9)}
    for cell, values in cells.items():
        rows = [
            row | {'cell': cell, 'seed': s, 'value': v} for s, v in enumerate(values)
        ]
        provenance.append(results, table.COLUMNS, rows)
    shown = rendering.render(path, results)
    assert 'Difference from *DeCUR*, paired by seed:' in shown
    assert shown.count('| DeCUR | x |') == 1
    assert '| CLIP | x | +20.0 ± 24.8 |' in shown
    assert 'the seeds [0, 1, 2, 3] (DeCUR: [0, 1, 2])' in shown
    write(tmp_path, tmp_path / 'fit.yaml', axes=axes, against='CoMM')
    with pytest.raises(ValueError, match=r"against must be one of .*got 'CoMM'"):
        definition.Table.read(path)


def test_averages_several_columns(tmp_path: Path) -> None:
    """Check columns of means, without seeds that lack a number."""
    columns = {'x': 'x', 'x and y': ['x', 'y']}
    axes = {'a': {'one': [], 'two': []}}
    path = write(tmp_path, tmp_path / 'f', axes=axes, metrics=columns, against='one')
    results = tmp_path / 'results.csv'
    base = {'table': 'small', 'options': '', 'hardware': 'CPU', 'commit': 'now'}
    for cell, seed, metric, value in (
        ('one', 0, 'x', 0.2),
        ('one', 0, 'y', 0.4),
        ('two', 0, 'x', 0.6),
        ('two', 0, 'y', 0.4),
        ('two', 1, 'x', 0.1),
    ):
        row = {'cell': cell, 'seed': seed, 'metric': metric, 'value': value}
        provenance.append(results, table.COLUMNS, [base | row])
    assert definition.Table.read(path).measured == ('x', 'y')
    shown = rendering.render(path, results)
    assert '| a | x | x and y |' in shown
    assert '| one | 20.0 | 30.0 |' in shown
    assert '| two | +40.0 | +20.0 |' in shown
    assert shown.split('| two |')[1].split('|')[1].strip() == '50.0'


def test_splits_columns_into_titled_sections(tmp_path: Path) -> None:
    """Check that columns grouped by title are separate tables of the same cells."""
    columns = {'first': {'x': 'x'}, 'second': {'y': 'y', 'mean': ['x', 'y']}}
    path = write(tmp_path, tmp_path / 'f', axes={'a': {'one': []}}, metrics=columns)
    results = tmp_path / 'results.csv'
    row = {'table': 'small', 'options': '', 'hardware': 'CPU', 'commit': 'now'}
    for metric, value in (('x', 0.2), ('y', 0.4)):
        more = {'cell': 'one', 'seed': 0, 'metric': metric, 'value': value}
        provenance.append(results, table.COLUMNS, [row | more])
    shown = rendering.render(path, results)
    assert '**first**\n\n| a | x |\n|---|---:|\n| one | 20.0 |\n\n**second**' in shown
    assert '| one | 30.0 | 40.0 |' in shown  # by name, as the file was written


@pytest.mark.parametrize('workers', [1, 2])
def test_cells_share_several_pretrainings(tmp_path: Path, workers: int) -> None:
    """Check cells with encoders of several pretrainings, which cells share."""
    starts = {'each alone': {'s1': ['--m=s1'], 's2': ['--m=s2']}, 'both': ['--m=b']}
    weights = '--weights={encoders}'
    path = tmp_path / 'small.yaml'
    content = {'pretrain': starts, 'fit': [weights], 'metrics': ['test_x']}
    content['axes'] = {'rate': {'low': ['--lr=1'], 'high': ['--lr=2']}}
    path.write_text(yaml.safe_dump(content))
    calls: list[Sequence[str]] = []

    def command(args: Sequence[str]) -> None:
        """Write encoders or test metrics in place of the command."""
        calls.append(args)
        options = dict(arg.lstrip('-').split('=', 1) for arg in args[1:])
        logger = 'trainer.logger.init_args'
        folder = Path(options[f'{logger}.save_dir'], options[f'{logger}.name'])
        export = folder / 'version_0' / 'encoders'
        export.mkdir(parents=True)
        for m in {'b': ('s1', 's2')}.get(options.get('m', ''), (options.get('m'),)):
            (export / f'{m}.safetensors').write_text(options.get('m', ''))
        if args[0] == 'test':
            (folder / 'version_0' / 'metrics.csv').write_text('test_x\n0.5\n')

    given = (path, [0], [], [], tmp_path / 'out', tmp_path / 'results.csv', command)
    table.fill(*given, workers)
    # Three pretrainings, four fits of cells.
    assert [args[0] for args in calls].count('fit') == 7
    found = {}
    for args in calls:
        for arg in args:
            if args[0] == 'test' and arg.startswith('--weights='):
                folder = Path(arg.removeprefix('--weights='))
                files = folder.glob('*.safetensors')
                name = folder.parent.parent.parent.name
                found[name] = {f.stem: f.read_text() for f in files}
    assert {'s1': 's1', 's2': 's2'} in found.values()
    assert {'s1': 'b', 's2': 'b'} in found.values()

    content['probe'] = [[]]
    del content['fit'], content['axes']
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match='must have exactly one pretraining'):
        definition.Table.read(path)


def test_summary_averages_seeds_with_all_cells(tmp_path: Path) -> None:
    """Check means over cells, of seeds with all cells."""
    axes = {'a': {'one': [], 'two': []}, 'b': {'left': [], 'right': []}}
    summary = {'some': {'left': ['x', 'y'], 'right': ['x']}}
    more = {'axes': axes, 'summary': summary, 'against': 'one'}
    path = write(tmp_path, tmp_path / 'f', metrics=['x', 'y'], **more)
    results = tmp_path / 'results.csv'
    row = {'table': 'small', 'options': '', 'hardware': 'CPU', 'commit': 'now'}
    for cell, values in {
        'one / left': (0.1, 0.3),
        'one / right': (0.2, 0.9),
        'two / left': (0.2, 0.4),
        'two / right': (0.6, 0.9),
    }.items():
        for metric, value in zip('xy', values, strict=True):
            more = {'cell': cell, 'seed': 0, 'metric': metric, 'value': value}
            provenance.append(results, table.COLUMNS, [row | more])
    more = {'cell': 'one / left', 'seed': 1, 'metric': 'x', 'value': 0.9}
    provenance.append(results, table.COLUMNS, [row | more])
    shown = rendering.render(path, results)
    assert '| a | some | some, minus one |\n|---|---:|---:|\n| one | 20.0 |  |' in shown
    assert '| two | 40.0 | +20.0 |' in shown
    assert 'the seeds [0, 1] (one / right: [0]; two: [0]).' in shown
    write(tmp_path, tmp_path / 'f', axes=axes, summary={'some': {'up': ['x']}})
    with pytest.raises(
        ValueError, match=r"summary must name values of the axes, .*, got \['up'\]"
    ):
        definition.Table.read(path)


class TestChoose:
    """Check a grid of pretrainings, with a mark at the best value."""

    def test_tables_share_pretrainings(self, tmp_path: Path) -> None:
        """Check that other options and changed files are not reused."""
        conf = tmp_path / 'conf.yaml'

        def start(text: str, *options: str, seed: int = 0) -> Path:
            conf.write_text(text)
            given = (f'--config={conf}', *options)
            folder: Path = table._start(tmp_path, given, seed)
            return folder

        first = start('a: 1', '--b=2')
        others = [start('a: 1'), start('a: 2', '--b=2'), start('a: 1', '--b=2', seed=1)]
        assert len({first, *others}) == 4
        assert start('a: 1', '--b=2') == first

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        content = {
            'pretrain_all': ['--a'],
            'pretrain': {'DeCUR': ['--b'], 'CLIP': []},
            'pretrain_axes': {'rate': {'low': ['--c'], 'high': []}},
            'probe': [[]],
            'metrics': {'x': 'x', 'y': 'y'},
            'choose': 'rate',
        }
        path = tmp_path / 'grid.yaml'
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    def test_each_value_is_a_pretraining(self, path: Path) -> None:
        cells = definition.Table.read(path).cells
        assert {c.name: c.pretrains[0] for c in cells} == {
            ('DeCUR', 'low'): ('--a', '--b', '--c'),
            ('DeCUR', 'high'): ('--a', '--b'),
            ('CLIP', 'low'): ('--a', '--c'),
            ('CLIP', 'high'): ('--a',),
        }

    def test_chooses_the_highest_mean(self, path: Path, tmp_path: Path) -> None:
        results = tmp_path / 'results.csv'
        row = {'table': 'grid', 'options': '', 'hardware': 'CPU', 'seed': '3'}
        found = {('DeCUR', 'low'): (0.2, 0.6), ('DeCUR', 'high'): (0.5, 0.1)}
        for commit, flip in (('old', -1), ('new', 1)):
            for name, values in found.items():
                base = row | {'cell': ' / '.join(name), 'commit': commit}
                provenance.append(
                    results,
                    table.COLUMNS,
                    [
                        base | {'metric': m, 'value': flip * v}
                        for m, v in zip('xy', values, strict=True)
                    ],
                )
        assert rendering.best(path, results) == {('DeCUR',): 'low'}
        shown = rendering.render(path, results)
        assert '| encoders | rate | x | y | mean |\n|---|---|---:|---:|---:|' in shown
        assert '| **DeCUR** | **low** | **20.0** | **60.0** | **40.0** |' in shown
        assert '| DeCUR | high | 50.0 | 10.0 | 30.0 |' in shown
        assert '| CLIP | low | not measured | not measured |' in shown

    def test_chooses_only_on_the_last_axis(self, path: Path) -> None:
        path.write_text(path.read_text().replace('choose: rate', 'choose: encoders'))
        with pytest.raises(ValueError, match="choose must be the last axis, 'rate'"):
            definition.Table.read(path)


def test_rejects_invalid_arguments(tmp_path: Path) -> None:
    path = tmp_path / 'x.yaml'
    path.write_text('fit: []')
    with pytest.raises(
        ValueError,
        match=r"must have the keys \['fit', 'metrics'\], and may.*got \['fit'\]",
    ):
        definition.Table.read(path)
    path = write(tmp_path, tmp_path / 'fit.yaml', axes={'a': {'x': [{'--b={c': '1}'}]}})
    with pytest.raises(ValueError, match=r'options must be text, got .* quotes'):
        definition.Table.read(path)
    path = write(tmp_path, tmp_path / 'fit.yaml', axes={'a': {'x': []}})
    with pytest.raises(ValueError, match=r"only must name values.*got \['y'\]"):
        table.fill(path, [0], [], ['y'], tmp_path, tmp_path / 'r.csv', print)


def test_runs_probes_and_renders_their_parts(
    torchgeo: Callable[..., None], decur_yaml: Callable[..., Path], tmp_path: Path
) -> None:
    """Check pretraining and probes, and the table of parts."""
    pretrain = decur_yaml(trainer__logger__init_args={'save_dir': '.'})
    path = tmp_path / 'small.yaml'
    content = {
        'pretrain': {'DeCUR': [f'--config={pretrain}'], 'other': []},
        'probe': [['--fractions=[0.5, 1.0]', '--score=val']],
        'metrics': {'common': 'label_common together features'},
        'parts': ['DeCUR'],
    }
    path.write_text(yaml.safe_dump(content))
    results = tmp_path / 'results.csv'
    given = (path, [0], [], ['DeCUR'], tmp_path / 'out', results)
    calls: list[str] = []

    def command(args: Sequence[str]) -> None:
        calls.append(args[0])
        main(list(args)) if args[0] == 'probe' else torchgeo(*args)

    table.fill(*given, command)
    assert calls == ['fit', 'probe']
    with results.open() as file:
        rows = {row['metric']: float(row['value']) for row in csv.DictReader(file)}
    assert all(0 <= value <= 1 for value in rows.values())
    assert {'label_s1 s1 unique', 'label_s1 s1 unique 0.5'} <= set(rows)
    shown = rendering.render(path, results)
    score = 100 * rows['label_common together features']
    assert f'| DeCUR | {score:.1f} |\n| other | not measured |' in shown
    assert '| part | label_common |' in shown and '| s1 common |' in shown
    table.fill(*given, command)
    assert len(calls) == 2  # nothing is left to do

    content['metrics'] = {'common': 'label_none'}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RuntimeError, match=r'metrics must be among \[.*label_none'):
        table.fill(*given[:-1], tmp_path / 'other.csv', command)


@pytest.mark.slow
def test_forked_command_returns_its_output_and_raises_on_failure(
    capfd: pytest.CaptureFixture[str],
) -> None:
    forked.run(['--version'])
    assert 'torchgeo' in capfd.readouterr().out
    with pytest.raises(RuntimeError, match='probe failed with exit code 2'):
        forked.run(['probe', '--wrong'])


def test_summary_of_objectives_shows_the_numbers_of_their_table() -> None:
    full = rendering.render(summary.TABLE).splitlines()
    header, _, *rows = summary.render_summary().splitlines()
    assert [row.split(' | ')[0] for row in rows] == [f'| {e}' for e in summary.ENCODERS]
    scores = summary.one_sensor()
    for row in rows:
        name, *numbers = row.strip('| ').split(' | ')
        assert len(numbers) == header.count(' | ') and '±' in numbers[-1]
        theirs = [line for line in full if line.startswith(f'| {name} | ')]
        assert all(any(n in line for line in theirs) for n in numbers), name
        mean, half = scores[name]
        assert numbers[-1] == f'{mean:.1f} ± {half:.1f}'
