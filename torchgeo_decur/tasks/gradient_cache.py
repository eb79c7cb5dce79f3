"""Gradient caching for large batches."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

type Outputs = tuple[dict[str, Tensor], ...]


def apply_in_micro_batches(
    function: Callable[[dict[str, Tensor]], Outputs],
    images: Mapping[str, Tensor],
    size: int | None,
    module: nn.Module,
) -> Outputs:
    """Apply a function to a batch in micro-batches, without storing their activations.

    The first pass stores only the outputs of each micro-batch. The backward pass
    computes one micro-batch after the other again, with the same random draws. This
    gives the exact gradient of the loss of the whole batch for one more forward pass;
    see Gao et al., *Scaling Deep Contrastive Learning Batch Size under Memory Limited
    Setup*, RepL4NLP 2021, https://arxiv.org/abs/2101.06983.

    BatchNorm computes its statistics for each micro-batch. Only the first pass updates
    buffers, such as running statistics.

    Args:
        function: maps images by name to dictionaries of tensors, samples first.
        images: images by name, shape (B, ...).
        size: largest number of samples of a micro-batch; sizes differ by at most one.
            No micro-batch has a single sample, because BatchNorm needs two. With None,
            or B and more, the batch is computed at once.
        module: module that the function uses; the second pass restores its buffers.

    Returns:
        The outputs of the whole batch.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> x = {'s1': torch.rand(5, 4)}
        >>> (z,) = apply_in_micro_batches(lambda x: ({'s1': layer(x['s1'])},), x, 2, layer)
        >>> z['s1'].shape
        torch.Size([5, 2])
    """
    samples = len(next(iter(images.values())))
    if size is None or size >= samples:
        return function(dict(images))
    number = min(-(-samples // size), max(samples // 2, 1))
    names, parts = list(images), [x.tensor_split(number) for x in images.values()]
    micro_batches = [
        dict(zip(names, part, strict=True)) for part in zip(*parts, strict=True)
    ]
    if torch.is_grad_enabled():
        contexts = partial(_contexts, module)
        outputs: list[Outputs] = [
            checkpoint(function, x, use_reentrant=False, context_fn=contexts)
            for x in micro_batches
        ]
    else:
        outputs = [function(x) for x in micro_batches]
    return tuple(
        {name: torch.cat([x[name] for x in same]) for name in same[0]}
        for same in zip(*outputs, strict=True)
    )


def _contexts(
    module: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the first and the second pass."""
    return nullcontext(), _restored_buffers(module)


@contextmanager
def _restored_buffers(module: nn.Module) -> Iterator[None]:
    # A momentum of 0 would change the computation of the second pass.
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
