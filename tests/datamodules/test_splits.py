import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchgeo_decur.datamodules.splits import split_groups


@given(
    groups=st.lists(st.integers(0, 9), min_size=1),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_sides_are_a_partition_and_share_no_group(
    groups: list[int], fraction: float, seed: int
) -> None:
    if len(set(groups)) == 1 and 0 < fraction < 1:
        with pytest.raises(ValueError, match='at least two groups to split, got 1'):
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
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=r'fraction must be in \[0, 1\], got'):
        split_groups([0, 1], fraction, 0)
