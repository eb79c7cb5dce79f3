"""Embed data without places, whose samples may lack a modality."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.helpers.fake_data import write_bands
from torchgeo_decur.cli.embed import embed_rasters
from torchgeo_decur.datamodules import PairedFoldersDataModule
from torchgeo_decur.datasets.embeddings.files import read_features
from torchgeo_decur.tasks import DeCUR

CHANNELS = {'s1': 1, 's2': 2}


class StoppedError(Exception):
    """End a run."""


@pytest.fixture
def datamodule(tmp_path: Path) -> PairedFoldersDataModule:
    """Write seven frames: the first four lack s1, the last lacks s2."""
    rng = np.random.default_rng(0)
    for m, numbers in (('s1', range(4, 7)), ('s2', range(6))):
        for number in numbers:
            values = rng.integers(100, 200, (CHANNELS[m], 32, 32))
            write_bands(tmp_path / f'{m}/{number}.tif', values.astype(np.uint16))
    images = {
        m: {
            'pattern': f'{m}/{{id}}.tif',
            'bands': ['a', 'b'][:c],
            'mean': [150.0] * c,
            'std': [30.0] * c,
        }
        for m, c in CHANNELS.items()
    }
    return PairedFoldersDataModule(
        str(tmp_path), images, skip_incomplete='keep', batch_size=3
    )


def test_embeds_present_modalities_and_resumes(
    datamodule: PairedFoldersDataModule, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    task = DeCUR(CHANNELS, 'test_resnet', projector=[16, 16], size=32).eval()
    options: dict[str, Any] = {'device': 'cpu', 'progress': False}
    file = embed_rasters(task, datamodule, tmp_path / 'a.parquet', rows=2, **options)
    schema = pq.read_schema(file)
    parts = [f'{part}_{m}' for m in CHANNELS for part in ('common', 'unique')]
    has = [f'available_{m}' for m in CHANNELS]
    assert schema.names == ['sample', 'embedding', *parts, *has]
    assert b'geo' not in schema.metadata
    table = pq.read_table(file).to_pydict()
    assert table['sample'] == [*'0123456']
    assert table['available_s1'] == [False] * 4 + [True] * 3
    assert table['available_s2'] == [True] * 6 + [False]
    features = read_features(file)
    for m in CHANNELS:
        for index, there in enumerate(table[f'available_{m}']):
            sample = datamodule.predict_dataset[index]
            image = datamodule.aug({f'image_{m}': sample[f'image_{m}'][None]})
            with torch.no_grad():
                h = task({m: image[f'image_{m}']})[m][0]
            if there:
                np.testing.assert_allclose(features[m][index], h, rtol=1e-4, atol=1e-5)
            else:
                assert np.isnan(features[m][index]).all()
            assert np.isnan(table[f'common_{m}'][index]).all() != there
    # A stopped run resumes; batches of frames without s1 run only one encoder.
    seen: list[int] = []

    def stop(module: Any, args: Any) -> None:
        seen.append(len(args[0]))
        if len(seen) == 2:
            raise StoppedError

    handle = task.encoders.encoders['s1'].register_forward_pre_hook(stop)
    again = tmp_path / 'b.parquet'
    with pytest.raises(StoppedError):
        embed_rasters(task, datamodule, again, rows=2, **options)
    assert seen == [2, 1] and len(list(tmp_path.glob('b.parquet.parts/part*'))) == 3
    handle.remove()
    embed_rasters(task, datamodule, again, rows=2, **options)
    second = read_features(again)
    for m, x in features.items():
        np.testing.assert_allclose(second[m], x, rtol=1e-4, atol=1e-5)


def test_features_that_are_not_finite(
    datamodule: PairedFoldersDataModule, tmp_path: Path
) -> None:
    task = DeCUR(CHANNELS, 'test_resnet', projector=[16, 16], size=32)
    task.encoders.encoders['s1'].register_forward_hook(
        lambda module, args, output: output * torch.nan
    )
    with pytest.raises(
        ValueError, match='found NaN or infinity in embedding of sample 4'
    ):
        embed_rasters(task, datamodule, tmp_path / 'x', device='cpu', progress=False)
