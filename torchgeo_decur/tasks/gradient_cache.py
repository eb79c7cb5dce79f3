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
    """Apply a function to a batch in micro-batches, without keeping their activations.

    The first pass keeps only the outputs of each micro-batch. When the gradient of a
    loss of all outputs arrives, autograd computes one micro-batch after the other again,
    with the same random draws, and propagates its gradient. This gives the exact
    gradient of the loss of the whole batch, at the cost of one more forward pass; see
    Gao et al., *Scaling Deep Contrastive Learning Batch Size under Memory Limited
    Setup*, RepL4NLP 2021, https://arxiv.org/abs/2101.06983.

    Layers with batch statistics, such as BatchNorm, see a micro-batch in both passes.
    Only the first pass updates their buffers, such as running statistics.

    Args:
        function: from images by name to dictionaries of tensors, samples first.
        images: images by name, shape (B, ...).
        size: largest number of samples of a micro-batch; sizes differ by at most one.
            Since BatchNorm needs two samples, a single remaining sample joins another
            micro-batch. With None, or B and more, the batch is computed at once.
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
    # A momentum of 0 is no substitute: both passes must compute the same.
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
