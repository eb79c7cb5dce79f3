"""Check names of modalities: valid names work, others give one clear error."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from torchgeo_decur.datamodules import MultimodalDataModule
from torchgeo_decur.modalities import check_names
from torchgeo_decur.models import MultimodalEncoder, MultimodalPyramid, load_weights
from torchgeo_decur.tasks import CoMM, DeCUR, LateFusionClassification
from torchgeo_decur.transforms import PerModality

TAKEN = (
    'values',
    'type',
    'keys',
    'items',
    'forward',
    'to',
    'half',
    'train',
    'encoders',
)
SMALL = {'model': 'test_resnet', 'projector': [8], 'size': 32}


@pytest.mark.parametrize('name', [*TAKEN, '', 'a.b'])
def test_refuses_a_taken_name_at_the_start(name: str) -> None:
    names, message = {'s1': 2, name: 3}, rf"modalities must .* got \['{name}'\]; rename"
    band = {'bands': ['x'], 'kind': 'elevation', 'unit': 'm'}
    for build in (
        lambda: MultimodalEncoder(names, 'test_resnet'),
        lambda: MultimodalPyramid(names, 'test_resnet'),
        lambda: DeCUR(names, **SMALL),
        lambda: CoMM(names, **SMALL),
        lambda: LateFusionClassification(names, 'test_resnet', num_classes=2),
        lambda: MultimodalDataModule({name: band}),
        lambda: PerModality({name: nn.Identity()}),
    ):
        with pytest.raises(ValueError, match=message):
            build()


def test_whatever_torch_cannot_store_is_refused() -> None:
    for name in dir(nn.ModuleDict()):
        try:
            nn.ModuleDict({name: nn.Identity()})
        except KeyError:
            with pytest.raises(ValueError, match='name of a PyTorch attribute'):
                check_names([name])
    with pytest.raises(ValueError, match=r'without a dot.* got \[1\]'):
        check_names([1])


def test_names_that_look_like_parts_of_files_load(tmp_path: Path) -> None:
    """Check that a checkpoint with such names loads into an encoder."""
    names = {'model': 1, 'encoder': 1, 'a_b': 1, 'a+b': 1, 'module': 1}
    task = DeCUR(names, **SMALL)
    trainer = Trainer(accelerator='cpu', logger=False, enable_checkpointing=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / 'task.ckpt')
    other = MultimodalEncoder(names, 'test_resnet')
    load_weights(other, tmp_path / 'task.ckpt')
    for key, value in task.encoders.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
