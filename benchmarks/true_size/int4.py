"""Linear modules with 4-bit weights and 16-bit activations (W4A16), by the kernel that torch brings along.

It is made for few rows, as in decoding; a prompt's many rows would be faster by a kernel that unpacks whole tiles, such
as vLLM's Marlin, which `compress export` writes W4A16 checkpoints for.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

GROUP: Final = 128  # weights that share a scale and a zero point, as in what vLLM loads
_INNER_TILES: Final = 8  # how many tiles of 16 columns the CUDA kernel's layout interleaves
_LEVELS: Final = 16
_TOLERANCE: Final = 0.02  # relative, bf16 sums against fp32 ones


class Int4Linear(nn.Module):
    """A linear module whose weight, shape (rows, columns), is held in groups of 4-bit levels.

    Args:
        linear: whose columns are a multiple of `GROUP`; it is not changed.
    """

    packed: Tensor
    scales_and_zeros: Tensor
    bias: nn.Parameter | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        levels, scales, zeros = _quantised(linear.weight.detach().float())
        self.n_rows = linear.out_features
        self.register_buffer("packed", _packed(levels))
        scales_and_zeros = torch.stack([scales, zeros], -1).transpose(0, 1).to(torch.bfloat16).contiguous()
        self.register_buffer("scales_and_zeros", scales_and_zeros)
        self.register_parameter("bias", linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Shape (..., columns) to (..., rows)."""
        flat = hidden.reshape(-1, hidden.shape[-1]).to(torch.bfloat16).contiguous()
        product = torch._weight_int4pack_mm_for_cpu if flat.device.type == "cpu" else torch._weight_int4pack_mm
        found: Tensor = product(flat, self.packed, GROUP, self.scales_and_zeros).to(hidden.dtype)
        if self.bias is not None:
            found = found + self.bias
        return found.view(*hidden.shape[:-1], self.n_rows)


def problem(device: str) -> str:
    """Why the kernel cannot be used on a device; empty where it gives the products that it should."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(2 * GROUP, 64, bias=False, device=device, dtype=torch.bfloat16)
    linear.weight.data = torch.randn(64, 2 * GROUP, generator=generator).to(device, torch.bfloat16)
    hidden = torch.randn(3, 2 * GROUP, generator=generator).to(device, torch.bfloat16)
    try:
        found = Int4Linear(linear)(hidden).float()
    except (RuntimeError, AttributeError) as error:  # each release and device has its own words for it
        return f"torch has no W4A16 kernel for this device: {str(error).splitlines()[0]}"
    levels, scales, zeros = _quantised(linear.weight.detach().float())
    weight = (levels.view(64, -1, GROUP) - _LEVELS // 2) * scales[..., None] + zeros[..., None]
    wanted = hidden.float() @ weight.view(64, -1).T
    if float((found - wanted).norm() / wanted.norm()) > _TOLERANCE:
        return "torch's W4A16 kernel gives other products than its weights have"
    return ""


def _quantised(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Levels, shape (rows, columns), and scales and zero points, shape (rows, groups): (level - 8) * scale + zero."""
    groups = weight.view(len(weight), -1, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scales = (high - low).clamp(min=1e-8) / (_LEVELS - 1)
    levels = ((groups - low[..., None]) / scales[..., None]).round().clamp(0, _LEVELS - 1)
    return levels.int().view_as(weight), scales, low + _LEVELS // 2 * scales


def _packed(levels: Tensor) -> Tensor:
    """Two levels a byte, in the order of the device's kernel."""
    if levels.device.type == "cpu":
        return torch._convert_weight_to_int4pack_for_cpu(levels, 1)
    pairs = (levels[:, ::2] << 4 | levels[:, 1::2]).to(torch.uint8)
    return torch._convert_weight_to_int4pack(pairs, _INNER_TILES)
