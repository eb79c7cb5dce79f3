"""Measure the forward and backward pass of each loss, also with D x D matrices.

    python -m experiments.benchmarks.loss

The embeddings are random with seed 0, in float32, for two modalities and two views; DeCUR has a
``common_ratio`` of 0.875. All cases of one size alternate in one process with the same embeddings.
``matrices`` is DeCUR's loss with D x D matrices. ``lightly-<loss>`` is lightly's Barlow Twins,
VICReg or SimCLR (NT-Xent). CoMM and COrAL get a third embedding, as in their tasks.
``<loss>-partly`` uses partly paired samples: half have both modalities, and a quarter each have
only one. ``<loss>-all`` uses masks too, but for complete samples. On a CPU, processor time is
measured, which depends less on other load on the machine. Memory is the peak of tensors and
gradients, without the embeddings.

Rows are appended to ``experiments/benchmarks/results_loss.csv``.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from time import process_time

import torch
from jsonargparse import auto_cli
from lightly import loss as lightly
from torch import Tensor

from experiments.benchmarks.measure import DEVICE, peak_mib, take_turns
from experiments.benchmarks.published import matrix_loss
from experiments.benchmarks.record import FOLDER, record, render
from torchgeo_decur import losses

RATIO = 0.875
MODALITIES = ('s1', 's2')

type Case = Callable[[], None]


def main(
    samples: Sequence[int] = (64, 256, 1024, 4096),
    dimensions: Sequence[int] = (512, 2048, 8192),
    repeats: int = 5,
    threads: int = 1,
    slow: int = 2048,
    results: Path = FOLDER / 'results_loss.csv',
) -> None:
    """Measure all cases, print a table and append its rows to a CSV file.

    Args:
        samples: numbers of samples N.
        dimensions: numbers of dimensions D.
        repeats: number of runs per case.
        threads: number of CPU threads.
        slow: maximum D for lightly's losses, which are slow for larger D.
        results: CSV file to append to.
    """
    torch.set_num_threads(threads)
    rows = []
    for n in samples:
        for d in dimensions:
            cases = _cases(n, d, with_lightly=d <= slow)
            clock = process_time if DEVICE.type == 'cpu' else None
            seconds = take_turns(cases, repeats, clock=clock)
            memory = {name: peak_mib(case) for name, case in cases.items()}
            case = {'N': n, 'D': d, 'threads': threads}
            for form in cases:
                one = {**case, 'form': form}
                milliseconds = [1e3 * s for s in seconds[form]]
                rows.append(record('loss', one, milliseconds, 'ms', results))
                rows.append(record('loss', one, [memory[form]], 'MiB', results))
            for a, b in _ratios(cases):
                times = [p / q for p, q in zip(seconds[a], seconds[b], strict=True)]
                what = {**case, 'what': f'{a} / {b}'}
                rows.append(record('loss', what, times, 'times', results))
                what = {**case, 'what': f'{a} / {b}, memory'}
                share = [memory[a] / memory[b]]
                rows.append(record('loss', what, share, 'times', results))
    print(render(rows))


def _cases(n: int, d: int, with_lightly: bool) -> dict[str, Case]:
    generator = torch.Generator().manual_seed(0)
    z = {
        m: torch.randn(2, n, d, generator=generator).to(DEVICE)
        for m in (*MODALITIES, 'third')
    }
    common = round(RATIO * d)

    def step(
        loss: Callable[[dict[str, Tensor]], Tensor], names: Iterable[str] = MODALITIES
    ) -> None:
        # Name the embeddings as the loss requires.
        leaves = {
            m: x.detach().requires_grad_()
            for m, x in zip(names, z.values(), strict=False)
        }
        loss(leaves).backward()

    def whole(
        criterion: losses.EmbeddingLoss,
        *third: str,
        masks: dict[str, Tensor] | None = None,
    ) -> Case:
        criterion = criterion.to(DEVICE)
        names = (*MODALITIES, *third)
        return partial(step, lambda x: criterion(x, masks)['loss'], names)

    number = torch.arange(n, device=DEVICE)
    masks = {
        'partly': {'s1': number % 4 > 0, 's2': number % 4 < 3},
        'all': {m: number >= 0 for m in MODALITIES},
    }

    cases: dict[str, Case] = {
        'DeCUR': whole(losses.DeCURLoss(common)),
        'matrices': partial(step, lambda x: matrix_loss(x, common)),
        'BarlowTwins': whole(losses.BarlowTwinsLoss()),
        'VICReg': whole(losses.VICRegLoss()),
        'SimCLR': whole(losses.SimCLRLoss()),
        'CLIP': whole(losses.CLIPLoss()),
        'CoMM': whole(losses.CoMMLoss(), 'joint'),
        'COrAL': whole(losses.COrALLoss(), 'shared'),
    }
    for name, some in masks.items():
        cases[f'DeCUR-{name}'] = whole(losses.DeCURLoss(common), masks=some)
        cases[f'BarlowTwins-{name}'] = whole(losses.BarlowTwinsLoss(), masks=some)
    theirs = {
        'lightly-BarlowTwins': lightly.BarlowTwinsLoss(0.0051),
        'lightly-VICReg': lightly.VICRegLoss(),
        'lightly-SimCLR': lightly.NTXentLoss(0.1),
    }
    if with_lightly:
        cases |= {k: whole(losses.CrossModalLoss(v)) for k, v in theirs.items()}
    return cases


def _ratios(cases: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of each case and its reference."""
    found = [('matrices', 'DeCUR')]
    for name in cases:
        if name.endswith(('-partly', '-all')):
            found.append((name, name.partition('-')[0]))
        elif name.startswith('lightly-'):
            found.append((name, name.removeprefix('lightly-')))
        elif name not in ('DeCUR', 'matrices'):
            found.append((name, 'DeCUR'))
    return found


if __name__ == '__main__':
    auto_cli(main)
