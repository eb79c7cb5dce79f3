"""Tests of features that need more than the lowest versions."""

from importlib.metadata import version

import pytest
import torch
from torch.torch_version import TorchVersion

# What `save_onnx` refuses, as its own test says.
NO_ONNX = TorchVersion(torch.__version__) < '2.10'
needs_onnx = pytest.mark.skipif(NO_ONNX, reason='ONNX needs torch 2.10')
# Before 2.10 a fake tensor on `cuda` asks the driver for a stream.
NO_FAKE_CUDA = TorchVersion(torch.__version__) < '2.10'
# Help names the classes of the values of a dictionary since 4.52; files and options take them before.
NO_NESTED_CLASSES = TorchVersion(version('jsonargparse')) < '4.52'
