"""Score-CAM: how much of the class each channel alone lets through, from forward passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssgcam.core.fusion import resize
from ssgcam.core.smoothing import full_precision
from ssgcam.errors import SsgcamError


def score_cam(
    activation: Tensor,
    images: Tensor,
    classes: Tensor,
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
        classes: ``[N]``.
        score: Images ``[B, 3, H, W]`` and classes ``[B]`` to scores ``[B]``, without a graph.
        batch_size: Masked images for each forward pass.

    Returns:
        ``[N, h, w]``, not negative.

    Raises:
        SsgcamError: If every channel of an image is constant.
    """
    activation = activation.detach().to(torch.promote_types(activation.dtype, torch.float32))
    count, channels = activation.shape[:2]
    low, high = activation.amin((2, 3)), activation.amax((2, 3))
    varies = (high > low).flatten().nonzero()[:, 0]
    if len(varies) < count * channels and not (high > low).any(1).all():
        raise SsgcamError("score_cam found only constant channels in this layer; choose another")
    masked_scores = activation.new_full((count * channels,), -torch.inf)
    size = (int(images.shape[-2]), int(images.shape[-1]))
    flat = activation.flatten(0, 1)
    for start in range(0, len(varies), batch_size):
        part = varies[start : start + batch_size]
        owner = part // channels
        masks = resize(flat[part], size)
        masks = masks - masks.amin((1, 2), keepdim=True)
        masks = masks / masks.amax((1, 2), keepdim=True)
        scores = score(images[owner] * masks[:, None].to(images.dtype), classes[owner])
        masked_scores[part] = scores.to(masked_scores.dtype)
    weights = masked_scores.view(count, channels).softmax(1)
    with full_precision(activation):
        return torch.einsum("nc,nchw->nhw", weights, activation).clamp_min(0)
