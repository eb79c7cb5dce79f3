"""Export encoders to ONNX, for runtimes without Python."""

from collections.abc import Mapping
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from ..files import atomic_write, check_writable
from ..weights.encoder_files import Checkpoint, as_text
from ..weights.load import match_parameters
from ..weights.state_dict_layouts import count_channels
from .encoder import create_encoder

# Maximum difference from torch, relative to the largest feature.
_TOLERANCE = 1e-4
_PACKAGES = ('onnx', 'onnxruntime', 'onnxscript')
# Version 2.6 fails for BatchNorm, 2.7 for transformers and 2.9 for bilinear sampling.
_TORCH = '2.10'


def save_onnx(
    encoder: nn.Module | Mapping[str, Tensor],
    path: Path,
    model: str,
    metadata: Mapping[str, Any],
    size: int = 224,
) -> Path:
    """Export an encoder to ONNX and check that onnxruntime agrees with torch.

    The graph maps ``image``, shape (batch, C, ``size``, ``size``), in [0, 1], to
    ``features``, shape (batch, F), for any batch size. The export requires the extra
    ``onnx`` (``pip install torchgeo-decur[onnx]``) and torch 2.10 or later.

    The features from onnxruntime and torch are compared for random images. If they differ
    by at most 1e-4 of the largest feature, the file is written atomically.

    Args:
        encoder: a timm model without classifier, or its state dictionary.
        path: path of the file without suffix; its folder is created.
        model: name of the timm model.
        metadata: plain values that describe the images. They are stored with the model name
            as ``metadata_props``: strings unchanged, other values as JSON.
        size: height and width of the images in pixels.

    Returns:
        Path of the file, ``<path>.onnx``.

    Raises:
        ImportError: if a package of the extra is missing, or torch is older than 2.10.
        ValueError: if the folder is not writable, parameters are missing, torch cannot
            export the model, or the features from onnxruntime and torch differ.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ImportError(
            f'ONNX export requires {", ".join(missing)}; run '
            '`pip install torchgeo-decur[onnx]`'
        )
    if TorchVersion(torch.__version__) < _TORCH:
        raise ImportError(
            f'ONNX export requires torch {_TORCH} or later, found {torch.__version__}; run '
            '`pip install -U torch torchvision`'
        )
    import onnx

    file = path.with_name(f'{path.name}.onnx')
    check_writable(file.parent)
    network = _network(encoder, model, file)
    state = network.state_dict()
    shape = (count_channels(state), size, size)
    draw = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                network,
                (torch.rand(2, *shape, generator=draw),),
                input_names=['image'],
                output_names=['features'],
                dynamic_shapes=({0: torch.export.Dim('batch')},),
                verbose=False,
                dynamo=True,
            )
    except (torch.onnx.OnnxExporterError, ValueError, RuntimeError) as error:
        raise ValueError(
            f'model must be exportable to ONNX for images of {size} x {size} pixels, got '
            f'{model!r}: {_first_line(error)}; choose another model or image size'
        ) from error
    proto: Any = cast(Any, program).model_proto
    onnx.helper.set_model_props(proto, as_text({'model': model, **metadata}))

    def write(partial: Path) -> None:
        onnx.save(proto, str(partial))
        images = [torch.rand(n, *shape, generator=draw) for n in (1, 3)]
        difference = max(_difference(network, partial, x) for x in images)
        # "not <=" also catches NaN.
        if not difference <= _TOLERANCE:
            raise ValueError(
                f'{file}: expected onnxruntime to differ from torch by at most '
                f'{_TOLERANCE} of the largest feature, found {difference:.1e}; '
                'choose another model or image size'
            )

    atomic_write(file, write)
    return file


def _network(
    encoder: nn.Module | Mapping[str, Tensor], model: str, file: Path
) -> nn.Module:
    """Copy or build the model on the CPU, with all parameters loaded."""
    if isinstance(encoder, nn.Module):
        return deepcopy(encoder).cpu().float().eval()
    state = dict(encoder)
    built = create_encoder(model, count_channels(state))
    fitting, _ = match_parameters(built, Checkpoint(str(file), {'': state}), '')
    built.load_state_dict(fitting, strict=False)
    return built.float().eval()


def _difference(model: nn.Module, file: Path, images: Tensor) -> float:
    """Measure the difference of onnxruntime from torch, relative to the largest feature."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(file), providers=['CPUExecutionProvider']
    )
    (found,) = session.run(['features'], {'image': images.numpy()})
    with torch.no_grad():
        expected = model(images)
    largest = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    return float((torch.from_numpy(found) - expected).abs().max() / largest)


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return str(cause).strip().partition('\n')[0][:300]
