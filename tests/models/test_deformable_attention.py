"""Compare deformable attention with a slow loop, and check its borders."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.attention_loops import attend
from torchgeo_decur.models import DeformableAttention, ResidualDeformableAttention
from torchgeo_decur.models.backbones.deformable_attention import (
    reference_points,
    relative_position_bias,
    sample,
)

# Channels and options of the published weights.
LAYERS: dict[str, dict[str, Any]] = {
    'da_l3': {
        'channels': 1024,
        'num_heads': 8,
        'groups': 4,
        'stride': 2,
        'kernel_size': 5,
        'table_size': (14, 14),
    },
    'da_l4': {
        'channels': 2048,
        'num_heads': 16,
        'groups': 8,
        'stride': 1,
        'kernel_size': 3,
        'table_size': (7, 7),
    },
}
# Size of the maps of images of 224, 256 and 120 pixels.
SIZES = {'da_l3': (14, 16, 8), 'da_l4': (7, 8, 4)}


def build(spread: float = 1.0, **options: Any) -> DeformableAttention:
    """Build attention with larger offsets and biases than an initial one."""
    torch.manual_seed(0)
    defaults = {'channels': 16, 'num_heads': 4, 'groups': 2, 'table_size': (5, 4)}
    attention = DeformableAttention(**{**defaults, **options})
    with torch.no_grad():
        for name, parameter in attention.named_parameters():
            if 'norm' in name or name == 'rpe_table':
                parameter.normal_(0.5, 1.0)
        attention.conv_offset[3].weight.mul_(spread)
    return attention


def loops(attention: DeformableAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute a batch with slow loops."""
    stride = attention.conv_offset[0].stride[0]
    found = [
        attend(attention.state_dict(), y, attention.num_heads, attention.groups, stride)
        for y in x
    ]
    out, positions = zip(*found, strict=True)
    return (
        torch.stack([torch.from_numpy(a) for a in out]),
        torch.stack([torch.from_numpy(a) for a in positions]),
    )


class TestLoops:
    @pytest.mark.parametrize(
        ('layer', 'size'), [(x, size) for x in SIZES for size in SIZES[x]]
    )
    def test_equals_plain_loops_at_published_sizes(self, layer: str, size: int) -> None:
        """Use maps of images of 224, 256 and 120 pixels, in single precision."""
        attention = build(**LAYERS[layer])
        x = torch.randn(1, LAYERS[layer]['channels'], size, size)
        with torch.no_grad():
            out, positions = attention.forward_with_positions(x)
        expected, points = loops(attention, x)
        torch.testing.assert_close(positions.double(), points, atol=1e-5, rtol=0)
        torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=0)
        assert out.abs().mean() > 0.01

    @pytest.mark.parametrize('size', [(5, 8), (1, 1), (1, 6), (7, 1), (2, 2), (3, 9)])
    @pytest.mark.parametrize('stride', [1, 2])
    @pytest.mark.parametrize('spread', [0.1, 5.0])
    def test_equals_plain_loops_at_any_size(
        self, size: tuple[int, int], stride: int, spread: float
    ) -> None:
        attention = build(spread, stride=stride, kernel_size=5).double()
        x = torch.randn(2, 16, *size).double()
        with torch.no_grad():
            out, positions = attention.forward_with_positions(x)
        expected, points = loops(attention, x)
        torch.testing.assert_close(positions, points)
        torch.testing.assert_close(out, expected)

    def test_residual_adds_the_input(self) -> None:
        attention = build()
        residual = ResidualDeformableAttention(16, 4, 2, table_size=(5, 4))
        residual.load_state_dict(attention.state_dict())
        x = torch.randn(2, 16, 6, 6)
        with torch.no_grad():
            torch.testing.assert_close(residual(x), x + attention(x))


class TestPositions:
    def test_positions_are_clipped(self) -> None:
        attention = build(spread=20.0)
        _, positions = attention.forward_with_positions(torch.randn(2, 16, 7, 9))
        assert positions.shape == (2, 2, 7, 9, 2)
        assert positions.abs().max() == 1
        assert (positions.abs() < 1).any()

    def test_positions_without_offsets_are_the_reference(self) -> None:
        attention = build(spread=0.0, stride=2)
        _, positions = attention.forward_with_positions(torch.randn(1, 16, 8, 10))
        reference = reference_points(4, 5, positions).clamp(-1, 1)
        torch.testing.assert_close(positions[0, 1], reference)
        assert positions[0, 0, 0, :2].tolist() == [
            pytest.approx([-0.75, -2 / 3]),
            pytest.approx([-0.25, -2 / 3]),
        ]

    def test_first_offset_is_the_vertical_one(self) -> None:
        attention = build(kernel_size=1)
        with torch.no_grad():
            attention.conv_offset[3].weight[1] = 0
        _, positions = attention.forward_with_positions(torch.randn(1, 16, 5, 5))
        reference = reference_points(5, 5, positions).clamp(-1, 1)
        assert positions[..., 0].equal(reference[..., 0].expand(1, 2, 5, 5))
        assert not positions[..., 1].equal(reference[..., 1].expand(1, 2, 5, 5))

    def test_groups_sample_their_channels(self) -> None:
        x = torch.arange(4.0).view(1, 4, 1, 1) + torch.linspace(0, 1, 3)
        x = x.expand(1, 4, 2, 3)
        positions = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).view(1, 2, 1, 1, 2)
        assert sample(x, positions).flatten().tolist() == [0, 1, 3, 4]

    def test_a_single_point_lies_in_the_middle(self) -> None:
        attention = build(spread=0.0, stride=2)
        out, positions = attention.forward_with_positions(torch.randn(1, 16, 2, 2))
        assert positions.equal(torch.zeros(1, 2, 1, 1, 2))
        assert out.isfinite().all()
        # With one key, all queries get the same.
        torch.testing.assert_close(out, out[..., :1, :1].expand_as(out))

    def test_bias_without_displacement_is_the_middle_of_the_table(self) -> None:
        table = torch.randn(4, 9, 7)
        positions = torch.zeros(2, 2, 1, 1, 2)
        bias = relative_position_bias(table, positions, 3, 5)
        assert bias.shape == (2, 4, 15, 1)
        torch.testing.assert_close(bias[0, :, 7, 0], table[:, 4, 3])


class TestGradient:
    def test_gradient_reaches_every_parameter(self) -> None:
        attention = build(stride=2, kernel_size=5)
        attention(torch.randn(2, 16, 6, 7)).square().sum().backward()
        lacking = [
            name
            for name, parameter in attention.named_parameters()
            if parameter.grad is None or parameter.grad.abs().max() == 0
        ]
        # A bias of all keys shifts every score alike.
        assert lacking in ([], ['proj_k.bias'])

    def test_gradient_passes_gradcheck(self) -> None:
        attention = build(channels=4, num_heads=2, groups=2, spread=0.2).double()
        x = torch.randn(1, 4, 3, 3).double().requires_grad_()
        assert torch.autograd.gradcheck(attention, (x,))

    def test_zero_initialisation_learns(self) -> None:
        attention = ResidualDeformableAttention(16, 4, 2, zero_init=True)
        x = torch.randn(2, 16, 5, 5)
        assert attention(x).equal(x)
        optimizer = torch.optim.SGD(attention.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            attention(x).square().mean().backward()
            optimizer.step()
        assert attention.conv_offset[3].weight.grad.abs().max() > 0


class TestPrecision:
    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_runs_in_half_precision(self, dtype: torch.dtype) -> None:
        attention, x = build(stride=2), torch.randn(2, 16, 8, 8)
        exact = attention(x)
        out, positions = attention.to(dtype).forward_with_positions(x.to(dtype))
        assert (out.dtype, positions.dtype) == (dtype, torch.float32)
        torch.testing.assert_close(out.float(), exact, atol=0.1, rtol=0.1)
        out.sum().backward()
        assert all(p.grad.isfinite().all() for p in attention.parameters())

    def test_runs_in_autocast(self) -> None:
        attention, x = build(stride=2), torch.randn(2, 16, 8, 8)
        exact = attention(x)
        with torch.autocast('cpu', torch.bfloat16):
            out, positions = attention.forward_with_positions(x)
        assert (out.dtype, positions.dtype) == (torch.bfloat16, torch.float32)
        torch.testing.assert_close(out.float(), exact, atol=0.1, rtol=0.1)
        out.float().sum().backward()
        assert all(p.grad.isfinite().all() for p in attention.parameters())

    def test_large_values_stay_finite(self) -> None:
        attention = build().half()
        out = attention(torch.full((1, 16, 4, 4), 1e4).half())
        assert out.isfinite().all()


class TestGraphs:
    def test_compiles(self) -> None:
        torch.compiler.reset()
        attention = build(stride=2)
        compiled = torch.compile(attention, backend='aot_eager', fullgraph=True)
        x = torch.randn(2, 16, 6, 9)
        out = compiled(x)
        torch.testing.assert_close(out, attention(x))
        out.sum().backward()
        assert attention.rpe_table.grad is not None

    def test_exports_for_any_batch_and_size(self) -> None:
        attention = build(stride=2).eval()
        names = {0: 'batch', 2: 'height', 3: 'width'}
        shape = {i: torch.export.Dim(n, min=3, max=64) for i, n in names.items()}
        program = torch.export.export(
            attention, (torch.randn(4, 16, 6, 9),), dynamic_shapes=(shape,)
        )
        for size in ((6, 9), (15, 4)):
            x = torch.randn(5, 16, *size)
            torch.testing.assert_close(program.module()(x), attention(x))


class TestErrors:
    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'num_heads': 3}, r'num_heads must divide the 16 channels, got 3'),
            ({'groups': 3}, r'groups must divide num_heads 4, got 3'),
            ({'kernel_size': 4}, r'kernel_size must be odd, got 4'),
            ({'stride': 0}, r'must be positive, got 16, 4, 2, 0, 3 and \(5, 4\)'),
        ],
    )
    def test_rejects_invalid_options(
        self, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            build(**options)


def test_parameters_have_the_published_names() -> None:
    shapes = {k: tuple(v.shape) for k, v in build(**LAYERS['da_l3']).named_parameters()}
    projections = {
        f'proj_{x}.{kind}': shape
        for x in ('q', 'k', 'v', 'out')
        for kind, shape in (('weight', (1024, 1024, 1, 1)), ('bias', (1024,)))
    }
    assert shapes == {
        'rpe_table': (8, 27, 27),
        'conv_offset.0.weight': (256, 1, 5, 5),
        'conv_offset.0.bias': (256,),
        'conv_offset.1.norm.weight': (256,),
        'conv_offset.1.norm.bias': (256,),
        'conv_offset.3.weight': (2, 256, 1, 1),
        **projections,
    }


def test_keeps_the_input() -> None:
    x = torch.randn(1, 16, 4, 4)
    before = x.clone()
    nn.Sequential(build(), build())(x)
    assert x.equal(before)
