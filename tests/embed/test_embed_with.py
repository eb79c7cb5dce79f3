"""Embed samples with frozen models in Python and on the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from torchgeo_decur.cli import main
from torchgeo_decur.cli.embed import embed_with
from torchgeo_decur.datamodules import (
    PairedEmbeddingsDataModule,
    SyntheticFactorsDataModule,
)
from torchgeo_decur.models import FrozenEncoder

DATA: dict[str, Any] = {
    'length': 8,
    'val_length': 10,
    'size': 32,
    'batch_size': 4,
    'seed': 0,
}
SCALE = {'mean': 0, 'std': 10000}
ENCODERS: dict[str, Any] = {
    'radar': {'model': 'test_resnet', 'inputs': [{'image': 's1', 'scale': 'unit'}]},
    'rgb': {
        'model': 'test_vit',
        'inputs': [{'image': 's2', 'bands': ['B4', 'B3', 'B2'], 'scale': SCALE}],
    },
}


def test_command_writes_a_file_that_the_datamodule_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = 'torchgeo_decur.datamodules.SyntheticFactorsDataModule'
    data = {'class_path': path, 'init_args': DATA}
    config, out = tmp_path / 'frozen.yaml', tmp_path / 'frozen.parquet'
    config.write_text(yaml.safe_dump({'encoders': ENCODERS, 'data': data}))
    torch.manual_seed(0)
    main(['embed', str(config), f'--out={out}', '--device=cpu'])
    assert capsys.readouterr().out == f'{out}\n'
    about = json.loads(pq.read_schema(out).metadata[b'torchgeo_decur'])
    assert about['dimensions'] == {'radar': [0, 96], 'rgb': [96, 160]}
    (entry,) = about['inputs']['rgb']
    assert entry['bands'] == ['B4', 'B3', 'B2'] and entry['scale'] == SCALE
    entries = {m: {'path': str(out)} for m in ENCODERS}
    paired = PairedEmbeddingsDataModule('', entries, batch_size=4)
    paired.setup('fit')
    assert {m: r.channels for m, r in paired.modalities.items()} == {
        'radar': 96,
        'rgb': 64,
    }
    # The file has the labels and the order of the prediction split.
    scenes = SyntheticFactorsDataModule(**DATA)
    scenes.setup('predict')
    labels = pq.read_table(out)['label_s1_0'].to_pylist()
    assert labels == [int(scenes.predict_dataset[i]['label_s1_0']) for i in range(10)]
    for option in ('--dense', '--modalities=[s1]', '--ckpt_path=x.ckpt'):
        with pytest.raises(
            SystemExit, match='must not be set for a config with encoders'
        ):
            main(['embed', str(config), option])


def test_features_match_the_model(tmp_path: Path) -> None:
    data = SyntheticFactorsDataModule(**DATA)
    before = data.aug
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    encoder = FrozenEncoder(model, [{'image': 's1', 'scale': 'raw'}])
    out = embed_with({'mean': encoder}, data, tmp_path / 'x.parquet', device='cpu')
    images = torch.stack([data.predict_dataset[i]['image_s1'] for i in range(10)])
    found = np.stack(pq.read_table(out)['embedding'].to_pylist())
    np.testing.assert_allclose(found, images.mean((2, 3)), rtol=1e-5)
    # The datamodule scales images again afterward.
    assert data.aug is before


def test_views_are_dates_and_then_flips(tmp_path: Path) -> None:
    data = SyntheticFactorsDataModule(**DATA, num_dates=2)
    # The upper left corner of an image changes with each flip.
    corner = torch.nn.Sequential(_Corner(), torch.nn.Flatten())
    encoder = FrozenEncoder(corner, [{'image': 's2', 'scale': 'raw'}])
    file = tmp_path / 'x.parquet'
    out = embed_with({'corner': encoder}, data, file, device='cpu', views=6, rows=7)
    table = pq.read_table(out)
    assert table['view'].to_pylist() == [*range(6)] * 10
    x = np.stack(table['embedding'].to_pylist()).reshape(10, 6, 13)
    for i in (0, 9):
        dates = data.predict_dataset[i]['image_s2'].numpy()
        for v, (row, column) in enumerate([(0, 0), (0, -1), (-1, 0)]):
            np.testing.assert_array_equal(x[i, 2 * v], dates[0, :, row, column])
            np.testing.assert_array_equal(x[i, 2 * v + 1], dates[1, :, row, column])
    entries = {'corner': {'path': str(out)}}
    with pytest.raises(ValueError, match='views: true'):
        PairedEmbeddingsDataModule('', entries).setup('fit')
    paired = PairedEmbeddingsDataModule('', entries, views=True)
    paired.setup('predict')
    assert paired.predict_dataset[3]['image_corner'].shape == (6, 13, 1, 1)
    with pytest.raises(
        ValueError, match='views must be from 1 to 8, the number of dates times 4'
    ):
        embed_with({'corner': encoder}, data, tmp_path / 'y.parquet', views=9)


class _Corner(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, 0, 0]


def test_embeddings_of_absent_images_are_absent(tmp_path: Path) -> None:
    data = SyntheticFactorsDataModule(**DATA, paired=0.3)

    def setup(stage: str) -> None:
        SyntheticFactorsDataModule.setup(data, stage)
        data.predict_dataset = data.train_dataset

    data.setup = setup  # type: ignore[method-assign]
    out = embed_with(ENCODERS, data, tmp_path / 'x.parquet', device='cpu')
    table = pq.read_table(out)
    has = data.train_dataset.availability
    assert table['available_radar'].to_pylist() == has['s1'].tolist()
    x = np.stack(table['embedding'].to_pylist())
    assert np.isnan(x[~has['s1'], :96]).all() and np.isfinite(x[has['s1'], :96]).all()
    entries = {m: {'path': str(out)} for m in ENCODERS}
    paired = PairedEmbeddingsDataModule('', entries, skip_incomplete='keep')
    paired.setup('predict')
    found = paired.predict_dataset.availability
    assert found['radar'].tolist() == has['s1'].tolist()


@pytest.mark.parametrize(
    ('encoders', 'message'),
    [
        ({}, 'encoders must have at least one'),
        (
            {'a': {'model': 'test_resnet'}},
            'a: the entry must be a dictionary with model and inputs',
        ),
        ({'a': {**ENCODERS['radar'], 'size': 3}}, 'a: the entry must be a dictionary'),
        ({'a': {**ENCODERS['radar'], 'pool': 'max'}}, "a: pool must be 'mean'"),
    ],
)
def test_rejects_invalid_encoders(
    encoders: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        embed_with(encoders, SyntheticFactorsDataModule(**DATA), tmp_path / 'x.parquet')
