"""Fake files of datasets of TorchGeo, in the layouts that its classes read."""

import json
from pathlib import Path

import numpy as np
from rasterio.transform import from_origin

from tests.helpers.fake_data import write_bands, write_growing

SIZE = 16
PLACE = {'crs': 'EPSG:32632', 'transform': from_origin(400_000, 5_800_000, 10, 10)}


def make_sen12ms(root: Path, train: int = 8, test: int = 4) -> Path:
    """Write places of SEN12MS: radar in dB, 13 bands and four maps of land cover."""
    for season in ('ROIs1158_spring', 'ROIs1868_summer', 'ROIs1970_fall'):
        (root / season).mkdir(parents=True)
    names = [f'ROIs2017_winter_s2_1_p{i}.tif' for i in range(train + test)]
    for i, name in enumerate(names):
        for source, bands, dtype in (
            ('s1', 2, 'float32'),
            ('s2', 13, 'uint16'),
            ('lc', 4, 'uint16'),
        ):
            file = name.replace('_s2_', f'_{source}_')
            path = root / 'ROIs2017_winter' / f'{source}_1' / file
            if source == 'lc':
                rows = np.indices((SIZE, SIZE)).sum(0) + i
                write_bands(path, np.stack(4 * [rows % 11]).astype(dtype), **PLACE)
                continue
            corner = -12.0 - i if source == 's1' else 40 + 100.0 * i
            write_growing(path, SIZE, corner, dtype, bands, **PLACE)
    (root / 'train_list.txt').write_text('\n'.join(names[:train]) + '\n')
    (root / 'test_list.txt').write_text('\n'.join(names[train:]) + '\n')
    return root


def make_treesatai(root: Path, train: int = 6, test: int = 4) -> Path:
    """Write places of TreeSatAI: each sensor at its own pixel size, several genera."""
    names = [f'Acer_{i}_WEFL_NLF.tif' for i in range(train + test)]
    sizes = {
        'aerial': (4, 24, 'uint8'),
        's1': (3, 6, 'float32'),
        's2': (12, 6, 'uint16'),
    }
    for i, name in enumerate(names):
        for sensor, (bands, size, dtype) in sizes.items():
            corner = {'aerial': 10.0, 's1': -12.0, 's2': 400.0}[sensor] + i
            write_growing(
                root / sensor / '60m' / name, size, corner, dtype, bands, **PLACE
            )
    labels = {
        n: [['Acer', 0.7], ['Pinus', 0.3]][: 1 + i % 2] for i, n in enumerate(names)
    }
    (root / 'labels').mkdir()
    (root / 'labels' / 'TreeSatBA_v9_60m_multi_labels.json').write_text(
        json.dumps(labels)
    )
    (root / 'train_filenames.lst').write_text('\n'.join(names[:train]))
    (root / 'test_filenames.lst').write_text('\n'.join(names[train:]))
    return root


def make_mmearth(root: Path, number: int = 8) -> Path:
    """Write tiles of MMEarth100k: an HDF5 file with all modalities, and its tables."""
    import h5py

    folder = root / 'data_100k_v001'
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    channels = {'sentinel1': 8, 'sentinel2': 13, 'aster': 2}
    with h5py.File(folder / 'data_100k_v001.h5', 'w') as file:
        names = [[str(i).encode()] for i in range(number)]
        file['metadata'] = np.array(names, 'S8')
        for name, count in channels.items():
            shape = (number, count, SIZE, SIZE)
            low, high = {'sentinel1': (-30, 0)}.get(name, (1, 3000))
            file[name] = rng.uniform(low, high, shape).astype('float32')
        classes = rng.choice([10, 20, 30, 255], (number, 1, SIZE, SIZE))
        file['esa_worldcover'] = classes.astype('uint8')
    stats = {
        name: {
            'mean': [-15.0 if name == 'sentinel1' else 1500.0] * count,
            'std': [800.0] * count,
        }
        for name, count in channels.items()
    }
    stats['sentinel2_l1c'] = stats['sentinel2_l2a'] = stats.pop('sentinel2')
    tile = {'S2_DATE': '2020-06-30', 'S2_type': 'l2a', 'CRS': 'EPSG:32632'}
    tiles = {
        str(i): {**tile, 'lat': 52.0, 'lon': 9.0 + i, 'BANDS': {}}
        for i in range(number)
    }
    tables = {
        'band_stats': stats,
        'splits': {'train': list(range(number)), 'val': [], 'test': []},
        'tile_info': tiles,
    }
    for name, table in tables.items():
        (folder / f'data_100k_v001_{name}.json').write_text(json.dumps(table))
    return root
