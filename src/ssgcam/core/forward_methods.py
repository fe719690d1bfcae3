"""Methods of forward passes alone: Score-CAM masks the image, ReciproCAM the layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgcam.core.fusion import resize
from ssgcam.core.layouts import TensorLayout
from ssgcam.core.numerics import full_precision, wide
from ssgcam.errors import SsgcamError


def score_cam(
    activation: Tensor,
    images: Tensor,
    score: Callable[[Tensor, Tensor], Tensor],
    batch_size: int = 32,
) -> Tensor:
    """Score-CAM (Wang et al. 2020), batched over images and channels.

    Each channel, resized to the image and scaled to [0, 1] by its minimum and maximum, masks the
    normalized image; the softmax over channels of the class score (logit) of the masked images weights
    the channels: ``map = relu(sum_c softmax_c(z(image * mask_c)) A)``. The paper subtracts the logit
    of a blank image first, which the softmax cancels. Constant channels mask nothing out and are
    left out.

    Args:
        activation: ``[N, C, h, w]``.
        images: The network's input, ``[N, 3, H, W]``.
        score: From masked images ``[B, 3, H, W]`` and the indices ``[B]`` of the images they were made
            of to class scores ``[B]``, without a graph.
        batch_size: Masked images for each forward pass.

    Returns:
        ``[N, h, w]``, not negative.

    Raises:
        SsgcamError: If every channel of an image is constant.
    """
    activation = wide(activation)
    count, channels = activation.shape[:2]
    varies = activation.amax((2, 3)) > activation.amin((2, 3))
    if not varies.any(1).all():
        raise SsgcamError("score_cam found only constant channels in this layer; choose another")
    scores = activation.new_full((count, channels), -torch.inf)
    size = (int(images.shape[-2]), int(images.shape[-1]))
    for part in torch.split(varies.nonzero(), batch_size):
        image, channel = part.unbind(1)
        masks = resize(activation[image, channel], size)
        masks = masks - masks.amin((1, 2), keepdim=True)
        masks = masks / masks.amax((1, 2), keepdim=True)
        found = score(images[image] * masks[:, None].to(images.dtype), image)
        scores[image, channel] = found.to(scores.dtype)
    with full_precision(activation):
        return torch.einsum("nc,nchw->nhw", scores.softmax(1), activation).clamp_min(0)


def recipro_cam(
    tensor: Tensor,
    layout: TensorLayout,
    score: Callable[[Tensor, Tensor], Tensor],
    batch_size: int = 32,
) -> Tensor:
    """ReciproCAM (Byun and Lee 2024): the class's probability with one cell of the layer alone.

    For each cell the rest of the layer's tensor is set to zero, class and register tokens aside:
    ``map[i] = p(A mask_i) - min_j p(A mask_j)`` (single cells, as in the authors' program by default).

    Args:
        tensor: The layer's own tensor, of any layout, one entry for each of ``N`` images.
        layout: Of this tensor.
        score: From ``B`` tensors that replace an image's own and its index ``[1]`` to scores ``[B]``.
        batch_size: Tensors for each forward pass.

    Returns:
        ``[N, h, w]``, not negative.
    """
    cells = torch.arange(layout.height * layout.width, device=tensor.device)
    masks = F.one_hot(cells).to(tensor.dtype)
    maps = []
    for image in torch.split(torch.arange(len(tensor), device=tensor.device), 1):
        own, parts = tensor[image], torch.split(masks, batch_size)
        values = wide(torch.cat([score(own * layout.spread(part), image) for part in parts]))
        maps.append(values - values.min())
    return torch.stack(maps).view(-1, layout.height, layout.width)
