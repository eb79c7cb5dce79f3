"""Modality definitions of the products in SSL4EO-S12 v1.1 and TerraMesh."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...modalities import MODALITIES, Modality

# Missing pixels of floating-point products are NaN. Statistics are those of the published
# weights, without the offset. For S1RTC and NDVI, they are from terramesh.py in TerraMesh's
# repository.
PRODUCTS: Mapping[str, Modality] = {
    'S1GRD': replace(MODALITIES['sentinel1_grd'], nodata=math.nan),
    'S1RTC': replace(
        MODALITIES['sentinel1_grd'],
        mean=(-10.93, -17.329),
        std=(4.391, 4.459),
        nodata=math.nan,
    ),
    'S2L1C': replace(MODALITIES['sentinel2_l1c'], nodata=math.nan),
    'S2L2A': replace(MODALITIES['sentinel2_l2a'], nodata=math.nan),
    'S2RGB': Modality(('R', 'G', 'B'), 'rgb', 'uint8'),
    'NDVI': Modality(
        ('NDVI',), 'multispectral', 'index', (0.327,), (0.322,), nodata=math.nan
    ),
    'DEM': Modality(('elevation',), 'elevation', 'm'),
}

#: Offset of Sentinel-2 products since processing baseline 04.00.
OFFSET = 1000


def folders_of(
    modalities: Mapping[str, str | Sequence[str]],
) -> dict[str, tuple[str, ...]]:
    """Return the alternative folders of each modality.

    Args:
        modalities: folder of each modality, or a list of alternatives in order of
            preference.

    Returns:
        Alternative folders by modality.

    Raises:
        ValueError: if a folder is unknown or alternatives have different bands.
    """
    found = {}
    for name, value in modalities.items():
        some = (value,) if isinstance(value, str) else tuple(value)
        if not some or any(f not in PRODUCTS for f in some):
            raise ValueError(
                f'{name}: folders in modalities must be among {list(PRODUCTS)}, got '
                f'{value!r}'
            )
        if len({PRODUCTS[f].bands for f in some}) > 1:
            raise ValueError(
                f'{name}: alternative folders must have the same bands, got {list(some)}'
            )
        found[name] = some
    return found


def records(modalities: Mapping[str, str | Sequence[str]]) -> dict[str, Modality]:
    """Return the definition of each modality according to its first folder.

    Args:
        modalities: folder or alternative folders of each modality, as in
            :func:`folders_of`.

    Returns:
        Modality definitions by name.
    """
    return {m: PRODUCTS[some[0]] for m, some in folders_of(modalities).items()}
