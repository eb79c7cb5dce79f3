"""Write synthetic scenes to files in the directory layouts of real datasets.

Tests, tutorials and benchmarks read these directories as if they were real datasets.

``ssl4eo_s12``
    ``s1/<id>/<product>/{VV,VH}.tif`` (float32, dB) and
    ``s2c/<id>/<product>/<band>.tif`` (uint16), with one product per date. With
    ``surface=True``, there is also ``s2a`` with 12 bands (without B10). Real tiles have
    264 x 264 pixels.
``bigearthnet_v2``
    ``BigEarthNet-S1``, ``BigEarthNet-S2`` (12 bands, at 10, 20 and 60 m),
    ``Reference_Maps`` (CORINE land cover codes) and ``metadata.parquet``. The labels of a
    patch are the land cover classes (out of 19) that occupy at least 2 % of its pixels.
    ``splits`` sets the fractions for training, validation and testing. Real patches have
    120 x 120 pixels.
``geonrw``
    ``<city>/<x>_<y>_{rgb.jp2,dem.tif,seg.tif}``, at 1 m. Scenes alternate between the
    ``cities``. All other cities have empty directories, as TorchGeo's reader requires.
    Real tiles have 1000 x 1000 pixels.

Coarser bands are block means. ``s2a`` and the bands of BigEarthNet exclude atmospheric path
radiance. Locations and dates are arbitrary: UTM zone 33N (32N for GeoNRW), in 2020 (2017
for BigEarthNet).
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.transform import from_origin
from torchgeo.datasets import GeoNRW
from tqdm import tqdm

from .landscapes import BUILT, CROP, FOREST, GRASS, ROAD, SOIL, WATER, WETLAND

# Pixel size of each band in multiples of 10 m. Names are those of SSL4EO-S12.
_BANDS = {
    'B1': 6,
    'B2': 1,
    'B3': 1,
    'B4': 1,
    'B5': 2,
    'B6': 2,
    'B7': 2,
    'B8': 1,
    'B8A': 2,
    'B9': 6,
    'B10': 6,
    'B11': 2,
    'B12': 2,
}
# Atmospheric path radiance of a clear sky in each band, in digital numbers.
_SKY = (900, 700, 500, 300, 220, 150, 120, 100, 80, 40, 0, 20, 10)
# BigEarthNet class (of 19) and CORINE code of each cover.
_CORINE = {
    WATER: ('Inland waters', 512),
    FOREST: ('Broad-leaved forest', 311),
    GRASS: ('Pastures', 231),
    CROP: ('Arable land', 211),
    SOIL: ('Natural grassland and sparsely vegetated areas', 333),
    WETLAND: ('Inland wetlands', 411),
    BUILT: ('Urban fabric', 112),
    ROAD: ('Industrial or commercial units', 121),
}
_GEONRW = {
    WATER: 2,
    FOREST: 1,
    GRASS: 5,
    CROP: 3,
    SOIL: 3,
    WETLAND: 5,
    BUILT: 10,
    ROAD: 9,
}
_CITIES = (*GeoNRW.train_list, *GeoNRW.test_list)
_SPLITS = ('train', 'validation', 'test')

Array = NDArray[Any]


class Scenes(Protocol):
    """Protocol for datasets whose scenes can be written.

    Attributes:
        size: height and width in pixels.
        num_dates: number of dates per scene.
    """

    size: int
    num_dates: int

    def __len__(self) -> int:
        """Return the number of scenes."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a sample as a dictionary of tensors."""

    def with_modalities(self, modalities: Sequence[str], length: int) -> Self:
        """Return a dataset of the first scenes with other modalities."""


def write(
    dataset: Scenes,
    root: str | Path,
    layout: str,
    num_scenes: int | None = None,
    progress: bool = True,
    **options: Any,
) -> None:
    """Write scenes in the directory layout of a real dataset.

    The module docstring describes the layouts.

    Args:
        dataset: scenes with any modalities.
        root: new or empty directory.
        layout: 'ssl4eo_s12', 'bigearthnet_v2' or 'geonrw'.
        num_scenes: number of scenes to write. By default, all scenes are written.
        progress: whether to show a progress bar.
        options: options of the layout: ``surface``, ``splits`` or ``cities``.

    Raises:
        ValueError: if the layout or an option is unknown, the layout does not support the
            image size, ``num_scenes`` is out of range, or ``root`` is not empty.
    """
    if layout not in _WRITERS:
        raise ValueError(f'layout must be one of {list(_WRITERS)}, got {layout!r}')
    writer, modalities, known = _WRITERS[layout]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f'options of {layout} must be among {known}, got {unknown}')
    number = len(dataset) if num_scenes is None else num_scenes
    if not 1 <= number <= len(dataset):
        raise ValueError(f'num_scenes must be in [1, {len(dataset)}], got {number}')
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(
            f'root must be a new or empty directory, got {root}; choose another directory'
        )
    scenes = dataset.with_modalities(modalities, number)
    partial = root.with_name(f'{root.name}.partial')
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    steps = writer(partial, scenes, **options)
    for _ in tqdm(steps, layout, total=number, unit='scene', disable=not progress):
        pass
    if root.exists():
        root.rmdir()
    partial.replace(root)


def _ssl4eo_s12(root: Path, scenes: Scenes, surface: bool = False) -> Iterator[None]:
    for index, sample in enumerate(_samples(scenes)):
        x, y = _corner(index, scenes.size)
        for date in range(scenes.num_dates):
            day = timedelta(days=(index + 365 * date // scenes.num_dates) % 365)
            radar, optical = (
                (datetime(2020, 1, 1, hour) + day).strftime('%Y%m%dT%H%M%S')
                for hour in (6, 10)
            )
            product = (
                f'S1A_IW_GRDH_1SDV_{radar}_{radar}_030000_037000_{index % 65536:04X}'
            )
            _tiles(
                root / 's1' / f'{index:07}' / product,
                dict(zip(('VV', 'VH'), sample['image_s1'][date], strict=True)),
                x,
                y,
            )
            bands = dict(zip(_BANDS, sample['image_s2'][date], strict=True))
            product = f'{optical}_{optical}_T33UUP'
            folder = root / 's2c' / f'{index:07}' / product
            _tiles(folder, {k: v.astype(np.uint16) for k, v in bands.items()}, x, y)
            if surface:
                folder = root / 's2a' / f'{index:07}' / product
                _tiles(folder, _surface(sample['image_s2'][date]), x, y)
        yield


def _bigearthnet_v2(
    root: Path, scenes: Scenes, splits: Sequence[float] = (0.5, 0.25, 0.25)
) -> Iterator[None]:
    if scenes.size % 6:
        raise ValueError(
            f'size must be a multiple of 6 for 60 m bands, got {scenes.size}'
        )
    if len(splits) != 3 or min(splits) < 0 or abs(sum(splits) - 1) > 1e-6:
        raise ValueError(
            f'splits must be fractions for {list(_SPLITS)} that sum to 1, got '
            f'{list(splits)}'
        )
    ends = np.cumsum(splits) * len(scenes)
    rows = []
    for index, sample in enumerate(_samples(scenes)):
        x, y = _corner(index, scenes.size)
        place = f'33UUP_{index % 90:02}_{index // 90:02}'
        scene = 'S1A_IW_GRDH_1SDV_20170613T165043'
        tile = 'S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP'
        s1_name = f'{scene}_{place}'
        patch = f'{tile}_{place[6:]}'
        radar = zip(('VV', 'VH'), sample['image_s1'][0], strict=True)
        _tiles(
            root / 'BigEarthNet-S1' / scene / s1_name,
            {f'{s1_name}_{k}': v for k, v in radar},
            x,
            y,
        )
        bands = {
            f'{patch}_B{k[1:]:>02}': _blocks(v, _BANDS[k])
            for k, v in _surface(sample['image_s2'][0]).items()
        }
        _tiles(root / 'BigEarthNet-S2' / tile / patch, bands, x, y, scenes.size)
        codes = _recode(sample['mask'], {k: c for k, (_, c) in _CORINE.items()})
        _tiles(
            root / 'Reference_Maps' / tile / patch,
            {f'{patch}_reference_map': codes.astype(np.uint16)},
            x,
            y,
        )
        share = np.bincount(sample['mask'].flat, minlength=8) / sample['mask'].size
        rows.append(
            {
                'patch_id': patch,
                'labels': sorted(_CORINE[k][0] for k in _CORINE if share[k] >= 0.02),
                'split': _SPLITS[min(int(np.searchsorted(ends, index, 'right')), 2)],
                'country': 'Austria',
                's1_name': s1_name,
                's2v1_name': f'S2A_MSIL2A_20170613T101031_{place[6:]}',
                'contains_seasonal_snow': False,
                'contains_cloud_or_shadow': False,
            }
        )
        yield
    pd.DataFrame(rows).to_parquet(root / 'metadata.parquet')


def _geonrw(
    root: Path, scenes: Scenes, cities: Sequence[str] = ('aachen', 'duesseldorf')
) -> Iterator[None]:
    unknown = [c for c in cities if c not in _CITIES]
    if unknown or not cities:
        raise ValueError(
            f'cities must be one or more of {list(_CITIES)}, got {list(cities)}'
        )
    for city in _CITIES:
        (root / city).mkdir()
    for index, sample in enumerate(_samples(scenes)):
        folder = root / cities[index % len(cities)]
        x, y = 280000 + index * scenes.size, 5600000
        name = f'{x}_{y}'
        rgb = sample['image_rgb'][0].astype(np.uint8).transpose(1, 2, 0)
        # Write with Pillow, which cannot decode GDAL's JPEG 2000 files, and add a world
        # file.
        Image.fromarray(rgb).save(folder / f'{name}_rgb.jp2', irreversible=False)
        world = (1.0, 0.0, 0.0, -1.0, x + 0.5, y - 0.5)
        text = ''.join(f'{number}\n' for number in world)
        (folder / f'{name}_rgb.j2w').write_text(text)
        seg = _recode(sample['mask'], _GEONRW).astype(np.uint8)
        tiles = {f'{name}_dem': sample['image_dem'][0, 0], f'{name}_seg': seg}
        _tiles(folder, tiles, x, y, resolution=1, epsg=25832)
        yield


def _samples(scenes: Scenes) -> Iterator[dict[str, Array]]:
    """Yield scenes as NumPy arrays, with images of shape (T, C, H, W)."""
    for index in range(len(scenes)):
        sample = {k: v.numpy() for k, v in scenes[index].items()}
        yield {
            k: v[None] if k.startswith('image') and v.ndim == 3 else v
            for k, v in sample.items()
        }


def _corner(index: int, size: int) -> tuple[float, float]:
    """Return the easting and northing of the upper left corner in m."""
    return 300000.0 + index % 90 * size * 10, 5400000.0 - index // 90 * size * 10


def _surface(image: Array) -> dict[str, Array]:
    """Remove B10 and subtract the atmospheric path radiance."""
    return {
        band: np.clip(x - sky, 1, None).astype(np.uint16)
        for band, x, sky in zip(_BANDS, image, _SKY, strict=True)
        if band != 'B10'
    }


def _blocks(x: Array, factor: int) -> Array:
    """Compute rounded means over blocks of ``factor`` x ``factor`` pixels."""
    height, width = (n // factor for n in x.shape)
    blocks = x.reshape(height, factor, width, factor).mean((1, 3))
    return np.rint(blocks).astype(x.dtype)


def _recode(mask: Array, codes: dict[int, int]) -> Array:
    """Replace each land cover with its code."""
    return np.array([codes[k] for k in range(len(codes))])[mask]


def _tiles(
    folder: Path,
    bands: dict[str, Array],
    x: float,
    y: float,
    size: int | None = None,
    resolution: float = 10,
    epsg: int = 32633,
) -> None:
    """Write one GeoTIFF per band. A band with fewer pixels has larger pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, band in bands.items():
        pixel = resolution * (size or len(band)) / len(band)
        with rasterio.open(
            folder / f'{name}.tif',
            'w',
            driver='GTiff',
            height=band.shape[0],
            width=band.shape[1],
            count=1,
            dtype=band.dtype,
            crs=f'EPSG:{epsg}',
            transform=from_origin(x, y, pixel, pixel),
            compress='deflate',
        ) as file:
            file.write(band, 1)


_WRITERS: dict[
    str, tuple[Callable[..., Iterator[None]], tuple[str, ...], tuple[str, ...]]
] = {
    'ssl4eo_s12': (_ssl4eo_s12, ('s1', 's2'), ('surface',)),
    'bigearthnet_v2': (_bigearthnet_v2, ('s1', 's2'), ('splits',)),
    'geonrw': (_geonrw, ('rgb', 'dem'), ('cities',)),
}
