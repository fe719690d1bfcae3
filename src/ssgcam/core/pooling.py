"""Max pooling where nothing is differentiated, as fast as the processor can.

PyTorch's own notes along with each largest number where it lay, one window at a time, which nobody asks
for below the first target layer; there, whole rows and columns are compared instead. The numbers are the
same to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ssgcam.core.products import is_watched


def pools_of(network: nn.Module) -> list[nn.MaxPool2d]:
    """The modules inside a network that :func:`quick_pooling` is for."""
    return [
        module
        for name, module in network.named_modules()
        if name and isinstance(module, nn.MaxPool2d) and type(module).forward is _FORWARD
    ]


_FORWARD = nn.MaxPool2d.forward


@contextmanager
def quick_pooling(pools: Sequence[nn.MaxPool2d]) -> Iterator[None]:
    """In the block these modules pool by :func:`max_pool` where that is possible.

    One whose ``forward`` somebody else has replaced is left alone.
    """
    ours = [pool for pool in pools if "forward" not in vars(pool)]
    try:
        for pool in ours:
            vars(pool)["forward"] = partial(_forward, pool)
        yield
    finally:
        for pool in ours:
            vars(pool).pop("forward", None)


def _forward(pool: nn.MaxPool2d, input: Tensor) -> Tensor:
    plain = (
        type(input) is Tensor
        and input.device.type == "cpu"
        and input.is_floating_point()
        and not (input.requires_grad and torch.is_grad_enabled())
        and input.is_contiguous()
        and not pool.return_indices
        and not is_watched()
    )
    found = max_pool(input, pool) if plain else None
    return _FORWARD(pool, input) if found is None else found


def max_pool(maps: Tensor, pool: nn.MaxPool2d) -> Tensor | None:
    """What a module makes of maps ``[..., h, w]``, or ``None`` where PyTorch has to do or refuse it."""
    if maps.ndim not in (3, 4):
        return None
    for axis in (-2, -1):
        steps = pool.kernel_size if pool.stride is None else pool.stride
        kernel, stride, padding, dilation = (
            _along(axis, value) for value in (pool.kernel_size, steps, pool.padding, pool.dilation)
        )
        windows = _windows(maps.shape[axis], kernel, stride, padding, dilation, pool.ceil_mode)
        if windows < 1 or kernel < 1 or not 0 <= 2 * padding <= kernel:
            return None
        offsets = [offset * dilation - padding for offset in range(kernel)]
        maps = _largest(maps, axis, windows, stride, offsets)
    return maps


def _along(axis: int, setting: int | Sequence[int]) -> int:
    """One number may stand for both axes, by itself or in a sequence."""
    values = (setting,) if isinstance(setting, int) else setting
    return values[axis] if len(values) > 1 else values[0]


def _windows(
    cells: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> int:
    """How many windows PyTorch lays along an axis."""
    free = cells + 2 * padding - dilation * (kernel - 1) - 1
    windows = (-(-free // stride) if ceil_mode else free // stride) + 1
    beyond = ceil_mode and (windows - 1) * stride >= cells + padding  # it would see padding alone
    return windows - 1 if beyond else windows


def _largest(maps: Tensor, axis: int, windows: int, stride: int, offsets: Sequence[int]) -> Tensor:
    """Along one axis, the largest in each window; ``offsets`` are its cells, from where it starts."""
    cells = maps.shape[axis]
    parts: list[tuple[int, int, Tensor]] = []
    for offset in offsets:
        first = max(0, -(offset // stride))  # the windows in which this cell lies inside the map
        end = min(windows, (cells - 1 - offset) // stride + 1)
        if first < end:
            inside = maps.narrow(axis, offset + first * stride, (end - first - 1) * stride + 1)
            parts.append((first, end, _every(inside, axis, stride)))
    parts.sort(key=lambda part: part[0] - part[1])  # those that lie inside in every window: first
    whole = [part for first, end, part in parts if end - first == windows]
    if len(whole) > 1:
        found, parts = torch.maximum(whole[0], whole[1]), parts[2:]
    else:
        found = maps.new_full([*maps.shape[:axis], windows, *maps.shape[axis:][1:]], -torch.inf)
    for first, end, part in parts:
        seen = found.narrow(axis, first, end - first)
        torch.maximum(seen, part, out=seen)
    return found


def _every(maps: Tensor, axis: int, stride: int) -> Tensor:
    return maps[..., ::stride, :] if axis == -2 else maps[..., ::stride]
