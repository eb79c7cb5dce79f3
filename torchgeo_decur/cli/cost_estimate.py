"""Estimate the steps, communication, memory and hours of a fit before it starts."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import build, override_options, read_config
from ..modalities import per_modality
from ..tasks.pretraining import NUM_VIEWS

# Number of optimizer states per parameter.
_STATES = {'adamw': 2, 'lars': 1}


def estimate_cost(
    configs: Sequence[Path],
    samples: int | None = None,
    rate: float | None = None,
    data: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Estimate the cost of self-supervised pretraining without loading weights or images.

    Communication is the number of bytes that each device sends per step, assuming ring
    collectives. Activation memory is measured in a float32 forward pass on PyTorch's meta
    device and halved for 16-bit fits. The estimate excludes library overhead and memory
    fragmentation. Absent images count as present, so the estimate is an upper bound for
    partly paired data.

    Args:
        configs: a ``torchgeo`` config, followed by configs that override parts of it.
        samples: samples per epoch, by default the size of the training split on disk.
        rate: throughput of one device in samples per second, to estimate the hours.
        data: datamodule options that override the configs.

    Returns:
        Formatted estimates by name.

    Raises:
        ValueError: if the configs do not describe a self-supervised task, the fit has no
            training steps, or neither epochs nor steps are limited.
    """
    for name, number in (('samples', samples), ('rate', rate)):
        if number is not None and not 0 < number < math.inf:
            raise ValueError(f'{name} must be positive, got {number:g}')
    config, *overlays = configs
    content = read_config(config, ('model', 'data'), overlays, ('trainer',))
    trainer = content.pop('trainer', None) or {}
    content['data'] = override_options(content['data'], data)
    task, datamodule = _build(content, config)
    devices, nodes = _count_devices(trainer)
    world = devices * nodes
    subsets = ''
    if samples is None:
        datamodule.setup('fit')
        samples = len(datamodule.train_dataset)
        subsets = _subsets(getattr(datamodule.train_dataset, 'availability', {}))
    batch = int(datamodule.batch_size)
    accumulated = int(trainer.get('accumulate_grad_batches', 1))
    per_epoch, steps = _steps(trainer, samples // (batch * world), accumulated)
    half = '16' in str(trainer.get('precision', '32'))
    kept, embeddings = _forward(task, batch)
    number, width = len(embeddings), next(iter(embeddings.values())).shape[1]
    weights = 4 * sum(p.numel() for p in task.parameters())
    optimizer = _optimizer(task)
    gathered = 4 * NUM_VIEWS * number * batch * world * width
    ring = (world - 1) / world
    parts = {
        'weights': weights,
        'gradients': weights * (2 if world > 1 else 1),
        f'{optimizer} states': weights * _STATES[optimizer],
        'activations': kept // (2 if half else 1),
        'embeddings and their gradients': 2 * gathered,
    }
    found = {
        'devices': f'{world} ({nodes} {"node" if nodes == 1 else "nodes"} x {devices})',
        'batch': f'{batch} per device, {batch * world} in the loss',
        'samples per epoch': f'{samples:,}{subsets}',
        'steps per epoch': f'{per_epoch:,}',
        'steps': f'{steps:,} in {steps / per_epoch:.4g} '
        f'{"epoch" if steps == per_epoch else "epochs"}',
        'embeddings sent': f'{_size(3 * ring * gathered)} per step and device '
        f'({NUM_VIEWS} views x {number} x {batch * world} x {width}, forward and backward)',
        'gradients sent': f'{_size(2 * ring * weights)} per step and device',
        'memory per device': f'{_size(sum(parts.values()))}: '
        + ', '.join(f'{name} {_size(size)}' for name, size in parts.items()),
    }
    if rate is not None:
        seen = batch * accumulated
        hours = steps * seen / rate / 3600
        found['hours'] = (
            f'{hours:,.1f} ({steps:,} steps x {seen} samples / {rate:g} per second)'
        )
    return found


def _subsets(availability: Mapping[str, Any]) -> str:
    """Format the sample count of each modality, or return '' if all are complete."""
    has = {m: x for m, x in availability.items() if not x.all()}
    if not has:
        return ''
    names = list(availability)
    both = int(np.all([*availability.values()], axis=0).sum())
    counts = ', '.join(f'{int(x.sum()):,} with {m}' for m, x in availability.items())
    return f' ({both:,} with {" + ".join(names)}; {counts})'


def _steps(
    trainer: Mapping[str, Any], batches: int, accumulated: int
) -> tuple[int, int]:
    """Count the optimizer steps per epoch and per fit as Lightning does."""
    limit = trainer.get('limit_train_batches')
    if limit is None:  # as saved in the config.yaml of a run
        limit = 1.0
    share = isinstance(limit, float)
    batches = int(batches * limit) if share else min(batches, int(limit))
    per_epoch = math.ceil(batches / accumulated)
    if not per_epoch:
        raise ValueError(
            'an epoch must have at least one batch, got none; add samples, increase '
            'limit_train_batches or reduce batch_size'
        )
    most = trainer.get('max_steps', -1)
    epochs = trainer.get('max_epochs')
    if epochs is None:
        epochs = 1000 if most == -1 else -1
    ends = [end for end in (per_epoch * epochs, most) if end >= 0]
    if not ends:
        raise ValueError(
            'trainer must limit max_epochs or max_steps, got no limit; set one of them'
        )
    return per_epoch, min(ends)


def _count_devices(trainer: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of devices per node and the number of nodes."""
    devices, nodes = trainer.get('devices', 1), int(trainer.get('num_nodes', 1))
    if isinstance(devices, str) and devices not in ('auto', '-1'):
        devices = (
            [d for d in devices.split(',') if d] if ',' in devices else int(devices)
        )
    if devices in ('auto', '-1', -1):
        on_gpu = trainer.get('accelerator', 'auto') in ('auto', 'gpu', 'cuda')
        devices = max(1, torch.cuda.device_count()) if on_gpu else 1
    number = devices if isinstance(devices, int) else len(devices)
    if number < 1 or nodes < 1:
        raise ValueError(
            'trainer.devices and trainer.num_nodes must be positive integers, got '
            f'{devices!r} and {nodes}; override them with an overlay'
        )
    return number, nodes


def _build(content: Mapping[str, Any], config: Path) -> tuple[Any, Any]:
    model = override_options(content['model'], {'weights': None})
    data = build({'data': content['data']}, config)['data']
    with torch.device('meta'):
        task = build({'model': model}, config)['model']
    if not hasattr(task, 'encode_and_project'):
        raise ValueError(
            f'{config}: expected a self-supervised task, found {type(task).__name__}; '
            'choose another config'
        )
    return task, data


def _forward(task: Any, batch: int) -> tuple[int, dict[str, Tensor]]:
    """Return the bytes that autograd saves in a step and the embeddings of one view."""
    own = {p.untyped_storage()._cdata for p in task.parameters()}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(storage)
        return x

    alive: list[Any] = []  # keeps storages alive so that addresses are not reused
    chunk = task.hparams['micro_batch_size']
    modalities = task.hparams['modalities']
    sizes = per_modality('size', task.hparams['size'], modalities)
    images = {
        m: torch.empty(min(batch, chunk or batch), c, size, size, device='meta')
        for (m, c), size in zip(modalities.items(), sizes.values(), strict=True)
    }
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        _, embeddings = task.encode_and_project(images)
    return sum(kept.values()) * (
        1 if chunk and chunk < batch else NUM_VIEWS
    ), embeddings


def _optimizer(task: Any) -> str:
    optimizer = type(task.configure_optimizers()['optimizer']).__name__
    return optimizer.lower()


def _size(number: float) -> str:
    return (
        f'{number / 2**30:.2f} GiB' if number >= 2**30 else f'{number / 2**20:.1f} MiB'
    )
