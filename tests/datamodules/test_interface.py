"""Check what all datamodules share: the order of their options, and the seed."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import Dataset, Subset

from torchgeo_decur import datamodules
from torchgeo_decur.datamodules import (
    FileDataModule,
    MultimodalDataModule,
    SyntheticEODataModule,
)
from torchgeo_decur.datamodules.splits import split_groups
from torchgeo_decur.deprecation import renamed

#: Shared options, in the order in which every datamodule lists them.
ORDER = (
    *('val_fraction', 'test_fraction'),
    *('download', 'checksum', 'skip_unreadable', 'conversion'),
    *('batch_size', 'num_workers', 'seed', 'label_fraction'),
)
#: What the data are: the only arguments by position.
DATA = ('root', 'rasters', 'images', 'mask', 'modalities', 'dataset', 'embeddings')
BASES = (MultimodalDataModule, FileDataModule)


class Squares(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {'image_a': torch.full((1, 4, 4), float(index))}


class SquaresDataModule(MultimodalDataModule):
    """Datamodule that splits by the seed and counts its setups."""

    setups = 0

    def __init__(self, seed: int | None = None) -> None:
        band = {'bands': ['x'], 'kind': 'elevation', 'unit': 'm'}
        super().__init__({'a': band}, 4, seed=seed)

    def setup(self, stage: str) -> None:
        self.setups += 1
        kept, out = split_groups(range(20), 0.4, self.seed)
        self.train_dataset: Any = Subset(Squares(), kept)
        self.val_dataset = self.test_dataset = Subset(Squares(), out)


class Nothing(LightningModule):
    """Task that learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return 0 * self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def test_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder: Path, epochs: int) -> Trainer:
    return Trainer(
        accelerator='cpu',
        max_epochs=epochs,
        logger=False,
        callbacks=[ModelCheckpoint(folder, save_last=True)],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )


@pytest.mark.parametrize('name', datamodules.__all__)
def test_options_have_one_order_and_a_help_text(name: str) -> None:
    cls = getattr(datamodules, name)
    if not issubclass(cls, MultimodalDataModule):
        return
    if '__init__' in vars(cls) and cls not in BASES:
        by_position = [
            k
            for k, p in inspect.signature(cls).parameters.items()
            if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        assert set(by_position) <= set(DATA)
    # What a config may set, those of the bases included, and what --help says of it.
    parser = ArgumentParser()
    parser.add_class_arguments(cls, 'data', skip=set(renamed(cls)))
    texts = {
        a.dest.removeprefix('data.'): a.help
        for a in parser._actions
        if a.dest.startswith('data.')
    }
    shared = [k for k in texts if k in ORDER]
    assert shared == [k for k in ORDER if k in texts]
    assert {'batch_size', 'num_workers', 'seed'} <= set(shared)
    assert 'options' not in texts and all(texts.values())


@pytest.mark.parametrize('name', ['RasterPairDataModule', 'PackedDataModule'])
def test_no_fraction_of_labels_without_labels_to_choose(name: str) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(getattr(datamodules, name), 'data')
    assert 'label_fraction' not in str(parser.format_help())


def test_seed_is_not_negative() -> None:
    with pytest.raises(ValueError, match='seed must not be negative, got -1'):
        SquaresDataModule(seed=-1)


def test_the_base_has_the_places_of_torchgeo() -> None:
    assert list(inspect.signature(MultimodalDataModule).parameters)[:3] == [
        'modalities',
        'batch_size',
        'num_workers',
    ]


def test_the_global_seed_rules_unless_one_is_given() -> None:
    torch.manual_seed(5)
    assert SquaresDataModule().seed == 0
    seed_everything(3, verbose=False)
    assert SquaresDataModule().seed == 3
    assert SquaresDataModule(seed=0).seed == 0

    def scene(**options: Any) -> Tensor:
        data = SyntheticEODataModule(length=1, val_length=1, size=16, **options)
        data.setup('fit')
        image: Tensor = data.train_dataset[0]['image_s1']
        return image

    assert scene().equal(scene(seed=3)) and not scene().equal(scene(seed=0))


def test_a_checkpoint_keeps_its_split(tmp_path: Path) -> None:
    seed_everything(3, verbose=False)
    first = SquaresDataModule()
    trainer(tmp_path, 1).fit(Nothing(), datamodule=first)
    file = tmp_path / 'last.ckpt'

    seed_everything(8, verbose=False)
    resumed, tested = SquaresDataModule(), SquaresDataModule()
    trainer(tmp_path, 2).fit(Nothing(), datamodule=resumed, ckpt_path=file)
    trainer(tmp_path, 1).test(Nothing(), tested, ckpt_path=file, verbose=False)
    before: Any = first.train_dataset.indices
    assert resumed.train_dataset.indices == before
    assert tested.test_dataset.indices == first.test_dataset.indices
    assert (resumed.seed, resumed.setups) == (3, 2)

    given = SquaresDataModule(seed=8)
    trainer(tmp_path, 3).fit(Nothing(), datamodule=given, ckpt_path=file)
    assert given.seed == 8 and given.setups == 1
    assert given.train_dataset.indices != before


def test_a_report_takes_the_seed_of_its_checkpoint(tmp_path: Path) -> None:
    state = {'seed': 3}
    data = SquaresDataModule()
    data.load_state_dict(state)
    data.setup('fit')
    assert data.seed == 3 and data.setups == 1
    data.load_state_dict({})
    assert data.seed == 3
