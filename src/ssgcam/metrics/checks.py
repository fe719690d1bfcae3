"""Checks of shapes and settings that the metrics share, and float64 on every device."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ssgcam.errors import SsgcamError


def double(values: Tensor) -> Tensor:
    """``values`` in float64, on the CPU where the device has no float64 (MPS)."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def check(condition: object, message: str) -> None:
    """Raise an :class:`SsgcamError` with this message unless the condition holds."""
    if not condition:
        raise SsgcamError(message)


def check_maps(maps: Tensor) -> None:
    """Refuse anything but a non-empty ``[N, H, W]``."""
    shape = list(maps.shape)
    check(maps.ndim == 3 and maps.numel(), f"maps has shape {shape}; pass a non-empty [N, H, W]")


def check_images(images: Tensor, maps: Tensor) -> None:
    """Refuse anything but ``[N, C, H, W]`` images with one map each."""
    check_maps(maps)
    check(
        images.ndim == 4 and images.is_floating_point(),
        f"images have shape {list(images.shape)} and type {images.dtype}; "
        "pass floating-point [N, C, H, W]",
    )
    check_count(len(maps), "maps", images, "images")


def check_count(n: int, of: str, items: Sequence[object] | Tensor, name: str) -> None:
    """Refuse ``items`` unless there are ``n`` of them, one for each of ``of``."""
    check(len(items) == n, f"{n} {of} but {len(items)} {name}; pass one of each per image")
