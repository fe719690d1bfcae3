"""What a map, a mask and a box become before they are scored: everything at 224x224.

Definitions: Choe et al. 2020, "Evaluating Weakly Supervised Object Localization Methods Right"
(CVPR), and its reference code. Boxes are ``(x0, y0, x1, y1)`` in pixels, INCLUSIVE on all sides.
"""

from __future__ import annotations

import cv2
import torch
from torch import Tensor

from ssgcam.errors import SsgcamError
from ssgcam.metrics.checks import check_maps

SIZE = 224


def prepare_maps(maps: Tensor, size: int = SIZE) -> Tensor:
    """Bring maps to ``size`` x ``size`` and to [0, 1].

    Bicubic (OpenCV's ``INTER_CUBIC``, as in the reference code: half-pixel centers, a = -0.75, no
    antialiasing), then ``(m - min) / (max - min)`` for each map. A map that is constant or holds a
    value that isn't finite becomes zeros. Preparing twice changes nothing.

    Args:
        maps: ``[N, H, W]``, any range and size. float64 stays float64, all else is float32.
        size: Side of the result.

    Returns:
        ``[N, size, size]`` in [0, 1] on the maps' device.

    Raises:
        SsgcamError: If ``maps`` isn't a non-empty ``[N, H, W]``.
    """
    check_maps(maps)
    values = maps.detach()
    if values.dtype != torch.float64:
        values = values.float()
    flat = values.flatten(1)
    usable = flat.isfinite().all(1) & (flat.amin(1) < flat.amax(1))
    if values.shape[1:] != (size, size):
        arrays = values.cpu().numpy()
        resized = [cv2.resize(a, (size, size), interpolation=cv2.INTER_CUBIC) for a in arrays]
        values = torch.stack([torch.from_numpy(a) for a in resized]).to(maps.device)
    shifted = values - values.amin((1, 2), keepdim=True)
    span = shifted.amax((1, 2), keepdim=True)
    usable &= (span.isfinite() & (span > 0)).flatten()
    return torch.where(usable[:, None, None], shifted / span, 0.0)


def quantize(prepared: Tensor) -> Tensor:
    """``uint8(map * 255)``, truncated.

    Args:
        prepared: Maps in [0, 1].

    Returns:
        The same shape in ``uint8``.
    """
    return (prepared * 255).to(torch.uint8)


def scale_boxes(boxes: Tensor, height: int, width: int, size: int = SIZE) -> Tensor:
    """Ground-truth corners of an image squashed to ``size`` x ``size``: ``int(x * size / width)``.

    Args:
        boxes: ``[K, 4]`` inclusive corners in the original image's pixels.
        height: The original image's height.
        width: The original image's width.
        size: Side of the squashed image.

    Returns:
        ``[K, 4]`` int64.

    Raises:
        SsgcamError: If there is no box, a side is not positive or a corner is out of order.
    """
    _check_boxes(boxes)
    if height <= 0 or width <= 0:
        raise SsgcamError(
            f"an image of {height} x {width} pixels has no area; pass (height, width)"
        )
    sides = torch.tensor([width, height, width, height], dtype=torch.float64)
    return (boxes.detach().cpu().double() * size / sides).long()


def fill_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """The mask of all pixels inside any of the boxes.

    Args:
        boxes: ``[K, 4]`` inclusive corners; what lies past the image's edge is left out.
        height: The mask's height.
        width: The mask's width.

    Returns:
        ``[height, width]`` bool on the boxes' device.

    Raises:
        SsgcamError: If there is no box or a corner is out of order.
    """
    _check_boxes(boxes)
    x0, y0, x1, y1 = (corner[:, None] for corner in boxes.long().unbind(1))
    x = torch.arange(width, device=boxes.device)
    y = torch.arange(height, device=boxes.device)
    inside_x, inside_y = (x >= x0) & (x <= x1), (y >= y0) & (y <= y1)
    return (inside_y[:, :, None] & inside_x[:, None, :]).any(0)


def resize_mask(mask: Tensor, size: int = SIZE) -> Tensor:
    """Nearest neighbor to ``size`` x ``size``: pixel i takes ``floor(i * side / size)``, exactly.

    In integers, because the libraries' floating-point versions disagree on a row here and there.

    Args:
        mask: ``[H, W]``, any type.
        size: Side of the result.

    Returns:
        ``[size, size]`` of the same type.

    Raises:
        SsgcamError: If ``mask`` isn't a non-empty ``[H, W]``.
    """
    if mask.ndim != 2 or mask.numel() == 0:
        raise SsgcamError(f"a mask has shape {list(mask.shape)}; pass a non-empty [H, W]")
    steps = torch.arange(size, device=mask.device)
    height, width = mask.shape
    return mask[steps * height // size][:, steps * width // size]


def _check_boxes(boxes: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) == 0:
        raise SsgcamError(
            f"ground-truth boxes have shape {list(boxes.shape)}; pass [K, 4] with at least one box"
        )
    if not bool((boxes[:, :2] <= boxes[:, 2:]).all()):
        raise SsgcamError(
            f"a box in {boxes.tolist()} ends before it starts; pass (x0, y0, x1, y1), inclusive"
        )
