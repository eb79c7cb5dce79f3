"""Manifest of packed data."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ..modalities import Modality

NAME = 'manifest.json'
FORMAT = 'torchgeo-decur packed samples'
VERSION = 1

Values = Literal['raw', 'uint8']


@dataclass(frozen=True)
class Shard:
    """Manifest entry of a shard, which is a file with one or more samples.

    Args:
        file: file name in the folder of the split.
        samples: number of samples.
        bytes: size of the file in bytes.
        sha256: SHA-256 checksum of the file in hexadecimal notation.
    """

    file: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Description of packed data: source, format and shards.

    Args:
        values: 'raw' for unchanged images in the unit of the modality, or 'uint8' for
            images scaled to [0, 1], multiplied by 255 and rounded.
        modalities: metadata of each modality.
        splits: shards of each split, in sample order.
        compression: 'zstd' or None.
        source: class and options of the packed datamodule.
        versions: versions of the packages that wrote the shards.
        keys: type of each value in a sample, such as 'float32' or 'str'.
        available: mask of the samples that have a modality, by split and modality. Masks
            are encoded with ``bits_to_text``. A mask exists only if samples of the split
            lack the modality.

    Example:
        >>> modality = Modality(('height',), 'elevation', 'm', nodata=float('nan'))
        >>> manifest = Manifest('raw', {'dem': modality}, {'train': ()})
        >>> Manifest.parse(manifest.text(), 'manifest.json').modalities['dem'].unit
        'm'
    """

    values: Values
    modalities: Mapping[str, Modality]
    splits: Mapping[str, tuple[Shard, ...]]
    compression: Literal['zstd'] | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    available: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def availability(self, split: str) -> dict[str, NDArray[np.bool_]]:
        """Decode the availability mask of each modality for the samples of a split.

        Args:
            split: name of the split.

        Returns:
            Boolean array by modality, shape (N,). It is True for samples that have the
            modality.
        """
        number = sum(shard.samples for shard in self.splits[split])
        known = self.available.get(split, {})
        return {
            m: text_to_bits(known[m], number) if m in known else np.ones(number, bool)
            for m in self.modalities
        }

    def text(self) -> str:
        """Convert the manifest to JSON."""
        splits = {
            name: {
                'samples': sum(s.samples for s in shards),
                'shards': [asdict(s) for s in shards],
            }
            for name, shards in self.splits.items()
        }
        content = {
            'format': FORMAT,
            'version': VERSION,
            'values': self.values,
            'compression': self.compression,
            'modalities': {m: x.to_dict() for m, x in self.modalities.items()},
            'keys': dict(self.keys),
            'source': dict(self.source),
            'versions': dict(self.versions),
            'splits': splits,
        }
        if self.available:
            content['available'] = {s: dict(x) for s, x in self.available.items()}
        return json.dumps(content, indent=1) + '\n'

    @classmethod
    def parse(cls, text: str, where: str | Path) -> Self:
        """Parse a manifest in JSON.

        Args:
            text: JSON text.
            where: file or URL of the text, for error messages.

        Returns:
            The manifest.

        Raises:
            ValueError: if the text is not a valid manifest of the current version.
        """
        try:
            content: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f'{where}: expected a manifest in JSON, found an incomplete file '
                f'({error}); copy it again, or pack again'
            ) from error
        if not isinstance(content, Mapping) or content.get('format') != FORMAT:
            raise ValueError(
                f'{where}: expected a manifest from `torchgeo-decur pack`, found another '
                'JSON file; use a folder written by `torchgeo-decur pack`'
            )
        if content.get('version') != VERSION:
            raise ValueError(
                f'{where}: expected a manifest of version {VERSION}, found version '
                f'{content.get("version")}, written by {content.get("versions")}; read the '
                'data with that release, or pack again with this one'
            )
        try:
            content = current_values(content)
            return cls(
                values=content['values'],
                modalities={
                    m: Modality.of(x) for m, x in content['modalities'].items()
                },
                splits={
                    name: tuple(Shard(**shard) for shard in split['shards'])
                    for name, split in content['splits'].items()
                },
                compression=content['compression'],
                source=content['source'],
                versions=content['versions'],
                keys=content['keys'],
                available=content.get('available', {}),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{where}: expected a complete manifest, found a missing or '
                f'invalid entry ({error}); copy it again, or pack again'
            ) from error


def current_values(content: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the option value 'kept', used by releases up to 0.1, with 'raw'."""
    values = content['values']
    return {**content, 'values': 'raw' if values == 'kept' else values}


def bits_to_text(bits: Sequence[bool] | NDArray[np.bool_]) -> str:
    """Encode Booleans as base64 text, with eight Booleans per byte.

    Args:
        bits: Booleans, shape (N,).

    Returns:
        The base64 text.

    Example:
        >>> bits_to_text([True, False, True])
        'oA=='
    """
    return base64.b64encode(np.packbits(np.asarray(bits, bool)).tobytes()).decode()


def text_to_bits(text: str, number: int) -> NDArray[np.bool_]:
    """Decode Booleans from ``bits_to_text``.

    Args:
        text: base64 text.
        number: number of Booleans N.

    Returns:
        The Booleans, shape (N,).

    Raises:
        ValueError: if the length of the text does not match ``number``.

    Example:
        >>> text_to_bits('oA==', 3).tolist()
        [True, False, True]
    """
    packed = np.frombuffer(base64.b64decode(text), np.uint8)
    if len(packed) != -(-number // 8):
        raise ValueError(
            f'the byte count of an availability mask must be {-(-number // 8)} in the '
            f'manifest, got {len(packed)}; copy the manifest again, or pack again'
        )
    return np.unpackbits(packed, count=number).astype(bool)
