"""Compare each backbone with its compiled form, from ``torch.compile`` with inductor.

    python -m experiments.benchmarks.compile

A call is the forward and backward pass of an encoder in training mode. Both forms have the same
weights and alternate in one process. The first call of the compiled form, which includes
compilation, is measured separately. If a backbone does not compile, its row is
``what=broken-<error>``.

Rows are appended to ``experiments/benchmarks/results_compile.csv``, with the machine's load average
at the start.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

from experiments.benchmarks.measure import DEVICE, load, take_turns, work_time
from experiments.benchmarks.record import FOLDER, record, render
from torchgeo_decur.models import create_encoder

BACKBONES = ('resnet18', 'resnet18_rda', 'vit_small_patch16_224', 'mit_b0')


def main(
    models: Sequence[str] = BACKBONES,
    in_chans: int = 13,
    batch_size: int = 8,
    size: int = 64,
    threads: int = 1,
    repeats: int = 7,
    minutes: float = 1.0,
    results: Path = FOLDER / 'results_compile.csv',
) -> None:
    """Measure all cases, print a table and append its rows to a CSV file.

    Args:
        models: names of timm models.
        in_chans: number of image channels.
        batch_size: number of images per batch.
        size: image size in pixels.
        threads: number of CPU threads.
        repeats: number of measured calls of each form, after a warm-up call.
        minutes: time in minutes after which no further repeat of a model starts, except the first.
        results: CSV file to append to.
    """
    torch.set_num_threads(threads)
    x = torch.rand(batch_size, in_chans, size, size, device=DEVICE)
    rows = []
    for name in models:
        case: dict[str, object] = {'model': name, 'batch': batch_size, 'size': size}
        case |= {'threads': threads, 'load': load()}
        plain = create_encoder(name, in_chans).to(DEVICE).train()
        other = compile_encoder(deepcopy(plain))
        start = perf_counter()
        try:
            run(other, x)
        # The backend raises many kinds of errors.
        except Exception as error:
            what = f'broken-{type(error).__name__}'
            rows.append(record('compile', {**case, 'what': what}, [1], '-', results))
            continue
        first = [perf_counter() - start]
        rows.append(record('compile', {**case, 'what': 'first'}, first, 's', results))
        cases = {'plain': partial(run, plain, x), 'compiled': partial(run, other, x)}
        seconds = take_turns(cases, repeats, minutes, work_time)
        for what, times in seconds.items():
            row = [1000 * t for t in times]
            rows.append(record('compile', {**case, 'what': what}, row, 'ms', results))
        pairs = zip(seconds['plain'], seconds['compiled'], strict=True)
        faster = [a / b for a, b in pairs]
        rows.append(
            record('compile', {**case, 'what': 'faster'}, faster, 'times', results)
        )
    print(render(rows))


compile_encoder: Callable[[nn.Module], Any] = torch.compile


def run(encoder: Any, x: Tensor) -> None:
    """Run the forward and backward pass of an encoder.

    Args:
        encoder: encoder in training mode.
        x: images, shape (B, C, H, W).
    """
    encoder.zero_grad()
    encoder(x).square().mean().backward()


if __name__ == '__main__':
    auto_cli(main)
