from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor

from torchgeo_decur.modalities import MODALITIES
from torchgeo_decur.models import MultimodalEncoder, create_encoder, save_encoder
from torchgeo_decur.transforms import ScaleToUnit

S2, S1 = MODALITIES['sentinel2_l1c'], MODALITIES['sentinel1_grd']


@pytest.fixture(scope='module')
def bench(adapter: Callable[[str], ModuleType]) -> ModuleType:
    return adapter('torchgeo_bench')


def spec(bench: ModuleType, sensor: str, name: str, source: str, **given: Any) -> Any:
    numbers = {'mean': 1000.0, 'std': 200.0, 'min': 0.0, 'max': 5000.0, **given}
    return bench.BandSpec(sensor, name, source, **numbers)


def images(*bands: tuple[float, float]) -> Tensor:
    """Draw images of bands with these means and standard deviations."""
    torch.manual_seed(0)
    each = [mean + std * torch.randn(3, 1, 32, 32) for mean, std in bands]
    return torch.cat(each, 1)


def features(weights: Path, modality: str, x: Tensor, bands: list[str]) -> Tensor:
    encoder = MultimodalEncoder(
        {modality: len(bands)},
        'test_resnet',
        {modality: str(weights)},
        {modality: bands},
    )
    with torch.no_grad():
        return encoder.eval()({modality: x})[modality]


def test_matches_bands_and_scales_by_the_data(bench: ModuleType, weights: Path) -> None:
    bands = [
        spec(bench, 's2', 'b8a', 'B8A', mean=2000.0, std=500.0),
        spec(bench, 'aerial', 'height', 'height'),
        spec(bench, 's2', 'red', '04 - Red'),
        spec(bench, 's2', 'x', '09 - Water vapour', mean=100.0, std=10.0),
    ]
    model = bench.EncoderBench(bands, str(weights), name='decur').eval()
    x = images((2000, 500), (0, 1), (1000, 200), (100, 10))
    # In the order of the encoder; what it does not know is left out.
    low = torch.tensor([600.0, 1000.0, 80.0]).view(1, 3, 1, 1)
    high = torch.tensor([1400.0, 3000.0, 120.0]).view(1, 3, 1, 1)
    scaled = (x[:, [2, 0, 3]].clamp(low, high) - low) / (high - low)
    expected = features(weights, 's2', scaled, ['B4', 'B8A', 'B9'])
    before = x.clone()
    torch.testing.assert_close(model(x), expected)
    assert x.equal(before)


def test_encodes_two_modalities_in_the_scale_of_pretraining(
    bench: ModuleType, weights: Path
) -> None:
    bands = [
        spec(bench, 's2', 'blue', 'blue'),
        spec(bench, 's1', 'vh', 'VH'),
        spec(bench, 's1', 'vv', 'VV'),
    ]
    model = bench.EncoderBench(bands, str(weights), normalization='model_native')
    x = images((1400, 800), (-20, 5), (-12, 5))
    blue = torch.zeros(3, 13, 32, 32)
    blue[:, 1] = x[:, 0]
    expected = [
        features(weights, 's1', ScaleToUnit(S1)(x[:, [2, 1]]), ['VV', 'VH']),
        features(weights, 's2', ScaleToUnit(S2)(blue)[:, [1]], ['B2']),
    ]
    torch.testing.assert_close(model.eval()(x), torch.cat(expected, 1))


def test_encodes_one_of_the_modalities(bench: ModuleType, weights: Path) -> None:
    bands = [spec(bench, 's2', 'b02', 'B02'), spec(bench, 's1', 'vv', 'VV')]
    model = bench.EncoderBench(bands, str(weights), modalities=['s1'])
    assert list(model.encoders) == ['s1'] and model.num_channels == 2


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'normalization': 'minmax'}, r"one of \('bandspec_zscore', .* got 'minmax'"),
        (
            {'bands': ['thermal']},
            r"at least one dataset band among \['thermal'\], found \{'s1'",
        ),
    ],
)
def test_rejects_invalid_options(
    bench: ModuleType, weights: Path, options: dict[str, Any], message: str
) -> None:
    names = options.pop('bands', ['red'])
    bands = [spec(bench, 's2', name, name) for name in names]
    with pytest.raises(ValueError, match=message):
        bench.EncoderBench(bands, str(weights), **options)


def test_rejects_weights_with_too_little_metadata(
    bench: ModuleType, tmp_path: Path
) -> None:
    encoder, bands = create_encoder('test_resnet', 1), [spec(bench, 's1', 'vv', 'VV')]
    save_encoder(encoder, tmp_path / 'a', 'test_resnet', {'modality': 's1'})
    with pytest.raises(ValueError, match=r'weights must name the bands of s1'):
        bench.EncoderBench(bands, str(tmp_path / 'a.safetensors'))
    known = {'modality': 's1', 'bands': ['VV']}
    save_encoder(encoder, tmp_path / 'b', 'test_resnet', known)
    file = str(tmp_path / 'b.safetensors')
    assert bench.EncoderBench(bands, file).eval()(images((-10, 5))).shape == (3, 96)
    with pytest.raises(
        ValueError,
        match=r'contain the unit .*normalization=model_native, got none; set .*bandspec',
    ):
        bench.EncoderBench(bands, file, normalization='model_native')


def eurosat(root: Path) -> None:
    """Write twelve images in the layout of EuroSAT, with classes that differ in brightness."""
    folder = root / 'ds/images/remote_sensing/otherDatasets/sentinel_2/tif'
    rng = np.random.default_rng(0)
    for i, name in enumerate(('Forest', 'River')):
        (folder / name).mkdir(parents=True)
        for k in range(18):
            values = rng.normal(800 + 900 * i, 100, (13, 16, 16)).astype('uint16')
            size = {'height': 16, 'width': 16, 'count': 13, 'dtype': 'uint16'}
            transform = rasterio.transform.from_origin(5e5, 5e6, 10, 10)
            file = folder / name / f'{name}_{k}.tif'
            with rasterio.open(file, 'w', 'GTiff', transform=transform, **size) as out:
                out.write(values)
    for j, split in enumerate(('train', 'val', 'test')):
        files = [
            f'{n}_{k}.jpg' for n in ('Forest', 'River') for k in range(6 * j, 6 * j + 6)
        ]
        (root / f'eurosat-{split}.txt').write_text('\n'.join(files))


# What other packages warn of is theirs.
@pytest.mark.filterwarnings('default')
def test_runs_in_the_benchmark(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = pytest.importorskip('torchgeo_bench.main').main
    eurosat(tmp_path / 'data' / 'eurosat')
    monkeypatch.chdir(tmp_path)
    options = [
        'hydra.searchpath=[pkg://torchgeo_decur.interop.conf]',
        'model=decur',
        f'model.weights={weights}',
        *('dataset.names=[eurosat]', 'dataset.bands=all', 'dataset.image_size=32'),
        *('dataset.num_workers=0', 'dataset.batch_size=6', 'device=cpu'),
        *('eval.skip_linear=true', 'eval.bootstrap=5', 'output=results.csv'),
    ]
    monkeypatch.setattr('sys.argv', ['torchgeo-bench', *options])
    main()
    header, row = (tmp_path / 'results.csv').read_text().splitlines()
    found = dict(zip(header.split(','), row.split(','), strict=False))
    assert found['name'] == 'decur' and found['method'] == 'knn5'
    assert found['feature_dim'] == '96'
    assert float(found['metric_value']) == 1
