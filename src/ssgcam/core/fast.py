"""``fast=True``: a faster copy of a network.

In the copy batch norms are folded into the convolutions before them and the memory format is channels
last, which changes nothing but the order of rounding. On a CUDA device with bfloat16 both passes run in
bfloat16, which is approximate; on any other device in the network's own number format.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ssgcam.core.capture import Captured, Target, capture
from ssgcam.core.network import outside_inference_mode, placed
from ssgcam.core.target import output_tensor
from ssgcam.errors import SsgcamError

#: Largest difference that folding may make, as a share of a tensor's largest magnitude.
TOLERANCE = 1e-3


class Computation:
    """How a network is run: itself, or with ``fast=True`` a faster copy of it.

    The copy is made again whenever the network's own weights have changed. Changes are noticed by the
    version counters of parameters and buffers (an optimizer's step, loading a state, moving to another
    device); an edit through ``parameter.data`` is not noticed.

    Args:
        network: Without wrappers; it is not changed.
        fast: Run the copy.
    """

    def __init__(self, network: nn.Module, fast: bool) -> None:
        self.network = network
        self.fast = fast
        self._made_from: Any = None
        self._copy: nn.Module | None = None

    @property
    def dtype(self) -> torch.dtype | None:
        """``bfloat16`` of a copy on a CUDA device that has it; else ``None``, the network's own."""
        device = next((parameter.device for parameter in self.network.parameters()), None)
        on_cuda = self.fast and device is not None and device.type == "cuda"
        return torch.bfloat16 if on_cuda and torch.cuda.is_bf16_supported(False) else None

    @property
    def description(self) -> str:
        """In words."""
        if not self.fast:
            return "exact"
        return f"batch norms folded, channels last, {'bfloat16' if self.dtype else 'own dtype'}"

    def __call__(self, images: Tensor, targets: Sequence[str]) -> nn.Module:
        """The network, or its copy for these target layers.

        Args:
            images: ``[N, C, H, W]``; one of them is run when the copy is made.
            targets: Spellings of the layers that must keep their meaning.

        Returns:
            What to run; modules have the names they had.

        Raises:
            SsgcamError: If the network can't be copied.
        """
        if not self.fast:
            return self.network
        tensors = [*self.network.parameters(), *self.network.buffers()]
        now = (tuple(targets), [(id(t), t.data_ptr(), t._version) for t in tensors])
        if self._copy is None or self._made_from != now:
            self._copy = folded(self.network, images, targets).to(self.dtype)
            self._made_from = now
        return self._copy

    def ready(self, images: Tensor) -> Tensor:
        """Images in the number format and memory format of the copy; as they are without one."""
        if not self.fast:
            return images
        return images.to(dtype=self.dtype or images.dtype, memory_format=torch.channels_last)

    def capture(
        self, images: Tensor, targets: Sequence[str], *, double_backward: bool = False
    ) -> Captured:
        """As :func:`ssgcam.core.capture.capture`; the output of a copy in float32 or wider."""
        network, images = self(images, targets), self.ready(images)
        captured = capture(network, images, targets, double_backward=double_backward)
        if self.dtype is not None and isinstance(captured.output, Tensor):
            with torch.inference_mode(False), torch.enable_grad():
                return replace(captured, output=captured.output.float())
        return captured


def folded(network: nn.Module, images: Tensor, targets: Sequence[str]) -> nn.Module:
    """A copy in eval mode with frozen parameters, batch norms folded and channels last.

    A batch norm right after a convolution among the children of a module is folded into it, unless one
    of the two is a target. Where that changes what a probe image gives (a convolution whose output goes
    elsewhere, too), nothing is folded.

    Raises:
        SsgcamError: If the network can't be copied.
    """
    with torch.inference_mode(False), torch.no_grad():
        image = placed(outside_inference_mode(images[:1]), network)
        plain, twin = _frozen_copy(network), _frozen_copy(network)
        kept = {twin.get_submodule(Target.parse(spelling).module) for spelling in targets}
        for parent in list(twin.modules()):
            for (before, convolution), (name, norm) in pairwise(list(parent.named_children())):
                if (
                    type(convolution) is nn.Conv2d
                    and type(norm) is nn.BatchNorm2d
                    and norm.track_running_stats
                    and norm.num_features == convolution.out_channels
                    and not {convolution, norm} & kept
                ):
                    setattr(parent, before, fuse_conv_bn_eval(convolution, norm))
                    setattr(parent, name, nn.Identity())
        if not _same(plain, twin, image, list(targets)):
            twin = plain
        return twin.to(memory_format=torch.channels_last)


def _frozen_copy(network: nn.Module) -> nn.Module:
    try:
        twin = copy.deepcopy(network)
    except (RuntimeError, TypeError) as error:
        raise SsgcamError(
            f"fast=True works on a copy of the network, which can't be made ({error}); leave it out"
        ) from error
    for module in twin.modules():  # not eval(), which may run a user's own train method
        module.training = False
    return twin.requires_grad_(False)


def _same(plain: nn.Module, twin: nn.Module, image: Tensor, targets: list[str]) -> bool:
    """Whether both give the same target layers and output."""
    found, wanted = (capture(network, image, targets) for network in (twin, plain))
    pairs = [(found.activations[name], wanted.activations[name]) for name in targets]
    outputs = output_tensor(found.output), output_tensor(wanted.output)
    if isinstance(outputs[1], Tensor):
        pairs.append(outputs)
    return all((one - two).abs().amax() <= TOLERANCE * two.abs().amax() for one, two in pairs)
