"""Use a model of any library as a frozen encoder of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..modalities import Modality, invalid_pixels, normalize_band
from ..transforms import ScaleToUnit
from .model_files import OpenedModel, open_model

type Scale = Literal['unit', 'raw', 'weights'] | Mapping[str, float | Sequence[float]]
type Pool = Literal['mean', 'first'] | None

_SCALES = (
    "'unit' for [0, 1] as in this package, 'raw' for the unit of the data, 'weights' for "
    'the transforms of TorchGeo weights, {mean: ..., std: ...} to standardize, or '
    '{low: ..., high: ...} to clip and map to [0, 1]'
)


@dataclass(frozen=True)
class ImageInput:
    """Input of a model: the images of one modality, and how to prepare them.

    Args:
        image: name of the modality in the data.
        scale: scale that the model expects: 'unit' for [0, 1] as in this package, 'raw'
            for the unit of the data, 'weights' for the scale on which the weights were
            trained, ``{mean: ..., std: ...}`` to standardize, or
            ``{low: ..., high: ...}`` to clip and map to [0, 1]. Each value is one number,
            or one number per band, in the unit of the data.
        bands: names of the bands that the model expects, in its order; by default all
            bands of the data.
        size: height and width in pixels to which images are resized; by default they keep
            their size.
        argument: name of the model argument that takes the images. By default, inputs are
            passed by position.

    Raises:
        ValueError: if ``scale`` is not valid, or ``size`` is not positive.
    """

    image: str
    scale: Scale
    bands: Sequence[str] | None = None
    size: int | None = None
    argument: str | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        scale: Any = self.scale
        pairs = ({'mean', 'std'}, {'low', 'high'})
        known = (
            scale in ('unit', 'raw', 'weights')
            if isinstance(scale, str)
            else (isinstance(scale, Mapping) and set(scale) in pairs)
        )
        if not known:
            raise ValueError(
                f'{self.image}: scale must be {_SCALES}, got {scale!r}; see the '
                'documentation of the model for its scale'
            )
        if self.size is not None and self.size < 1:
            raise ValueError(f'{self.image}: size must be positive, got {self.size}')

    @classmethod
    def of(cls, value: 'ImageInput | Mapping[str, Any]') -> Self:
        """Create an input from a dictionary of its arguments, as in YAML.

        Args:
            value: the input, or its arguments.

        Raises:
            ValueError: if an argument is unknown, or ``image`` or ``scale`` is missing.
        """
        if isinstance(value, cls):
            return value
        names = [f.name for f in fields(cls)]
        given: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {}
        unknown = sorted(set(given) - set(names))
        if unknown or 'image' not in given:
            raise ValueError(
                'inputs must be dictionaries with image and scale, and optionally '
                f'{names[2:]}, got {value!r}'
            )
        return cls(**{'scale': None, **given})


class FrozenEncoder(nn.Module):
    """Frozen encoder of images from any model that returns one vector per image.

    The encoder takes images in the unit of the data and scales them for the model. Missing
    pixels become 0.5 if the scale is [0, 1], and otherwise the mean.

    Args:
        model: the model or its name, see :func:`~torchgeo_decur.models.open_model`.
        inputs: inputs of the model, in the order of its arguments.
        arguments: other arguments of the model, such as ``wavelengths`` of DOFA.
        method: name of the method to call.
        output: key or index of the vector in the output, if the model returns several
            values.
        pool: reduction of tokens, shape (B, N, D), to one vector: 'mean' or 'first'. The
            reduction 'mean' also averages feature maps, shape (B, D, H, W).
        init_args: arguments for building a model that is given by name.

    Raises:
        ValueError: if an option is not valid, or there is no input.

    Example:
        >>> image = {'image': 's2', 'scale': {'mean': 0, 'std': 10000}, 'bands': ['B4', 'B3']}
        >>> encoder = FrozenEncoder('test_resnet', [image])
        >>> encoder.prepare({'s2': Modality.of('sentinel2_l2a')})
        >>> encoder({'s2': torch.rand(2, 12, 64, 64) * 3000}).shape
        torch.Size([2, 96])
    """

    def __init__(
        self,
        model: nn.Module | str,
        inputs: Sequence[ImageInput | Mapping[str, Any]],
        arguments: Mapping[str, Any] | None = None,
        method: str = 'forward',
        output: str | int | None = None,
        pool: Pool = None,
        init_args: Mapping[str, Any] | None = None,
    ) -> None:
        """Initialize a new FrozenEncoder instance."""
        super().__init__()
        self.inputs = [ImageInput.of(value) for value in inputs]
        if not self.inputs:
            raise ValueError('inputs must have at least one image, got none')
        if pool not in ('mean', 'first', None):
            raise ValueError(f"pool must be 'mean', 'first' or null, got {pool!r}")
        self.name = model if isinstance(model, str) else type(model).__name__
        # A list, because an attribute would register a module twice.
        self._given, self._init_args = [model], dict(init_args or {})
        self.arguments, self.method = dict(arguments or {}), method
        self.output, self.pool = output, pool
        self.model: nn.Module | None = None
        self._opened: OpenedModel
        self.scales = nn.ModuleList()
        self._channels: list[Tensor] = []

    @classmethod
    def of(
        cls, name: str, value: 'FrozenEncoder | Mapping[str, Any]'
    ) -> 'FrozenEncoder':
        """Create an encoder from a dictionary of its arguments, as in YAML.

        Args:
            name: name of the encoder for messages.
            value: the encoder or its arguments.

        Raises:
            ValueError: if an argument is unknown or not valid.
        """
        if isinstance(value, FrozenEncoder):
            return value
        known = (
            'model',
            'inputs',
            'arguments',
            'method',
            'output',
            'pool',
            'init_args',
        )
        given: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {}
        unknown = sorted(set(given) - set(known))
        if unknown or not {'model', 'inputs'} <= set(given):
            raise ValueError(
                f'{name}: the entry must be a dictionary with model and inputs, and '
                f'optionally {list(known[2:])}, got {value!r}'
            )
        try:
            return cls(**given)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from error

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities of the inputs."""
        return list(dict.fromkeys(entry.image for entry in self.inputs))

    def prepare(self, records: Mapping[str, Modality]) -> None:
        """Build the model for the bands of the data and check its inputs.

        Args:
            records: modalities of the data, by name.

        Raises:
            FileNotFoundError: if the model is a file that does not exist.
            ValueError: if the model cannot be built, the data lack a modality or a band,
                the model was trained on other bands or another unit, or a scale is not
                valid for the data.
        """
        self.inputs = [self._with_bands(entry, records) for entry in self.inputs]
        if self.model is None:
            first = self.inputs[0]
            opened = open_model(
                self._given[0], list(first.bands or ()), self._init_args
            )
            self._opened = opened
            self.model = opened.model.eval()
            # TorchScript has no requires_grad_.
            for parameter in opened.model.parameters():
                parameter.requires_grad = False
        self._check_training(records)
        self.scales = nn.ModuleList()
        self._channels = []
        for entry in self.inputs:
            record = records[entry.image]
            names = [normalize_band(b) for b in record.bands]
            index = [names.index(normalize_band(b)) for b in entry.bands or ()]
            self._channels.append(torch.tensor(index))
            chosen = _select(record, index)
            self.scales.append(_build_scale(chosen, entry, self._opened))

    def describe(self) -> list[dict[str, Any]]:
        """Return the modality, bands, scale and size of each input as plain values."""
        return [
            {
                'image': e.image,
                'bands': list(e.bands or ()),
                'scale': e.scale if isinstance(e.scale, str) else dict(e.scale),
                'size': e.size,
            }
            for e in self.inputs
        ]

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Encode images.

        Args:
            images: images by modality, in the unit of the data, shape (B, C, H, W).

        Returns:
            Features, shape (B, D).

        Raises:
            ValueError: if the model does not return one vector per image.
        """
        positional, named = [], {}
        for entry, scale, index in zip(
            self.inputs, self.scales, self._channels, strict=True
        ):
            x = images[entry.image]
            x = scale(x[:, index.to(x.device)])
            if entry.argument is None:
                positional.append(x)
            else:
                named[entry.argument] = x
        found = getattr(self.model, self.method)(*positional, **named, **self.arguments)
        return self._vector(found, len(positional[0] if positional else x))

    def try_on(self, images: Mapping[str, Tensor]) -> int:
        """Encode a few samples to detect wrong inputs before a long run.

        Args:
            images: images by modality, in the unit of the data, shape (B, C, H, W).

        Returns:
            Number of features D.

        Raises:
            ValueError: if the model fails, or does not return finite vectors.
        """
        shown = [
            f'{e.image} {[len(index), *images[e.image].shape[2:]]} with bands '
            f'{list(e.bands or ())}, scale {e.scale!r} and size {e.size}'
            for e, index in zip(self.inputs, self._channels, strict=True)
        ]
        try:
            with torch.no_grad():
                features = self(images)
        except torch.OutOfMemoryError:
            raise
        # Models raise almost any error for an unexpected input.
        except Exception as error:
            text = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(
                f'{self.name} fails for {"; ".join(shown)}: {text[0]} '
                f'({type(error).__name__}); correct the options bands, size, arguments, '
                'method, output or pool'
            ) from error
        if not features.isfinite().all():
            raise ValueError(
                f'{self.name} must return finite features, got NaN or infinity for '
                f'{"; ".join(shown)}; correct the scale'
            )
        return int(features.shape[1])

    def _vector(self, found: Any, samples: int) -> Tensor:
        if isinstance(found, Mapping | list | tuple):
            keys = (
                list(found) if isinstance(found, Mapping) else list(range(len(found)))
            )
            if self.output not in keys:
                raise ValueError(f'output must be one of {keys}, got {self.output!r}')
            found = found[self.output]  # type: ignore[index]
        x: Tensor = found
        if x.ndim == 3 and self.pool:
            x = x.mean(1) if self.pool == 'mean' else x[:, 0]
        elif x.ndim == 4 and self.pool == 'mean':
            x = x.mean((2, 3))
        if x.ndim != 2 or len(x) != samples:
            raise ValueError(
                f'expected one vector per image, shape ({samples}, D), found shape '
                f'{tuple(x.shape)}'
            )
        return x.float()

    def _with_bands(
        self, entry: ImageInput, records: Mapping[str, Modality]
    ) -> ImageInput:
        if entry.image not in records:
            raise ValueError(
                f'{self.name}: image must be one of {list(records)}, got {entry.image!r}'
            )
        known = records[entry.image].bands
        bands = entry.bands or known
        missing = [
            b
            for b in bands
            if normalize_band(b) not in {normalize_band(k) for k in known}
        ]
        if missing:
            raise ValueError(
                f'{self.name}: expected bands {list(bands)} of {entry.image}, found '
                f'{list(known)}, which lack {missing}; correct the option bands'
            )
        return replace(entry, bands=tuple(bands))

    def _check_training(self, records: Mapping[str, Modality]) -> None:
        """Check that the weights were trained on the same bands and unit."""
        known = self._opened.metadata
        if known is None or len(self.inputs) > 1:
            return
        (entry,) = self.inputs
        given = [normalize_band(b) for b in entry.bands or ()]
        expected = list(known.bands)
        if expected and [normalize_band(b) for b in expected] != given:
            raise ValueError(
                f'{self.name}: expected the {len(expected)} training bands {expected}, '
                f'found {len(given)} bands {list(entry.bands or ())}; set the option bands'
            )
        unit = records[entry.image].unit
        trained = known.images.get('unit', unit)
        if trained != unit:
            raise ValueError(
                f'{self.name}: expected images in {trained}, the unit of its training '
                f'images, found {unit} for {entry.image}; convert the images'
            )


class _Standardize(nn.Module):
    """Standardize images and set missing pixels to 0, the mean."""

    mean: Tensor
    std: Tensor

    def __init__(self, nodata: float | None, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.nodata = nodata
        self.register_buffer('mean', mean)
        self.register_buffer('std', std)

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        invalid = invalid_pixels(x, self.nodata)
        x = (x - self.mean) / self.std
        return x if invalid is None else x.masked_fill(invalid, 0.0)


class _Fill(nn.Module):
    """Replace missing pixels with the mean of the band."""

    mean: Tensor

    def __init__(self, nodata: float | None, mean: Tensor) -> None:
        super().__init__()
        self.nodata = nodata
        self.register_buffer('mean', mean)

    def forward(self, x: Tensor) -> Tensor:
        # Copy, because some TorchGeo transforms change their input.
        x = x.float().clone()
        invalid = invalid_pixels(x, self.nodata)
        return x if invalid is None else torch.where(invalid, self.mean.expand_as(x), x)


class _Resize(nn.Module):
    """Resize images to a square."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = (size, size)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] == self.size:
            return x
        return interpolate(x, self.size, mode='bilinear', antialias=True)


def _build_scale(record: Modality, entry: ImageInput, opened: OpenedModel) -> nn.Module:
    """Build the module that converts images in the unit of the data to model input."""
    resize: list[nn.Module] = [] if entry.size is None else [_Resize(entry.size)]
    return nn.Sequential(*_steps_of_scale(record, entry, opened), *resize)


def _steps_of_scale(
    record: Modality, entry: ImageInput, opened: OpenedModel
) -> list[nn.Module]:
    scale, name = entry.scale, entry.image
    fill = _row(name, record.mean or 0.0, record)
    if scale == 'raw':
        return [_Fill(record.nodata, fill)]
    if scale == 'unit':
        if record.limits is None and record.kind not in ('elevation', 'depth'):
            raise ValueError(
                f"{name}: scale 'unit' requires mean and std of the modality, found none; "
                'set them in the data, or choose another scale'
            )
        return [ScaleToUnit(record)]
    if scale == 'weights':
        if opened.weights is not None:
            transforms: nn.Module = opened.weights.transforms
            return [_Fill(record.nodata, fill), transforms]
        trained = opened.metadata.record if opened.metadata is not None else None
        if trained is None or opened.metadata is None:
            raise ValueError(
                f"{name}: scale 'weights' requires weights that include their scale, "
                'found none; choose another scale'
            )
        normalize = opened.metadata.normalize
        after = [_row(name, normalize[k], record) for k in ('mean', 'std') if normalize]
        return [
            ScaleToUnit(replace(trained, nodata=record.nodata)),
            *([_Standardize(None, *after)] if after else []),
        ]
    numbers = {k: _row(name, v, record) for k, v in dict(scale).items()}
    if 'mean' in numbers:
        if not (numbers['std'] > 0).all():
            raise ValueError(f'{name}: std must be positive, got {scale}')
        return [_Standardize(record.nodata, numbers['mean'], numbers['std'])]
    low, high = (numbers[k].expand(record.channels, 1, 1) for k in ('low', 'high'))
    if not (high > low).all():
        raise ValueError(f'{name}: high must be above low, got {scale}')
    # ScaleToUnit maps mean - 2 std to 0 and mean + 2 std to 1.
    middle, spread = (low + high).flatten() / 2, (high - low).flatten() / 4
    mean, std = tuple(middle.tolist()), tuple(spread.tolist())
    return [ScaleToUnit(replace(record, kind='multispectral', mean=mean, std=std))]


def _row(name: str, value: Any, record: Modality) -> Tensor:
    """Return one number per band, shape (C, 1, 1), or one for all, shape (1, 1, 1)."""
    row = torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
    if len(row) not in (1, record.channels):
        raise ValueError(
            f'{name}: scale must have one number, or one for each of the '
            f'{record.channels} bands {list(record.bands)}, got {len(row)} numbers'
        )
    return row


def _select(record: Modality, index: Sequence[int]) -> Modality:
    """Return a modality with only the selected bands."""
    chosen: dict[str, Any] = {}
    for name in ('bands', 'mean', 'std', 'wavelengths'):
        values = getattr(record, name)
        chosen[name] = values if values is None else tuple(values[i] for i in index)
    return replace(record, **chosen)
