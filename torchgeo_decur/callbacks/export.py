"""Export of encoders at the end of a fit or from a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from ..files import check_writable
from ..modalities import per_modality
from ..models import (
    FusionHead,
    MultimodalEncoder,
    WholeModel,
    build_fusion_head,
    save_encoder,
)
from ..models.onnx import Suffix, save_model
from ..tasks import FusionPretraining, MultimodalPretraining
from ..tasks.base import training_data
from ..tasks.transfer.checkpoint import load_transfer
from ..weights.encoder_files import read_checkpoint
from ..weights.metadata import TRAINING, EncoderMetadata
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
        """Check that the folder is writable and the task has encoders with parameters.

        Raises:
            ValueError: if the folder is not writable, the task has no encoders, or an
                encoder has no parameters.
        """
        if stage != 'fit':
            return
        need_encoders(self, pl_module)
        encoders = cast(MultimodalPretraining, pl_module).encoders.encoders
        if empty := [m for m, e in encoders.items() if not e.state_dict()]:
            raise ValueError(
                'ExportEncoders requires encoders with parameters, found none in the '
                f'encoders of {empty}; remove the callback'
            )
        folder = self._folder(trainer)
        if trainer.is_global_zero and not getattr(trainer, 'fast_dev_run', False):
            check_writable(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the encoders and, if present, the fusion head."""
        folder = self._folder(trainer)
        if not trainer.is_global_zero or getattr(trainer, 'fast_dev_run', False):
            return
        task = cast(MultimodalPretraining, pl_module)
        training, known = training_data(task)
        about = {
            **training,
            'hyper_parameters': dict(task.hparams),
            'epochs': trainer.current_epoch,
            'steps': trainer.global_step,
        }
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

    def _folder(self, trainer: Trainer) -> Path:
        # Every process must read log_dir, because the first process broadcasts it.
        log_dir = trainer.log_dir or trainer.default_root_dir
        return Path(self.folder) if self.folder else Path(log_dir) / 'encoders'


def export_checkpoint(
    file: str | Path,
    folder: str | Path,
    onnx: bool = False,
    program: bool = False,
    whole: bool = False,
    size: int | None = None,
) -> list[Path]:
    """Export the encoders of a checkpoint in the formats of :class:`ExportEncoders`.

    The metadata contain bands and scaling if the datamodule of the fit has them.

    For a transfer task, ``onnx`` and ``program`` also write the whole model with its
    predictions to ``model.onnx`` and ``model.pt2``. For a pretraining task, they write
    each encoder to its own file, such as ``<modality>.onnx``, or, with ``whole``, all
    encoders to one file, such as ``encoders.onnx``.

    Args:
        file: path of the checkpoint of a task with one encoder per modality.
        folder: output folder.
        onnx: whether to write ONNX with :func:`~torchgeo_decur.models.save_onnx`.
        program: whether to write a program of ``torch.export`` with
            :func:`~torchgeo_decur.models.save_program`.
        whole: whether to write all encoders of a pretraining task to one file.
        size: height and width in pixels of the images that these files accept. By default,
            a whole model accepts any size, and a single encoder the ``size`` of the task.

    Returns:
        Paths of all written files.

    Raises:
        ImportError: if ``onnx`` or ``program`` is set and a required package is missing or
            too old.
        ValueError: if the file is a different kind of checkpoint, the folder is not
            writable, or a model cannot be exported.
    """
    wanted: dict[Suffix, bool] = {'onnx': onnx, 'pt2': program}
    suffixes = [suffix for suffix, chosen in wanted.items() if chosen]
    checkpoint = read_checkpoint(file)
    options = checkpoint.options
    channels = options.get('modalities')
    if not isinstance(channels, Mapping) or set(channels) != set(checkpoint.states):
        raise ValueError(
            f'{file}: expected a checkpoint of a task such as torchgeo_decur.tasks.DeCUR, '
            f'found encoders of {list(checkpoint.states)} without hyperparameters; use '
            'torchgeo-decur convert for other files'
        )
    if not suffixes and (whole or size):
        raise ValueError(
            'whole and size require onnx or program, got neither; add --onnx or --program'
        )
    one = _whole_model(file, whole) if suffixes else None
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
        if suffixes and not one:
            # A checkpoint does not store the size of user-defined augmentations.
            sizes = per_modality('size', options.get('size'), channels, default=0)
            own = size or int(sizes[m] or 224)
            files += save_model(state, path, suffixes, model, metadata, own)
    if suffixes and one:
        model_of_all, name, about = one
        held = {m: known[m] for m in model_of_all.modalities}
        path = Path(folder) / name
        about |= _about_all(held)
        files += save_model(model_of_all, path, suffixes, '', about, size)
    return files


def _whole_model(
    file: str | Path, whole: bool
) -> tuple[WholeModel, str, dict[str, Any]] | None:
    """Return the model for one file, the name of the file and the model's metadata."""
    task = load_transfer(file)
    if task is not None:
        options = task.hparams
        names = ('model', 'backbone', 'labels', 'num_classes', 'ignore_index')
        about = {k: options[k] for k in names if options.get(k) is not None}
        return task.whole_model(), 'model', about
    if not whole:
        return None
    return WholeModel(MultimodalEncoder.from_weights(file)), 'encoders', {}


def _about_all(known: Mapping[str, EncoderMetadata]) -> dict[str, Any]:
    """Return the metadata of several encoders, with one copy of the training metadata."""
    values = {m: {'model': r.model, **r.to_dict()} for m, r in known.items()}
    training = next(iter(values.values()))
    return {
        'modalities': {
            m: {k: v for k, v in own.items() if k not in TRAINING}
            for m, own in values.items()
        },
        **{k: training[k] for k in TRAINING if k in training},
    }


def _save_fusion(
    fusion: FusionHead, folder: Path, about: Mapping[str, Any]
) -> list[Path]:
    metadata = {'fusion': fusion.description, **about}
    return save_encoder(fusion, folder / 'fusion', '', metadata, ['safetensors'])
