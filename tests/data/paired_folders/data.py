"""Fake street scenes: colour, depth of 16 bits and labels, in folders of PNG and JPEG.

All files of a frame tell its number, and where a pixel is.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.fake_data import write_bands

SPLITS = {'dataset1': ('01', '02', '03', '04', '05'), 'dataset3': ('01', '02')}
SHAPE = (24, 36)
IMAGES: dict[str, dict[str, Any]] = {
    'rgb': {
        'pattern': '{split}/rgb/{id}.png',
        'bands': ['R', 'G', 'B'],
        'kind': 'rgb',
        'unit': 'uint8',
    },
    'depth': {
        'pattern': '{split}/depth/{id}.png',
        'bands': ['depth'],
        'kind': 'depth',
        'unit': 'm',
        'nodata': [0, 65535],
        'scale': 0.001,
    },
}
MASK = {'pattern': '{split}/label/{id}.png', 'values': {0: 0, 255: 1}}


def frame(
    number: int, shape: tuple[int, int] = SHAPE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photograph (3, H, W), depth in mm with invalid pixels (1, H, W), label of 0 and 255."""
    row, column = np.mgrid[: shape[0], : shape[1]]
    rgb = np.stack([20 * number + 0 * row, 4 * row, 4 * column]).astype(np.uint8)
    depth = (1000 + 100 * number + 10 * row + column)[None].astype(np.uint16)
    depth[0, 0, :4], depth[0, 1, :4] = 0, 65535
    label = (255 * ((row // 4 + column // 4 + number) % 2))[None].astype(np.uint8)
    return rgb, depth, label


def make(root: Path, splits: Mapping[str, Sequence[str]] = SPLITS) -> Path:
    """Write the frames, numbered on over the splits."""
    number = 0
    for split, names in splits.items():
        for name in names:
            for folder, bands in zip(
                ('rgb', 'depth', 'label'), frame(number), strict=True
            ):
                write_bands(root / split / folder / f'{name}.png', bands)
            number += 1
    return root
