"""Tests of features that need more than the lowest versions."""

import pytest
import torch
from torch.torch_version import TorchVersion

# What `save_onnx` refuses, as its own test says.
NO_ONNX = TorchVersion(torch.__version__) < '2.10'
needs_onnx = pytest.mark.skipif(NO_ONNX, reason='ONNX needs torch 2.10')
