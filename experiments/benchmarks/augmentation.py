"""Compare the augmentation presets with plain Kornia, in views per second.

    python -m experiments.benchmarks.augmentation

Plain Kornia is a ``K.AugmentationSequential`` of the preset's operations. With the same seed, it
gives the same views, up to rounding. Both forms end in the channels-last memory format, and
alternate in one process.

Rows are appended to ``experiments/benchmarks/results_augmentation.csv``.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import kornia.augmentation as K
import torch
from jsonargparse import auto_cli
from torch import Tensor

from experiments.benchmarks.measure import DEVICE, take_turns
from experiments.benchmarks.record import FOLDER, record, render
from torchgeo_decur.transforms import default_augmentations

BANDS = {'s1': 2, 's2': 13, 'rgb': 3, 'dem': 1}


def main(
    batch_size: int = 32,
    sizes: Sequence[int] = (112, 224),
    repeats: int = 7,
    results: Path = FOLDER / 'results_augmentation.csv',
) -> None:
    """Measure all cases, print a table and append its rows to a CSV file.

    Args:
        batch_size: number of images per batch.
        sizes: view sizes in pixels; images are 40 pixels larger.
        repeats: number of times that each batch is augmented.
        results: CSV file to append to.
    """
    rows = []
    for size in sizes:
        for modality, bands in BANDS.items():
            seconds = take_turns(_cases(modality, bands, size, batch_size), repeats)
            case = {'modality': modality, 'bands': bands, 'size': size}
            for name, found in seconds.items():
                rates = [batch_size / s for s in found]
                one = {**case, 'by': name}
                rows.append(record('augmentation', one, rates, 'images/s', results))
            ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
            both = {**case, 'what': 'ours / kornia'}
            rows.append(record('augmentation', both, ratios, 'times', results))
    print(render(rows))


def _cases(
    modality: str, bands: int, size: int, batch_size: int
) -> dict[str, Callable[[], Tensor]]:
    images = torch.rand(batch_size, bands, size + 40, size + 40, device=DEVICE)
    ours: Any = default_augmentations({modality: bands}, size).to(DEVICE)[modality]
    plain = K.AugmentationSequential(*ours, data_keys=['input'])

    def run(augmentation: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.no_grad():
            view = augmentation(images)
            return view.contiguous(memory_format=torch.channels_last)

    return {'ours': lambda: run(ours), 'kornia': lambda: run(plain)}


if __name__ == '__main__':
    auto_cli(main)
