"""Metadata stored with an encoder, about its model, images and training."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from ..modalities import Modality

TRAINING = (
    *('task', 'data', 'hyper_parameters', 'epochs', 'steps'),
    *('weights', 'licence', 'publication'),
)
"""Keys of the training metadata."""
_IMAGES = (*(f.name for f in fields(Modality)), 'limits')


@dataclass(frozen=True)
class EncoderMetadata:
    """Metadata of one encoder, for all file formats and weight enums.

    Args:
        modality: name of the modality.
        in_chans: number of image channels, or 0 if unknown.
        model: name of the timm model, or '' if unknown.
        images: fields of the :class:`~torchgeo_decur.modalities.Modality` of the images,
            and ``limits``, the values of each band that map to 0 and 1. Older files lack
            some fields.
        normalize: ``mean`` and ``std`` that standardize the images after scaling, if any.
        channel_order: band names in the channel order of the first convolution in the
            file, if it differs from the order in ``images``.
        left_out: names of encoder parameters that a file written from a pyramid lacks.
        training: training metadata, with keys from :data:`TRAINING`.

    Example:
        >>> values = {'bands': ['height'], 'kind': 'elevation', 'unit': 'm'}
        >>> EncoderMetadata.from_dict({'modality': 'dem', **values}).record.unit
        'm'
    """

    modality: str = 'encoder'
    in_chans: int = 0
    model: str = ''
    images: Mapping[str, Any] = field(default_factory=dict)
    normalize: Mapping[str, Any] = field(default_factory=dict)
    channel_order: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        modality: str,
        in_chans: int,
        record: Modality | None,
        training: Mapping[str, Any] | None = None,
    ) -> Self:
        """Create the metadata of a trained encoder.

        Args:
            modality: name of the modality.
            in_chans: number of image channels.
            record: metadata of the modality, if known.
            training: training metadata.

        Returns:
            The metadata.
        """
        images = record.to_dict() if record else {}
        return cls(modality, in_chans, images=images, training=training or {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **known: Any) -> Self:
        """Create metadata from all or some of the plain values of :meth:`to_dict`.

        Args:
            values: plain values by name; unknown names are ignored.
            known: fields that override ``values``.
        """
        found = {
            'images': {k: values[k] for k in _IMAGES if k in values},
            'normalize': values.get('normalize') or {},
            'left_out': tuple(values.get('left_out', ())),
            'training': {k: values[k] for k in TRAINING if k in values},
        }
        found |= {k: values[k] for k in ('modality', 'in_chans') if k in values}
        return cls(**{**found, **known})

    def to_dict(self) -> dict[str, Any]:
        """Convert the metadata, except the model, to plain values for exported files.

        Returns:
            The values ``modality``, ``in_chans``, ``limits``, the fields of the
            modality, the training metadata, and ``normalize`` and ``left_out`` if present.
            ``limits`` is None if unknown or different for each image.
        """
        record = self.record
        images = {**self.images, **(record.to_dict() if record else {})}
        images['limits'] = self.images.get('limits') or images.get('limits')
        if self.bands:
            images['bands'] = list(self.bands)
        plain = {'modality': self.modality, 'in_chans': self.in_chans, **images}
        plain |= self.training
        if self.normalize:
            plain['normalize'] = dict(self.normalize)
        if self.left_out:
            plain['left_out'] = list(self.left_out)
        return plain

    @property
    def bands(self) -> tuple[str, ...]:
        """Band names in channel order, or an empty tuple if unknown."""
        return tuple(self.images.get('bands') or ())

    @property
    def record(self) -> Modality | None:
        """Modality metadata of the images, or None if bands, kind or unit is unknown."""
        if {'bands', 'kind', 'unit'} <= self.images.keys():
            return Modality.of(self.images)
        return None
