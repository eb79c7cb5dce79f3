"""Fake BigEarthNet v1 and v2: the true layout, with values that say what they are."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rasterio.transform import from_origin

from tests.helpers.fake_data import write_growing

S1 = ('VV', 'VH')
S2 = tuple('B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12'.split())
SIZES = {**dict.fromkeys('B05 B06 B07 B8A B11 B12'.split(), 60)}
SIZES |= dict.fromkeys('B01 B09'.split(), 20)
LABELS = ['Sea and ocean', 'Coniferous forest', 'Burnt areas']
LABELS_19 = ['Marine waters', 'Coniferous forest']
SPLITS = (
    'train',
    'train',
    'train',
    'train',
    'validation',
    'validation',
    'test',
    'test',
)


def value(patch: int, band: str) -> float:
    """Value of the upper left pixel, which tells patch and band."""
    if band in S1:
        return -8.25 - patch - 7 * S1.index(band)
    # 1000 and a little would be the offset of newer products.
    return 2000.0 + 100 * patch + S2.index(band)


def names(patch: int, version: str) -> tuple[str, str]:
    """Names of the Sentinel-1 and the Sentinel-2 folder of a patch."""
    s1 = f'S1A_IW_GRDH_1SDV_20170613T165043_33UUP_{patch}_40'
    scene = 'S2A_MSIL2A_20170613T101031'
    return s1, f'{scene}{"_N9999_R022_T33UUP" if version == "v2" else ""}_{patch}_40'


def write(path: Path, size: int, corner: float, dtype: str, bands: int = 1) -> None:
    """Write a square file that grows to the right from the value of its corner."""
    place = from_origin(400_000, 5_300_000, 1200 / size, 1200 / size)
    write_growing(path, size, corner, dtype, bands, crs='EPSG:32633', transform=place)


def make(
    root: Path,
    version: str = 'v2',
    patches: Sequence[str] = SPLITS,
    labels: bool = True,
) -> Path:
    """Write one patch for each split named; returns the root."""
    rows = []
    for patch, split in enumerate(patches):
        s1, s2 = names(patch, version)
        if version == 'v2':
            folders = [
                root / 'BigEarthNet-S1' / s1.rsplit('_', 3)[0] / s1,
                root / 'BigEarthNet-S2' / s2.rsplit('_', 2)[0] / s2,
            ]
        else:
            folders = [
                root / 'BigEarthNet-S1-v1.0' / s1,
                root / 'BigEarthNet-v1.0' / s2,
            ]
        for name, folder, bands in zip((s1, s2), folders, (S1, S2), strict=True):
            for band in bands:
                dtype = 'float32' if band in S1 else 'uint16'
                size = SIZES.get(band, 120)
                write(folder / f'{name}_{band}.tif', size, value(patch, band), dtype)
            if version == 'v1':
                path = folder / f'{name}_labels_metadata.json'
                content = {'labels': LABELS, 'corresponding_s2_patch': s2}
                path.write_text(json.dumps(content))
        rows.append(
            {'patch_id': s2, 'labels': LABELS_19, 'split': split, 's1_name': s1}
        )
    if version == 'v2' and labels:
        pd.DataFrame(rows).to_parquet(root / 'metadata.parquet')
    elif labels:
        for split in ('train', 'validation', 'test'):
            path = root / f'bigearthnet-{split[:3] if split[0] == "v" else split}.csv'
            lines = [
                f'{r["patch_id"]},{r["s1_name"]}' for r in rows if r['split'] == split
            ]
            path.write_text('\n'.join(lines) + '\n')
    return root
