"""Encoders as a folder of the Hugging Face Hub: parameters, config and model card."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from torch import nn

from ..files import check_writable
from ..modalities import Modality
from .formats import plain_state, save_tensors
from .load import load_weights
from .model_card import Encoders, card_text

_RECORD = tuple(Modality.__dataclass_fields__)


class HubFolder(
    PyTorchModelHubMixin,
    library_name='torchgeo-decur',
    pipeline_tag='image-feature-extraction',
    tags=['earth-observation', 'multimodal', 'self-supervised-learning', 'torchgeo'],
):
    """What makes encoders a folder of the Hub, and encoders of such a folder.

    ``model.safetensors`` has the parameters, ``config.json`` the arguments and
    ``README.md`` the model card. Writing is ``save_pretrained(folder)``, publishing
    ``push_to_hub('user/name')``, both of
    :class:`huggingface_hub.PyTorchModelHubMixin`. A model card that is there already is
    kept, for people edit it.
    """

    encoders: nn.ModuleDict
    model: dict[str, str]
    modalities: dict[str, int]
    metadata: dict[str, dict[str, Any]]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> Self:
        """Read encoders from a folder that ``save_pretrained`` wrote, or from the Hub.

        Args:
            pretrained_model_name_or_path: path of a folder, read without a network, or
                name of a repository of the Hub, such as 'user/name'.
            options: ``revision``, ``cache_dir``, ``force_download``, ``token`` and
                ``local_files_only`` for the Hub; ``map_location``, the device.

        Returns:
            The encoders, in evaluation mode.

        Raises:
            FileNotFoundError: if a path is no folder.
            ValueError: if the folder or repository holds something else.
        """
        name = str(pretrained_model_name_or_path)
        if os.path.isdir(name):
            _check_folder(Path(name))
        elif os.path.exists(name) or os.path.isabs(name) or name.startswith(('.', '~')):
            raise FileNotFoundError(
                f'{name} must be a folder that save_pretrained wrote, or the name of a '
                'repository of the Hub; files of encoders are read by from_weights'
            )
        read: Self = super().from_pretrained(name, **options)
        return read

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = 'cpu',
        proxies: object = None,
        resume_download: object = None,
        **arguments: Any,
    ) -> Self:
        """Build the encoders of a config, and load their parameters or fail.

        Versions of huggingface_hub before 1 hand over two options that later ones lack.
        """
        if not isinstance(arguments.get('modalities'), Mapping):
            raise ValueError(_other(model_id, 'no modalities in it'))
        if os.path.isdir(model_id):
            file = os.path.join(model_id, SAFETENSORS_SINGLE_FILE)
        else:
            # Never a pickle, which the mixin would fall back to.
            file = hf_hub_download(
                model_id,
                SAFETENSORS_SINGLE_FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                token=token,
                local_files_only=local_files_only,
            )
        read: Any = cls(**arguments)
        load_weights(read, file)
        return read.to(map_location).eval()  # type: ignore[no-any-return]

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the parameters, and say what the config is."""
        check_writable(save_directory)
        config = {
            'modalities': self.modalities,
            'model': self.model,
            'metadata': self.metadata,
        }
        try:
            json.dumps(config)
        except TypeError as error:
            raise ValueError(
                f'metadata must be plain values that JSON can hold, got {error}'
            ) from error
        # What the mixin recorded of the arguments may name files of this machine.
        self._hub_mixin_config = config
        records = {
            m: {k: known[k] for k in _RECORD if k in known}
            for m, known in self.metadata.items()
            if {'bands', 'kind', 'unit'} <= set(known)
        }
        about = {'model': self.model, 'encoder_modalities': records}
        tensors = plain_state(self.encoders)
        state = {f'encoders.{k}': v for k, v in tensors.items()}
        save_tensors(state, save_directory / SAFETENSORS_SINGLE_FILE, about)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Write the model card from what is known of the encoders.

        Args:
            args: not used.
            kwargs: ``repo_id``, the name of the repository for the example; anything
                else becomes metadata of the card, such as ``license='mit'``.

        Returns:
            The card.
        """
        repo_id = kwargs.pop('repo_id', 'user/name')
        card_data: Any = self._hub_mixin_info.model_card_data
        data: dict[str, Any] = card_data.to_dict()
        licences = {str(k['licence']) for k in self.metadata.values() if 'licence' in k}
        if len(licences) == 1:
            data['license'] = licences.pop().lower()
        return ModelCard(card_text(cast(Encoders, self), {**data, **kwargs}, repo_id))


def _check_folder(folder: Path) -> None:
    """See that a folder is one of ours before anything is built."""
    for name in (CONFIG_NAME, SAFETENSORS_SINGLE_FILE):
        if not (folder / name).is_file():
            raise ValueError(_other(folder, f'no {name}'))
    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(_other(folder, f'a {CONFIG_NAME} that is no JSON')) from error
    if not isinstance(config, dict):
        raise ValueError(_other(folder, f'a {CONFIG_NAME} without modalities'))


def _other(name: str | Path, found: str) -> str:
    return (
        f'{name}: expected a folder or repository that save_pretrained of '
        f'MultimodalEncoder wrote, with {CONFIG_NAME} and {SAFETENSORS_SINGLE_FILE}, '
        f'found {found}'
    )
