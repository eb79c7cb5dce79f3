import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchgeo_decur.datamodules import SyntheticEODataModule
from torchgeo_decur.datamodules.splits import (
    order_for_budgets,
    split_groups,
    take_budget,
)


@given(
    groups=st.lists(st.integers(0, 9), min_size=1),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_sides_are_a_partition_and_share_no_group(
    groups: list[int], fraction: float, seed: int
) -> None:
    if len(set(groups)) == 1 and 0 < fraction < 1:
        with pytest.raises(ValueError, match='at least two groups to split, found 1'):
            split_groups(groups, fraction, seed)
        return
    kept, held_out = split_groups(groups, fraction, seed)
    assert sorted(kept + held_out) == list(range(len(groups)))
    names = {groups[i] for i in kept}, {groups[i] for i in held_out}
    assert not names[0] & names[1]
    if 0 < fraction < 1:
        assert kept and held_out
        assert abs(len(names[1]) - fraction * len(set(groups))) <= 1
    else:
        assert not (held_out if fraction == 0 else kept)
    assert split_groups(groups, fraction, seed) == (kept, held_out)


def test_seed_changes_the_draw() -> None:
    assert len({str(split_groups(range(50), 0.2, seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize('fraction', [-0.1, 1.1])
def test_refuses_a_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=r'fraction must be in \[0, 1\], got'):
        split_groups([0, 1], fraction, 0)


class TestBudget:
    """Check budgets of labels with a very rare and a very frequent class."""

    generator = torch.Generator().manual_seed(0)
    share = torch.tensor([0.95, 0.5, 0.2, 0.05, 0.0])
    labels = (torch.rand(1000, 5, generator=generator) < share).long()
    labels[[7, 900], 4] = 1

    @given(seed=st.integers(0, 2**31), sizes=st.tuples(*[st.floats(0.001, 1)] * 2))
    def test_budgets_are_nested_and_the_same_in_every_run(
        self, seed: int, sizes: tuple[float, float]
    ) -> None:
        small, large = (take_budget(self.labels, f, seed)[0] for f in sorted(sizes))
        assert set(small) <= set(large)
        assert len(small) == max(1, round(min(sizes) * 1000))
        assert small == sorted(set(small))
        assert take_budget(self.labels, min(sizes), seed)[0] == small

    @given(seed=st.integers(0, 2**31))
    def test_every_budget_is_stratified(self, seed: int) -> None:
        order = order_for_budgets(self.labels, seed)
        assert sorted(order.tolist()) == list(range(1000))
        tenth = self.labels[order[:100]].float().mean(0)
        assert torch.allclose(tenth, self.labels.float().mean(0), atol=0.15)
        assert take_budget(self.labels, 0.01, seed)[1] == []
        single = torch.arange(300) % 3
        counts = single[order_for_budgets(single, seed)[:30]].bincount()
        assert counts.tolist() == [10, 10, 10]

    def test_names_lost_classes(self) -> None:
        chosen, lost = take_budget(torch.arange(10), 0.4, seed=0)
        assert len(chosen) == 4
        assert lost == sorted(set(range(10)) - set(chosen))
        data = SyntheticEODataModule(length=40, size=32, label_fraction=0.05)
        with pytest.warns(UserWarning, match=r'0\.05 keeps 2 of 40 .* classes \[\d'):
            data.setup('fit')
        assert len(data.train_dataset) == 2

    def test_seed_changes_the_choice(self) -> None:
        draws = {str(take_budget(self.labels, 0.1, seed)) for seed in range(5)}
        assert len(draws) == 5

    def test_whole_budget_keeps_all_samples(self) -> None:
        assert take_budget(self.labels, 1, 0) == (list(range(1000)), [])

    def test_keeps_labels_among_samples_without_one(self) -> None:
        labels = torch.zeros(10, 2, dtype=torch.long)
        labels[3] = 1
        assert 3 in take_budget(labels, 0.2, seed=0)[0]

    def test_rejects_invalid_arguments(self) -> None:
        with pytest.raises(ValueError, match=r'shape \(N,\) or .* got \(1, 1, 1\)'):
            order_for_budgets(torch.zeros(1, 1, 1), 0)
        with pytest.raises(ValueError, match=r'label_fraction .* got 0'):
            SyntheticEODataModule(label_fraction=0)
