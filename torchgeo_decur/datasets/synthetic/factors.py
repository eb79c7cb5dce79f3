"""Synthetic scenes with a chosen number of shared and sensor-specific factors."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..plotting import plot_images
from .base import SyntheticScenes
from .landscapes import Floats

#: Number of label classes of a continuous factor, which are the quarters of its range.
QUARTERS = 4
# Period of the texture fields and wavelengths of the textures, in pixels.
_PERIOD, _WAVELENGTHS = 128, (3.5, 8.0, 18.0)
# Seed of the factor textures, which are the same in all datasets.
_DESIGN = 20240929
# Mean values of each sensor, and standard deviation of its textures.
_RADAR = np.array([-12.0, -19.0], np.float32)
_OPTICAL = np.array(
    (1400, 1150, 1150, 1100, 1500, 2300, 2600, 2550, 2750, 900, 18, 2300, 1400),
    np.float32,
)
_CONTRAST = {'s1': 2.5, 's2': 0.25}


class SyntheticFactors(SyntheticScenes):
    r"""Radar and optical scenes with a chosen number of shared and sensor-specific factors.

    A factor is a number that controls textures in a scene. For every sensor that observes
    it, a continuous factor has two textures of its own. A texture is defined by a
    wavelength, a shape (waves, ridges or spots) and a mixture of bands. For a factor
    :math:`v \in [0, 1]`, the amplitudes of the two textures are :math:`\cos(v \pi / 2)` and
    :math:`\sin(v \pi / 2)`, so changes in brightness and contrast do not hide it. A
    discrete factor has one texture for each state.

    All factors are independent of each other. All dates of a scene have the same factors,
    but new texture positions, noise, gain, offset and clutter. The clutter is a texture
    that belongs to no factor.

    Labels are ``label_shared_<i>``, ``label_s1_<i>`` and ``label_s2_<i>``: the state of a
    discrete factor, or the quarter of the range that contains a continuous factor. The
    values of the factors are in ``factors_shared``, ``factors_s1`` and ``factors_s2``.

    Use different seeds for training and validation.

    Args:
        length: number of scenes.
        size: height and width in pixels.
        seed: seed of all scenes.
        shared: number of factors that both sensors observe.
        unique: number of factors that only one sensor observes, by modality.
        states: number of states per factor, or 0 for continuous factors.
        strength: contrast of the factor textures. The calibrated contrast is 1.
        noise: standard deviation of the noise, relative to a texture of strength 1.
        num_dates: number of dates T per scene.
        cache: whether each process keeps generated scenes in memory.
        paired: probability that a scene has both modalities. Other scenes have a single
            random modality. The absent image is zeros, and its ``available_<m>`` is False.
        transforms: function that transforms each sample and returns a new one.

    Raises:
        ValueError: if a number is too small, a modality is unknown, or there are too few
            textures for the factors.

    Example:
        >>> dataset = SyntheticFactors(length=8, size=32, shared=1, unique={'s1': 2, 's2': 3})
        >>> sample = dataset[0]
        >>> sample['image_s1'].shape, sample['image_s2'].shape
        (torch.Size([2, 32, 32]), torch.Size([13, 32, 32]))
        >>> sample['factors_s2'].shape
        torch.Size([3])
    """

    all_modalities: ClassVar[dict[str, str]] = {
        's1': 'sentinel1_grd',
        's2': 'sentinel2_l1c',
    }

    def __init__(
        self,
        length: int = 1024,
        size: int = 48,
        seed: int = 0,
        shared: int = 2,
        unique: Mapping[str, int] | None = None,
        states: int = 0,
        strength: float = 1.0,
        noise: float = 0.5,
        num_dates: int = 1,
        cache: bool = False,
        paired: float = 1.0,
        transforms: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        """Initialize a new SyntheticFactors instance."""
        unique = {'s1': 2, 's2': 2} if unique is None else dict(unique)
        if set(unique) != set(self.all_modalities):
            raise ValueError(
                f'unique must have the keys {list(self.all_modalities)}, got {list(unique)}'
            )
        if states != 0 and states < 2:
            raise ValueError(
                f'states must be 0 (continuous factors) or at least 2, got {states}'
            )
        super().__init__(
            list(self.all_modalities),
            length,
            size,
            seed,
            num_dates,
            cache,
            paired,
            transforms,
            shared=shared,
            **{f"unique['{m}']": number for m, number in unique.items()},
            strength=strength,
            noise=noise,
        )
        self.numbers = {'shared': shared, **unique}
        self.states, self.strength, self.noise = states, strength, noise
        self._fields = _fields()
        self._textures = {
            m: _Textures(bands, shared + unique[m], states or 2)
            for m, bands in (('s1', len(_RADAR)), ('s2', len(_OPTICAL)))
        }

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of classes of each label."""
        classes = self.states or QUARTERS
        return {
            f'label_{group}_{i}': classes
            for group, number in self.numbers.items()
            for i in range(number)
        }

    def draw_factors(self, index: int) -> dict[str, NDArray[np.float64]]:
        """Draw the factors of a scene without generating its images.

        Args:
            index: index of the scene.

        Returns:
            Factors in [0, 1] for the groups ``shared``, ``s1`` and ``s2``.

        Raises:
            IndexError: if ``index`` is out of range.
        """
        self._check_index(index)
        rng = np.random.default_rng((self.seed, index, 0))
        drawn = {name: rng.random(number) for name, number in self.numbers.items()}
        if not self.states:
            return drawn
        return {
            k: np.floor(v * self.states) / (self.states - 1) for k, v in drawn.items()
        }

    def render(
        self, index: int, **factors: Sequence[float] | NDArray[np.float64]
    ) -> dict[str, Any]:
        """Generate a scene with given values for some factors.

        Everything else, including the noise, is the same as in ``dataset[index]``.

        Args:
            index: index of the scene.
            factors: values in [0, 1] for the groups ``shared``, ``s1`` or ``s2``.

        Returns:
            A dictionary with the following keys.

            - ``image_s1`` in dB and ``image_s2`` in digital numbers: float32, shape
              (C, H, W), or (T, C, H, W) for several dates.
            - ``label_<group>_<i>``: integers, shape ().
            - ``factors_<group>``: values in [0, 1], shape (number of factors,).

        Raises:
            IndexError: if ``index`` is out of range.
            ValueError: if a group is unknown, or its values are out of range or wrong in
                number.

        Example:
            >>> dataset = SyntheticFactors(size=32)
            >>> a, b = (dataset.render(0, s1=[v, v]) for v in (0.1, 0.9))
            >>> torch.equal(a['image_s2'], b['image_s2'])
            True
        """
        drawn = self.draw_factors(index)
        for group, values in factors.items():
            array = np.asarray(values, np.float64)
            if group not in drawn or array.shape != drawn[group].shape:
                raise ValueError(
                    'factors must be groups with these numbers of values: '
                    f'{ {k: len(v) for k, v in drawn.items()} }, got {len(array)} for '
                    f'{group!r}'
                )
            if not ((array >= 0) & (array <= 1)).all():
                raise ValueError(f'factors must be in [0, 1], got {values}')
            drawn[group] = array
        seen = {m: np.concatenate([drawn['shared'], drawn[m]]) for m in self.modalities}

        def image(modality: str, date: int) -> Floats:
            number = self.modalities.index(modality) + 1
            rng = np.random.default_rng((self.seed, index, number, date))
            return self._image(modality, seen[modality], rng)

        sample: dict[str, Any] = {**self._images(index, image)}
        classes = self.states or QUARTERS
        for group, values in drawn.items():
            sample[f'factors_{group}'] = torch.from_numpy(values.astype(np.float32))
            steps = classes - 1 if self.states else classes
            for i, value in enumerate(values):
                label = min(int(value * steps + 1e-6), classes - 1)
                sample[f'label_{group}_{i}'] = torch.tensor(label)
        return sample

    def plot(
        self,
        sample: dict[str, Any],
        show_titles: bool = True,
        suptitle: str | None = None,
    ) -> Figure:
        """Plot the images of a sample.

        Args:
            sample: a sample of this dataset, in physical units.
            show_titles: whether to show panel titles.
            suptitle: title of the figure. By default, it lists the factors.

        Returns:
            The figure, with one row per date.
        """
        if suptitle is None and show_titles:
            suptitle = ' | '.join(
                f'{group} ' + ' '.join(f'{v:.2f}' for v in sample[f'factors_{group}'])
                for group in self.numbers
            )
        return plot_images(
            self._present_images(sample),
            self._records,
            show_titles=show_titles,
            suptitle=suptitle,
        )

    def _draw_available(self) -> NDArray[np.bool_]:
        found = np.ones((len(self.modalities), self.length), dtype=bool)
        rng = np.random.default_rng((self.seed, _DESIGN))
        alone = rng.random(self.length) >= self.paired
        absent = rng.integers(len(found), size=self.length)
        found[absent[alone], np.flatnonzero(alone)] = False
        return found

    def _image(
        self, modality: str, seen: NDArray[np.float64], rng: np.random.Generator
    ) -> Floats:
        """Generate the image of one modality for one date, shape (C, H, W)."""
        textures = self._textures[modality]
        weights = textures.weights(seen, self.states) * self.strength
        weights[textures.used :] = rng.normal(0, 0.5, len(weights) - textures.used)
        shown = np.flatnonzero(weights)
        maps = np.empty((len(shown), self.size, self.size), np.float32)
        starts = rng.integers(_PERIOD, size=(len(shown), 2))
        for out, texture, (y, x) in zip(maps, shown, starts, strict=True):
            field = self._fields[textures.kinds[texture]]
            out[:] = np.take(
                np.take(field, range(y, y + self.size), 0, mode='wrap'),
                range(x, x + self.size),
                1,
                mode='wrap',
            )
        mixture = (textures.bands[shown] * weights[shown, None]).T.astype(np.float32)
        image: Floats = np.tensordot(mixture, maps, 1)
        image += self.noise * rng.standard_normal(image.shape, dtype=np.float32)
        gain = np.float32(_CONTRAST[modality] * np.exp(rng.normal(0, 0.3)))
        image *= gain / np.float32(len(seen) ** 0.5 or 1)
        if modality == 's1':
            image += _RADAR[:, None, None]
            image += rng.normal(0, 2.0, (2, 1, 1)).astype(np.float32)
            return image
        light = np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.05, len(_OPTICAL)))
        image = _OPTICAL[:, None, None] * np.exp(image)
        image *= light.astype(np.float32)[:, None, None]
        return np.clip(np.rint(image), 1, 16000)


class _Textures:
    """Textures of a sensor, each defined by a field and a mixture of bands."""

    def __init__(self, bands: int, factors: int, states: int) -> None:
        mixtures = _mixtures(bands)
        words = list(
            product(range(len(_WAVELENGTHS) * len(_SHAPES)), range(len(mixtures)))
        )
        self.used, self.states = factors * states, states
        # Reserve one texture for the clutter.
        if self.used >= len(words):
            raise ValueError(
                f'a sensor with {bands} bands must have at most '
                f'{(len(words) - 1) // states} factors, got {factors}; reduce shared, '
                'unique or states'
            )
        order = np.random.default_rng((_DESIGN, bands)).permutation(len(words))
        chosen = [words[i] for i in order[: self.used + 1]]
        self.kinds = [kind for kind, _ in chosen]
        self.bands = np.stack([mixtures[mixture] for _, mixture in chosen])

    def weights(self, seen: NDArray[np.float64], states: int) -> NDArray[np.float64]:
        """Return the amplitude of each texture, followed by a zero for the clutter."""
        out = np.zeros((len(seen), self.states))
        if states:
            index = np.rint(seen * (states - 1)).astype(int)
            out[np.arange(len(seen)), index] = 1
        else:
            out[:, 0], out[:, 1] = np.cos(seen * np.pi / 2), np.sin(seen * np.pi / 2)
        return np.append(out.flatten(), 0.0)


def _mixtures(bands: int) -> NDArray[np.float64]:
    """Return band mixtures with unit mean square, shape (K, bands).

    They are orthogonal, except that two bands have two pairs of orthogonal mixtures.
    """
    if bands == 2:
        half = 0.5**0.5
        return np.array([(1, 0), (0, 1), (half, half), (half, -half)]) * 2**0.5
    steps = (np.arange(bands) + 0.5) * np.pi / bands
    waves = np.cos(np.arange(min(bands, 6))[:, None] * steps)
    return np.asarray(waves / np.sqrt((waves**2).mean(1, keepdims=True)))


def _fields() -> Floats:
    """Generate periodic texture fields of unit variance, shape (kinds, H, W)."""
    rng = np.random.default_rng(_DESIGN)
    frequency = np.hypot(
        np.fft.fftfreq(_PERIOD)[:, None], np.fft.rfftfreq(_PERIOD)[None]
    )
    fields = []
    for wavelength in _WAVELENGTHS:
        distance = np.log(np.maximum(frequency, 1e-6) * wavelength)
        gain = np.exp(-((distance / 0.25) ** 2))
        for shape in _SHAPES:
            phase = np.exp(2j * np.pi * rng.random(gain.shape))
            wave = np.fft.irfft2(gain * phase, s=(_PERIOD, _PERIOD))
            field = shape(wave / wave.std())
            fields.append((field - field.mean()) / field.std())
    return np.stack(fields).astype(np.float32)


_SHAPES: tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], ...] = (
    lambda wave: wave,
    lambda wave: -np.abs(wave),
    lambda wave: np.maximum(wave - 1.2, 0),
)
