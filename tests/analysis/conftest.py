"""Embeddings with known answers."""

import pytest
import torch

from torchgeo_decur.analysis import Embeddings

N, COMMON, UNIQUE = 600, 24, 16


@pytest.fixture(scope='session')
def known() -> Embeddings:
    """Return embeddings with equal common and independent unique dimensions.

    The first common dimensions tell ``label``, and the first unique ones of s1 tell
    ``label_s1``; the labels of ``label_several`` are those two, and a constant.
    """
    random = torch.Generator().manual_seed(0)

    def noise(columns: int) -> torch.Tensor:
        return torch.randn(N, columns, generator=random)

    common, unique = noise(COMMON), {m: noise(UNIQUE) for m in ('s1', 's2')}
    label = torch.randint(3, (N,), generator=random)
    own = torch.randint(2, (N,), generator=random)
    common[:, :3] = 4 * torch.eye(3)[label] + 0.1 * noise(3)
    unique['s1'][:, :2] = 4 * torch.eye(2)[own] + 0.1 * noise(2)
    several = torch.stack([label == 0, own == 1, torch.zeros(N)], dim=1)
    z = {m: torch.cat([common, x], dim=1) for m, x in unique.items()}
    labels = {'label': label, 'label_s1': own, 'label_several': several}
    h = {'s1': noise(8), 's2': common.clone()}
    return Embeddings.of(z, COMMON, labels, h)
