"""Check that a small encoder learns the labels of Trifeatures, and synergy with a layer."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from torchgeo_decur.datasets import Trifeatures
from torchgeo_decur.models import create_encoder
from torchgeo_decur.transforms import ElevationAugmentation

EPOCHS, SIZE, BATCH = 15, 64, 64


def drawings(split: str) -> tuple[Tensor, Tensor]:
    """Return all drawings of a split in [0, 1], with shape, colour and texture."""
    dataset = Trifeatures(split, size=SIZE)  # type: ignore[arg-type]
    drawn = torch.from_numpy(dataset.pairs).reshape(-1, 4).unique(dim=0)
    images = torch.stack([dataset._image(*features) for features in drawn.tolist()])
    return images / 255, drawn[:, :3]


def fit(model: nn.Module, x: Tensor, y: Tensor, augment: nn.Module, lr: float) -> None:
    """Train outputs (B, K * 10) or (B, 2) for labels (B, K) or (B,)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps)
    model.train()
    for _ in range(EPOCHS):
        for i in torch.randperm(len(x))[: len(x) // BATCH * BATCH].view(-1, BATCH):
            logits = model(augment(x[i]))
            loss = cross_entropy(logits.view(y[i].numel(), -1), y[i].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def pair_features(encoder: nn.Module, split: str, length: int) -> tuple[Tensor, Tensor]:
    """Return standardised features of balanced pairs, and whether the pairs match."""
    dataset = Trifeatures(split, length, SIZE, pairing='balanced')  # type: ignore[arg-type]
    drawn, place = (
        torch.from_numpy(dataset.pairs)
        .reshape(-1, 4)
        .unique(dim=0, return_inverse=True)
    )
    images = torch.stack([dataset._image(*f) for f in drawn.tolist()]) / 255
    with torch.no_grad():
        features = torch.cat([encoder(x) for x in images.split(200)])
    features = (features - features.mean(0)) / (features.std(0) + 1e-5)
    label = torch.tensor(dataset.pairs[:, 0, 2] == dataset.pairs[:, 1, 1]).long()
    return features[place].reshape(length, -1), label


@pytest.mark.slow
def test_network_learns_all_features() -> None:
    torch.manual_seed(0)
    encoder = create_encoder('alexnet_small', 3)
    augment = ElevationAugmentation(SIZE, crop_scale=(0.4, 1.0), vflip=0)
    model = nn.Sequential(encoder, nn.Linear(128, 30))
    fit(model, *drawings('train'), augment, lr=3e-3)
    x, y = drawings('test')
    with torch.no_grad():
        guess = torch.cat([model(part) for part in x.split(200)])
    right = (guess.view(-1, 3, 10).argmax(-1) == y).float().mean(0)
    print('shape, colour, texture:', right.tolist())
    assert right.min() > 0.85

    found = {}
    x, y = pair_features(encoder, 'train', 10_000)
    unseen, label = pair_features(encoder, 'test', 2_000)
    heads = {
        'linear': nn.Linear(256, 2),
        'one layer in between': nn.Sequential(
            nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2)
        ),
    }
    for name, head in heads.items():
        fit(head, x, y, nn.Identity(), lr=5e-3)
        with torch.no_grad():
            found[name] = (head(unseen).argmax(1) == label).float().mean().item()
    print('synergy:', found)
    # A constant is the best sum of what each image tells.
    assert found['linear'] < 0.6
    assert found['one layer in between'] > 0.9
