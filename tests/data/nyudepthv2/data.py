"""Fake NYU Depth v2: the three files, with small frames that tell their number."""

from pathlib import Path

import h5py
import numpy as np
import scipy.io

# Place of each frame; frames from 1 in the split.
PLACES = ('kitchen_0004', 'kitchen_0004', 'office_0001', 'bedroom_0010', 'study_0003')
TRAIN, TEST = (1, 2, 3, 5), (4,)
SHAPE = (24, 32)


def frame(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photograph (3, H, W), depth in m and labels, 0 to 894, of a frame."""
    row, column = np.mgrid[: SHAPE[0], : SHAPE[1]]
    rgb = np.stack([50 * number + 0 * row, 4 * row, 4 * column]).astype(np.uint8)
    depth = (1 + number + row / 100 + column / 1000).astype(np.float32)
    labels = ((row + 2 * column + 100 * number) % 895).astype(np.uint16)
    return rgb, depth, labels


def mapping() -> np.ndarray:
    """Class, 1 to 40, of each label from 1."""
    return np.arange(894) * 7 % 40 + 1


def make(root: Path) -> Path:
    """Write the files; MATLAB's arrays lie transposed in HDF5."""
    root.mkdir(parents=True, exist_ok=True)
    images, depths, labels = (
        np.stack([np.swapaxes(x, -1, -2) for x in arrays])
        for arrays in zip(*map(frame, range(len(PLACES))), strict=True)
    )
    with h5py.File(root / 'nyu_depth_v2_labeled.mat', 'w') as file:
        file['images'], file['depths'], file['labels'] = images, depths, labels
        references = file.create_dataset('scenes', (1, len(PLACES)), h5py.ref_dtype)
        for number, place in enumerate(PLACES):
            text = np.array([[ord(c)] for c in place], np.uint16)
            file[f'#refs#/{number}'] = text
            references[0, number] = file[f'#refs#/{number}'].ref
    numbers = {
        'trainNdxs': np.array(TRAIN)[:, None],
        'testNdxs': np.array(TEST)[:, None],
    }
    scipy.io.savemat(root / 'splits.mat', numbers)
    scipy.io.savemat(root / 'classMapping40.mat', {'mapClass': mapping()[None]})
    return root
