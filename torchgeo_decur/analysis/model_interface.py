"""Interface of the models to analyze, and iteration over their input batches."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..models import MultimodalEncoder
from ..models.eval_mode import eval_mode


class Pretrained(Protocol):
    """Protocol for a model with an encoder and embeddings for each modality.

    All pretraining tasks in :mod:`torchgeo_decur.tasks` have this interface.

    Attributes:
        encoders: one encoder per modality.
        projectors: modules that map features to embeddings.
    """

    encoders: MultimodalEncoder
    projectors: nn.ModuleDict

    @property
    def hparams(self) -> Any:
        """Hyperparameters, including ``modalities``."""

    def embed(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute embeddings, shape (B, D), of images in [0, 1], shape (B, C, H, W)."""
        ...

    def encode_and_project(
        self, images: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute features, shape (B, F), and embeddings, shape (B, D), by modality."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """Yield every module, as :class:`torch.nn.Module` does."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield every parameter, as :class:`torch.nn.Module` does."""
        ...


@contextmanager
def eval_with_gradients(model: Pretrained) -> Iterator[None]:
    """Set a model to evaluation mode within a context and enable gradients.

    Gradients are recorded even inside ``torch.inference_mode``.

    Args:
        model: model to change. On exit, the mode of each module is restored.
    """
    with eval_mode(model), torch.inference_mode(False), torch.enable_grad():
        yield


def iter_batches(
    model: Pretrained,
    batches: Iterable[Mapping[str, Tensor]],
    modalities: Iterable[str],
    max_samples: int,
    size: int = 32,
) -> Iterator[dict[str, Tensor]]:
    """Move the first samples of batches to a model's device, in smaller batches.

    Args:
        model: model that determines the device and floating-point type of the images.
        batches: images by modality, shape (B, C, H, W).
        modalities: names of the modalities to select.
        max_samples: maximum total number of samples.
        size: maximum number of samples per smaller batch.

    Yields:
        Copies of the images of each modality, shape (at most ``size``, C, H, W).

    Raises:
        ValueError: if ``max_samples`` or ``size`` is not positive, a batch lacks a
            modality, or there are no samples.
    """
    for name, value in (('max_samples', max_samples), ('size', size)):
        if value < 1:
            raise ValueError(f'{name} must be positive, got {value}')
    names, left = list(modalities), max_samples
    like = next(model.parameters())
    for batch in batches:
        if missing := [m for m in names if m not in batch]:
            raise ValueError(
                f'batches must have the modalities {names}, got {list(batch)}; add '
                f'{missing}'
            )
        count = min(len(batch[names[0]]), left)
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            # Copy, because tensors from inference mode cannot have gradients. Use the
            # same memory format as in training.
            copies = {m: batch[m][part].detach().clone().to(like) for m in names}
            yield {
                m: x.contiguous(memory_format=torch.channels_last)
                for m, x in copies.items()
            }
        left -= count
        if not left:
            return
    if left == max_samples:
        raise ValueError('batches must have at least one sample, got none')


def parts_of(common_dim: int | None, dimensions: int) -> dict[str, slice]:
    """Divide the dimensions of an embedding into common and unique parts.

    Args:
        common_dim: number of common dimensions, which come first, or None if the model
            does not distinguish common and unique dimensions.
        dimensions: number of dimensions D.

    Returns:
        Dimensions of the parts 'common' and 'unique', without empty parts, or only of
        'all' if no dimension is unique.

    Raises:
        ValueError: if ``common_dim`` is out of range.

    Example:
        >>> parts_of(3, 4)
        {'common': slice(0, 3, None), 'unique': slice(3, 4, None)}
        >>> list(parts_of(None, 4)), list(parts_of(4, 4)), list(parts_of(0, 4))
        (['all'], ['all'], ['unique'])
    """
    if common_dim is None or common_dim == dimensions:
        return {'all': slice(0, dimensions)}
    if not 0 <= common_dim < dimensions:
        raise ValueError(f'common_dim must be in [0, {dimensions}], got {common_dim}')
    split = {'common': slice(0, common_dim), 'unique': slice(common_dim, dimensions)}
    return {name: s for name, s in split.items() if s.stop > s.start}
