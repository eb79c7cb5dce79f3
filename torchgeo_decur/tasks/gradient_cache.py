"""Gradient caching for large batches."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

type Outputs = tuple[dict[str, Tensor], ...]


def count_micro_batches(samples: int, size: int | None) -> int:
    """Count the micro-batches of a batch.

    Args:
        samples: number of samples in the batch.
        size: maximum number of samples per micro-batch, or None for the whole batch.

    Returns:
        Number of micro-batches, each with at least two samples if the batch has two.

    Example:
        >>> count_micro_batches(5, 2), count_micro_batches(5, None)
        (2, 1)
    """
    if size is None or size >= samples:
        return 1
    return min(-(-samples // size), max(samples // 2, 1))


def drop_small_parts(
    masks: Mapping[str, Tensor], number: int, fewest: int
) -> dict[str, Tensor]:
    """Mark a modality as absent in micro-batches where too few samples have it.

    Args:
        masks: whether each sample has a modality, shape (B,), boolean, on the CPU.
        number: number of micro-batches.
        fewest: minimum number of samples that a layer such as BatchNorm needs.

    Returns:
        New masks, by modality.

    Example:
        >>> has = torch.tensor([True, False, False, True, True, False])
        >>> drop_small_parts({'s1': has}, number=2, fewest=2)
        {'s1': tensor([False, False, False,  True,  True, False])}
    """
    return {
        m: torch.cat([x & (x.sum() >= fewest) for x in mask.tensor_split(number)])
        for m, mask in masks.items()
    }


def apply_in_micro_batches(
    function: Callable[..., Outputs],
    images: Mapping[str, Tensor],
    size: int | None,
    module: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
) -> Outputs:
    """Apply a function to a batch in micro-batches, without storing their activations.

    The first pass stores only the outputs of each micro-batch. The backward pass
    recomputes one micro-batch after another, with the same random draws. This gives the
    exact gradient of the full-batch loss at the cost of one more forward pass. See Gao
    et al., *Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup*,
    RepL4NLP 2021, https://arxiv.org/abs/2101.06983.

    BatchNorm computes its statistics per micro-batch. Only the first pass updates
    buffers such as running statistics.

    Args:
        function: function that maps images by name to dictionaries of tensors with the
            samples as first dimension. With ``masks``, it also receives the masks of
            the micro-batch.
        images: images by name, shape (B, ...).
        size: maximum number of samples per micro-batch. Micro-batches differ by at most
            one sample, and none has a single sample, because BatchNorm needs two. If
            ``size`` is None or at least B, the whole batch is processed at once.
        module: module that the function uses. Its buffers are restored after the second
            pass.
        masks: whether each sample has a modality, by name, shape (B,), boolean, on the
            CPU. ``images`` must then contain only samples that have the modality, in
            order.

    Returns:
        The outputs of the whole batch.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> x = {'s1': torch.rand(5, 4)}
        >>> (z,) = apply_in_micro_batches(lambda x: ({'s1': layer(x['s1'])},), x, 2, layer)
        >>> z['s1'].shape
        torch.Size([5, 2])
    """
    samples = len(next(iter((masks or images).values())))
    number = count_micro_batches(samples, size)
    if number == 1:
        return function(dict(images), *([] if masks is None else [masks]))
    micro_batches: list[tuple[dict[str, Tensor], ...]]
    if masks is None:
        micro_batches = [(x,) for x in _unzip(images, number)]
    else:
        parts = _unzip(masks, number)
        sizes = {m: [int(x[m].sum()) for x in parts] for m in images}
        chosen = {m: images[m].split(sizes[m]) for m in images}
        micro_batches = [
            ({m: x[i] for m, x in chosen.items()}, part) for i, part in enumerate(parts)
        ]
    if torch.is_grad_enabled():
        contexts = partial(_contexts, module)
        outputs: list[Outputs] = [
            checkpoint(function, *x, use_reentrant=False, context_fn=contexts)
            for x in micro_batches
        ]
    else:
        outputs = [function(*x) for x in micro_batches]
    return tuple(
        {name: torch.cat([x[name] for x in same]) for name in same[0]}
        for same in zip(*outputs, strict=True)
    )


def _unzip(tensors: Mapping[str, Tensor], number: int) -> list[dict[str, Tensor]]:
    """Split all tensors into micro-batches with the same samples."""
    parts = [x.tensor_split(number) for x in tensors.values()]
    return [dict(zip(tensors, part, strict=True)) for part in zip(*parts, strict=True)]


def _contexts(
    module: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return a context for the first pass and a context for the second pass."""
    return nullcontext(), _restored_buffers(module)


@contextmanager
def _restored_buffers(module: nn.Module) -> Iterator[None]:
    # Setting the BatchNorm momentum to 0 instead would change the computation of the
    # second pass.
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
