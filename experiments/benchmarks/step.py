"""Compare a training step and its parts with a step as in the published code.

    python -m experiments.benchmarks.step
    python -m experiments.benchmarks.step --profile true

A step has two modalities (2 + 13 bands) and two views. It includes scaling to [0, 1], augmentation,
encoders, projectors, DeCUR's loss and the optimizer. The variants are:

- ``published``: contiguous layout, float32, plain Kornia on the CPU for each sample, and the loss
  with D x D matrices;
- ``ours float32``: channels-last layout, the presets on the whole batch, and the loss with Gram
  matrices;
- ``ours bf16``: the same under autocast to bfloat16.

The variants share weights, optimizer and images, and alternate in one process. To time the backward
pass of each part, the graph is cut between encoder, projector and loss. Memory is the peak of
tensors and gradients, without weights and optimizer state. Without a GPU, CPU time is measured,
which depends less on other load on the machine.

Rows are appended to ``experiments/benchmarks/results_step.csv``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import kornia.augmentation as K
import torch
from jsonargparse import auto_cli
from torch import Tensor
from torch.profiler import profile

from experiments.benchmarks.measure import DEVICE, Clock, load, peak_mib, work_time
from experiments.benchmarks.published import matrix_loss
from experiments.benchmarks.record import FOLDER, record, render, render_parts
from torchgeo_decur.tasks import DeCUR
from torchgeo_decur.transforms import ScaleToUnit

VARIANTS = {
    'published': (torch.contiguous_format, False),
    'ours float32': (torch.channels_last, False),
    'ours bf16': (torch.channels_last, True),
}


class Step:
    """One training step of a task, in any of the variants."""

    def __init__(self, task: DeCUR, raw: Mapping[str, Tensor]) -> None:
        """Initialize a new Step instance."""
        self.task = task.to(DEVICE).train()
        self.raw = raw
        self.scale = {
            's1': ScaleToUnit('sentinel1_grd').to(DEVICE),
            's2': ScaleToUnit('sentinel2_l1c').to(DEVICE),
        }
        optimizers: Any = task.configure_optimizers()
        self.optimizer: torch.optim.Optimizer = optimizers['optimizer']
        chains: Mapping[str, Any] = dict(task.augmentations.items())
        self.plain = {
            m: K.AugmentationSequential(*chain, data_keys=['input'])
            for m, chain in chains.items()
        }

    def prepare(self, variant: str) -> None:
        """Set the memory format of the weights for a variant, outside the measured time."""
        self.task.to(memory_format=VARIANTS[variant][0])
        self.optimizer.zero_grad()

    def run(self, variant: str) -> dict[str, float]:
        """Run a step of a variant and return the seconds of its parts."""
        published = variant == 'published'
        half = torch.autocast(DEVICE.type, torch.bfloat16, enabled=VARIANTS[variant][1])
        clock = Clock(work_time)
        images = self._load(published)
        clock.lap('data')
        features: dict[str, list[Tensor]] = {m: [] for m in images}
        embeddings: dict[str, list[Tensor]] = {m: [] for m in images}
        cuts: dict[str, list[tuple[Tensor, Tensor]]] = {'encoder': [], 'projector': []}
        for _ in range(2):
            with torch.no_grad():
                views = {m: self._view(m, x, published) for m, x in images.items()}
            clock.lap('augmentation')
            with half:
                for m, h in self.task(views).items():
                    features[m].append(_cut(h, cuts['encoder']))
                clock.lap('encoder forward')
                for m, x in features.items():
                    z = self.task.projectors[m](x[-1])
                    embeddings[m].append(_cut(z, cuts['projector']))
                clock.lap('projector forward')
        z = {m: torch.stack(x).float() for m, x in embeddings.items()}
        if published:
            loss = matrix_loss(z, self.task.common_dim)
        else:
            loss = self.task.criterion(z)['loss']
        clock.lap('loss forward')
        loss.backward()
        clock.lap('loss backward')
        for part in ('projector', 'encoder'):
            outputs, leaves = zip(*cuts[part], strict=True)
            torch.autograd.backward(outputs, [x.grad for x in leaves])
            clock.lap(f'{part} backward')
        self.optimizer.step()
        self.optimizer.zero_grad()
        clock.lap('optimiser')
        return clock.seconds

    def _load(self, published: bool) -> dict[str, Tensor]:
        device = torch.device('cpu') if published else DEVICE
        images = {m: x.to(device, non_blocking=True) for m, x in self.raw.items()}
        return {m: self.scale[m].to(device)(x) for m, x in images.items()}

    def _view(self, modality: str, x: Tensor, published: bool) -> Tensor:
        if not published:
            view: Tensor = self.task._view(modality, x)
            return view
        plain = self.plain[modality]
        return torch.cat([plain(sample[None]) for sample in x]).to(DEVICE)


def main(
    model: str = 'resnet50',
    projector: Sequence[int] = (8192, 8192, 8192),
    batch_sizes: Sequence[int] = (8, 32),
    size: int = 224,
    repeats: int = 5,
    threads: int = 1,
    compile: bool = False,
    profile: bool = False,
    results: Path = FOLDER / 'results_step.csv',
) -> None:
    """Measure all cases, print tables and append the rows to a CSV file; or print a profile.

    Args:
        model: name of a timm model.
        projector: output width of each projector layer.
        batch_sizes: numbers of samples per batch.
        size: view size in pixels; images are 40 pixels larger.
        repeats: number of runs per variant.
        threads: number of CPU threads.
        compile: whether to compile the encoders, projectors and loss of all variants; this takes
            minutes.
        profile: whether to print the time of each operation in one step.
        results: CSV file to append to.
    """
    torch.set_num_threads(threads)
    task = DeCUR(
        {'s1': 2, 's2': 13}, model, projector=projector, size=size, compile=compile
    )
    case: dict[str, object] = {'model': model, 'D': projector[-1], 'size': size}
    case |= {'threads': threads, 'compile': compile}
    rows = []
    for batch_size in batch_sizes:
        side = size + 40
        raw = {
            's1': -15 + 5 * torch.randn(batch_size, 2, side, side),
            's2': 3000 * torch.rand(batch_size, 13, side, side),
        }
        step = Step(task, raw)
        if profile:
            _profile(step)
        else:
            one = {'batch': batch_size, 'load': load(), **case}
            rows.append(_record(one, step, batch_size, repeats, results))
    for found in rows:
        print(render_parts(found), render(found), sep='\n\n', end='\n\n')


def _record(
    case: Mapping[str, object], step: Step, batch_size: int, repeats: int, path: Path
) -> list[dict[str, str]]:
    """Measure the variants and append the results to a CSV file."""
    seconds = _measure(step, repeats)
    memory = {v: peak_mib(partial(_prepared, step, v)) for v in VARIANTS}
    rows = []
    for variant, runs in seconds.items():
        one = {**case, 'variant': variant.replace(' ', '-')}
        rates = [batch_size / sum(run.values()) for run in runs]
        rows.append(record('step', one, rates, 'images/s', path))
        rows.append(record('step', one, [memory[variant]], 'MiB', path))
        for part in runs[0]:
            times = [run[part] for run in runs]
            parted = {**one, 'part': part.replace(' ', '-')}
            rows.append(record('step', parted, times, 's', path))
    for variant in list(VARIANTS)[1:]:
        ratios = [
            sum(slow.values()) / sum(fast.values())
            for slow, fast in zip(seconds['published'], seconds[variant], strict=True)
        ]
        one = {**case, 'what': f'{variant} / published'}
        rows.append(record('step', one, ratios, 'times', path))
    return rows


def _measure(step: Step, repeats: int) -> dict[str, list[dict[str, float]]]:
    seconds: dict[str, list[dict[str, float]]] = {v: [] for v in VARIANTS}
    for repeat in range(repeats + 1):
        for variant, found in seconds.items():
            step.prepare(variant)
            run = step.run(variant)
            if repeat:
                found.append(run)
    return seconds


def _prepared(step: Step, variant: str) -> None:
    step.prepare(variant)
    step.run(variant)


def _profile(step: Step) -> None:
    variant = 'ours float32'
    _prepared(step, variant)
    step.prepare(variant)
    with profile() as recorded:
        step.run(variant)
    key = f'self_{DEVICE.type}_time_total'
    table: Callable[..., str] = recorded.key_averages().table
    print(table(sort_by=key, row_limit=25, max_name_column_width=40))


def _cut(x: Tensor, cuts: list[tuple[Tensor, Tensor]]) -> Tensor:
    leaf = x.detach().requires_grad_()
    cuts.append((x, leaf))
    return leaf


if __name__ == '__main__':
    auto_cli(main)
