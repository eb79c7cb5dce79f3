"""Check losses of modalities whose joined names are equal."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchgeo_decur.losses import (
    BarlowTwinsLoss,
    COrALLoss,
    DeCURLoss,
    EmbeddingLoss,
    display_names,
)

ALIKE = ('a', 'b_c', 'a_b', 'c')
names = st.text(alphabet="ab_+'", min_size=1, max_size=4)


@given(st.lists(names, min_size=2, max_size=4, unique=True), st.sampled_from('_+'))
def test_keys_that_differ_have_texts_that_differ(
    modalities: list[str], separator: str
) -> None:
    keys = list(combinations(modalities, 2))
    shown = display_names(keys, separator)
    assert list(shown) == keys and len(set(shown.values())) == len(keys)


@pytest.mark.parametrize(
    'loss',
    [DeCURLoss(3), BarlowTwinsLoss(), COrALLoss()],
    ids=lambda loss: type(loss).__name__,
)
def test_no_pair_drops_out(loss: EmbeddingLoss) -> None:
    generator = torch.Generator().manual_seed(0)
    own = ('shared',) if isinstance(loss, COrALLoss) else ()
    z = {
        m: torch.randn(2, 6, 5, generator=generator, dtype=torch.double)
        for m in (*own, *ALIKE)
    }
    plain = dict(zip((*own, 'p', 'q', 'r', 's'), z.values(), strict=True))
    found, expected = loss(z), loss(plain)
    assert len(found) == len(expected)
    assert [v.item() for v in found.values()] == pytest.approx(
        [v.item() for v in expected.values()]
    )
