"""Measure the forward and backward pass of each loss, also with D x D matrices.

    python -m experiments.benchmarks.loss

The embeddings are random with seed 0, in float32, for two modalities and two views; DeCUR has a
``common_ratio`` of 0.875. All cases of one size alternate in one process with the same embeddings.
``matrices`` is DeCUR's loss with D x D matrices. ``lightly-<loss>`` is lightly's Barlow Twins,
VICReg or SimCLR (NT-Xent). CoMM, COrAL and InfMasking get a third embedding, and InfMasking six
masked ones per sample, as in their tasks. FactorCL has five parts of D / 5 dimensions, and critics
of width 512.
``<loss>-partly`` uses partly paired samples: half have both modalities, and a quarter each have
only one. ``<loss>-all`` uses masks too, but for complete samples. Without a GPU, CPU time is
measured, which depends less on other load on the machine. Memory is the peak of tensors and
gradients, without the embeddings. A form that takes ten seconds or more runs once, when its memory
is measured.

Rows are appended to ``experiments/benchmarks/results_loss.csv``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from jsonargparse import auto_cli
from lightly import loss as lightly
from torch import Tensor

from experiments.benchmarks.measure import DEVICE, load, peak_mib, take_turns, work_time
from experiments.benchmarks.published import matrix_loss
from experiments.benchmarks.record import FOLDER, record, render
from torchgeo_decur import losses

RATIO = 0.875
MODALITIES = ('s1', 's2')
MASKS = 6
SECONDS = 10.0

type Case = Callable[[], None]


def main(
    samples: Sequence[int] = (64, 256, 1024, 4096),
    dimensions: Sequence[int] = (512, 2048, 8192),
    repeats: int = 5,
    threads: int = 1,
    slow: int = 2048,
    critics: int = 256,
    masked: int = 2**23,
    results: Path = FOLDER / 'results_loss.csv',
) -> None:
    """Measure all cases, print a table and append its rows to a CSV file.

    Args:
        samples: numbers of samples N.
        dimensions: numbers of dimensions D.
        repeats: number of runs per case.
        threads: number of CPU threads.
        slow: maximum D for lightly's losses, which are slow for larger D.
        critics: maximum N for FactorCL, whose critics score N² pairs.
        masked: maximum N D for InfMasking, which has six masked embeddings.
        results: CSV file to append to.
    """
    torch.set_num_threads(threads)
    rows = []
    for n in samples:
        for d in dimensions:
            case = {'N': n, 'D': d, 'threads': threads, 'load': load()}
            cases = _cases(n, d)
            left_out = {
                'lightly': d > slow,
                'FactorCL': n > critics,
                'InfMasking': n * d > masked,
            }
            cases = {
                k: f for k, f in cases.items() if not left_out.get(k.split('-')[0])
            }
            seconds, memory = _measure(cases, repeats)
            for form in cases:
                one = {**case, 'form': form}
                milliseconds = [1e3 * s for s in seconds[form]]
                rows.append(record('loss', one, milliseconds, 'ms', results))
                rows.append(record('loss', one, [memory[form]], 'MiB', results))
            for a, b in _ratios(cases):
                # A slow form has run once.
                times = [p / q for p, q in zip(seconds[a], seconds[b], strict=False)]
                what = {**case, 'what': f'{a} / {b}'}
                rows.append(record('loss', what, times, 'times', results))
                what = {**case, 'what': f'{a} / {b}, memory'}
                share = [memory[a] / memory[b]]
                rows.append(record('loss', what, share, 'times', results))
    print(render(rows))


def _measure(
    cases: Mapping[str, Case], repeats: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds of each repeat and the memory in MiB, by name."""
    seconds, memory = {}, {}
    for name, case in cases.items():
        start = work_time()
        memory[name] = peak_mib(case)
        seconds[name] = [work_time() - start]
    fast = {name: case for name, case in cases.items() if seconds[name][0] < SECONDS}
    return seconds | take_turns(fast, repeats, clock=work_time), memory


def _cases(n: int, d: int) -> dict[str, Case]:
    generator = torch.Generator().manual_seed(0)
    z = {
        m: torch.randn(2, n, d, generator=generator).to(DEVICE)
        for m in (*MODALITIES, 'third')
    }
    common, part = round(RATIO * d), d // 5

    def step(
        loss: Callable[[dict[str, Tensor]], Tensor], names: Iterable[str] = MODALITIES
    ) -> None:
        # Name the embeddings as the loss requires.
        leaves = {
            m: x.detach().requires_grad_()
            for m, x in zip(names, z.values(), strict=False)
        }
        if 'masked' in names:
            masked = z['third'][:, :, None].expand(-1, -1, MASKS, -1)
            leaves['masked'] = masked.detach().requires_grad_()
        loss(leaves).backward()

    def whole(
        criterion: losses.EmbeddingLoss,
        *more: str,
        masks: dict[str, Tensor] | None = None,
    ) -> Case:
        criterion = criterion.to(DEVICE)
        names = (*MODALITIES, *more)
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
        'InfMasking': whole(losses.InfMaskingLoss(), 'joint', 'masked'),
        'FactorCL': partial(step, _factorcl(part)),
    }
    for name, some in masks.items():
        cases[f'DeCUR-{name}'] = whole(losses.DeCURLoss(common), masks=some)
        cases[f'BarlowTwins-{name}'] = whole(losses.BarlowTwinsLoss(), masks=some)
    theirs = {
        'lightly-BarlowTwins': lightly.BarlowTwinsLoss(0.0051),
        'lightly-VICReg': lightly.VICRegLoss(),
        'lightly-SimCLR': lightly.NTXentLoss(0.1),
    }
    return cases | {k: whole(losses.CrossModalLoss(v)) for k, v in theirs.items()}


def _factorcl(dim: int) -> Callable[[dict[str, Tensor]], Tensor]:
    criterion = losses.FactorCLLoss(dim).to(DEVICE)

    def loss(z: dict[str, Tensor]) -> Tensor:
        criterion.zero_grad()
        found: Tensor = criterion({m: x[..., : 5 * dim] for m, x in z.items()})['loss']
        return found

    return loss


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
