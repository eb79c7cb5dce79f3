"""Check that batches of workers reuse memory, and never memory that is in use."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from torchgeo_decur.datamodules.recycled_memory import RecyclingCollate
from torchgeo_decur.datamodules.unconverted_batches import Unconverted

SIDE = 96


class Numbers(Dataset[dict[str, Any]]):
    """Samples whose every value is their index."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            'label': index,
            'image_a': torch.full((3, SIDE, SIDE), float(index)),
            'name': str(index),
            'image_b': torch.full((SIDE, SIDE), index, dtype=torch.uint8),
        }


def loader(collate: RecyclingCollate, **options: Any) -> DataLoader[dict[str, Any]]:
    workers = len(collate.released)
    return DataLoader(Numbers(), 2, num_workers=workers, collate_fn=collate, **options)


def assert_equal(batch: dict[str, Any], indices: list[int]) -> None:
    expected = default_collate([Numbers()[i] for i in indices])
    assert list(batch) == list(expected)
    for key, value in expected.items():
        if isinstance(value, Tensor):
            assert batch[key].dtype == value.dtype
            assert torch.equal(batch[key], value)
        else:
            assert batch[key] == value


@pytest.mark.parametrize(
    'context', ['fork', pytest.param('spawn', marks=pytest.mark.slow)]
)
def test_released_memory_is_reused(context: str) -> None:
    collate = RecyclingCollate(num_workers=1)
    images, buffers = loader(collate, multiprocessing_context=context), []
    for number, batch in enumerate(images):
        assert_equal(batch, [2 * number, 2 * number + 1])
        buffers.append(collate._in_use[-1][2])
    assert len(buffers) == 12
    # The main process holds one batch, and the worker prepares two.
    assert set(buffers) <= set(range(4))


def test_memory_in_use_is_not_overwritten() -> None:
    collate = RecyclingCollate(num_workers=1)
    batches, views = [], []
    for batch in loader(collate):
        batches.append(batch)
        views.append(batch['image_a'][1, 0, 3])
    for number, batch in enumerate(batches):
        assert_equal(batch, [2 * number, 2 * number + 1])
    # A view holds the memory of its batch.
    del batches, batch
    gc.collect()
    for _ in loader(collate):
        pass
    for number, view in enumerate(views):
        assert (view == 2 * number + 1).all()


def test_two_iterators_of_one_loader_do_not_share_memory() -> None:
    images = loader(RecyclingCollate(num_workers=1))
    first = list(zip(images, images, strict=True))
    for number, pair in enumerate(first):
        for batch in pair:
            assert_equal(batch, [2 * number, 2 * number + 1])


def test_memory_is_reused_in_the_next_epoch() -> None:
    collate = RecyclingCollate(num_workers=2)
    images = loader(collate, persistent_workers=True)
    for _ in range(3):
        for number, batch in enumerate(images):
            assert_equal(batch, [2 * number, 2 * number + 1])
    assert (collate.released > 0).sum(dim=1).max() <= 4


@pytest.mark.parametrize('workers', [0, 1])
def test_batch_is_hidden_from_lightning(workers: int) -> None:
    for number, batch in enumerate(loader(RecyclingCollate(workers, unconverted=True))):
        assert isinstance(batch, Unconverted)
        assert_equal(batch.batch, [2 * number, 2 * number + 1])


def test_different_shapes_are_an_error() -> None:
    class Growing(Numbers):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {'image_a': torch.zeros(1 + index, SIDE, SIDE)}

    images = DataLoader(
        Growing(), 2, num_workers=1, collate_fn=RecyclingCollate(num_workers=1)
    )
    with pytest.raises(
        RuntimeError, match='stack expects each tensor to be equal size'
    ):
        next(iter(images))
