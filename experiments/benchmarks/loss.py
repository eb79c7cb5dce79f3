"""The loss of DeCUR: forward and backward, ours against the D x D matrices of the paper.

    python -m experiments.benchmarks.loss

Two modalities, two views, 87.5 % common dimensions, float32. Both take turns in one process, and
get the same embeddings. Memory is the largest that tensors take beside the embeddings, gradients
included.

Rows are appended to ``experiments/benchmarks/results_loss.csv``.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from jsonargparse import auto_cli
from torch import Tensor

from experiments.benchmarks.measure import DEVICE, peak_mib, take_turns
from experiments.benchmarks.published import matrix_loss
from experiments.benchmarks.record import FOLDER, record, render
from torchgeo_decur.losses import DeCURLoss

RATIO = 0.875


def main(
    samples: Sequence[int] = (64, 256, 1024, 4096),
    dimensions: Sequence[int] = (512, 2048, 8192),
    repeats: int = 5,
    results: Path = FOLDER / 'results_loss.csv',
) -> None:
    """Measure, print a table and append it.

    Args:
        samples: numbers of samples N.
        dimensions: numbers of dimensions D.
        repeats: how often each form runs.
        results: CSV file to append to.
    """
    rows = []
    for n in samples:
        for d in dimensions:
            cases = _cases(n, d)
            seconds = take_turns(cases, repeats)
            memory = {name: peak_mib(case) for name, case in cases.items()}
            ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
            case = {'N': n, 'D': d}
            for form in cases:
                milliseconds = [1e3 * s for s in seconds[form]]
                one = {**case, 'form': form}
                rows.append(record('loss', one, milliseconds, 'ms', results))
                rows.append(record('loss', one, [memory[form]], 'MiB', results))
            faster = {**case, 'what': 'matrices / ours'}
            rows.append(record('loss', faster, ratios, 'times', results))
            share = [memory['ours'] / memory['matrices']]
            less = {**case, 'what': 'ours / matrices, memory'}
            rows.append(record('loss', less, share, 'times', results))
    print(render(rows))


def _cases(n: int, d: int) -> dict[str, Callable[[], None]]:
    generator = torch.Generator().manual_seed(0)
    z = {m: torch.randn(2, n, d, generator=generator).to(DEVICE) for m in ('s1', 's2')}
    common = round(RATIO * d)
    ours = DeCURLoss(common)

    def step(loss: Callable[[dict[str, Tensor]], Tensor]) -> None:
        leaves = {m: x.detach().requires_grad_() for m, x in z.items()}
        loss(leaves).backward()

    return {
        'ours': partial(step, lambda x: ours(x)['loss']),
        'matrices': partial(step, lambda x: matrix_loss(x, common)),
    }


if __name__ == '__main__':
    auto_cli(main)
