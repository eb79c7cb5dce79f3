"""Write models as ONNX files and exported programs, for use without this package."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.torch_version import TorchVersion

from ..files import Write, atomic_write_all, check_writable
from ..weights.encoder_files import Checkpoint, as_text
from ..weights.load import match_parameters
from ..weights.state_dict_layouts import count_channels
from .encoder import MultimodalEncoder, create_encoder
from .fusion.late_fusion import LateFusion
from .named_model import NamedEncoder, NamedModel, WholeModel

Suffix = Literal['onnx', 'pt2']
"""Formats: ONNX, or a program of :func:`torch.export.save`."""

type _Run = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]

# Largest difference from the model, relative to the largest output.
_TOLERANCE = 1e-4
# Largest fraction of classes that may differ, because two logits may be almost equal.
_TIES = 1e-3
_PACKAGES = ('onnx', 'onnxruntime', 'onnxscript')
# Version 2.6 fails for BatchNorm, 2.7 for transformers and 2.9 for bilinear sampling.
_TORCH = '2.10'
# Smallest image size of a file for any size. Smaller images may have maps of one cell.
_SMALLEST = 64
# Not a multiple of usual patch sizes and strides, and large enough for several cells.
_EXAMPLE = (150, 203)
# Number, height and width of the checked images: multiples of strides, odd, and usual.
_CHECKED = ((1, 64, 96), (3, 101, 67), (1, 224, 224))


def save_onnx(
    module: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    model: str = '',
    metadata: Mapping[str, Any] | None = None,
    size: int | None = None,
) -> Path:
    """Write a model as ONNX and check that onnxruntime computes the same outputs as torch.

    A single encoder maps ``image``, shape (batch, C, H, W), in [0, 1], to ``features``,
    shape (batch, F). For the inputs and outputs of a multimodal model, see
    :class:`~torchgeo_decur.models.WholeModel`. The number, height and width of the images
    may vary. The export requires the extra ``onnx`` (``pip install torchgeo-decur[onnx]``)
    and torch 2.10 or later.

    The file is written atomically, and only if it passes a comparison with torch on random
    images of several sizes and with absent modalities. Outputs may differ by at most 1e-4
    of the largest output. At most 0.1 % of the predicted classes may differ.

    Args:
        module: a :class:`~torchgeo_decur.models.WholeModel` or a model that it accepts, a
            timm model without classifier, or its state dictionary.
        path: path of the file without suffix; its folder is created.
        model: name of the timm model; required for a state dictionary.
        metadata: plain values that describe the model and its images. They and the name
            become ``metadata_props``: text unchanged, other values as JSON.
        size: height and width of all images in pixels, for models that accept only one
            size. By default, images may have any height and width from 64 pixels up.

    Returns:
        Path of the file, ``<path>.onnx``.

    Raises:
        ImportError: if a package of the extra is missing, or torch is older than 2.10.
        ValueError: if the folder is not writable, parameters are missing, torch cannot
            export the model, or the outputs differ.
    """
    return save_model(module, path, ['onnx'], model, metadata, size)[0]


def save_program(
    module: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    model: str = '',
    metadata: Mapping[str, Any] | None = None,
    size: int | None = None,
) -> Path:
    """Write a model as a :mod:`torch.export` program, for torch without this package.

    ``torch.export.load(file).module()`` returns the model. A multimodal model has the
    arguments ``images`` and ``available`` of
    :class:`~torchgeo_decur.models.WholeModel`, and a single encoder takes one image
    tensor. The program is checked like the file of :func:`save_onnx`. It includes the
    metadata as ``metadata.json``.

    Args:
        module: see :func:`save_onnx`.
        path: path of the file without suffix; its folder is created.
        model: name of the timm model; required for a state dictionary.
        metadata: plain values that describe the model and its images.
        size: see :func:`save_onnx`.

    Returns:
        Path of the file, ``<path>.pt2``.

    Raises:
        ImportError: if torch is older than 2.10.
        ValueError: if the folder is not writable, parameters are missing, torch cannot
            export the model, or the outputs differ.
    """
    return save_model(module, path, ['pt2'], model, metadata, size)[0]


def save_model(
    module: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    suffixes: list[Suffix],
    model: str = '',
    metadata: Mapping[str, Any] | None = None,
    size: int | None = None,
) -> list[Path]:
    """Write a model in one or both formats, atomically: all files or none.

    Args:
        module: see :func:`save_onnx`.
        path: path of the files without suffix; its folder is created.
        suffixes: 'onnx' for :func:`save_onnx`, 'pt2' for :func:`save_program`.
        model: name of the timm model; required for a state dictionary.
        metadata: plain values that describe the model and its images.
        size: see :func:`save_onnx`.

    Returns:
        Paths of the files.

    Raises:
        ImportError: see :func:`save_onnx`.
        ValueError: see :func:`save_onnx`.
    """
    _check_packages('onnx' in suffixes)
    path = Path(path)
    files = {suffix: path.with_name(f'{path.name}.{suffix}') for suffix in suffixes}
    check_writable(path.parent)
    named = _named(module, model, path)
    title = model or type(getattr(named, 'model', named)).__name__
    describe = {**({'model': model} if model else {}), **(metadata or {})}
    draw = torch.Generator().manual_seed(0)
    with _explain(title, size):
        program = _trace(named, size, draw)
        contents = {s: _convert(program, named, describe, s) for s in suffixes}

    def write(suffix: Suffix, partial: Path) -> None:
        with _explain(title, size):
            contents[suffix](partial)
        run = _load(suffix, partial, named)
        for number, *shape in _CHECKED:
            inputs = _inputs(named, number, (size, size) if size else shape, draw)
            _check(files[suffix], named, run, inputs, size)

    writes: dict[Path, Write] = {
        file: lambda partial, s=suffix: write(s, partial)  # type: ignore[misc]
        for suffix, file in files.items()
    }
    atomic_write_all(writes)
    return list(files.values())


@contextmanager
def _explain(title: str, size: int | None) -> Iterator[None]:
    """Convert errors of torch to a ValueError that names the model and a remedy."""
    try:
        yield
    except (
        *(torch.onnx.OnnxExporterError, AssertionError, RuntimeError),
        *(TypeError, ValueError),
    ) as error:
        sizes = (
            f'{size} x {size} pixels' if size else f'any size from {_SMALLEST} pixels'
        )
        raise ValueError(
            f'model must be exportable for images of {sizes}, got {title!r}: '
            f'{_first_line(error)}{_hint(size)}'
        ) from error


def _check_packages(onnx: bool) -> None:
    missing = [name for name in _PACKAGES if onnx and find_spec(name) is None]
    if missing:
        raise ImportError(
            f'ONNX export requires {", ".join(missing)}; run '
            '`pip install torchgeo-decur[onnx]`'
        )
    if TorchVersion(torch.__version__) < _TORCH:
        kind = 'ONNX' if onnx else 'program'
        raise ImportError(
            f'{kind} export requires torch {_TORCH} or later, found {torch.__version__}; '
            'run `pip install -U torch torchvision`'
        )


def _named(
    module: nn.Module | Mapping[str, Tensor], model: str, path: Path
) -> NamedModel:
    """Copy or build the model on the CPU, with all parameters loaded."""
    if isinstance(module, nn.Module):
        copied = deepcopy(module).cpu().float().eval()
        if isinstance(copied, NamedModel):
            return copied
        whole = isinstance(copied, LateFusion | MultimodalEncoder)
        return WholeModel(copied) if whole else NamedEncoder(copied)
    state = dict(module)
    built = create_encoder(model, count_channels(state))
    fitting, _ = match_parameters(built, Checkpoint(str(path), {'': state}), '')
    built.load_state_dict(fitting, strict=False)
    return NamedEncoder(built.float().eval())


def _inputs(
    named: NamedModel, number: int, shape: Any, draw: torch.Generator
) -> dict[str, Tensor]:
    """Draw random inputs.

    If the model has availability masks, each sample after the first lacks one modality, and
    the image of this modality is NaN.
    """
    images = {
        name: torch.rand(number, c, *shape, generator=draw)
        for name, c in named.channels.items()
    }
    inputs = dict(images)
    for i, name in enumerate(n for n in named.input_names if n not in images):
        available = torch.ones(number, dtype=torch.bool)
        available[1 + i % len(images) :: len(images)] = False
        inputs[name] = available
        images[f'image_{name.removeprefix("available_")}'][~available] = torch.nan
    return inputs


def _trace(
    named: NamedModel, size: int | None, draw: torch.Generator
) -> ExportedProgram:
    """Trace a model for any number of images, and for any size unless it is given."""
    inputs = _inputs(named, 2, (size, size) if size else _EXAMPLE, draw)
    dims: dict[str, dict[int, Any]] = {name: {0: Dim('batch')} for name in inputs}
    if not size:
        for i, name in enumerate(named.channels):
            if not named.one_grid:
                # Independent sizes need different examples.
                height, width = (n + 6 * i for n in _EXAMPLE)
                c = named.channels[name]
                inputs[name] = torch.rand(2, c, height, width, generator=draw)
            for axis, text in enumerate(_size_names(named, name), start=2):
                dims[name][axis] = Dim(text, min=_SMALLEST)
    with torch.no_grad():
        return torch.export.export(
            named,
            named.arguments(inputs),
            dynamic_shapes=named.arguments(cast(Any, dims)),
            # torch cannot prove some conditions that hold for all sizes.
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def _size_names(named: NamedModel, name: str) -> list[str]:
    own = '' if named.one_grid else name.removeprefix('image')
    return [f'height{own}', f'width{own}']


def _convert(
    program: ExportedProgram,
    named: NamedModel,
    metadata: Mapping[str, Any],
    suffix: Suffix,
) -> Callable[[Path], None]:
    """Convert a program to a format and return a function that writes the file."""
    if suffix == 'pt2':
        text = json.dumps({**metadata, 'inputs': named.input_names})

        def save(file: Path) -> None:
            with file.open('wb') as opened:
                torch.export.save(program, opened, extra_files={'metadata.json': text})

        return save
    import onnx

    # The exported graph has the same order of outputs as the program.
    converted: Any = torch.onnx.export(
        program, input_names=named.input_names, verbose=False, dynamo=True
    )
    proto = converted.model_proto
    _rename(proto, program, named)
    onnx.helper.set_model_props(proto, as_text(metadata))
    return lambda file: onnx.save(proto, str(file))


def _rename(proto: Any, program: ExportedProgram, named: NamedModel) -> None:
    """Name the outputs and the variable dimensions of inputs and outputs."""
    outputs = _output_names(program)
    old = [output.name for output in proto.graph.output]
    new = dict(zip(old, outputs, strict=True))
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new.get(name, name)
    sizes: dict[str, str] = {}
    for value in proto.graph.input:
        image = value.name in named.channels
        axes = ['batch', '', *(_size_names(named, value.name) if image else ())]
        for text, dim in zip(axes, value.type.tensor_type.shape.dim, strict=False):
            if text and dim.dim_param:
                sizes[dim.dim_param] = text
    graph = proto.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = new.get(value.name, value.name)
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = sizes.get(dim.dim_param, dim.dim_param)


def _output_names(program: ExportedProgram) -> list[str]:
    """Return the keys of the dictionary that a program returns."""
    context: Any = program.call_spec.out_spec.context
    return [str(name) for name in context]


def _load(suffix: Suffix, file: Path, named: NamedModel) -> _Run:
    """Load a file as a function of its inputs by name."""
    if suffix == 'pt2':
        with file.open('rb') as opened:
            module = torch.export.load(opened).module()
        return lambda inputs: module(*named.arguments(inputs))
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(file), providers=['CPUExecutionProvider']
    )
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = session.run(names, {k: x.numpy() for k, x in inputs.items()})
        return {k: torch.from_numpy(x) for k, x in zip(names, found, strict=True)}

    return run


def _check(
    file: Path,
    named: NamedModel,
    run: _Run,
    inputs: Mapping[str, Tensor],
    size: int | None,
) -> None:
    """Check that a file computes the same outputs as its model.

    Raises:
        ValueError: if an output differs, or the file fails.
    """
    shapes = [tuple(inputs[name].shape) for name in named.channels]
    with torch.no_grad():
        expected = named(*named.arguments(inputs))
        try:
            found = run(inputs)
        # onnxruntime has its own error classes.
        except Exception as error:
            raise ValueError(
                f'{file}: expected outputs for images of shapes {shapes}, found '
                f'{_first_line(error)}; no file was written{_hint(size)}'
            ) from error
    for name, output in expected.items():
        difference = _difference(found[name], output)
        tolerance = _TOLERANCE if output.is_floating_point() else _TIES
        # "not <=" also catches NaN.
        if not difference <= tolerance:
            raise ValueError(
                f'{file}: expected a relative difference between {name} and torch of at '
                f'most {tolerance} for images of shapes {shapes}, found {difference:.1e}; '
                f'no file was written{_hint(size)}'
            )


def _difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest relative difference, or the fraction of integers that differ."""
    if found.shape != expected.shape:
        return float('inf')
    if not expected.is_floating_point():
        return float((found != expected).float().mean())
    largest = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    return float((found - expected).abs().max() / largest)


def _hint(size: int | None) -> str:
    return '' if size else '; set size (--size) for images of one size'


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return (lines or [type(cause).__name__])[0].strip()[:300]
