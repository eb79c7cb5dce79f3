"""Measure the cost of a training step for each objective, at the same size.

    python -m experiments.benchmarks.cost
    python -m experiments.benchmarks.cost --only '[DeCUR, FactorCL]' --batch_size 64

All objectives use the same backbone, images, batch size, projector widths and precision (float32),
and alternate in one process. A step includes augmentation, encoders, projectors, loss, backward
pass and optimizer; all other options have their defaults. The graph is cut at the embeddings, so
that the forward and backward pass of the loss are timed separately. Without a GPU, CPU time is
measured, which depends less on other load on the machine. Memory is the peak of tensors and
gradients, without weights and optimizer state.

Rows are appended to ``experiments/benchmarks/results_cost.csv``, with the machine's load average at
the start.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor

from experiments.benchmarks.measure import (
    DEVICE,
    Clock,
    load,
    peak_mib,
    take_turns,
    work_time,
)
from experiments.benchmarks.record import FOLDER, record, render_costs
from torchgeo_decur import tasks

MODALITIES = {'s1': 2, 's2': 13}
OBJECTIVES = {
    'DeCUR': tasks.DeCUR,
    'BarlowTwins': tasks.BarlowTwins,
    'VICReg': tasks.VICReg,
    'SimCLR': tasks.CrossModalSimCLR,
    'CLIP': tasks.CLIP,
    'FactorCL': tasks.FactorCL,
    'CoMM': tasks.CoMM,
    'InfMasking': tasks.InfMasking,
    'COrAL': tasks.COrAL,
}


class Step:
    """Training step of one objective, with the loss timed separately."""

    def __init__(
        self, task: tasks.MultimodalPretraining, images: dict[str, Tensor]
    ) -> None:
        """Initialize a new Step instance."""
        self.task = task.to(DEVICE).train()
        self.images = images
        optimizers: Any = task.configure_optimizers()
        self.optimizer: torch.optim.Optimizer = optimizers['optimizer']
        self.seconds: list[dict[str, float]] = []

    def run(self) -> None:
        """Run the step and record the seconds of the loss and of everything else."""
        clock = Clock(work_time)
        z: dict[str, list[Tensor]] = {}
        for view in range(2):
            with torch.no_grad():
                views = {m: self.task._view(m, x) for m, x in self.images.items()}
            for name, x in self.task.encode_and_project(views, view)[1].items():
                z.setdefault(name, []).append(x)
        stacked = {name: torch.stack(x) for name, x in z.items()}
        leaves = {name: x.detach().requires_grad_() for name, x in stacked.items()}
        clock.lap('rest')
        self.task.criterion(leaves)['loss'].backward()
        clock.lap('loss')
        gradients = [x.grad for x in leaves.values()]
        torch.autograd.backward([*stacked.values()], gradients)
        self.optimizer.step()
        self.optimizer.zero_grad()
        clock.lap('rest')
        self.seconds.append(clock.seconds)


def main(
    only: Sequence[str] = tuple(OBJECTIVES),
    model: str = 'resnet18',
    projector: Sequence[int] = (512, 512, 256),
    batch_size: int = 32,
    size: int = 96,
    threads: int = 1,
    repeats: int = 5,
    minutes: float = 3.0,
    results: Path = FOLDER / 'results_cost.csv',
) -> None:
    """Measure all cases, print a table and append its rows to a CSV file.

    Args:
        only: names of the objectives to measure.
        model: name of a timm model.
        projector: output width of each projector layer, for all objectives.
        batch_size: number of samples per batch.
        size: size of images and views in pixels.
        threads: number of CPU threads.
        repeats: number of measured steps of each objective, after a warm-up step.
        minutes: time in minutes after which no further repeat starts, except the first.
        results: CSV file to append to.

    Raises:
        ValueError: if an objective is unknown.
    """
    if unknown := sorted(set(only) - set(OBJECTIVES)):
        raise ValueError(f'only must name some of {list(OBJECTIVES)}, got {unknown}')
    torch.set_num_threads(threads)
    case: dict[str, object] = {
        'model': model,
        'projector': '-'.join(map(str, projector)),
        'batch': batch_size,
        'size': size,
        'threads': threads,
        'load': load(),
    }
    images = {
        m: torch.rand(batch_size, c, size, size, device=DEVICE)
        for m, c in MODALITIES.items()
    }
    build: dict[str, Any] = OBJECTIVES
    steps = {
        name: Step(
            build[name](MODALITIES, model, projector=projector, size=size), images
        )
        for name in only
    }
    take_turns({name: step.run for name, step in steps.items()}, repeats, minutes)
    rows = []
    for name, step in steps.items():
        # The first step is a warm-up.
        runs = step.seconds[1:]
        totals = [sum(run.values()) for run in runs]
        shares = [100 * run['loss'] / sum(run.values()) for run in runs]
        found = (
            ([batch_size / total for total in totals], 'images/s'),
            (shares, '%'),
            ([peak_mib(step.run)], 'MiB'),
        )
        one = {'objective': name, **case}
        rows += [record('cost', one, values, unit, results) for values, unit in found]
    print(render_costs(rows))


if __name__ == '__main__':
    auto_cli(main)
