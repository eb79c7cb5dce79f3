"""Simulate a GPU with tensors on ``cuda`` without memory, next to real ones on the CPU.

What is on the device has a shape and a type and no values, so a program runs as far as it
does not ask for one. Copies between host and device are written down, and so is every
time at which the host would wait.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

from .versions import NO_FAKE_CUDA

CUDA = torch.device('cuda', 0)
_VALUES = ('_local_scalar_dense', 'equal', 'is_nonzero', 'allclose')
_SIZES = ('nonzero', 'masked_select', 'unique', '_unique2', 'unique_dim', 'bincount')


class SimulatedDevice(FakeTensorMode):
    """Mode in which tensors on ``cuda`` have no values and tensors on the CPU are real.

    Attributes:
        copies: operations that copied from the host without a wait.
        waits: operations for which the host waited.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.copies: list[str] = []
        self.waits: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if func is torch.ops.prim.device.default:
            # Autograd must not look for a stream of a device that is not there.
            recorded = (
                torch.is_grad_enabled() or torch._C._current_graph_task_id() != -1
            )
            return torch.device('meta') if recorded else args[0].fake_device
        args, kwargs = tree_map_only(
            torch.device, lambda d: CUDA if d.type == 'meta' else d, (args, kwargs)
        )
        given = tree_flatten((args, kwargs))[0]
        device = [x for x in given if isinstance(x, FakeTensor)]
        host = [
            x for x in given if isinstance(x, Tensor) and not isinstance(x, FakeTensor)
        ]
        places = [x for x in given if isinstance(x, torch.device)]
        if not device and not any(p.type == 'cuda' for p in places):
            return func(*args, **kwargs)
        if name in _VALUES:
            self.waits.append(name)
            return False if name != '_local_scalar_dense' else _zero(device[0].dtype)
        masks = name.startswith(('index', '_index_put')) and any(
            x is not None and x.dtype in (torch.bool, torch.uint8)
            for x in tree_flatten(args[1])[0]
            if isinstance(x, Tensor)
        )
        if name in _SIZES or masks:
            self.waits.append(name)
        elif name == '_to_copy' and device and any(p.type == 'cpu' for p in places):
            self.waits.append('to the CPU')
            return torch.zeros(
                device[0].shape, dtype=kwargs.get('dtype') or device[0].dtype
            )
        elif name == 'copy_' and not isinstance(args[0], FakeTensor):
            self.waits.append('to the CPU')
            return args[0]
        elif any(x.ndim for x in host):
            blocking = not kwargs.get('non_blocking') and not any(
                x is True for x in args
            )
            wait = name not in ('_to_copy', 'copy_') or blocking
            (self.waits if wait else self.copies).append(f'{name} from the CPU')
        return super().__torch_dispatch__(func, types, args, kwargs)

    def move(self, module: nn.Module) -> nn.Module:
        """Put a module on the device, in place."""
        for part in module.modules():
            for key, parameter in part._parameters.items():
                if parameter is not None:
                    value = parameter.detach().to(CUDA)
                    part._parameters[key] = nn.Parameter(value, parameter.requires_grad)
            for key, buffer in part._buffers.items():
                part._buffers[key] = None if buffer is None else buffer.to(CUDA)
        self.copies.clear()
        self.waits.clear()
        return module


class Autocast(TorchFunctionMode):
    """Apply autocast as on a real GPU."""

    lower = (
        'linear',
        'conv1d',
        'conv2d',
        'matmul',
        '__matmul__',
        'mm',
        'bmm',
        'addmm',
        'baddbmm',
    )
    lower = (
        *lower,
        'scaled_dot_product_attention',
        'multi_head_attention_forward',
        'einsum',
    )
    whole = (
        'softmax',
        'log_softmax',
        'cross_entropy',
        'layer_norm',
        'group_norm',
        'normalize',
    )
    whole = (*whole, 'log', 'exp', 'pow', 'sum', 'norm', 'cosine_similarity', 'rsqrt')

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(func, '__name__', '')
        if torch.is_autocast_enabled('cuda') and name in (*self.lower, *self.whole):
            dtype = (
                torch.get_autocast_dtype('cuda')
                if name in self.lower
                else torch.float32
            )

            def cast(x: Tensor) -> Tensor:
                small = x.is_floating_point() and x.dtype != torch.float64
                return (
                    x.to(dtype)
                    if small and isinstance(x, FakeTensor | nn.Parameter)
                    else x
                )

            args, kwargs = tree_map_only(Tensor, cast, (args, kwargs))
        return func(*args, **kwargs)


@contextmanager
def simulated() -> Iterator[SimulatedDevice]:
    """Simulate a GPU.

    Skips the test where torch cannot.
    """
    if NO_FAKE_CUDA:
        pytest.skip('a fake tensor on cuda needs a driver before torch 2.10')
    available = patch(
        'torch.cuda.amp.common.amp_definitely_not_available', lambda: False
    )
    kinds = patch('torch.cuda.is_bf16_supported', lambda *_: True)
    one_thread = torch.autograd.set_multithreading_enabled(False)
    with available, kinds, SimulatedDevice() as device, Autocast(), one_thread:
        yield device


def _zero(dtype: torch.dtype) -> float | int | bool:
    if dtype == torch.bool:
        return False
    return 0.0 if dtype.is_floating_point else 0
