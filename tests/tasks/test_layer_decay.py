"""Check learning rates that decay from layer to layer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.small_fits import datamodule, trainer
from torchgeo_decur.models import LateFusionClassifier, LateFusionSegmenter
from torchgeo_decur.tasks import LateFusionClassification, LateFusionSegmentation
from torchgeo_decur.tasks.optimizers import build_transfer_optimizer
from torchgeo_decur.weights.state_dict_layouts import normalize_key

MODALITIES = {'s1': 2, 's2': 3}
BUILD: dict[str, Callable[..., nn.Module]] = {
    'classifier': lambda model, **options: LateFusionClassifier(
        MODALITIES, model, **options
    ),
    'segmenter': lambda model, **options: LateFusionSegmenter(
        MODALITIES, 'segformer', model, **options
    ),
}


def rates(model: nn.Module, key: str = 'lr', **options: Any) -> dict[str, float]:
    """Return the rate, or another value, of every trained parameter, by name."""
    optimizer, _ = build_transfer_optimizer(model, lr=1.0, **options)
    names = {id(p): name for name, p in model.named_parameters()}
    found = [
        (names[id(p)], group[key])
        for group in optimizer.param_groups
        for p in group['params']
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


# Parameters and the layers between them and the last; timm counts stem and blocks.
LAYERS = {
    ('classifier', 'resnet18'): {
        'conv1.weight': 8,
        'bn1.bias': 8,
        'layer1.0.conv1.weight': 7,
        'layer1.1.bn2.weight': 6,
        'layer4.0.downsample.0.weight': 1,
        'layer4.1.conv2.weight': 0,
    },
    ('segmenter', 'resnet18'): {
        'conv1.weight': 8,
        'layer1.0.conv1.weight': 7,
        'layer4.1.conv2.weight': 0,
    },
    ('classifier', 'test_vit'): {
        'cls_token': 6,
        'pos_embed': 6,
        'patch_embed.proj.weight': 6,
        'blocks.0.attn.qkv.weight': 5,
        'blocks.5.mlp.fc2.bias': 0,
        'norm.weight': 0,
    },
    ('segmenter', 'test_convnext'): {
        'stem_0.weight': 9,
        'stages_0.blocks.0.conv_dw.weight': 8,
        'stages_3.blocks.1.mlp.fc2.weight': 0,
    },
}


@pytest.mark.parametrize(('kind', 'model'), list(LAYERS))
def test_each_layer_learns_more_slowly_than_the_next(kind: str, model: str) -> None:
    built = BUILD[kind](model)
    found = rates(built, layer_decay=0.5, lr_backbone=0.1)
    assert set(found) == {name for name, _ in built.named_parameters()}
    for m in MODALITIES:
        own = {
            k.removeprefix(f'encoders.encoders.{m}.'): v
            for k, v in found.items()
            if k.startswith(f'encoders.encoders.{m}.')
        }
        for name, before in LAYERS[kind, model].items():
            assert own[name] == pytest.approx(0.1 * 0.5**before), name
        assert max(own.values()) == pytest.approx(0.1)
    rest = {k: v for k, v in found.items() if not k.startswith('encoders.')}
    assert rest and set(rest.values()) == {1.0}


@pytest.mark.parametrize('model', ['test_convnext', 'test_efficientnet'])
def test_a_pyramid_has_the_layers_of_its_encoder(model: str) -> None:
    whole = {
        normalize_key(k): v
        for k, v in rates(BUILD['classifier'](model), layer_decay=0.5).items()
    }
    found = {
        normalize_key(k): v
        for k, v in rates(BUILD['segmenter'](model), layer_decay=0.5).items()
        if k.startswith('encoders.')
    }
    # The layers after the last that the pyramid has do not count.
    ratios = {found[k] / whole[k] for k in found}
    assert len(ratios) == 1 and len(set(found.values())) > 5


def test_a_decay_of_one_gives_one_rate() -> None:
    built = BUILD['segmenter']('test_convnext')
    assert rates(built, layer_decay=1.0) == rates(built)


def test_weight_decay_leaves_out_biases_and_norms() -> None:
    built = BUILD['classifier']('test_vit')
    found = rates(built, 'weight_decay', layer_decay=0.5, weight_decay=0.2)
    start = 'encoders.encoders.s1.'
    assert found[f'{start}blocks.0.attn.qkv.weight'] == 0.2
    for name in ('pos_embed', 'cls_token', 'blocks.0.attn.qkv.bias', 'norm.weight'):
        assert found[f'{start}{name}'] == 0
    assert found['head.weight'] == found['head.bias'] == 0.2


@pytest.mark.parametrize('kind', list(BUILD))
def test_frozen_encoders_are_skipped(kind: str) -> None:
    built = BUILD[kind]('test_convnext', freeze_backbone=True)
    found = rates(built, layer_decay=0.5)
    assert found and not any(k.startswith('encoders.') for k in found)


def test_frozen_layers_are_skipped() -> None:
    built = BUILD['classifier']('test_convnext')
    stem = built.encoders.encoders['s1'].stem.requires_grad_(False)  # type: ignore[union-attr, index]
    found = rates(built, layer_decay=0.5)
    frozen = {f'encoders.encoders.s1.stem.{k}' for k, _ in stem.named_parameters()}
    assert {n for n, _ in built.named_parameters()} - set(found) == frozen


@pytest.mark.parametrize(('lr_schedule', 'factor'), [('step', 0.1), ('cosine', 0.0)])
def test_schedules_multiply_all_rates(lr_schedule: str, factor: float) -> None:
    built = BUILD['classifier']('test_convnext')
    options = {'layer_decay': 0.5, 'lr_schedule': lr_schedule, 'epochs': 10}
    optimizer, scheduler = build_transfer_optimizer(built, 'sgd', 1.0, **options)
    before = [group['lr'] for group in optimizer.param_groups]
    optimizer.step()
    for _ in range(6 if lr_schedule == 'step' else 10):
        scheduler.step()
    after = [group['lr'] for group in optimizer.param_groups]
    assert len(set(before)) > 3
    assert after == pytest.approx([factor * lr for lr in before], abs=1e-12)


@pytest.mark.parametrize('layer_decay', [0.0, 1.1, -0.5])
def test_a_decay_out_of_range_is_refused(layer_decay: float) -> None:
    message = rf'layer_decay must be in \(0, 1\], got {layer_decay}'
    with pytest.raises(ValueError, match=message):
        build_transfer_optimizer(
            BUILD['classifier']('test_vit'), layer_decay=layer_decay
        )


def test_a_model_without_layers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    built = BUILD['classifier']('test_resnet')
    monkeypatch.delattr(type(built.encoders.encoders['s1']), 'group_matcher')  # type: ignore[union-attr, index]
    message = (
        r"layer_decay needs a model with layers defined by timm, got 'test_resnet'"
    )
    with pytest.raises(ValueError, match=message):
        build_transfer_optimizer(built, layer_decay=0.5)


@pytest.mark.parametrize('kind', ['classification', 'segmentation'])
def test_layer_decay_runs_in_a_fit(kind: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        'modalities': {'s1': 2, 's2': 13},
        'num_classes': 8,
        'layer_decay': 0.5,
        'lr_backbone': 1e-2,
    }
    task = (
        LateFusionClassification(
            model='test_convnext', label_key='label_common', **options
        )
        if kind == 'classification'
        else LateFusionSegmentation(
            model='segformer', backbone='test_convnext', **options
        )
    )
    run = trainer(limit_val_batches=0)
    run.fit(task, datamodule(length=4, val_length=4, batch_size=4, size=64))
    found = sorted({round(g['lr'], 6) for g in run.optimizers[0].param_groups})
    expected = [0.01 / 2**i for i in range(4, -1, -1)]
    assert set(expected) <= {round(v, 6) for v in found}
