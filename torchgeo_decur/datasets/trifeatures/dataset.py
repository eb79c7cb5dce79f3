"""Pairs of drawn images with the same shape and a choice of colors and textures."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torchgeo.datasets import NonGeoDataset

from ...modalities import Modality
from ..plotting import plot_images
from .drawing import COLOURS, SHAPES, TEXTURES, draw

TrifeaturesSplit = Literal['train', 'val', 'test']
Pairing = Literal['unbiased', 'biased', 'balanced']

_RENDERINGS = 3
_CLASSES = 10
# Combinations are held out if the sum of their three indices modulo 10 is one of these.
_HELD_OUT = (0, 5)
# Indices of the random streams for pairs and images.
_PAIRS, _IMAGES = 0, 1


class Trifeatures(NonGeoDataset):
    r"""Pairs of drawn images with the same shape and a choice of colors and textures.

    The images follow Hermann and Lampinen, *What shapes feature representations?*,
    NeurIPS 2020, https://arxiv.org/abs/2006.12433. CoMM (ICLR 2025) and COrAL (2026) use
    pairs of such images to measure shared, unique and synergistic information. This
    package draws its own images. Results are therefore not comparable with published
    results.

    An image shows one of 10 shapes, in one of 10 colors and one of 10 textures, on a gray
    background. The shape has a width of 128 / 224 of the canvas and a random position, and
    is rotated by up to 45 degrees. Of the 1000 combinations, 800 are used for training,
    with three drawings each, and 200 are held out for testing. In both, all pairs of
    features occur equally often. The validation split has other drawings of the 800
    combinations. The split of the combinations does not depend on the seed.

    The two images of a pair, the modalities ``first`` and ``second``, have the same
    shape. Each pair has the following labels:

    ================== =================== ======= =========================================
    label              visible to          classes meaning
    ================== =================== ======= =========================================
    ``label_share``    either image        10      shape
    ``label_unique1``  the first only      10      texture of the first image
    ``label_unique2``  the second only     10      texture of the second image
    ``label_synergy``  both together       2       whether the texture of the first and the
                                                   color of the second have the same index
    ================== =================== ======= =========================================

    ``pairing`` controls the texture of the first image and the color of the second:

    - ``'unbiased'``: the two are independent, as required for the first three labels.
    - ``'biased'``: the two always have the same index, to pretrain synergy.
    - ``'balanced'``: the two have the same index in every other pair, to train and test a
      classifier for ``label_synergy``.

    The seed and index determine all values, so pairs are reproducible in every process and
    no download is required. Each of the 2400 drawings (600 in the test split) is computed
    on first access and cached in memory. A drawing takes 1 ms and 12 kB at 64 pixels, or
    11 ms and 150 kB at 224 pixels.

    Args:
        split: 'train', 'val' or 'test'.
        length: number of pairs.
        size: height and width of an image in pixels. The papers use 224.
        seed: seed of the drawings and of the pairs.
        pairing: 'unbiased', 'biased' or 'balanced'.
        transforms: function that transforms each sample and returns a new one.

    Raises:
        ValueError: if an option is unknown or a number is too small.

    Example:
        >>> dataset = Trifeatures(length=8, size=32)
        >>> sample = dataset[3]
        >>> sample['image_first'].shape, sample['image_second'].shape
        (torch.Size([3, 32, 32]), torch.Size([3, 32, 32]))
        >>> dataset.num_classes['label_synergy']
        2
    """

    #: Definition of both modalities.
    all_modalities: ClassVar[dict[str, Modality]] = {
        m: Modality(bands=('R', 'G', 'B'), kind='rgb', unit='uint8')
        for m in ('first', 'second')
    }
    shapes: ClassVar[tuple[str, ...]] = SHAPES
    colours: ClassVar[tuple[str, ...]] = tuple(COLOURS)
    textures: ClassVar[tuple[str, ...]] = TEXTURES
    label_classes: ClassVar[dict[str, tuple[str, ...]]] = {
        'label_share': SHAPES,
        'label_unique1': TEXTURES,
        'label_unique2': TEXTURES,
        'label_synergy': ('apart', 'together'),
    }

    def __init__(
        self,
        split: TrifeaturesSplit = 'train',
        length: int = 10_000,
        size: int = 64,
        seed: int = 0,
        pairing: Pairing = 'unbiased',
        transforms: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        """Initialize a new Trifeatures instance."""
        for name, given, known in (
            ('split', split, get_args(TrifeaturesSplit)),
            ('pairing', pairing, get_args(Pairing)),
        ):
            if given not in known:
                raise ValueError(f'{name} must be one of {list(known)}, got {given!r}')
        for name, value, low in (
            ('length', length, 1),
            ('size', size, 16),
            ('seed', seed, 0),
        ):
            if value < low:
                raise ValueError(f'{name} must be at least {low}, got {value}')
        self.split = split
        self.length = length
        self.size = size
        self.seed = seed
        self.pairing = pairing
        self.transforms = transforms
        rng = np.random.default_rng(self._key(_PAIRS))
        #: Indices of shape, color, texture and drawing for both images, shape (N, 2, 4).
        self.pairs = draw_pairs(rng, length, split == 'test', pairing)
        self._drawn: dict[tuple[int, ...], Tensor] = {}

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of classes of each label."""
        return {k: len(v) for k, v in self.label_classes.items()}

    def __len__(self) -> int:
        """Return the number of pairs."""
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a pair of images and its labels.

        Args:
            index: index of the pair.

        Returns:
            A dictionary with ``image_first`` and ``image_second`` (red, green and blue from
            0 to 255, float32, shape (3, H, W)) and with integer labels of shape ().

        Raises:
            IndexError: if ``index`` is out of range.
        """
        labels = self.draw_labels(index)
        sample: dict[str, Any] = {
            f'image_{m}': self._image(*features)
            for m, features in zip(
                self.all_modalities, self.pairs[index].tolist(), strict=True
            )
        }
        sample |= {k: torch.tensor(v) for k, v in labels.items()}
        return sample if self.transforms is None else self.transforms(sample)

    def draw_labels(self, index: int) -> dict[str, int]:
        """Return the labels of a pair without drawing its images.

        Args:
            index: index of the pair.

        Returns:
            The labels by key.

        Raises:
            IndexError: if ``index`` is out of range.

        Example:
            >>> Trifeatures(length=4, pairing='biased').draw_labels(0)['label_synergy']
            1
        """
        if not 0 <= index < self.length:
            raise IndexError(f'index must be in [0, {self.length - 1}], got {index}')
        first, second = self.pairs[index].tolist()
        return {
            'label_share': first[0],
            'label_unique1': first[2],
            'label_unique2': second[2],
            'label_synergy': int(first[2] == second[1]),
        }

    def plot(
        self,
        sample: dict[str, Any],
        show_titles: bool = True,
        suptitle: str | None = None,
    ) -> Figure:
        """Plot both images of a pair.

        Args:
            sample: a sample of this dataset.
            show_titles: whether to show panel titles.
            suptitle: title of the figure. By default, it lists the labels.

        Returns:
            The figure, which the caller must close.
        """
        if suptitle is None and show_titles:
            suptitle = ' | '.join(
                classes[int(sample[k])]
                for k, classes in self.label_classes.items()
                if k in sample
            )
        images = {m: sample[f'image_{m}'] for m in self.all_modalities}
        return plot_images(
            images, self.all_modalities, show_titles=show_titles, suptitle=suptitle
        )

    def _key(self, *stream: int) -> tuple[int, ...]:
        return (self.seed, get_args(TrifeaturesSplit).index(self.split), *stream)

    def _image(self, *features: int) -> Tensor:
        """Return the image for indices of shape, color, texture and drawing."""
        if features not in self._drawn:
            shape, colour, texture, _ = features
            rng = np.random.default_rng(self._key(_IMAGES, *features))
            names = SHAPES[shape], self.colours[colour], TEXTURES[texture]
            self._drawn[features] = torch.from_numpy(draw(*names, self.size, rng))
        return self._drawn[features].float()


def draw_pairs(
    rng: np.random.Generator, length: int, held_out: bool, pairing: Pairing
) -> NDArray[np.int64]:
    """Sample the shape, color, texture and drawing of both images for each pair.

    The shape, the texture of the first image and the color of the second have uniform
    distributions. The color index is independent of that texture index (``'unbiased'``),
    equal to it (``'biased'``), or equal in even pairs only (``'balanced'``). The remaining
    color and texture are uniform over the combinations of the split.

    Args:
        rng: random number generator. The first pairs do not depend on ``length``.
        length: number N of pairs.
        held_out: True for test combinations, False for training combinations.
        pairing: 'unbiased', 'biased' or 'balanced'.

    Returns:
        Indices of shape, color, texture and drawing for both images, shape (N, 2, 4).

    Example:
        >>> pairs = draw_pairs(np.random.default_rng(0), 1000, True, 'biased')
        >>> np.unique(pairs[..., :3].sum(-1) % 10).tolist()
        [0, 5]
    """
    rests = [r for r in range(_CLASSES) if (r in _HELD_OUT) == held_out]
    high = (
        _CLASSES,
        _CLASSES,
        _CLASSES - 1,
        len(rests),
        len(rests),
        *[_RENDERINGS] * 2,
    )
    if pairing == 'unbiased':
        high = (*high[:2], _CLASSES, *high[3:])
    drawn = rng.integers(high, size=(length, len(high)))
    shape, texture, step, *others = drawn.T
    apart = np.arange(length) % 2 == 1
    matched = {
        'unbiased': step,
        'biased': texture,
        'balanced': (texture + np.where(apart, step + 1, 0)) % _CLASSES,
    }
    colour = matched[pairing]
    rest = [np.array(rests)[k] for k in others[:2]]
    first = (shape, (rest[0] - shape - texture) % _CLASSES, texture, others[2])
    second = (shape, colour, (rest[1] - shape - colour) % _CLASSES, others[3])
    return np.stack([np.stack(first, 1), np.stack(second, 1)], axis=1)
