"""Open models of timm, TorchGeo and this package by name, and models in files."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import timm
import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from ..weights.encoder_files import read_checkpoint
from ..weights.enums import get_weight
from ..weights.metadata import EncoderMetadata
from .encoder import MultimodalEncoder


@dataclass(frozen=True)
class OpenedModel:
    """Model with the metadata of its training images.

    Args:
        model: the model.
        metadata: metadata of the training images, or None if unknown.
        weights: TorchGeo weights, whose transforms scale the images, or None.
    """

    model: nn.Module
    metadata: EncoderMetadata | None = None
    weights: WeightsEnum | None = None


def open_model(
    model: nn.Module | str, bands: Sequence[str], init_args: Mapping[str, Any]
) -> OpenedModel:
    """Open a model by name or from a file.

    Args:
        model: a module, or one of the following texts:

            - the path of an encoder that this package exported (``.safetensors``);
            - the path of an ONNX file (``.onnx``), of a file from ``torch.export.save``
              (``.pt2``) or of a TorchScript file;
            - the name of weights from TorchGeo or this package, such as
              ``ResNet50_Weights.SENTINEL2_ALL_DECUR``;
            - the import path of a class or function, such as
              ``torchgeo.models.croma_base``;
            - the name of a timm model.
        bands: names of the bands of the first input. They determine the number of channels
            of a timm model.
        init_args: arguments of a class or function; its ``weights`` may be the name of
            TorchGeo weights. A timm model only accepts ``weights``, as in
            :class:`~torchgeo_decur.models.MultimodalEncoder`, and a file accepts none.

    Returns:
        The model with the metadata of its training images.

    Raises:
        FileNotFoundError: if a file does not exist.
        ImportError: if the model is an ONNX file and onnxruntime is not installed.
        ValueError: if the name is unknown, the file has another format, or ``init_args``
            are not valid.
    """
    if isinstance(model, nn.Module):
        return OpenedModel(model)
    if timm.is_model(model):
        return _timm(model, bands, dict(init_args))
    path = Path(model)
    if path.suffix and (path.exists() or path.parent != Path()):
        if init_args:
            raise ValueError(
                f'init_args must be empty for a model file, got {dict(init_args)}'
            )
        return _file(path)
    if '_Weights.' in model and '.models.' not in model:
        return _weights(model, dict(init_args))
    return _object(model, dict(init_args))


def _timm(model: str, bands: Sequence[str], init_args: dict[str, Any]) -> OpenedModel:
    weights = init_args.pop('weights', None)
    if init_args:
        raise ValueError(
            'init_args of a timm model must have no other key than weights, got '
            f'{sorted(init_args)}'
        )
    built = MultimodalEncoder(
        {'image': len(bands)}, model, weights, bands={'image': list(bands)}
    )
    return OpenedModel(built.encoders['image'])


def _file(path: Path) -> OpenedModel:
    if not path.is_file():
        raise FileNotFoundError(f'model file {path} does not exist; check the path')
    if path.suffix == '.onnx':
        return OpenedModel(OnnxModel(path))
    if path.suffix == '.safetensors':
        return _encoder(str(path))
    if path.suffix == '.pt2':
        return OpenedModel(ExportedModel(path))
    try:
        with warnings.catch_warnings():
            # torch recommends torch.export, but cannot convert TorchScript files.
            warnings.simplefilter('ignore', FutureWarning)
            warnings.simplefilter('ignore', DeprecationWarning)
            return OpenedModel(torch.jit.load(str(path), map_location='cpu'))
    except RuntimeError as error:
        try:
            read_checkpoint(path)
        except ValueError:
            pass
        else:
            return _encoder(str(path))
        raise ValueError(
            f'{path}: expected TorchScript, torch.export (.pt2), ONNX (.onnx) or an '
            'encoder of this package, found another format; build the model in Python '
            'and pass it to FrozenEncoder'
        ) from error


def _encoder(source: str) -> OpenedModel:
    found = MultimodalEncoder.from_weights(source)
    if len(found.encoders) != 1:
        raise ValueError(
            f'{source}: expected one encoder, found {list(found.encoders)}; convert the '
            'file to one file per encoder with torchgeo-decur convert'
        )
    ((m, encoder),) = found.encoders.items()
    return OpenedModel(encoder, EncoderMetadata.from_dict(found.metadata[m]))


def _weights(name: str, init_args: dict[str, Any]) -> OpenedModel:
    weights = get_weight(name)
    build = getattr(
        import_module('torchgeo.models'), str(weights.meta.get('model')), None
    )
    if build is None:
        return _encoder(name)
    return _object(
        f'torchgeo.models.{weights.meta["model"]}', {**init_args, 'weights': name}
    )


def _object(path: str, init_args: dict[str, Any]) -> OpenedModel:
    module, _, attribute = path.rpartition('.')
    try:
        build = getattr(import_module(module), attribute)
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(
            'model must be the name of a timm model or of weights, a file, or the import '
            f'path of a class such as torchgeo.models.croma_base, got {path!r} ({error})'
        ) from error
    weights = init_args.get('weights')
    if isinstance(weights, str):
        init_args['weights'] = weights = get_weight(weights)
    try:
        built = build(**init_args)
    except (TypeError, AssertionError) as error:
        raise ValueError(
            f'{path}: init_args must be valid values of '
            f'{list(inspect.signature(build).parameters)}, got {init_args} ({error})'
        ) from error
    if not isinstance(built, nn.Module):
        raise ValueError(
            f'{path} must build a torch module, got {type(built).__name__}'
        )
    known = weights if isinstance(weights, WeightsEnum) else None
    return OpenedModel(built, _metadata_of(known), known)


def _metadata_of(weights: WeightsEnum | None) -> EncoderMetadata | None:
    bands = weights.meta.get('bands') if weights is not None else None
    if not isinstance(bands, Sequence) or isinstance(bands, str):
        return None
    return EncoderMetadata(images={'bands': list(map(str, bands))})


class ExportedModel(nn.Module):
    """Model from a file of ``torch.export.save``, without a training mode.

    Args:
        path: path of the file.

    Raises:
        ValueError: if the file has another format.
    """

    def __init__(self, path: Path) -> None:
        """Initialize a new ExportedModel instance."""
        super().__init__()
        try:
            program = torch.export.load(path)
        # torch raises almost any error for a file of another format.
        except Exception as error:
            raise ValueError(
                f'{path}: expected a file of torch.export.save, found another format '
                f'({error}); write it again with this version of torch'
            ) from error
        self.program = program.module()

    def train(self, mode: bool = True) -> Self:
        """Return the module unchanged, because a program has no training mode."""
        return self

    def forward(self, *images: Tensor, **named: Any) -> Any:
        """Run the program.

        Args:
            images: inputs that are passed by position.
            named: inputs that are passed by name.

        Returns:
            The output of the program.
        """
        return self.program(*images, **named)


class OnnxModel(nn.Module):
    """Model from an ONNX file, which onnxruntime runs on the CPU.

    Args:
        path: path of the file.

    Raises:
        ImportError: if onnxruntime is not installed.
        ValueError: if the file has another format.
    """

    content: Tensor

    def __init__(self, path: Path) -> None:
        """Initialize a new OnnxModel instance."""
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                'an ONNX model requires onnxruntime; run '
                '`pip install torchgeo-decur[onnx]`'
            ) from error
        content = path.read_bytes()
        try:
            self.session = onnxruntime.InferenceSession(
                content, providers=['CPUExecutionProvider']
            )
        # The error classes of onnxruntime are not public.
        except Exception as error:
            raise ValueError(
                f'{path}: expected an ONNX file, found another format ({error}); export '
                'the model again'
            ) from error
        self.names = [value.name for value in self.session.get_inputs()]
        # The bytes of the file identify the model as its parameters would.
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self.register_buffer('content', data, persistent=True)

    def forward(self, *images: Tensor, **named: Tensor) -> Tensor | dict[str, Tensor]:
        """Run the model.

        Args:
            images: inputs that are passed by position.
            named: inputs that are passed by name.

        Returns:
            The only output, or several outputs by name.
        """
        given = dict(zip(self.names, images, strict=False)) | named
        device = next(x.device for x in given.values())
        arrays = {k: torch.as_tensor(x).cpu().numpy() for k, x in given.items()}
        outputs = [output.name for output in self.session.get_outputs()]
        found = {
            name: torch.from_numpy(x).to(device)
            for name, x in zip(outputs, self.session.run(outputs, arrays), strict=True)
        }
        return found[outputs[0]] if len(outputs) == 1 else found
