"""Deformable attention, in which every position attends to predicted sampling points."""

from collections import OrderedDict

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.nn.functional import grid_sample, scaled_dot_product_attention

from ...deprecation import renamed_arguments


class DeformableAttention(nn.Module):
    r"""Multi-head attention from all positions to a coarse grid of shifted points.

    Queries are projections of all positions. A small network uses the queries to predict
    an offset for each point of the key grid. Keys and values are projections of the
    feature map, sampled bilinearly at the shifted points:

    .. math:: q = W_q x, \quad p = \mathrm{clip}(r + o(q), -1, 1), \quad
              k = W_k\,x(p), \quad v = W_v\,x(p)

    .. math:: DA(x) = W_o\,\mathrm{softmax}(q k^T / \sqrt{d} + b)\,v

    with d channels per head. The bias b is interpolated from a table indexed by
    the displacement from key to query. Each group of channels has its own points, which
    ``num_heads / groups`` consecutive heads share. Feature maps may have any size.

    Xia et al., *Vision Transformer with Deformable Attention*, CVPR 2022,
    https://arxiv.org/abs/2201.00520. Parameters have the same names as in the published
    DeCUR weights.

    Args:
        channels: number of channels C of the feature map.
        num_heads: number of attention heads.
        groups: number of channel groups.
        stride: stride of the key grid, which has ``ceil(H / stride)`` rows.
        kernel_size: kernel size of the convolution that predicts offsets, which must be odd.
        table_size: height and width of the feature map for which the bias table has
            exactly one entry per displacement.
        zero_init: whether to initialize the output projection with zeros so that
            ``DA(x) = 0``.

    Shape:
        (B, C, H, W) to (B, C, H, W).

    Raises:
        ValueError: if ``num_heads`` does not divide ``channels``, ``groups`` does not
            divide ``num_heads``, ``kernel_size`` is even, or a number is not positive.

    Example:
        >>> attention = DeformableAttention(64, num_heads=4, groups=2, stride=2)
        >>> y, positions = attention.forward_with_positions(torch.randn(1, 64, 9, 12))
        >>> y.shape, positions.shape
        (torch.Size([1, 64, 9, 12]), torch.Size([1, 2, 5, 6, 2]))
    """

    @renamed_arguments(heads='num_heads')
    def __init__(
        self,
        channels: int,
        num_heads: int,
        groups: int,
        stride: int = 1,
        kernel_size: int = 3,
        table_size: tuple[int, int] = (7, 7),
        zero_init: bool = False,
    ) -> None:
        """Initialize a new DeformableAttention instance."""
        super().__init__()
        if min(channels, num_heads, groups, stride, kernel_size, *table_size) < 1:
            raise ValueError(
                'channels, num_heads, groups, stride, kernel_size and table_size must be '
                f'positive, got {channels}, {num_heads}, {groups}, {stride}, {kernel_size} '
                f'and {table_size}'
            )
        if channels % num_heads:
            raise ValueError(
                f'num_heads must divide the {channels} channels, got {num_heads}'
            )
        if num_heads % groups:
            raise ValueError(f'groups must divide num_heads {num_heads}, got {groups}')
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd, got {kernel_size}')
        self.num_heads = num_heads
        self.groups = groups
        width = channels // groups
        # The published weights call this layer 1.norm; its eps is that of nn.LayerNorm.
        norm = nn.Sequential(OrderedDict(norm=LayerNorm2d(width, eps=1e-5)))
        self.conv_offset = nn.Sequential(
            nn.Conv2d(
                width, width, kernel_size, stride, kernel_size // 2, groups=width
            ),
            norm,
            nn.GELU(),
            nn.Conv2d(width, 2, 1, bias=False),
        )
        self.proj_q = nn.Conv2d(channels, channels, 1)
        self.proj_k = nn.Conv2d(channels, channels, 1)
        self.proj_v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)
        height, breadth = table_size
        self.rpe_table = nn.Parameter(
            torch.empty(num_heads, 2 * height - 1, 2 * breadth - 1)
        )
        nn.init.trunc_normal_(self.rpe_table, std=0.01)
        if zero_init:
            for parameter in self.proj_out.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention.

        Args:
            x: feature map, shape (B, C, H, W).

        Returns:
            The attention output, shape (B, C, H, W).
        """
        return self.forward_with_positions(x)[0]

    def forward_with_positions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Apply attention; also return the sampling positions.

        Args:
            x: feature map, shape (B, C, H, W).

        Returns:
            The attention output, shape (B, C, H, W), and the sampling positions (x, y) in
            [-1, 1], shape (B, ``groups``, H_k, W_k, 2). The centers of the first and last
            pixels are at -1 and 1.
        """
        q = self.proj_q(x)
        grouped = q.reshape(-1, q.shape[1] // self.groups, *q.shape[2:])
        # Offsets are only a few hundredths, so half precision would lose them.
        exact = torch.promote_types(x.dtype, torch.float32)
        offsets = self.conv_offset(grouped).to(exact)
        # The published network predicts (y, x), but grid_sample expects (x, y).
        offsets = offsets.permute(0, 2, 3, 1).flip(-1).unflatten(0, (-1, self.groups))
        reference = reference_points(offsets.shape[2], offsets.shape[3], offsets)
        positions = (reference + offsets).clamp(-1, 1)
        samples = sample(x.to(exact), positions).to(x.dtype)
        bias = relative_position_bias(
            self.rpe_table.to(exact), positions, x.shape[2], x.shape[3]
        )
        k, v = self._split(self.proj_k(samples)), self._split(self.proj_v(samples))
        attended = scaled_dot_product_attention(
            self._split(q), k, v, attn_mask=bias.to(q.dtype)
        )
        out: Tensor = self.proj_out(attended.transpose(2, 3).reshape(q.shape))
        return out, positions

    def _split(self, x: Tensor) -> Tensor:
        """Split a feature map (B, C, H, W) into heads (B, num_heads, HW, C / num_heads)."""
        tokens: Tensor = x.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)
        return tokens


class ResidualDeformableAttention(DeformableAttention):
    """Deformable attention with a residual connection: ``x + DA(x)``.

    The residual connection preserves the pretrained features.

    Wang et al., *Decoupling Common and Unique Representations for Multimodal
    Self-supervised Learning*, ECCV 2024, https://arxiv.org/abs/2309.05300, section 3.2.
    For arguments and shapes, see :class:`DeformableAttention`.

    Example:
        >>> attention = ResidualDeformableAttention(64, 4, 2, zero_init=True)
        >>> x = torch.randn(1, 64, 7, 7)
        >>> attention(x).equal(x)
        True
    """

    def forward_with_positions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Apply attention and add the input; also return the sampling positions.

        Returns:
            The sum, shape (B, C, H, W), and the sampling positions; see
            :meth:`DeformableAttention.forward_with_positions`.
        """
        attended, positions = super().forward_with_positions(x)
        return x + attended, positions


def reference_points(height: int, width: int, like: Tensor) -> Tensor:
    """Compute the points of a key grid before offsets are added.

    As in the published code, point i of n has the coordinate
    ``2 (i + 0.5) / (n - 1) - 1``. A single point has coordinate 0. The last point is
    outside [-1, 1] and is clipped later.

    Args:
        height: number of rows of the key grid.
        width: number of columns of the key grid.
        like: tensor with the desired dtype and device.

    Returns:
        Points (x, y), shape (``height``, ``width``, 2).

    Example:
        >>> reference_points(1, 3, torch.zeros(()))
        tensor([[[-0.5000,  0.0000],
                 [ 0.5000,  0.0000],
                 [ 1.5000,  0.0000]]])
    """
    return _mesh(_axis(height, 0.5, like), _axis(width, 0.5, like))


def sample(x: Tensor, positions: Tensor) -> Tensor:
    """Sample a feature map bilinearly, with separate points for each group of channels.

    Args:
        x: feature map, shape (B, C, H, W).
        positions: points (x, y) in [-1, 1], shape (B, groups, H_k, W_k, 2).

    Returns:
        Samples, shape (B, C, H_k, W_k).

    Example:
        >>> x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
        >>> sample(x, torch.tensor([0.0, 1.0]).view(1, 1, 1, 1, 2)).item()
        2.5
    """
    grouped = x.unflatten(1, (positions.shape[1], -1)).flatten(0, 1)
    samples = grid_sample(grouped, positions.flatten(0, 1), align_corners=True)
    return samples.reshape(x.shape[0], x.shape[1], *positions.shape[2:4])


def relative_position_bias(
    table: Tensor, positions: Tensor, height: int, width: int
) -> Tensor:
    """Look up the bias for each pair of query and key by their displacement.

    Queries are the pixels of the feature map. Their coordinates run from -1 to 1, or are 0
    for a single pixel. The table is interpolated bilinearly at half the displacement from
    key to query, which is in [-1, 1].

    Args:
        table: biases of each head by displacement, shape (num_heads, rows, columns).
        positions: points (x, y) of the keys in [-1, 1], shape (B, groups, H_k, W_k, 2).
        height: number of rows H of the feature map.
        width: number of columns W of the feature map.

    Returns:
        Biases, shape (B, num_heads, H W, H_k W_k).

    Example:
        >>> table = torch.arange(9.0).view(1, 3, 3)
        >>> relative_position_bias(table, torch.zeros(1, 1, 1, 1, 2), 2, 2).flatten()
        tensor([2., 3., 5., 6.])
    """
    batch, groups = positions.shape[:2]
    queries = _mesh(_axis(height, 0, positions), _axis(width, 0, positions))
    keys = positions.reshape(batch, groups, 1, -1, 2)
    half = (queries.reshape(-1, 1, 2) - keys) / 2
    tables = table.unflatten(0, (groups, -1)).expand(batch, -1, -1, -1, -1)
    bias = grid_sample(tables.flatten(0, 1), half.flatten(0, 1), align_corners=True)
    return bias.reshape(batch, table.shape[0], *bias.shape[2:])


def _axis(count: int, shift: float, like: Tensor) -> Tensor:
    """Return ``2 (i + shift) / (count - 1) - 1`` for each i, or 0 for a single point."""
    if count == 1:
        return like.new_zeros(1)
    steps = torch.arange(count, dtype=like.dtype, device=like.device)
    return (steps + shift) * (2 / (count - 1)) - 1


def _mesh(y: Tensor, x: Tensor) -> Tensor:
    """Return the points (x, y) of a grid."""
    rows, columns = torch.meshgrid(y, x, indexing='ij')
    return torch.stack((columns, rows), dim=-1)
