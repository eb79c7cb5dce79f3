"""Published files in their own layout and names, with values of our own."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum

State = dict[str, Tensor]
Publish = Callable[[WeightsEnum, Any], Path]


@pytest.fixture(scope='session')
def random_state() -> Callable[..., State]:
    """Parameters and statistics, all of them different from a fresh model's."""

    def make(
        model: str, channels: int = 2, seed: int = 0, **options: Any
    ) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        options = {'num_classes': 0, **options}
        state = timm.create_model(model, in_chans=channels, **options).state_dict()
        return {
            k: torch.rand(v.shape, generator=generator)
            if v.is_floating_point()
            else torch.tensor(seed + 7)
            for k, v in state.items()
        }

    return make


@pytest.fixture(scope='session')
def assert_loaded() -> Callable[[nn.Module, Mapping[str, Tensor]], None]:
    def check(encoder: nn.Module, state: Mapping[str, Tensor]) -> None:
        actual = encoder.state_dict()
        assert sorted(actual) == sorted(state)
        assert all(actual[k].equal(state[k]) for k in state)

    return check


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the cache of torch.hub."""
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    return tmp_path / 'hub' / 'checkpoints'


@pytest.fixture
def publish(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Put content where an entry downloads from; a hash in the name is made true."""
    folder = tmp_path / 'server'
    folder.mkdir()

    def publish(entry: WeightsEnum, content: Any) -> Path:
        name = entry.url.rpartition('/')[2]
        file = folder / name
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        if name.rpartition('-')[2].removesuffix('.pth').isalnum():
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            file = file.rename(folder / f'{name.rpartition("-")[0]}-{digest[:8]}.pth')
        monkeypatch.setattr(entry.value, 'url', file.as_uri())
        return file

    return publish
