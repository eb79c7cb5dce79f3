"""Check the order of options, the help and the errors of all tasks."""

import contextlib
import inspect
import io
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn
from torchgeo.tasks import BaseTask

from tests.helpers.versions import NO_NESTED_CLASSES
from torchgeo_decur import tasks
from torchgeo_decur.deprecation import renamed
from torchgeo_decur.tasks import (
    DeCUR,
    FusionPretraining,
    LateFusionClassification,
    LateFusionPixelwiseRegression,
    LateFusionRegression,
    LateFusionSegmentation,
    LateFusionTask,
    MapTask,
    MultimodalPretraining,
)
from torchgeo_decur.transforms import ModuleAugmentation

ALL = [getattr(tasks, name) for name in tasks.__all__]
OBJECTIVES = [
    task
    for task in ALL
    if issubclass(task, MultimodalPretraining)
    and task not in (MultimodalPretraining, FusionPretraining)
]


def options_of(task: type[BaseTask]) -> list[str]:
    """Return the options of a constructor by their current names."""
    return [
        name for name in inspect.signature(task).parameters if name not in renamed(task)
    ]


SHARED = options_of(MultimodalPretraining)
SMALL: dict[str, Any] = {'modalities': {'s1': 2, 's2': 3}, 'model': 'test_resnet'}


def parser() -> ArgumentParser:
    made = ArgumentParser(exit_on_error=False)
    made.add_subclass_arguments(BaseTask, 'model', required=True)
    return made


def help_of(task: type[BaseTask]) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        parser().parse_args([f'--model.help={task.__module__}.{task.__name__}'])
    return text.getvalue()


def path_of(task: type[BaseTask]) -> str:
    return f'{task.__module__}.{task.__name__}'


@pytest.mark.parametrize('task', OBJECTIVES)
class TestObjectives:
    def test_options_have_one_order(self, task: type[MultimodalPretraining]) -> None:
        parameters = options_of(task)
        assert parameters[:4] == SHARED[:4] == [*SMALL, 'weights', 'projector']
        assert parameters[-1] == 'options'

    def test_help_lists_every_option(self, task: type[MultimodalPretraining]) -> None:
        text = help_of(task)
        own = set(options_of(task)) - {'options'}
        for option in own | set(SHARED):
            assert f'  --model.{option} ' in text
        assert '1e-4 for AdamW' in text
        # Not the names of all modules that torch has.
        assert text.count('\n') < 125
        assert 'SARAugmentation' in text or NO_NESTED_CLASSES

    def test_options_are_flat(self, task: type[MultimodalPretraining]) -> None:
        own = set(options_of(task)) - {'options'}
        model = task(**SMALL, projector=[8], size=32)
        expected = (own | set(SHARED)) - {'weights', 'augmentations'}
        assert set(model.hparams) == expected
        assert model.hparams['size'] == 32

    def test_a_typo_is_refused(self, task: type[MultimodalPretraining]) -> None:
        given = {'class_path': path_of(task), 'init_args': {**SMALL, 'sise': 32}}
        with pytest.raises(ArgumentError, match='sise'):
            parser().parse_object({'model': given})
        with pytest.raises(TypeError, match='sise'):
            task(**SMALL, sise=32)


def test_model_returns_the_encoders() -> None:
    task = DeCUR(**SMALL, projector=[8]).eval()
    images = {'s1': torch.rand(2, 2, 32, 32), 's2': torch.rand(2, 3, 32, 32)}
    features, found = task(images), task.model(images)
    assert list(found) == ['s1', 's2']
    assert all(torch.equal(features[m], found[m]) for m in found)
    assert not [k for k in task.state_dict() if k.startswith('model.')]


TRANSFER: list[type[LateFusionTask]] = [
    LateFusionClassification,
    LateFusionRegression,
    LateFusionSegmentation,
    LateFusionPixelwiseRegression,
]


def options_of_bases(task: type[LateFusionTask]) -> set[str]:
    """Return the options that a transfer task collects from its bases."""
    bases = [b for b in task.__mro__ if issubclass(b, LateFusionTask)]
    return {name for base in bases for name in options_of(base)} - {'options'}


@pytest.mark.parametrize('task', TRANSFER)
class TestTransfer:
    def given(self, task: type[LateFusionTask]) -> dict[str, Any]:
        name = 'backbone' if issubclass(task, MapTask) else 'model'
        number = 'num_classes' if 'num_classes' in options_of_bases(task) else None
        return {
            'modalities': {'s1': 2},
            name: 'test_resnet',
            number or 'num_outputs': 3,
        }

    def test_help_lists_every_option(self, task: type[LateFusionTask]) -> None:
        text = ' '.join(help_of(task).split())
        for option in options_of_bases(task):
            assert f'--model.{option} ' in text
        assert 'modalities to omit in validation, test and prediction' in text
        assert 'required' not in text.partition('--model.model MODEL ')[2]

    def test_options_are_flat(self, task: type[LateFusionTask]) -> None:
        model = task(**self.given(task), missing_modalities=[])
        assert set(model.hparams) == options_of_bases(task) - {'weights'}
        assert model.num_outputs == 3

    def test_a_typo_is_refused(self, task: type[LateFusionTask]) -> None:
        options = {**self.given(task), 'mising': ['s1']}
        with pytest.raises(ArgumentError, match='mising'):
            parser().parse_object(
                {'model': {'class_path': path_of(task), 'init_args': options}}
            )
        with pytest.raises(TypeError, match='mising'):
            task(**options)


def test_a_config_may_name_a_module_as_augmentation() -> None:
    module = {'class_path': 'torch.nn.AvgPool2d', 'init_args': {'kernel_size': 2}}
    wrapped = {
        'class_path': 'torchgeo_decur.transforms.ModuleAugmentation',
        'init_args': {'module': module},
    }

    def built(augmentation: dict[str, Any]) -> DeCUR:
        options = {**SMALL, 'projector': [8], 'augmentations': {'s1': augmentation}}
        given = {'class_path': path_of(DeCUR), 'init_args': options}
        made = parser()
        task: DeCUR = made.instantiate_classes(
            made.parse_object({'model': given})
        ).model
        return task

    augmentation = built(wrapped).augmentations['s1']
    assert isinstance(augmentation, ModuleAugmentation)
    assert isinstance(augmentation.module, nn.AvgPool2d)
    with pytest.raises(ArgumentError, match='to a subclass of Augmentation'):
        built(module)
