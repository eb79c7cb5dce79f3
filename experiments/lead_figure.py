"""Draw the figure of the README: how DeCUR and Barlow Twins align each embedding dimension.

    torchgeo fit --config experiments/quickstart.yaml
    torchgeo fit --config experiments/quickstart.yaml --config experiments/objectives/barlow_twins.yaml \
        --trainer.logger.init_args.name quickstart_barlow_twins
    python -m experiments.lead_figure outputs/quickstart/version_0 \
        outputs/quickstart_barlow_twins/version_0

Both runs have the same data, encoders, seed and number of steps.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from jsonargparse import auto_cli
from torch import Tensor

from experiments.provenance import ROOT
from torchgeo_decur.analysis import Embeddings
from torchgeo_decur.analysis.embeddings import collect
from torchgeo_decur.analysis.matplotlib_style import COLOURS, PAGE, figure_style
from torchgeo_decur.cli.embed import Batches, load_run
from torchgeo_decur.tasks import MultimodalPretraining

_FIGURE = ROOT / 'docs' / '_static' / 'dimensions.png'


def main(decur: Path, barlow_twins: Path, out: Path = _FIGURE) -> None:
    """Draw the figure, and print the means that its caption gives.

    Args:
        decur: folder of the run of DeCUR, with its ``config.yaml``.
        barlow_twins: folder of the run of Barlow Twins.
        out: file of the figure.
    """
    runs = {
        'Barlow Twins aligns all dimensions': embed(barlow_twins),
        'DeCUR splits them into common and unique': embed(decur),
    }
    with figure_style():
        figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharey=True)
        for axis, (title, embeddings) in zip(axes, runs.items(), strict=True):
            for part, (start, values) in curves(embeddings).items():
                dimensions = range(start, start + len(values))
                label = part if part != 'all' else 'all, aligned'
                axis.fill_between(dimensions, values, color=COLOURS[part], label=label)
                print(f'{title}: {part}, {len(values)}, mean {values.mean():.3f}')
            axis.set(title=title, xlabel='embedding dimension, sorted', xlim=(0, None))
            axis.legend(loc='lower left')
        axes[0].set(ylabel='correlation of radar and optical', ylim=(None, 1))
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out)


def embed(run: Path) -> Embeddings:
    """Embed the validation split of a run.

    Args:
        run: folder of the run.

    Returns:
        Embeddings, with the correlation of each dimension across modalities.
    """
    task, datamodule, _ = load_run(run / 'config.yaml')
    if not isinstance(task, MultimodalPretraining):
        raise ValueError(f'{run}: expected a pretraining, found {type(task).__name__}')
    return collect(task, Batches(datamodule, 'val', 'cpu'))


def curves(embeddings: Embeddings) -> dict[str, tuple[int, Tensor]]:
    """Sort the correlations of each part of the dimensions.

    Args:
        embeddings: embeddings of two modalities.

    Returns:
        First dimension and sorted correlations, by part.
    """
    (diagonal,) = embeddings.diagonals.values()
    parts = embeddings.parts()
    shown = {k: v for k, v in parts.items() if k != 'all'} or parts
    return {
        name: (place.start, torch.sort(diagonal[place], descending=True).values)
        for name, place in shown.items()
    }


if __name__ == '__main__':
    auto_cli(main)
