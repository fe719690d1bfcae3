"""How a layer's tensor is read as maps.

Three shapes of activation become ``[N, C, h, w]``: channels first ``[N, C, h, w]``, channels last
``[N, h, w, C]`` (Swin) and tokens ``[N, T, C]`` (ViT, whose class and register tokens come first and
are left out).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssgcam.errors import SsgcamError

Shape = Literal["channels_first", "channels_last", "tokens"]
MAX_PREFIX_TOKENS = 16


@dataclass(frozen=True)
class TensorLayout:
    """How a layer's tensor is read as maps.

    Attributes:
        shape: Which axes are which.
        height: Rows of the map.
        width: Columns of the map.
        prefix: Class and register tokens before the patch tokens.
    """

    shape: Shape
    height: int
    width: int
    prefix: int = 0

    @property
    def resolution(self) -> tuple[int, int]:
        """Rows and columns of the map."""
        return self.height, self.width

    def maps(self, tensor: Tensor) -> Tensor:
        """The tensor as ``[N, C, h, w]`` (a view where possible)."""
        if self.shape == "channels_first":
            return tensor
        if self.shape == "channels_last":
            return tensor.permute(0, 3, 1, 2)
        patches = tensor[:, self.prefix :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], self.height, self.width)

    def spread(self, masks: Tensor) -> Tensor:
        """Masks ``[N, h * w]`` shaped to multiply the tensor; class and register tokens get 1."""
        if self.shape == "tokens":
            prefix = masks.new_ones(len(masks), self.prefix)
            return torch.cat([prefix, masks], 1)[:, :, None]
        cells = masks.view(-1, self.height, self.width)
        return cells[:, None] if self.shape == "channels_first" else cells[..., None]


def layout_of(tensor: Tensor, image_size: tuple[int, int], name: str) -> TensorLayout:
    """As :func:`spatial_layout`, of the layer with this name, or one sentence on what to use instead.

    Raises:
        SsgcamError: If it has no spatial extent or is a volume.
    """
    if tensor.ndim == 5:
        raise SsgcamError(
            f"layer '{name}' gives a volume {list(tensor.shape)}; ssgcam explains 2-D images: "
            "apply it slice by slice to a 2-D network"
        )
    layout = spatial_layout(tensor, image_size)
    if layout is None:
        raise SsgcamError(
            f"layer '{name}' gives {list(tensor.shape)} for an image of {image_size[0]}x"
            f"{image_size[1]}, which has no spatial extent; choose an earlier layer, or its input "
            f"'{name}:in' if that is a map"
        )
    return layout


def spatial_layout(tensor: Tensor, image_size: tuple[int, int]) -> TensorLayout | None:
    """Read an activation's shape, given the height and width of the network's input.

    A 4-D tensor is channels first if its last two axes keep the image's proportions (or no two do),
    channels last if only its middle two do.

    Returns:
        None if it has no spatial extent.
    """
    layout: TensorLayout | None = None
    if tensor.ndim == 4:
        first, last = tuple(tensor.shape[2:]), tuple(tensor.shape[1:3])
        if proportional(first, image_size) or not proportional(last, image_size):
            layout = TensorLayout("channels_first", *first)
        else:
            layout = TensorLayout("channels_last", *last)
    elif tensor.ndim == 3:
        layout = _tokens(tensor.shape[1], image_size)
    return None if layout is None or layout.resolution == (1, 1) else layout


def proportional(cells: tuple[int, ...], image_size: tuple[int, int]) -> bool:
    """Whether h/H and w/W agree to within one cell of rounding."""
    rows, columns = cells[0] / image_size[0], cells[1] / image_size[1]
    return abs(rows - columns) <= 1 / image_size[0] + 1 / image_size[1]


def _tokens(count: int, image_size: tuple[int, int]) -> TensorLayout | None:
    """The fewest prefix tokens that leave a grid of patches.

    First a grid of patches that divide the image, then one that leaves a rest or is padded, then
    any of the image's proportions (patches that overlap).
    """
    height, width = image_size
    divided: dict[int, tuple[int, int]] = {}  # number of patches -> rows and columns
    rounded: dict[int, tuple[int, int]] = {}
    for side in range(min(height, width), 0, -1):
        for rows, columns in (
            (-(-height // side), -(-width // side)),
            (height // side, width // side),
        ):
            rounded[rows * columns] = rows, columns
            if (rows * side, columns * side) == image_size:
                divided[rows * columns] = rows, columns

    def overlapping(patches: int) -> tuple[int, int] | None:
        rows = round((patches * height / width) ** 0.5)
        fits = rows and patches % rows == 0 and proportional((rows, patches // rows), image_size)
        return (rows, patches // rows) if fits else None

    for grid_of in (divided.get, rounded.get, overlapping):
        for prefix in range(min(MAX_PREFIX_TOKENS, count - 1) + 1):
            grid = grid_of(count - prefix)
            if grid is not None:
                return TensorLayout("tokens", *grid, prefix)
    return None
