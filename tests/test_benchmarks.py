"""Check the records of experiments/benchmarks, and run the small ones."""

import csv
import importlib
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch


@pytest.fixture
def record() -> ModuleType:
    return importlib.import_module('experiments.benchmarks.record')


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def test_rows_say_where_they_are_from(record: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / 'results.csv'
    row = record.record('loss', {'n': 4, 'd': 8}, [3.0, 1.0, 2.0], 's', path)
    record.record('loss', {'n': 8}, [0.5], 's', path)
    assert rows(path) == [row, rows(path)[1]]
    assert row['case'] == 'n=4 d=8'
    assert [row[k] for k in ('lower', 'value', 'upper')] == ['1.5', '2', '2.5']
    assert [row['repeats'], row['unit']] == ['3', 's']
    assert 'torch ' in row['versions'] and ' x ' in row['hardware'] and row['commit']
    assert [rows(path)[1][k] for k in ('lower', 'value', 'upper')] == 3 * ['0.5']
    assert '| n=4 d=8 | 2 | 1.5 to 2.5 | s |' in record.render([row])


def test_refuses_a_record_without_values(record: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='values must have at least one number'):
        record.record('loss', {}, [], 's', tmp_path / 'results.csv')


def test_table_shows_the_parts_of_a_step(record: ModuleType) -> None:
    found = {('a-b', 'first'): 1, ('a-b', 'last-one'): 3, ('c', 'first'): 2}
    found['c', 'last-one'] = 2
    cases = {f'D=2 variant={v} part={p}': x for (v, p), x in found.items()}
    rows = [{'case': case, 'value': f'{x}'} for case, x in cases.items()]
    assert record.render_parts([*rows, {'case': 'D=2 what=a', 'value': '9'}]) == (
        '| part | a b | c |\n|---|---:|---:|\n'
        '| first | 1.000 s (25%) | 2.000 s (50%) |\n'
        '| last one | 3.000 s (75%) | 2.000 s (50%) |'
    )


def test_table_compares_the_forms_of_a_loss(record: ModuleType, tmp_path: Path) -> None:
    found = {('N=4', 'ours'): 1.0, ('N=4', 'matrices'): 2.0, ('N=8', 'ours'): 30.0}
    rows = [
        record.record('loss', {'N': size[2:], 'form': form}, [x], unit, tmp_path / 'x')
        for (size, form), x in found.items()
        for unit in ('ms', 'MiB')
    ]
    ratio = record.record(
        'loss', {'N': 8, 'what': 'a / b'}, [2], 'times', tmp_path / 'x'
    )
    assert record.render_forms([*rows, ratio]).splitlines()[:4] == [
        '| | ours | matrices |',
        '|---|---:|---:|',
        '| N=4 | 1 ms, 1 MiB | 2 ms, 2 MiB |',
        '| N=8 | 30 ms, 30 MiB | not measured |',
    ]


def test_data_benchmark_measures_every_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'results.csv'
    data = importlib.import_module('experiments.benchmarks.data')
    data.main(places=4, dates=2, size=24, repeats=1, results=path)
    found = [row['case'].split(' places')[0] for row in rows(path)]
    sources = ('folder', 'raw', 'uint8', 'built-in')
    kinds = ('read', 'batch', 'worker', 'fresh')
    expected = [f'what={kind} {source}' for kind in kinds for source in sources]
    expected += [
        f'what={kind} {packed} / {kind} folder'
        for kind in kinds
        for packed in ('raw', 'uint8')
    ]
    assert found == expected
    assert all(float(row['value']) > 0 for row in rows(path))
    assert 'what=read raw / read folder' in capsys.readouterr().out


def test_chips_benchmark_measures_setup_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'results.csv'
    chips = importlib.import_module('experiments.benchmarks.chips')
    chips.main([12], draws=8, repeats=1, results=path)
    found = {row['case']: row['unit'] for row in rows(path)}
    start = 'chips=12 files=24 what='
    units = {'setup': 's', 'setup-processor': 's', 'draw': 'windows/s'}
    assert found == {f'{start}{what}': unit for what, unit in units.items()}
    assert all(float(row['value']) > 0 for row in rows(path))
    assert f'| {start}draw |' in capsys.readouterr().out


def test_archives_benchmark_writes_readable_archives(tmp_path: Path) -> None:
    archives = importlib.import_module('experiments.benchmarks.archives')
    from torchgeo_decur.datasets import SSL4EOS12V11, SSL4EOS12Pair, SyntheticEO

    SyntheticEO(length=2, size=48, num_dates=2).write(
        tmp_path / 'tiff', 'ssl4eo_s12', progress=False
    )
    source = SSL4EOS12Pair(tmp_path / 'tiff')
    archives.write_files(source, tmp_path / 'files')
    archives.write_shard(source, tmp_path / 'shards')
    for name in ('files', 'shards'):
        dataset = SSL4EOS12V11(tmp_path / name)
        for place in range(2):
            found, expected = dataset[place], source[place]
            assert torch.equal(found['image_s2'].nan_to_num(), expected['image_s2'])
            torch.testing.assert_close(
                found['image_s1'], expected['image_s1'], atol=0.02, rtol=0
            )
            assert torch.equal(found['date_s1'], expected['date_s1'])
            assert found['index'] == expected['index']


@pytest.mark.parametrize(('slope', 'grown'), [(0.0, []), (60.0, ['main own_mib'])])
def test_soak_sees_growth(slope: float, grown: list[str]) -> None:
    soak = importlib.import_module('experiments.benchmarks.soak')
    noise = np.random.default_rng(0)
    seen = []
    for second in range(0, 1800, 2):
        own = 500 + slope * second / 3600 + noise.normal()
        row = (second, 'main', 800 + noise.normal(), own, 20)
        seen.append(dict(zip(soak.COLUMNS, row, strict=True)))
    slopes, found = soak.report(seen)
    assert found == grown
    assert slopes['main', 'own_mib'][0] == pytest.approx(slope, abs=2)
    assert set(slopes) == {('main', c) for c in soak.COLUMNS[2:]}


@pytest.mark.skipif(not Path('/proc/self').exists(), reason='needs /proc')
def test_soak_reads_memory() -> None:
    rss, own = importlib.import_module('experiments.benchmarks.soak').memory(
        os.getpid()
    )
    assert 0 < own <= rss
