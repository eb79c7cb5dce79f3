"""Published weight files as plain data so that commands can list them without torch."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlparse

LICENCE = 'Apache-2.0'
"""License of all published files."""
_HUB = 'https://hf.co/wangyi111/DeCUR/resolve/main'
_MIRROR = 'https://huggingface.co/torchgeo/decur/resolve'
_RN50_S1 = f'{_MIRROR}/9328eeb90c686a88b30f8526ed757b4bc0f12027/rn50_ssl4eo-s12_sar_decur_ep100-f0e69ba2.pth'
_RN50_S2 = f'{_MIRROR}/eba7ae5945d482a4319be046d34b552db5dd9950/rn50_ssl4eo-s12_ms_decur_ep100-fc6b09ff.pth'
# Predefined modality of each encoder, by encoder name.
_S1 = {'s1': 'sentinel1_grd'}
_S2 = {'s2': 'sentinel2_l1c'}
_RGB = {'rgb': 'geonrw_rgb'}
_DEM = {'dem': 'geonrw_dem'}
_PHOTO = {'rgb': 'sunrgbd_rgb'}
_HHA = {'hha': 'sunrgbd_hha'}


@dataclass(frozen=True)
class PublishedFile:
    """A published weight file: its URL and its encoders.

    Args:
        file: URL, or file name in the authors' repository.
        model: name of the timm model of the encoders.
        sensors: predefined modality of each encoder, by encoder name, in file order.
        parts: entries of the same enum to load instead of this file, by encoder name.
        attention: entry of the same enum that provides the attention weights if this
            file lacks them.
    """

    file: str
    model: str
    sensors: Mapping[str, str]
    parts: Mapping[str, str] = field(default_factory=dict)
    attention: str = ''

    @property
    def url(self) -> str:
        """URL of the file."""
        return self.file if self.file.startswith('https:') else f'{_HUB}/{self.file}'


PUBLISHED = {
    'ResNet50_Weights.SENTINEL1_GRD_DECUR': PublishedFile(_RN50_S1, 'resnet50', _S1),
    'ResNet50_Weights.SENTINEL2_ALL_DECUR': PublishedFile(_RN50_S2, 'resnet50', _S2),
    'ResNet50_Weights.SENTINEL1_2_DECUR': PublishedFile(
        'rn50_ssl4eo-s12_joint_decur_ep100.pth',
        'resnet50',
        _S1 | _S2,
        parts={'s1': 'SENTINEL1_GRD_DECUR', 's2': 'SENTINEL2_ALL_DECUR'},
    ),
    'ResNet50_Weights.GEONRW_RGB_DECUR': PublishedFile(
        'rn50_geonrw_rgb_decur_ep100.pth', 'resnet50', _RGB
    ),
    'ResNet50_Weights.GEONRW_DEM_DECUR': PublishedFile(
        'rn50_geonrw_dem_decur_ep100.pth', 'resnet50', _DEM
    ),
    'ResNet50_Weights.GEONRW_RGB_DEM_DECUR': PublishedFile(
        'rn50_geonrw_joint_decur_ep100.pth', 'resnet50', _RGB | _DEM
    ),
    'ResNet50RDA_Weights.SENTINEL1_GRD_DECUR': PublishedFile(
        'rn50_rda_ssl4eo-s12_sar_decur_ep100.pth', 'resnet50_rda', _S1
    ),
    'ResNet50RDA_Weights.SENTINEL2_ALL_DECUR': PublishedFile(
        'rn50_rda_ssl4eo-s12_ms_decur_ep100.pth',
        'resnet50_rda',
        _S2,
        attention='SENTINEL1_GRD_DECUR',
    ),
    'ResNet50RDA_Weights.SENTINEL1_2_DECUR': PublishedFile(
        'rn50_rda_ssl4eo-s12_joint_decur_ep100.pth', 'resnet50_rda', _S1 | _S2
    ),
    'ResNet50RDA_Weights.GEONRW_RGB_DECUR': PublishedFile(
        'rn50_rda_geonrw_rgb_decur_ep100.pth', 'resnet50_rda', _RGB
    ),
    'ResNet50RDA_Weights.GEONRW_DEM_DECUR': PublishedFile(
        'rn50_rda_geonrw_dem_decur_ep100.pth',
        'resnet50_rda',
        _DEM,
        attention='GEONRW_RGB_DECUR',
    ),
    'ResNet50RDA_Weights.GEONRW_RGB_DEM_DECUR': PublishedFile(
        'rn50_rda_geonrw_joint_decur_ep100.pth', 'resnet50_rda', _RGB | _DEM
    ),
    'ViTSmall16_Weights.SENTINEL1_GRD_DECUR': PublishedFile(
        'vits16_ssl4eo-s12_sar_decur_ep100.pth', 'vit_small_patch16_224', _S1
    ),
    'ViTSmall16_Weights.SENTINEL2_ALL_DECUR': PublishedFile(
        'vits16_ssl4eo-s12_ms_decur_ep100.pth', 'vit_small_patch16_224', _S2
    ),
    'ViTSmall16_Weights.SENTINEL1_2_DECUR': PublishedFile(
        'vits16_ssl4eo-s12_joint_decur_ep100.pth', 'vit_small_patch16_224', _S1 | _S2
    ),
    'ViTSmall16_Weights.GEONRW_RGB_DECUR': PublishedFile(
        'vits16_geonrw_rgb_decur_ep100.pth', 'vit_small_patch16_224', _RGB
    ),
    'ViTSmall16_Weights.GEONRW_DEM_DECUR': PublishedFile(
        'vits16_geonrw_dem_decur_ep100.pth', 'vit_small_patch16_224', _DEM
    ),
    'ViTSmall16_Weights.GEONRW_RGB_DEM_DECUR': PublishedFile(
        'vits16_geonrw_joint_decur_ep100.pth', 'vit_small_patch16_224', _RGB | _DEM
    ),
    'MiTB2_Weights.SUNRGBD_RGB_DECUR': PublishedFile(
        'mitb2_sunrgbd_backbone_rgb_decur_ep200.pth', 'mit_b2', _PHOTO
    ),
    'MiTB2_Weights.SUNRGBD_HHA_DECUR': PublishedFile(
        'mitb2_sunrgbd_backbone_hha_decur_ep200.pth', 'mit_b2', _HHA
    ),
    'MiTB2_Weights.SUNRGBD_RGB_HHA_DECUR': PublishedFile(
        'mitb2_sunrgbd_rgb_hha_decur_ep200.pth', 'mit_b2', _PHOTO | _HHA
    ),
    'MiTB5_Weights.SUNRGBD_RGB_DECUR': PublishedFile(
        'mitb5_sunrgbd_backbone_rgb_decur_ep200.pth', 'mit_b5', _PHOTO
    ),
    'MiTB5_Weights.SUNRGBD_HHA_DECUR': PublishedFile(
        'mitb5_sunrgbd_backbone_hha_decur_ep200.pth', 'mit_b5', _HHA
    ),
    'MiTB5_Weights.SUNRGBD_RGB_HHA_DECUR': PublishedFile(
        'mitb5_sunrgbd_rgb_hha_decur_ep200.pth', 'mit_b5', _PHOTO | _HHA
    ),
}
"""Published files, by the name of their entry in this package's weight enums."""


def urls_of(name: str) -> list[str]:
    """Return the URLs of the files that a weight enum entry loads.

    Args:
        name: name of the entry, a key of :data:`PUBLISHED`.

    Returns:
        URL of the entry, or the URLs of its parts.

    Example:
        >>> len(urls_of('ResNet50_Weights.SENTINEL1_2_DECUR'))
        2
    """
    enum = name.partition('.')[0]
    parts = [f'{enum}.{part}' for part in PUBLISHED[name].parts.values()]
    return [PUBLISHED[entry].url for entry in parts or [name]]


def cached_file(url: str) -> Path:
    """Return the cache path of a downloaded file.

    Args:
        url: URL of the file.

    Returns:
        Path in the cache folder of :func:`torch.hub.load_state_dict_from_url`.

    Example:
        >>> cached_file('https://example.org/resolve/main/encoder.pth').name
        'encoder.pth'
    """
    return _hub_folder() / 'checkpoints' / os.path.basename(urlparse(url).path)


def _hub_folder() -> Path:
    # Unless torch is imported, nobody can have changed its hub folder.
    if torch := sys.modules.get('torch'):
        return Path(torch.hub.get_dir())
    cache = os.environ.get('XDG_CACHE_HOME', '~/.cache')
    home = os.environ.get('TORCH_HOME', os.path.join(cache, 'torch'))
    return Path(home).expanduser() / 'hub'
