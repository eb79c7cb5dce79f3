"""Fake SUN RGB-D: small frames in the layout of the two archives, unpacked.

Photograph, depth and classes of a frame tell its number, and where a pixel is.
"""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from tests.helpers.fake_data import write_bands

THEIRS = '/n/fs/sun3d/data/SUNRGBD'
# Folder of each frame; sizes differ between the sensors.
TRAIN = (
    'kv1/NYUdata/NYU0001',
    'kv2/kinect2data/000002_2014-05-26_14-23-37_260595134347_rgbf000103-resize',
    'xtion/sun3ddata/brown_bm_1/brown_bm_1/0000103-000003420623',
    'xtion/sun3ddata/brown_bm_1/brown_bm_1/0000300-000010073521',
    'realsense/lg/2014_10_21-18_15_16-1311000041',
)
TEST = ('kv1/b3dodata/img_0063', 'xtion/xtion_align_data/2014_10_28_14_28_56')
SIZES = {'kv1': (24, 32), 'kv2': (20, 28), 'xtion': (24, 32), 'realsense': (26, 34)}


def frame(number: int, scene: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photograph (3, H, W), depth in mm and classes of a frame."""
    shape = SIZES[scene.split('/')[0]]
    row, column = np.mgrid[: shape[0], : shape[1]]
    rgb = np.stack([20 * number + 10 + 0 * row, 4 * row, 4 * column]).astype(np.uint8)
    depth = 1000 + 500 * number + 8 * row + column
    depth[:2, :3] = 0
    depth[-1, -1] = 9000
    mask = (number + row // 4 + column // 4) % 38
    return rgb, depth.astype(np.uint16), mask.astype(np.uint8)


def write_depth(path: Path, millimetres: np.ndarray) -> None:
    """Write depth as the authors do: all bits turned by three places."""
    stored = (millimetres << 3) | (millimetres >> 13)
    write_bands(path, stored[None])


def make(root: Path, train: Sequence[str] = TRAIN, test: Sequence[str] = TEST) -> Path:
    """Write the frames and their metadata; test frames come first, as in the original."""
    labels, metadata = [], []
    for number, scene in enumerate([*test, *train]):
        rgb, depth, mask = frame(number, scene)
        folder = root / 'SUNRGBD' / scene
        name = scene.split('/')[-1]
        for part in ('image', 'depth', 'depth_bfx'):
            (folder / part).mkdir(parents=True)
        write_bands(folder / 'image' / f'{name}.jpg', rgb)
        write_depth(folder / 'depth_bfx' / f'{name}_abs.png', depth)
        write_depth(folder / 'depth' / f'{name}_abs.png', 0 * depth)
        (folder / 'intrinsics.txt').write_text('30 0 16 0 31 12 0 0 1 \n')
        metadata.append(
            {
                'sequenceName': f'SUNRGBD/{scene}',
                'rgbpath': f'{THEIRS}//{scene}/image/{name}.jpg',
                'depthpath': f'{THEIRS}//{scene}/depth_bfx/{name}_abs.png',
                'rgbname': f'{name}.jpg',
                'depthname': f'{name}_abs.png',
            }
        )
        labels.append(mask)
    toolbox = root / 'SUNRGBDtoolbox'
    (toolbox / 'Metadata').mkdir(parents=True)
    (toolbox / 'traintestSUNRGBD').mkdir()
    scipy.io.savemat(
        toolbox / 'Metadata/SUNRGBDMeta.mat', {'SUNRGBDMeta': np.array(metadata)}
    )
    cells = {
        key: np.array([f'{THEIRS}/{s}{end}' for s in scenes], dtype=object)
        for key, scenes, end in (('alltrain', train, ''), ('alltest', test, '/'))
    }
    scipy.io.savemat(toolbox / 'traintestSUNRGBD/allsplit.mat', cells)
    with h5py.File(toolbox / 'Metadata/SUNRGBD2Dseg.mat', 'w') as file:
        group = file.create_group('SUNRGBD2Dseg')
        kind = h5py.ref_dtype
        references = group.create_dataset('seglabel', (len(labels), 1), kind)
        for number, mask in enumerate(labels):
            file[f'#refs#/{number}'] = mask.T
            references[number, 0] = file[f'#refs#/{number}'].ref
    return root
