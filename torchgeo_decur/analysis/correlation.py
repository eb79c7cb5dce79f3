"""Statistics over a stream of batches, without storing the batches."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

#: Constant added to variances, as in the losses.
EPS = 1e-5


class CorrelationStream:
    r"""Correlation of each dimension across two modalities, over a stream of batches.

    .. math:: C_{ii} = \frac{\mathrm{Cov}[a_i, b_i]}
              {\sqrt{(\mathrm{Var}[a_i] + \epsilon)(\mathrm{Var}[b_i] + \epsilon)}}

    is the diagonal of the cross-correlation matrix of standardized embeddings. Means
    and central sums of squares are merged batch by batch in float64, with the pairwise
    algorithm of Chan, Golub and LeVeque, 1979. Whatever the number of samples, the
    state consists of five vectors.

    ``torchmetrics.PearsonCorrCoef`` uses the same update but without :math:`\epsilon`,
    so its result is NaN for a constant dimension.

    Args:
        dim: number of dimensions D.

    Example:
        >>> stream = CorrelationStream(2)
        >>> z = torch.tensor([[1.0, 1.0], [2.0, 5.0], [3.0, 3.0]])
        >>> for row in z:
        ...     stream.update(row[None], -row[None])
        >>> [round(c, 3) for c in stream.diagonal().tolist()]
        [-1.0, -1.0]
    """

    def __init__(self, dim: int) -> None:
        """Initialize a new CorrelationStream instance."""
        self.count = 0
        self._mean = torch.zeros(2, dim, dtype=torch.float64)
        # Central sums of the squares of a, the squares of b, and the products.
        self._sums = torch.zeros(3, dim, dtype=torch.float64)

    def update(self, a: Tensor, b: Tensor) -> None:
        """Update the statistics with a batch.

        Args:
            a: embeddings, shape (B, D).
            b: embeddings of the same samples in the other modality, shape (B, D).

        Raises:
            ValueError: if the shapes differ from each other or from D.
        """
        dim = self._mean.shape[1]
        if a.shape != b.shape or a.ndim != 2 or a.shape[1] != dim:
            raise ValueError(
                f'a and b must have the same shape (B, {dim}), '
                f'got {tuple(a.shape)} and {tuple(b.shape)}'
            )
        new = len(a)
        if new == 0:
            return
        x = torch.stack([a.detach(), b.detach()]).cpu().double()
        mean = x.mean(dim=1)
        x = x - mean[:, None]
        step, self.count = mean - self._mean, self.count + new
        weight = new / self.count
        between = (self.count - new) * weight
        self._sums += _sums(x[0], x[1]) + between * _sums(step[:1], step[1:])
        self._mean += weight * step

    def mean(self) -> Tensor:
        """Return the mean of each dimension in both modalities, shape (2, D), float64."""
        return self._mean.clone()

    def variance(self) -> Tensor:
        """Return the population variance of each dimension, shape (2, D), float64."""
        return self._sums[:2] / max(self.count, 1)

    def diagonal(self, eps: float = EPS) -> Tensor:
        """Return the correlation of each dimension across the modalities.

        Args:
            eps: constant added to the variances.

        Returns:
            The correlations, shape (D,), float64. A constant dimension has a correlation
            of 0.
        """
        a, b = self.variance() + eps
        diagonal: Tensor = self._sums[2] / max(self.count, 1) / (a * b).sqrt()
        return diagonal

    @property
    def nbytes(self) -> int:
        """Size of the state in bytes."""
        return self._mean.nbytes + self._sums.nbytes


class Reservoir:
    """Random subset of the rows of a stream, with a bounded size.

    Every row gets a random number, and the rows with the smallest numbers are kept, so
    all subsets are equally likely. The numbers depend only on the seed and the position
    in the stream, so the batch size does not change the subset.

    Args:
        max_samples: maximum number of rows to keep.
        seed: random seed.

    Raises:
        ValueError: if ``max_samples`` is not positive.

    Example:
        >>> reservoir = Reservoir(3)
        >>> for start in range(0, 100, 10):
        ...     reservoir.update({'x': torch.arange(start, start + 10)})
        >>> reservoir.count, len(reservoir.rows()['x'])
        (100, 3)
    """

    def __init__(self, max_samples: int, seed: int = 0) -> None:
        """Initialize a new Reservoir instance."""
        if max_samples < 1:
            raise ValueError(f'max_samples must be positive, got {max_samples}')
        self.max_samples = max_samples
        self.count = 0
        self._random = np.random.default_rng(seed)
        self._draws = np.full(max_samples, np.inf)
        self._places = np.zeros(max_samples, dtype=np.int64)
        self._kept: dict[str, Tensor] = {}

    def update(self, rows: Mapping[str, Tensor]) -> None:
        """Update the subset with a batch.

        Args:
            rows: tensors by name, shape (B, ...), all with the same number of rows.
                Names and row shapes must be the same in all batches.

        Raises:
            ValueError: if the names differ from earlier batches, or the tensors have
                different numbers of rows.
        """
        sizes = {name: len(x) for name, x in rows.items()}
        known = self._kept or rows
        if set(rows) != set(known) or len(set(sizes.values())) > 1:
            raise ValueError(
                f'rows must have the names {sorted(known)} and equal numbers of rows, '
                f'got {sizes}'
            )
        new = next(iter(sizes.values()), 0)
        for name, x in rows.items():
            if name not in self._kept:
                shape = (self.max_samples, *x.shape[1:])
                self._kept[name] = torch.empty(shape, dtype=x.dtype)
        for row, draw in enumerate(self._random.random(new)):
            # A free slot has an infinite number, which is the largest.
            place = self.count if self.count < self.max_samples else None
            if place is None:
                place = int(self._draws.argmax())
            if draw < self._draws[place]:
                self._draws[place], self._places[place] = draw, self.count
                for name, x in rows.items():
                    self._kept[name][place] = x[row].detach()
            self.count += 1

    def rows(self) -> dict[str, Tensor]:
        """Return the kept rows, in the order of the stream.

        Returns:
            Tensors by name, shape (n, ...), on the CPU.
        """
        number = min(self.count, self.max_samples)
        order = torch.from_numpy(self._places[:number].argsort())
        return {name: x[:number][order] for name, x in self._kept.items()}

    @property
    def nbytes(self) -> int:
        """Size of the state in bytes."""
        own = self._draws.nbytes + self._places.nbytes
        return own + sum(x.nbytes for x in self._kept.values())


def _sums(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a * a, b * b, a * b]).sum(dim=1)
