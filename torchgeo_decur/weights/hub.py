"""Encoder folders for the Hugging Face Hub, with parameters, config and model card."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, cast

from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from torch import nn

from ..files import check_writable
from .encoder_files import save_tensors
from .load import load_weights
from .metadata import EncoderMetadata
from .model_card import Encoders, card_text
from .state_dict_layouts import plain_state


class HubFolder(
    PyTorchModelHubMixin,
    library_name='torchgeo-decur',
    pipeline_tag='image-feature-extraction',
    tags=['earth-observation', 'multimodal', 'self-supervised-learning', 'torchgeo'],
):
    """Mixin for encoders stored as Hugging Face Hub folders.

    A folder contains the parameters (``model.safetensors``), the arguments
    (``config.json``) and the model card (``README.md``). As in
    :class:`huggingface_hub.PyTorchModelHubMixin`, ``save_pretrained(folder)`` writes these
    files and ``push_to_hub('user/name')`` publishes them. An existing model card is kept.
    """

    encoders: nn.ModuleDict
    model: dict[str, str]
    modalities: dict[str, int]
    metadata: dict[str, dict[str, Any]]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> Self:
        """Load encoders from a folder written by ``save_pretrained``, or from the Hub.

        Args:
            pretrained_model_name_or_path: path of a folder, or name of a Hub repository,
                such as 'user/name'.
            options: ``revision``, ``cache_dir``, ``force_download``, ``token`` and
                ``local_files_only``, as in :class:`huggingface_hub.PyTorchModelHubMixin`,
                and the device ``map_location``.

        Returns:
            The encoders, in evaluation mode.

        Raises:
            FileNotFoundError: if a path does not exist or is not a folder.
            ValueError: if the folder or repository contains no encoders.
        """
        name = str(pretrained_model_name_or_path)
        if os.path.isdir(name):
            _check_folder(Path(name))
        elif os.path.exists(name) or os.path.isabs(name) or name.startswith(('.', '~')):
            raise FileNotFoundError(
                f'{name} must be a folder written by save_pretrained or the name of a Hub '
                'repository; load encoder files with from_weights'
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
        """Build encoders from a config and load their parameters."""
        if not isinstance(arguments.get('modalities'), Mapping):
            raise ValueError(_not_ours(model_id, f'a {CONFIG_NAME} without modalities'))
        if os.path.isdir(model_id):
            file = os.path.join(model_id, SAFETENSORS_SINGLE_FILE)
        else:
            # Unlike PyTorchModelHubMixin, never fall back to a pickle.
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
        """Write the parameters and set the config that the mixin writes."""
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
                'metadata must contain only values that JSON supports, got another value '
                f'({error}); convert this value to numbers, strings or lists'
            ) from error
        # The arguments that the mixin records may include local paths.
        self._hub_mixin_config = config
        found = {m: EncoderMetadata.from_dict(v) for m, v in self.metadata.items()}
        records = {m: asdict(e.record) for m, e in found.items() if e.record}
        about = {'model': self.model, 'encoder_modalities': records}
        tensors = plain_state(self.encoders)
        state = {f'encoders.{k}': v for k, v in tensors.items()}
        save_tensors(state, save_directory / SAFETENSORS_SINGLE_FILE, about)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Create the model card from the metadata of the encoders.

        Args:
            args: not used.
            kwargs: ``repo_id``, the repository name in the example, and metadata of the
                card, such as ``license='mit'``.

        Returns:
            The model card.
        """
        repo_id = kwargs.pop('repo_id', 'user/name')
        card_data: Any = self._hub_mixin_info.model_card_data
        data: dict[str, Any] = card_data.to_dict()
        licences = {str(k['licence']) for k in self.metadata.values() if 'licence' in k}
        if len(licences) == 1:
            data['license'] = licences.pop().lower()
        return ModelCard(card_text(cast(Encoders, self), {**data, **kwargs}, repo_id))


def _check_folder(folder: Path) -> None:
    """Check that a folder contains the files that ``save_pretrained`` writes."""
    for name in (CONFIG_NAME, SAFETENSORS_SINGLE_FILE):
        if not (folder / name).is_file():
            raise ValueError(_not_ours(folder, f'no {name}'))
    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(
            _not_ours(folder, f'a {CONFIG_NAME} that is not JSON')
        ) from error
    if not isinstance(config, dict):
        raise ValueError(_not_ours(folder, f'a {CONFIG_NAME} without modalities'))


def _not_ours(name: str | Path, found: str) -> str:
    return (
        f'{name}: expected {CONFIG_NAME} and {SAFETENSORS_SINGLE_FILE} from '
        f'MultimodalEncoder.save_pretrained, found {found}; choose another folder or '
        'repository'
    )
