"""Check renamed arguments in Python, in configs of `torchgeo` and in checkpoints."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.helpers.small_fits import MODALITIES, datamodule, trainer
from torchgeo_decur.datamodules import SyntheticEODataModule
from torchgeo_decur.deprecation import current_names, renamed, renamed_arguments
from torchgeo_decur.tasks import DeCUR
from torchgeo_decur.transforms import ElevationAugmentation
from torchgeo_decur.weights.encoder_files import TASK_OPTIONS


class Scenes(SyntheticEODataModule):
    """Scenes with an argument that was called `number`."""

    @renamed_arguments(number='length')
    def __init__(self, length: int = 16, **options: Any) -> None:
        super().__init__(length=length, **options)


class Turned(ElevationAugmentation):
    """Augmentation with an argument that was called `mirror`."""

    @renamed_arguments(mirror='hflip')
    def __init__(self, size: int = 16, hflip: float = 0.5) -> None:
        super().__init__(size, hflip=hflip)
        self.options = {'size': size, 'hflip': hflip}


class Base(DeCUR):
    """Base task with two arguments that were called `ratio` and `widths`."""

    seen: Any

    @renamed_arguments(ratio='common_ratio', widths='projector')
    def __init__(
        self,
        modalities: dict[str, int],
        model: str = 'test_resnet',
        projector: tuple[int, ...] = (8,),
        common_ratio: float = 0.75,
        size: int = 16,
        **options: Any,
    ) -> None:
        self.seen = common_ratio
        super().__init__(
            modalities, model, None, projector, common_ratio, size=size, **options
        )


class Task(Base):
    """Task that passes arguments on, and adds one."""

    def __init__(
        self, modalities: dict[str, int], extra: int = 3, **options: Any
    ) -> None:
        super().__init__(modalities, **options)


HERE = __name__
Command = Callable[..., None]
old = pytest.mark.filterwarnings('ignore:.* is deprecated:FutureWarning')


def config(tmp_path: Path, options: dict[str, Any]) -> Path:
    """Return a config with old arguments of a task, its parts and its data."""
    quiet = {
        'accelerator': 'cpu',
        'max_steps': 1,
        'limit_val_batches': 0,
        'logger': False,
        'enable_progress_bar': False,
        'enable_model_summary': False,
        'default_root_dir': str(tmp_path),
    }
    turned = {'class_path': f'{HERE}.Turned', 'init_args': {'mirror': 0.0}}
    model = {'modalities': MODALITIES, 'augmentations': {'s2': turned}, **options}
    data = {'number': 8, 'batch_size': 8, 'size': 32}
    content = {
        'trainer': quiet,
        'model': {'class_path': f'{HERE}.Task', 'init_args': model},
        'data': {'class_path': f'{HERE}.Scenes', 'init_args': data},
    }
    path = tmp_path / 'old.yaml'
    path.write_text(yaml.safe_dump(content))
    return path


class TestPython:
    def test_an_old_name_warns_and_sets_the_new_argument(self) -> None:
        message = r'^Turned: mirror is deprecated .*; use hflip$'
        with pytest.warns(FutureWarning, match=message) as caught:
            turned = Turned(mirror=1.0)
        assert turned.options == {'size': 16, 'hflip': 1.0}
        assert [w.filename for w in caught] == [__file__]

    def test_new_names_do_not_warn(self) -> None:
        assert Turned(8, 1.0).options == Turned(size=8, hflip=1.0).options

    def test_two_values_of_one_argument_are_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r'hflip or its old name mirror, found both'
        ):
            Turned(mirror=1.0, hflip=0.25)

    def test_unknown_arguments_are_still_refused(self) -> None:
        with pytest.raises(TypeError, match='mirrored'):
            Turned(mirrored=1.0)

    @old
    def test_hyperparameters_have_present_names(self) -> None:
        by_old = Task(MODALITIES, ratio=0.5, widths=(4,), extra=5)
        by_new = Task(MODALITIES, common_ratio=0.5, projector=(4,), extra=5)
        assert by_old.seen == 0.5
        assert by_old.hparams == by_new.hparams == by_old.hparams_initial
        # What Lightning itself collects of constructors without old names.
        plain = DeCUR(MODALITIES, 'test_resnet', None, (4,), 0.5, size=16)
        assert by_new.hparams == {**plain.hparams, 'extra': 5}

    def test_names_of_bases_are_known(self) -> None:
        own = {'ratio': 'common_ratio', 'widths': 'projector'}
        assert renamed(Task) == {**renamed(DeCUR), **own}
        assert renamed(DeCUR)['chunk_size'] == 'micro_batch_size'
        stored = {'ratio': 0.5, 'common_ratio': 0.75, 'lr': 1}
        assert current_names(Task, stored) == {'common_ratio': 0.5, 'lr': 1}


class TestFunctions:
    @pytest.mark.parametrize(
        ('module', 'name', 'present'),
        [
            ('analysis', 'Finding', 'AnalysisResult'),
            ('analysis', 'LeftOut', 'NotApplicable'),
            ('modalities', 'pick_date', 'select_date'),
            ('modalities', 'picture', 'render'),
            ('modalities', 'cure_of_holes', 'nodata_hint'),
        ],
    )
    def test_an_old_name_warns_and_gives_the_present_function(
        self, module: str, name: str, present: str
    ) -> None:
        owner = import_module(f'torchgeo_decur.{module}')
        message = f'^{name} is deprecated .*; use {present}$'
        with pytest.warns(FutureWarning, match=message) as caught:
            found = getattr(owner, name)
        assert found is getattr(owner, present)
        assert caught[0].filename == __file__

    def test_an_unknown_name_is_no_attribute(self) -> None:
        with pytest.raises(
            AttributeError, match="analysis' has no attribute 'nothing'"
        ):
            _ = import_module('torchgeo_decur.analysis').nothing


class TestCommand:
    @old
    def test_a_config_with_old_names_trains(
        self, tmp_path: Path, torchgeo: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tasks = []
        monkeypatch.setattr(Task, 'on_fit_start', lambda self: tasks.append(self))
        path = config(tmp_path, {'ratio': 0.5, 'widths': [4]})
        torchgeo('fit', '--config', path)
        hparams = tasks[0].hparams
        assert hparams['common_ratio'] == 0.5 and list(hparams['projector']) == [4]
        assert not {'ratio', 'widths'} & set(hparams)
        assert tasks[0].augmentations['s2'].options == {'size': 16, 'hflip': 0.0}
        assert tasks[0].trainer.datamodule.length == 8

    def test_a_config_warns_of_each_old_name(
        self, tmp_path: Path, torchgeo: Command
    ) -> None:
        with pytest.warns(FutureWarning) as caught:
            torchgeo('fit', '--config', config(tmp_path, {'ratio': 0.5}))
        message = ' is deprecated and will be removed in the next release; use '
        found = [str(w.message).split(message) for w in caught]
        names = {tuple(words) for words in found if len(words) == 2}
        assert names == {
            ('Task: ratio', 'common_ratio'),
            ('Turned: mirror', 'hflip'),
            ('Scenes: number', 'length'),
        }

    def test_a_config_is_written_without_old_names_that_it_lacks(
        self, tmp_path: Path, torchgeo: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = config(tmp_path, {'ratio': 0.5})
        with pytest.raises(SystemExit):
            torchgeo('fit', '--config', path, '--print_config')
        printed = yaml.safe_load(capsys.readouterr().out)['model']['init_args']
        assert printed['ratio'] == 0.5 and 'widths' not in printed

    def test_a_wrong_value_of_an_old_name_is_refused(
        self, tmp_path: Path, torchgeo: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            torchgeo('fit', '--config', config(tmp_path, {'ratio': 'half'}))
        assert 'ratio' in capsys.readouterr().err


class TestCheckpoints:
    @old
    def test_a_checkpoint_with_old_names_loads_and_resumes(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / 'old.ckpt'
        fit = trainer(max_steps=1, limit_val_batches=0)
        task = Task(MODALITIES, common_ratio=0.5, projector=(4,), extra=5)
        fit.fit(task, datamodule())
        fit.save_checkpoint(path)
        stored = torch.load(path, weights_only=True)
        options = stored[TASK_OPTIONS]
        options['ratio'] = options.pop('common_ratio')
        options['widths'] = options.pop('projector')
        torch.save(stored, path)
        with pytest.warns(
            FutureWarning, match='ratio is deprecated .* use common_ratio'
        ):
            loaded = Task.load_from_checkpoint(path)
        assert loaded.hparams == {
            **task.hparams,
            'projector': loaded.hparams['projector'],
        }
        assert loaded.hparams['projector'] == (4,)
        resumed = trainer(max_epochs=2, max_steps=2, limit_val_batches=0)
        resumed.fit(task, datamodule(), ckpt_path=path)
        assert resumed.global_step == 2
        with pytest.raises(ValueError, match=r'projector: expected \[8\], found \[4\]'):
            resumed.fit(Task(MODALITIES), datamodule(), ckpt_path=path)
