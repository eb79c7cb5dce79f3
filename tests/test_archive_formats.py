"""The commands on archives and on a dataset of TorchGeo, from YAML."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import torch
import yaml
from torch import Tensor

from tests.helpers.fake_data import fake
from tests.helpers.small_fits import trainer
from torchgeo_decur.cli import main
from torchgeo_decur.cli.cost_estimate import estimate_cost
from torchgeo_decur.cli.embed import embed_rasters, load_run
from torchgeo_decur.datasets import PackedDataset
from torchgeo_decur.packed import pack_datamodule

PATH = 'torchgeo_decur.datamodules.'


def files(folder: Path) -> dict[str, Any]:
    fake('ssl4eo_s12_v1_1').make(folder, {'train': 4, 'val': 2})
    options = {'root': str(folder), 'date_sampling': 'independent'}
    return {'class_path': f'{PATH}SSL4EOS12V11DataModule', 'init_args': options}


def shards(folder: Path) -> dict[str, Any]:
    # Places of Major TOM lack S1GRD.
    places = {'train': (3, 5), 'val': (1, 3)}
    fake('terramesh').make(folder, places, ('S1GRD', 'S2L1C'))
    modalities = {'s1': 'S1GRD', 's2': 'S2L1C'}
    options = {'root': str(folder), 'modalities': modalities, 'batch_size': 4}
    return {'class_path': f'{PATH}TerraMeshDataModule', 'init_args': options}


def samples(folder: Path) -> dict[str, Any]:
    pytest.importorskip('h5py')
    fake('torchgeo_samples').make_mmearth(folder, 6)
    dataset = {
        'class_path': 'torchgeo.datasets.MMEarth',
        'init_args': {
            'root': str(folder),
            'subset': 'MMEarth100k',
            'modalities': ['sentinel1_asc', 'sentinel2'],
        },
    }
    unit = {'kind': 'multispectral', 'unit': 'standard deviations'}
    entries = {
        's1': {'key': 'image_sentinel1_asc[0:2]', 'bands': ['VV', 'VH']},
        's2': {'key': 'image_sentinel2', 'bands': [f'b{i}' for i in range(13)]},
    }
    options = {
        'dataset': dataset,
        'modalities': {m: {**entry, **unit} for m, entry in entries.items()},
        'val_fraction': 1 / 3,
    }
    return {'class_path': f'{PATH}TorchGeoDataModule', 'init_args': options}


def weights(folder: Path) -> dict[str, Tensor]:
    last = folder / 'checkpoints' / 'last.ckpt'
    state: dict[str, Tensor] = torch.load(last, weights_only=True)['state_dict']
    return state


@pytest.mark.parametrize('make', [files, shards, samples])
def test_every_command_reads_each_format(
    make: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
    torchgeo: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parent / 'conf' / 'decur.yaml').read_text()
    conf = yaml.safe_load(text.replace('OUTPUT', str(tmp_path)))
    conf['data'] = make(tmp_path / 'data')
    conf['data']['init_args'].setdefault('batch_size', 2)
    conf['trainer']['callbacks'] = [
        {
            'class_path': 'lightning.pytorch.callbacks.ModelCheckpoint',
            'init_args': {
                'save_last': True,
                'every_n_train_steps': 1,
                'save_top_k': -1,
            },
        }
    ]
    config = tmp_path / 'conf.yaml'
    config.write_text(yaml.safe_dump(conf))

    torchgeo('fit', '--config', config)
    # The first of two steps of an epoch.
    run = tmp_path / 'run'
    (first,) = (run / 'checkpoints').glob('epoch=0-step=1.ckpt')
    version = '--trainer.logger.init_args.version=resumed'
    torchgeo('fit', '--config', config, '--ckpt_path', first, version)
    expected, resumed = weights(run), weights(tmp_path / 'resumed')
    assert not [k for k, v in expected.items() if not torch.equal(v, resumed[k])]

    # Each command reads the config again, which takes longer than its work.
    task, data, _ = load_run(run / 'config.yaml')
    quiet = trainer(default_root_dir=tmp_path)
    for command in (quiet.validate, quiet.test):
        (metrics,) = command(task, data, verbose=False)
        assert metrics and all(map(math.isfinite, metrics.values()))
    assert len(quiet.predict(task, data) or []) > 1

    table = gpd.read_parquet(embed_rasters(task, data, 'places.parquet'))
    assert len(table) == {files: 4, shards: 8, samples: 6}[make]
    assert table.geometry.is_valid.all() and table.total_bounds[0] > 7

    assert estimate_cost([config])['steps'] == '4 in 2 epochs'
    pack_datamodule(data, 'packed', workers=0, progress=False)
    packed = PackedDataset('packed')
    assert len(packed) == {files: 4, shards: 8, samples: 4}[make]
    assert ('available_s1' in packed[0]) == (make is shards)

    last = run / 'checkpoints' / 'last.ckpt'
    main(['report', str(last), '--out', 'report', '--analyses', "['rank']"])
    assert (tmp_path / 'report' / 'report.html').exists()
