"""Draw the figure of the README, which compares DeCUR and Barlow Twins.

    torchgeo fit --config experiments/quickstart.yaml
    torchgeo fit --config experiments/quickstart.yaml --config experiments/objectives/barlow_twins.yaml \
        --trainer.logger.init_args.name quickstart_barlow_twins
    python -m experiments.lead_figure outputs/quickstart/version_0 \
        outputs/quickstart_barlow_twins/version_0

Both runs have the same data, encoders, seed and number of steps. Each panel shows held-out scenes.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
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
    """Draw the figure, and print the means for its caption.

    Args:
        decur: folder of the run of DeCUR, with its ``config.yaml``.
        barlow_twins: folder of the run of Barlow Twins.
        out: file of the figure.
    """
    runs = {
        'Barlow Twins: all aligned': embed(barlow_twins),
        'DeCUR: common and unique': embed(decur),
    }
    probes = {'Barlow Twins': probe(barlow_twins), 'DeCUR': probe(decur)}
    with figure_style():
        figure, axes = plt.subplots(
            1, 3, figsize=(PAGE, 2.5), width_ratios=(2, 2, 2), layout='constrained'
        )
        for axis, (title, embeddings) in zip(axes, runs.items(), strict=False):
            for part, (start, values) in curves(embeddings).items():
                dimensions = range(start, start + len(values))
                axis.fill_between(dimensions, values, color=COLOURS[part], label=part)
                print(f'{title}: {part}, {len(values)}, mean {values.mean():.3f}')
            axis.set(title=title, xlabel='embedding dimension, sorted', ylim=(-0.35, 1))
            axis.legend(loc='lower left')
        axes[0].set(ylabel='correlation across sensors')
        untrained = probes['DeCUR'].untrained
        bars = {'untrained': untrained, **{k: v.score for k, v in probes.items()}}
        colors = ('#BBBBBB', COLOURS['all'], COLOURS['common'])
        for i, ((name, values), color) in enumerate(
            zip(bars.items(), colors, strict=True)
        ):
            places = [place + 0.27 * (i - 1) for place in range(len(values))]
            drawn = axes[2].bar(places, values, 0.25, color=color, label=name)
            axes[2].bar_label(drawn, fmt='%.0f', fontsize=6.5)
            print(name, dict(zip(values.index, values.round(1), strict=True)))
        axes[2].set(title='Linear probe (%)', ylim=(0, 118))
        axes[2].set_xticks(range(len(untrained)), untrained.index)
        axes[2].grid(visible=False)
        axes[2].legend(
            loc='upper center', ncols=3, columnspacing=0.6, handlelength=0.6, fontsize=6
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=200)


def probe(run: Path) -> pd.DataFrame:
    """Read the linear probes of two labels after the last epoch.

    Args:
        run: folder of the run, with the ``probe.csv`` of its online probe.

    Returns:
        Columns ``score`` and ``untrained`` in %, by label.
    """
    table = pd.read_csv(run / 'probe.csv')
    table = table[table.classifier == 'linear']
    shown = {
        'seen by\nboth': ('label_common', 's1+s2'),
        'seen by\noptical only': ('label_s2', 's2'),
    }
    rows = {}
    for name, (label, features) in shown.items():
        of = table[(table.label == label) & (table.features == features)]
        scores = of.sort_values('epoch').score
        rows[name] = {'score': scores.iloc[-1], 'untrained': scores.iloc[0]}
    return pd.DataFrame(rows).T


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
