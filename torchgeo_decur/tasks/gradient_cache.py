"""A large batch with the memory of a small one."""

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
    """Apply a function to a batch in chunks whose activations are not kept.

    The first pass keeps the outputs of each chunk and nothing that led to them. When
    the gradient of a loss of all outputs arrives, autograd computes a chunk again, with
    the same random draws, and lets the gradient through, one chunk after the other. This
    is the exact gradient of the loss of the whole batch, for the time of one more
    forward pass; see Gao et al., *Scaling Deep Contrastive Learning Batch Size under
    Memory Limited Setup*, RepL4NLP 2021, https://arxiv.org/abs/2101.06983.

    A layer that looks at its batch, as BatchNorm does, sees a chunk, in both passes. What
    it remembers of it, such as running statistics, is of the first pass alone.

    Args:
        function: from images by name to dictionaries of tensors, samples first.
        images: images by name, shape (B, ...).
        size: largest number of samples of a chunk; chunks differ by one sample at most.
            BatchNorm needs two samples, so a single one is not left over but joins
            another chunk. None, or B and more, computes all at once and keeps it.
        module: what the function computes with, whose buffers keep their values in the
            second pass.

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
    chunks = [
        dict(zip(names, chunk, strict=True)) for chunk in zip(*parts, strict=True)
    ]
    if torch.is_grad_enabled():
        contexts = partial(_contexts, module)
        outputs: list[Outputs] = [
            checkpoint(function, chunk, use_reentrant=False, context_fn=contexts)
            for chunk in chunks
        ]
    else:
        outputs = [function(chunk) for chunk in chunks]
    return tuple(
        {name: torch.cat([x[name] for x in same]) for name in same[0]}
        for same in zip(*outputs, strict=True)
    )


def _contexts(
    module: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _same_buffers(module)


@contextmanager
def _same_buffers(module: nn.Module) -> Iterator[None]:
    # Not a momentum of 0: the second pass must compute just what the first did.
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
