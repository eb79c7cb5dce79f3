"""What the entries of our weight enums can do: read a published file as an encoder."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from types import new_class
from typing import Any

from torch import Tensor
from torchgeo.models import api
from torchvision.models import WeightsEnum

from ..catalog import urls_of
from ..modalities import MODALITIES
from .download import fetch
from .formats import Checkpoint, State, read_checkpoint

ENUMS = (WeightsEnum, getattr(api, 'WeightsEnum', WeightsEnum))
"""Classes of weights that torchvision and TorchGeo look for: one, as long as TorchGeo has none of its own."""


def join_enums(first: Any, second: Any) -> Any:
    """Return a base for enums whose entries are instances of two classes.

    Args:
        first: torchvision's class of weights.
        second: the one that TorchGeo's tasks look for, which may become its own.

    Returns:
        One of them if it is a subclass of the other, or else a subclass of both.
    """
    if issubclass(first, second):
        return first
    if issubclass(second, first):
        return second
    return new_class('WeightsEnum', (first, second))


# Enum is named because torchvision has no annotations to find it by.
class DeCURWeights(join_enums(*ENUMS), Enum):  # type: ignore[misc]
    """Base of the enums below: a file, the scale of its input and what it is.

    Keys of ``meta``, besides those of TorchGeo's own weights: ``modalities``, names of
    the encoders in order; ``sensors``, the known modality that each of them is;
    ``normalize``, what images are standardised with after scaling, if they are; ``bands``, what to feed, and ``channel_order``, the order in
    the file, which reading puts in that of ``bands``; ``licence``; ``epochs``. With
    several modalities ``in_chans``, ``bands`` and ``channel_order`` are dictionaries by
    name, and ``transforms`` takes a batch of ``image_<modality>``.

    ``transforms`` maps physical units to [0, 1] as the pretraining did. TorchGeo's
    weights of the same files (``torchgeo.models.ResNet50_Weights``) have other
    transforms, those of the published transfer to BigEarthNet.
    """

    @property
    def urls(self) -> list[str]:
        """Addresses of the files that are downloaded: one, or that of each part."""
        return urls_of(str(self))

    def read(self, progress: bool = True) -> Checkpoint:
        """Read the encoders, downloaded on first use and verified always.

        Args:
            progress: show a progress bar of the download.

        Returns:
            The encoders by modality, the one of a single modality called ''. First
            convolutions take the bands of ``meta['bands']``.

        Raises:
            FileNotFoundError: if a file is not in the cache and cannot be downloaded.
            ValueError: if a file is not what it should be.
        """
        if parts := self.meta.get('parts'):
            found = {m: type(self)[p].read(progress) for m, p in parts.items()}
            states = {m: part.states[''] for m, part in found.items()}
            return self._named(Checkpoint(str(self), states))

        def read(file: Path) -> Checkpoint:
            return self.interpret(read_checkpoint(file, str(self)))

        checkpoint: Checkpoint = fetch(self.url, read, progress)
        other = self.meta.get('attention')
        state = checkpoint.states.get('', {})
        if other and not any(k.startswith('da_') for k in state):
            attention = {
                k: v
                for k, v in type(self)[other].read(progress).states[''].items()
                if k.startswith('da_')
            }
            return replace(checkpoint, states={'': {**state, **attention}})
        return checkpoint

    def interpret(self, checkpoint: Checkpoint) -> Checkpoint:
        """Name the encoders of a published file and put their channels in order.

        Args:
            checkpoint: what the file of this entry holds.

        Returns:
            The encoders as :meth:`read` returns them.

        Raises:
            ValueError: if the file does not hold the encoders of this entry.
        """
        names = self.meta['modalities']
        expected = [f'backbone_{i + 1}' for i in range(len(names))]
        if len(names) == 1:
            names, expected = [''], ['']
        if sorted(checkpoint.states) != expected:
            raise ValueError(
                f'{self}: expected the encoders of {self.meta["modalities"]} under '
                f'{expected}, found {sorted(checkpoint.states)}'
            )
        states = {
            m: checkpoint.states[key] for m, key in zip(names, expected, strict=True)
        }
        bands, order = self._by_name('bands'), self._by_name('channel_order')
        return self._named(
            replace(
                checkpoint,
                states={
                    m: _reorder(state, order[m], bands[m])
                    for m, state in states.items()
                },
            )
        )

    def get_state_dict(self, *args: Any, **kwargs: Any) -> State:
        """Read the state dictionary of one encoder, as torchvision and TorchGeo do.

        Args:
            args: as of :func:`torch.hub.load_state_dict_from_url`; ignored, for files
                are always verified, read on the CPU and never unpickled to code.
            kwargs: ``modality``, which encoder of a joint entry; ``progress``; others as
                ``args``.

        Returns:
            Parameters by their timm names, for ``meta['in_chans']`` channels.

        Raises:
            FileNotFoundError: if a file is not in the cache and cannot be downloaded.
            ValueError: if a file is not what it should be, or the entry has encoders of
                several modalities and ``modality`` is none of them.
        """
        names, modality = self.meta['modalities'], kwargs.get('modality', '')
        if modality not in (names if len(names) > 1 else ['', *names]):
            raise ValueError(
                f'modality must be one of {names}, the encoders of {self}, '
                f'got {modality!r}; load all of them with '
                'torchgeo_decur.models.load_weights, or take an entry of one modality'
            )
        key = modality if len(names) > 1 else ''
        state = self.read(kwargs.get('progress', True)).states[key]
        return fold_repeated(state, self._by_name('in_chans')[key])

    def _by_name(self, key: str) -> dict[str, Any]:
        value = self.meta[key]
        return value if isinstance(value, dict) else {'': value}

    def _named(self, checkpoint: Checkpoint) -> Checkpoint:
        bands = {m: tuple(b) for m, b in self._by_name('bands').items()}
        models = dict.fromkeys(checkpoint.states, self.meta['model'])
        records = {m: asdict(MODALITIES[n]) for m, n in self.meta['sensors'].items()}
        metadata = {
            'modality': '_'.join(self.meta['modalities']),
            **self.meta,
            'weights': str(self),
            'task': 'DeCUR',
            'data': self.meta['dataset'],
            'encoder_modalities': records,
        }
        return replace(checkpoint, bands=bands, model=models, metadata=metadata)


def first_convolution(state: Mapping[str, Tensor]) -> str:
    """Name the parameter that the bands of an image meet first.

    Args:
        state: state dictionary of an encoder, in the order of its modules.

    Returns:
        Name of the first kernel of four dimensions, '' if there is none.

    Example:
        >>> import timm
        >>> first_convolution(timm.create_model('resnet18').state_dict())
        'conv1.weight'
    """
    return next((k for k, v in state.items() if v.ndim == 4), '')


def fold_repeated(state: State, channels: int) -> State:
    """Let an encoder of one band repeated take the band once.

    The kernels are summed over their channels: the response to the band is what it was
    to an image of equal channels.

    Args:
        state: state dictionary of an encoder.
        channels: channels of the images to come.

    Returns:
        The same if ``channels`` is not 1 or the first convolution has one already.
    """
    key = first_convolution(state)
    if channels != 1 or not key or state[key].shape[1] == 1:
        return state
    return {**state, key: state[key].sum(1, keepdim=True)}


def _reorder(state: State, order: list[str], bands: list[str]) -> State:
    key = first_convolution(state)
    if order == bands or not key or state[key].shape[1] != len(bands):
        return state
    return {**state, key: state[key][:, [order.index(b) for b in bands]]}
