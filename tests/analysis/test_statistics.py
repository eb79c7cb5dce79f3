"""Compare streamed statistics with those of the whole set, and bound their size."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchgeo_decur.analysis import CorrelationStream, Reservoir
from torchgeo_decur.losses.functional import cross_correlation_terms, standardize


def streamed(a: Tensor, b: Tensor, sizes: list[int]) -> CorrelationStream:
    stream = CorrelationStream(a.shape[1])
    for x, y in zip(a.split(sizes), b.split(sizes), strict=True):
        stream.update(x, y)
    return stream


def pair(number: int, dim: int = 5) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(number)
    a = torch.randn(number, dim, generator=random, dtype=torch.float64)
    b = 0.5 * a + torch.randn(number, dim, generator=random, dtype=torch.float64)
    return a, b


class TestCorrelationStream:
    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(lambda s: sum(s) > 1)
    )
    def test_equals_the_whole(self, sizes: list[int]) -> None:
        a, b = pair(sum(sizes))
        stream = streamed(a, b, sizes)
        expected, _ = cross_correlation_terms(standardize(a), standardize(b))
        torch.testing.assert_close(stream.diagonal(), expected, rtol=0, atol=1e-6)
        whole = torch.stack([a, b])
        torch.testing.assert_close(stream.mean(), whole.mean(dim=1))
        torch.testing.assert_close(stream.variance(), whole.var(dim=1, correction=0))
        assert stream.count == len(a)

    def test_a_large_mean_costs_no_precision(self) -> None:
        a, b = pair(512)
        far = streamed(a + 1e6, b - 1e6, [64] * 8).diagonal()
        near = streamed(a, b, [512]).diagonal()
        torch.testing.assert_close(far, near, rtol=0, atol=1e-6)

    def test_constant_dimension_is_uncorrelated(self) -> None:
        assert (
            streamed(torch.ones(8, 2), torch.ones(8, 2), [4, 4]).diagonal().eq(0).all()
        )

    def test_inputs_do_not_change(self) -> None:
        a, b = pair(8)
        before = a.clone(), b.clone()
        streamed(a, b, [3, 5])
        assert a.equal(before[0]) and b.equal(before[1])

    def test_does_not_grow(self) -> None:
        stream = CorrelationStream(64)
        sizes, memory = [], []
        tracemalloc.start()
        for batch in range(110):
            a, b = pair(32, 64)
            stream.update(a, b)
            if batch in (10, 109):
                sizes.append(stream.nbytes)
                memory.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert sizes == [5 * 64 * 8] * 2
        assert memory[1] - memory[0] < 20_000

    def test_shapes_must_fit(self) -> None:
        stream = CorrelationStream(4)
        with pytest.raises(ValueError, match=r'same shape \(B, 4\), got \(2, 4\) and'):
            stream.update(torch.zeros(2, 4), torch.zeros(3, 4))


class TestReservoir:
    @settings(max_examples=20, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 20))
    def test_the_size_of_batches_does_not_matter(self, batch: int, kept: int) -> None:
        x = torch.arange(100)
        chosen = []
        for size in (batch, 100):
            reservoir = Reservoir(kept, seed=1)
            for part in x.split(size):
                reservoir.update({'x': part, 'y': -part})
            rows = reservoir.rows()
            assert rows['y'].equal(-rows['x'])
            assert rows['x'].tolist() == sorted(set(rows['x'].tolist()))
            chosen.append(rows['x'])
        assert chosen[0].equal(chosen[1]) and len(chosen[0]) == kept

    def test_keeps_everything_if_there_is_room(self) -> None:
        reservoir = Reservoir(10)
        reservoir.update({'x': torch.arange(7)})
        assert reservoir.rows()['x'].tolist() == list(range(7))

    def test_each_row_is_as_likely(self) -> None:
        counts = np.zeros(20)
        for seed in range(2000):
            reservoir = Reservoir(5, seed)
            reservoir.update({'x': torch.arange(20)})
            counts[reservoir.rows()['x'].numpy()] += 1
        # Binomial with mean 500 and standard deviation 19.
        assert abs(counts - 500).max() < 90

    def test_does_not_grow(self) -> None:
        reservoir = Reservoir(50)
        sizes = []
        for batch in range(110):
            reservoir.update({'x': torch.rand(16, 8)})
            if batch in (10, 109):
                sizes.append(reservoir.nbytes)
        assert reservoir.count == 1760
        assert sizes == [50 * (16 + 8 * 4)] * 2

    def test_rejects_invalid_arguments(self) -> None:
        with pytest.raises(ValueError, match='max_samples must be positive, got 0'):
            Reservoir(0)
        reservoir = Reservoir(2)
        reservoir.update({'x': torch.zeros(3)})
        for rows in ({'y': torch.zeros(3)}, {'x': torch.zeros(1), 'y': torch.zeros(2)}):
            with pytest.raises(ValueError, match=r"must have the names \['x'\]"):
                reservoir.update(rows)
