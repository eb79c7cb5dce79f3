"""Draw the pictures of the gallery from a quickstart fit and built-in scenes.

`python docs/gallery.py outputs/quickstart/version_0` rewrites docs/_static/gallery.
"""

import sys
import tempfile
from collections.abc import Callable
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from lightning.pytorch import Trainer, seed_everything
from matplotlib.figure import Figure
from PIL import Image

from torchgeo_decur.cli.report import report_checkpoint
from torchgeo_decur.datamodules import SyntheticEODataModule
from torchgeo_decur.datasets import SyntheticEO, SyntheticFactors
from torchgeo_decur.tasks import LateFusionSegmentation

FOLDER = Path(__file__).parent / '_static' / 'gallery'
#: Maximum size of a picture in bytes, and the side lengths to try in pixels.
LARGEST, WIDTHS = 60_000, (1000, 840, 720, 600)
#: Pictures from a report, by their name in the gallery.
REPORT = {
    'tsne': 'dimensions/tsne',
    'dropping': 'dropping/dropped',
    'retrieval': 'retrieval/recall',
    'ranks': 'rank/ranks',
    'shared': 'shared/correlations',
    'value': 'value/values',
    'overlap': 'spatial_saliency/overlap',
    'feature_maps': 'feature_maps/maps',
    'curves': 'curves/curves',
}


def scenes() -> Figure:
    """Plot one built-in scene on two dates."""
    dataset = SyntheticEO(length=4, size=48, num_dates=2)
    return dataset.plot(dataset[1])


def factors() -> Figure:
    """Plot one scene with controlled factors."""
    dataset = SyntheticFactors(shared=1, unique={'s1': 1, 's2': 1}, states=4, length=4)
    return dataset.plot(dataset[0])


def prediction() -> Figure:
    """Plot a land cover map predicted from radar and optical images."""
    seed_everything(0)
    datamodule = SyntheticEODataModule(length=256, val_length=8, batch_size=16, size=64)
    task = LateFusionSegmentation(
        {'s1': 2, 's2': 13},
        'fcn',
        'resnet10t',
        num_classes=len(SyntheticEO.classes),
        lr=1e-3,
    )
    trainer = Trainer(
        accelerator='cpu',
        max_epochs=6,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(task, datamodule)
    outputs: Any = trainer.predict(task, datamodule)
    dataset: Any = datamodule.predict_dataset
    predicted = outputs[0]['probabilities'][1].argmax(0)
    return dataset.plot({**dataset[1], 'prediction': predicted})


PLOTS: dict[str, Callable[[], Figure]] = {
    'scenes': scenes,
    'factors': factors,
    'prediction': prediction,
}


def compress(picture: Image.Image) -> bytes:
    """Return a PNG of limited size, with fewer colors and pixels if necessary.

    Raises:
        ValueError: if no variant has at most 60 kB.
    """
    picture = picture.convert('RGB')
    for width, colors in product(WIDTHS, (256, 64)):
        picture.thumbnail((width, width))
        stream = BytesIO()
        reduced = picture.quantize(colors, dither=Image.Dither.NONE)
        reduced.save(stream, 'PNG', optimize=True)
        if stream.tell() <= LARGEST:
            return stream.getvalue()
    raise ValueError(f'picture must have at most {LARGEST} bytes, got {stream.tell()}')


def main(run: Path, folder: Path = FOLDER) -> None:
    """Write all pictures.

    Args:
        run: folder of a quickstart fit.
        folder: folder of the pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PLOTS.items():
        stream = BytesIO()
        figure = draw()
        figure.savefig(stream, dpi=60)
        plt.close(figure)
        (folder / f'{name}.png').write_bytes(compress(Image.open(stream)))
    (checkpoint,) = (run / 'checkpoints').glob('*.ckpt')
    with tempfile.TemporaryDirectory() as report:
        report_checkpoint(checkpoint, out=Path(report), device='cpu')
        for name, file in REPORT.items():
            picture = Image.open(Path(report, file).with_suffix('.png'))
            (folder / f'{name}.png').write_bytes(compress(picture))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
