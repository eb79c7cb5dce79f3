"""Embed a data set."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import Tensor, nn

from torchgeo_decur.analysis import collect
from torchgeo_decur.losses.functional import cross_correlation_terms, standardize
from torchgeo_decur.tasks import BarlowTwins, CoMM, COrAL, DeCUR, InfMasking

MODALITIES = {'a': 1, 'b': 2, 'c': 1}


def batches(number: int, size: int = 6, dates: int | None = None) -> Iterator[Any]:
    random = torch.Generator().manual_seed(0)
    shape = () if dates is None else (dates,)
    images = {
        f'image_{m}': torch.rand(number, *shape, c, 32, 32, generator=random)
        for m, c in MODALITIES.items()
    }
    labels = {'label': torch.arange(number), 'label_bits': torch.ones(number, 2)}
    whole = images | labels
    for start in range(0, number, size):
        batch: dict[str, Any] = {k: v[start : start + size] for k, v in whole.items()}
        yield batch | {'label_name': ['x'] * size}


@pytest.fixture(scope='module')
def task() -> DeCUR:
    torch.manual_seed(0)
    return DeCUR(MODALITIES, 'test_resnet', projector=[16, 8], common_ratio=0.75)


def test_collects_a_whole_data_set(task: DeCUR) -> None:
    task.train()
    found = collect(task, batches(20))
    assert task.training
    assert found.number == 20 and found.modalities == ('a', 'b', 'c')
    assert found.common_dim == 6
    assert found.parts()['unique'] == slice(6, 8)
    assert found.labels['label'].tolist() == list(range(20))
    assert found.labels['label_bits'].shape == (20, 2)
    assert set(found.labels) == {'label', 'label_bits'}
    task.eval()
    with torch.no_grad():
        (batch,) = batches(20, size=20)
        h, z = task.encode_and_project({m: batch[f'image_{m}'] for m in MODALITIES})
    for m in MODALITIES:
        torch.testing.assert_close(found.z[m], z[m], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.h[m], h[m], rtol=1e-4, atol=1e-5)
    assert list(found.diagonals) == [('a', 'b'), ('a', 'c'), ('b', 'c')]
    for (m, n), diagonal in found.diagonals.items():
        pair = (standardize(found.z[name].double()) for name in (m, n))
        expected, _ = cross_correlation_terms(*pair)
        torch.testing.assert_close(diagonal, expected, rtol=0, atol=1e-6)


def test_keeps_a_subset_and_the_correlations_of_all(task: DeCUR) -> None:
    whole, part = collect(task, batches(20)), collect(task, batches(20), max_samples=5)
    assert part.number == 20
    chosen = part.labels['label']
    assert len(chosen) == 5
    torch.testing.assert_close(part.z['a'], whole.z['a'][chosen])
    for pair, diagonal in whole.diagonals.items():
        assert part.diagonals[pair].equal(diagonal)


def test_embeds_the_first_of_several_dates(task: DeCUR) -> None:
    found = collect(task, batches(4, dates=2))
    first = [
        {k: v[:, 0] if k.startswith('image') else v for k, v in b.items()}
        for b in batches(4, dates=2)
    ]
    torch.testing.assert_close(found.z['b'], collect(task, first).z['b'])


@pytest.mark.parametrize(
    ('task_class', 'names', 'features'),
    [
        (BarlowTwins, ['a', 'b', 'c'], ['a', 'b', 'c']),
        (CoMM, ['a', 'b', 'c', 'joint'], ['a', 'b', 'c', 'joint']),
        (InfMasking, ['a', 'b', 'c', 'joint'], ['a', 'b', 'c', 'joint']),
        (COrAL, ['a', 'b', 'c', 'shared'], ['a', 'b', 'c', 'shared', 'joint']),
    ],
)
def test_collects_tasks_without_common_dimensions(
    task_class: Any, names: list[str], features: list[str]
) -> None:
    options = {} if task_class is BarlowTwins else {'embed_dim': 8, 'num_heads': 2}
    task = task_class(MODALITIES, model='test_resnet', projector=[8], **options)
    found = collect(task, batches(4))
    assert list(found.z) == names and list(found.h) == features
    assert found.common_dim is None
    assert all(list(found.parts(name)) == ['all'] for name in names)


def test_refuses_no_batch(task: DeCUR) -> None:
    with pytest.raises(ValueError, match='batches must have at least one sample'):
        collect(task, [])


def test_images_follow_the_model() -> None:
    """Move batches of a loader to the device of the model."""

    class Elsewhere:
        hparams: ClassVar = {'modalities': {'s1': 2}}
        encoders = nn.Linear(1, 1, device='meta')

        def modules(self) -> Iterator[nn.Module]:
            return self.encoders.modules()

        def encode_and_project(self, images: Mapping[str, Tensor]) -> Any:
            assert images['s1'].device.type == 'meta'
            return {'s1': torch.rand(3, 4)}, {'s1': torch.rand(3, 5)}

    batches = [{'image_s1': torch.rand(3, 2, 8, 8)}]
    assert len(collect(cast(Any, Elsewhere()), batches).z['s1']) == 3
