"""Compare features of runs and of files with the command `shared`."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from torchgeo_decur.cli import main
from torchgeo_decur.datasets.embeddings.files import read_features


@pytest.fixture
def views() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    common = generator.normal(size=(400, 3))
    x, y = (np.hstack([common, generator.normal(size=(400, k))]) for k in (2, 4))
    return x.astype(np.float32), y.astype(np.float32)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / 'shared.csv').open() as file:
        return list(csv.DictReader(file))


def test_reads_files_of_other_tools(
    tmp_path: Path,
    views: tuple[np.ndarray, np.ndarray],
    capsys: pytest.CaptureFixture[str],
) -> None:
    x, y = tmp_path / 'croma.npy', tmp_path / 'dofa.parquet'
    np.save(x, views[0])
    pd.DataFrame({'vector': list(views[1])}).to_parquet(y)
    out = tmp_path / 'out'
    with pytest.raises(SystemExit, match=r"expected column 'embedding'.*'vector'"):
        main(['shared', str(x), f'--other={y}', f'--out={out}'])
    assert not out.exists()
    main(['shared', str(x), f'--other={y}', f'--out={out}', '--column=vector'])
    assert [(r['first'], r['second'], r['shared'], r['of']) for r in rows(out)] == [
        ('croma', 'dofa', '3', '5')
    ]
    assert (out / 'correlations.png').stat().st_size > 1000
    assert 'croma and dofa: 3 of 5 directions are shared' in capsys.readouterr().out


def test_one_file_of_embed_has_every_modality(
    tmp_path: Path, views: tuple[np.ndarray, np.ndarray]
) -> None:
    joint = pa.array(list(np.hstack(views)), pa.list_(pa.float32()))
    about = b'{"dimensions": {"s1": [0, 5], "s2": [5, 12]}}'
    table = pa.table({'embedding': joint}).replace_schema_metadata(
        {b'torchgeo_decur': about}
    )
    file = tmp_path / 'scene.parquet'
    pq.write_table(table, file)
    found = read_features(file)
    np.testing.assert_array_equal(found['s1'], views[0])
    np.testing.assert_array_equal(found['s2'], views[1])
    # The same file twice: names tell the files apart.
    main(['shared', str(file), f'--other={file}', f'--out={tmp_path / "out"}'])
    assert {r['first'] for r in rows(tmp_path / 'out')} >= {'s1 (first)', 's2 (first)'}


def test_compares_the_encoders_of_a_run(fitted: Path, tmp_path: Path) -> None:
    conf = yaml.safe_load((fitted / 'config.yaml').read_text())
    conf['data']['init_args']['val_length'] = 48
    config = tmp_path / 'config.yaml'
    config.write_text(yaml.safe_dump(conf))
    (checkpoint,) = (fitted / 'checkpoints').glob('*.ckpt')
    options = [f'--ckpt_path={checkpoint}', f'--out={tmp_path / "out"}', '--device=cpu']
    main(['shared', str(config), *options])
    (row,) = rows(tmp_path / 'out')
    assert (row['first'], row['second'], row['samples']) == ('s1', 's2', '48')
    with pytest.raises(
        SystemExit, match='other must not be set if the source is a config'
    ):
        main(['shared', str(config), '--other=x.npy', *options])


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'does not exist'),
        (b'text', 'expected a NumPy .* or Parquet'),
        (pa.table({'embedding': [[1.0], [1.0, 2.0]]}), 'rows of equal length'),
    ],
)
def test_refuses_other_files(
    tmp_path: Path, content: bytes | pa.Table | None, message: str
) -> None:
    file = tmp_path / 'x.parquet'
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        pq.write_table(content, file)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_features(file)
