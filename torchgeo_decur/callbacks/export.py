"""Export of encoders at the end of a fit or from a checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from ..files import check_writable
from ..modalities import Modality, per_modality
from ..models import FusionHead, build_fusion_head, save_encoder, save_onnx
from ..tasks import FusionPretraining, MultimodalPretraining
from ..weights.encoder_files import read_checkpoint
from ..weights.metadata import EncoderMetadata
from .preconditions import need_encoders


class ExportEncoders(Callback):
    """Callback that exports one encoder per modality at the end of a fit.

    The callback writes two files per modality, atomically. ``<folder>/<modality>.pt``
    is for the option ``weights`` of TorchGeo's ``Classification`` and
    ``SemanticSegmentation``. ``<folder>/<modality>.safetensors`` also contains bands,
    scaling and hyperparameters.

    For a task with a fusion head (``CoMM``, ``COrAL``, ``InfMasking``), it also writes
    ``fusion.safetensors``, which is for the option ``fusion`` of
    :class:`~torchgeo_decur.tasks.LateFusionClassification`. If the head itself has
    encoders, as in ``COrAL``, it also writes them, as ``<modality>_unique``.

    Args:
        folder: output folder; by default ``encoders`` in the logger's folder.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        """Initialize a new ExportEncoders instance."""
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the folder is writable and the task has encoders.

        Raises:
            ValueError: if the folder is not writable, or the task has no encoders.
        """
        if stage != 'fit':
            return
        need_encoders(self, pl_module)
        folder = self._folder(trainer)
        if trainer.is_global_zero and not getattr(trainer, 'fast_dev_run', False):
            check_writable(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the encoders and, if present, the fusion head."""
        folder = self._folder(trainer)
        if not trainer.is_global_zero or getattr(trainer, 'fast_dev_run', False):
            return
        task = cast(MultimodalPretraining, pl_module)
        about = {
            **_training(trainer, task),
            'hyper_parameters': dict(task.hparams),
            'epochs': trainer.current_epoch,
            'steps': trainer.global_step,
        }
        known = _modalities(trainer)
        encoders = {m: (m, e) for m, e in task.encoders.encoders.items()}
        if isinstance(task, FusionPretraining):
            encoders |= task.fusion.encoders
            (file,) = _save_fusion(task.fusion, folder, about)
            rank_zero_info(f'fusion head: {file}')
        for name, (m, encoder) in encoders.items():
            channels = task.hparams['modalities'][m]
            metadata = EncoderMetadata.of(m, channels, known.get(m), about)
            model = task.encoders.model[m]
            files = save_encoder(encoder, folder / name, model, metadata.to_dict())
            rank_zero_info(f'{name} encoder: {", ".join(map(str, files))}')

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store metadata of the task and the data for :func:`export_checkpoint`."""
        checkpoint['encoder_training'] = _training(trainer, pl_module)
        checkpoint['encoder_modalities'] = {
            m: asdict(modality) for m, modality in _modalities(trainer).items()
        }

    def _folder(self, trainer: Trainer) -> Path:
        # Every process must read log_dir, because the first process broadcasts it.
        log_dir = trainer.log_dir or trainer.default_root_dir
        return Path(self.folder) if self.folder else Path(log_dir) / 'encoders'


def export_checkpoint(
    file: str | Path, folder: str | Path, onnx: bool = False
) -> list[Path]:
    """Export the encoders of a checkpoint in the formats of :class:`ExportEncoders`.

    The metadata contain bands and scaling only if the fit used :class:`ExportEncoders`.

    Args:
        file: path of the checkpoint of a task with one encoder per modality.
        folder: output folder.
        onnx: whether to also write ``<modality>.onnx`` with
            :func:`~torchgeo_decur.models.save_onnx`, for the image ``size`` of the
            task.

    Returns:
        Paths of all written files.

    Raises:
        ImportError: if ``onnx`` is set but the required packages are not installed.
        ValueError: if the file is a different kind of checkpoint, the folder is not
            writable, or an encoder cannot be exported.
    """
    checkpoint = read_checkpoint(file)
    options = checkpoint.options
    channels = options.get('modalities')
    if not isinstance(channels, Mapping) or set(channels) != set(checkpoint.states):
        raise ValueError(
            f'{file}: expected a checkpoint of a task such as torchgeo_decur.tasks.DeCUR, '
            f'found encoders of {list(checkpoint.states)} without hyperparameters; use '
            'torchgeo-decur convert for other files'
        )
    files = []
    states = {m: (m, state) for m, state in checkpoint.states.items()}
    known = checkpoint.metadata
    if checkpoint.fusion:
        fusion = build_fusion_head(checkpoint.fusion)
        fusion.load_state_dict(checkpoint.fusion_state)
        unique = fusion.encoders.items()
        states |= {name: (m, encoder.state_dict()) for name, (m, encoder) in unique}
        about = next(iter(known.values())).training
        files += _save_fusion(fusion, Path(folder), about)
    for name, (m, state) in states.items():
        model, path = known[m].model, Path(folder) / name
        metadata = known[m].to_dict()
        files += save_encoder(state, path, model, metadata)
        if onnx:
            # A checkpoint does not store the size of user-defined augmentations.
            sizes = per_modality('size', options.get('size'), channels, default=0)
            size = int(sizes[m] or 224)
            files.append(save_onnx(state, path, model, metadata, size))
    return files


def _modalities(trainer: Trainer) -> dict[str, Modality]:
    datamodule = getattr(trainer, 'datamodule', None)
    found: dict[str, Modality] = getattr(datamodule, 'modalities', {})
    return found


def _training(trainer: Trainer, task: LightningModule) -> dict[str, str]:
    datamodule = getattr(trainer, 'datamodule', None)
    data = {'data': type(datamodule).__name__} if datamodule is not None else {}
    return {'task': type(task).__name__, **data}


def _save_fusion(
    fusion: FusionHead, folder: Path, about: Mapping[str, Any]
) -> list[Path]:
    metadata = {'fusion': fusion.description, **about}
    return save_encoder(fusion, folder / 'fusion', '', metadata, ['safetensors'])
