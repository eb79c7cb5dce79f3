import numpy as np
import pytest
import torch

from torchgeo_decur.analysis import NotApplicable, feature_maps
from torchgeo_decur.analysis.encoder_maps import displacement, principal_components
from torchgeo_decur.modalities import MODALITIES
from torchgeo_decur.models.backbones.deformable_attention import reference_points
from torchgeo_decur.tasks import DeCUR

S1, S2 = MODALITIES['sentinel1_grd'], MODALITIES['sentinel2_l1c']


def test_first_component_is_the_one_direction_that_varies() -> None:
    signal = torch.rand(3, 1, 4, 5)
    maps = 7 + signal * torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1)
    pictures, explained = principal_components(maps, 3)
    assert pictures.shape == (3, 4, 5, 3)
    np.testing.assert_allclose(explained, [1, 0, 0], atol=1e-6)
    r = np.corrcoef(pictures[..., 0].ravel(), signal.numpy().ravel())[0, 1]
    assert abs(r) > 0.99
    assert (pictures.min(), pictures.max()) == (0, 1)


def test_returns_no_more_components_than_places() -> None:
    pictures, explained = principal_components(torch.rand(1, 8, 1, 2), 3)
    assert pictures.shape == (1, 1, 2, 2)
    assert len(explained) == 2
    pictures, explained = principal_components(torch.ones(1, 8, 1, 2), 3)
    assert not explained.any()


def test_displacement_is_in_cells() -> None:
    start = reference_points(2, 2, torch.zeros(())).clamp(-1, 1)
    points = start.expand(1, 3, 2, 2, 2).clone()
    assert not displacement(points, (5, 9)).any()
    # A map of 5 x 9 places is 4 by 8 cells from first to last.
    points[..., 0, 0, 0] -= 0.5
    points[..., 0, 0, 1] -= 0.25
    moved = displacement(points, (5, 9))
    assert moved[0, 0, 0, 0].item() == pytest.approx((2**2 + 0.5**2) ** 0.5)
    assert not moved[..., 1].any()


@pytest.mark.parametrize('model', ['test_resnet', 'test_vit', 'resnet18_rda'])
def test_draws_components_of_every_backbone(model: str) -> None:
    task = DeCUR({'s1': 2, 's2': 13}, model, projector=[16])
    data = [{'s1': torch.rand(3, 2, 64, 64), 's2': torch.rand(3, 13, 64, 64)}] * 2
    found = feature_maps(task, data, {'s1': S1, 's2': S2}, max_samples=5, examples=4)
    counts = [(r['modality'], r['component']) for r in found.tables['components']]
    assert counts == [('s1', 1), ('s2', 1), ('s2', 2), ('s2', 3)]
    axes = found.figures['maps'].axes
    assert len(axes) == 4 * 4
    # Grey for radar, colour for optics, in the size of the image.
    assert [ax.images[0].get_array().shape for ax in axes[:4]] == [
        (64, 64, 3),
        (64, 64),
        (64, 64, 3),
        (64, 64, 3),
    ]
    assert [bool(ax.collections) for ax in axes[:4]] == [
        False,
        model == 'resnet18_rda',
        False,
        model == 'resnet18_rda',
    ]
    assert all(m.training for m in task.modules())
    assert ('points' in found.tables) == (model == 'resnet18_rda')


def test_points_lie_where_the_attention_samples() -> None:
    task = DeCUR({'s1': 2, 's2': 13}, 'resnet18_rda', projector=[16])
    for encoder in task.encoders.encoders.values():
        for parameter in encoder.da_l4.conv_offset.parameters():
            parameter.data.zero_()
    data = [{'s1': torch.rand(1, 2, 96, 96), 's2': torch.rand(1, 13, 96, 96)}]
    found = feature_maps(task, data, {'s1': S1, 's2': S2})
    (points,) = found.figures['maps'].axes[1].collections
    # A grid of 3 points begins half a cell further, and ends at the last centre.
    places = np.unique(np.asarray(points.get_offsets())[:, 0].round(3))
    assert places.tolist() == [31.5, 63.5, 79.5]
    assert [r['mean_move_in_cells'] for r in found.tables['points']] == [0, 0]


def test_rejects_invalid_arguments() -> None:
    task = DeCUR({'s1': 2, 's2': 13}, 'test_resnet', projector=[16])
    with pytest.raises(ValueError, match='examples must be positive, got 0'):
        feature_maps(task, [], {'s1': S1, 's2': S2}, examples=0)
    with pytest.raises(NotApplicable, match='at least 2 positions in total, got 1'):
        principal_components(torch.rand(1, 8, 1, 1), 3)
