"""Fixtures of published files with small values."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import WeightsEnum

Publish = Callable[[WeightsEnum, Any], Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the cache of torch.hub by an empty folder."""
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    return tmp_path / 'hub' / 'checkpoints'


@pytest.fixture
def publish(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Write content to the URL of an entry, with its hash in the name if any."""
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
