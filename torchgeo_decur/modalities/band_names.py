"""Compare band names with different spellings."""

import re
from collections.abc import Sequence

_POLARISATIONS = {'vv', 'vh', 'hh', 'hv'}
# Words next to a polarization that do not change the band.
_BESIDE = {
    *('', 'amplitude', 'backscatter', 'beta', 'beta0', 'db', 'gamma', 'gamma0', 'grd'),
    *('intensity', 'iw', 'linear', 'rtc', 's1', 'sentinel1', 'sigma', 'sigma0'),
}
_NUMBERED = re.compile(r'b\d+a?')
_COLOURS = {'red': 'r', 'green': 'g', 'blue': 'b'}


def normalize_band(band: str) -> str:
    """Normalize a band name for comparison.

    Args:
        band: name of the band.

    Returns:
        The name in lower case and without leading zeros in its number. For a backscatter
        band, only the polarization.

    Example:
        >>> normalize_band('B08A') == normalize_band('B8a')
        True
        >>> normalize_band('Sigma0_VV_db')
        'vv'
    """
    name = band.casefold()
    words = re.split(r'[^a-z0-9]+', name)
    polarisations = [w for w in words if w in _POLARISATIONS]
    if len(polarisations) == 1 and set(words) <= _BESIDE | _POLARISATIONS:
        return polarisations[0]
    return re.sub(r'^b0*(?=\d)', 'b', name)


def contradiction(
    bands: Sequence[str], descriptions: Sequence[str | None]
) -> str | None:
    """Compare the configured band names with the band descriptions in a file.

    Unknown descriptions, such as 'Band 1' or 'Gray', are ignored.

    Args:
        bands: configured name of each band.
        descriptions: description of each band in the file, in order.

    Returns:
        A message about the first contradiction, or None.

    Example:
        >>> contradiction(['VV', 'VH'], ['Sigma0_VH', 'Sigma0_VV'])
        "band 1 is configured as 'VV' and described as 'Sigma0_VH'"
        >>> contradiction(['VV', 'VH'], ['Band 1', None])
    """
    given = [_comparable(b) for b in bands]
    for i, text in enumerate(descriptions[: len(bands)]):
        described = _comparable(text or '')
        named = described in given or _same_kind(described, given[i])
        if named and described != given[i]:
            return (
                f'band {i + 1} is configured as {bands[i]!r} and described as {text!r}'
            )
    return None


def _comparable(band: str) -> str:
    name = normalize_band(band)
    return _COLOURS.get(name, name)


def _same_kind(a: str, b: str) -> bool:
    """Check whether both names are polarizations or both are numbered bands."""
    return {a, b} <= _POLARISATIONS or all(_NUMBERED.fullmatch(x) for x in (a, b))
