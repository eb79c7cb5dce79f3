"""State dictionaries of encoders for tests."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

SMALL = 'mobilenetv3_small_050'

State = dict[str, Tensor]


def random_state(
    model: str = SMALL, channels: int = 2, seed: int = 0, **options: Any
) -> State:
    """Return parameters and statistics that all differ from a new model's."""
    generator = torch.Generator().manual_seed(seed)
    options = {'num_classes': 0, **options}
    state = timm.create_model(model, in_chans=channels, **options).state_dict()
    return {
        k: torch.rand(v.shape, generator=generator)
        if v.is_floating_point()
        else torch.tensor(seed + 7)
        for k, v in state.items()
    }


def assert_loaded(encoder: nn.Module, state: Mapping[str, Tensor]) -> None:
    actual = encoder.state_dict()
    assert sorted(actual) == sorted(state)
    assert all(actual[k].equal(state[k]) for k in state)
