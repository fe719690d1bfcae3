"""``fast=True``: a faster copy of a network.

In the copy batch norms are folded into the convolutions before them and the memory format is channels
last, which changes nothing but the order of rounding. On a CUDA device with bfloat16 both passes run in
bfloat16, which is approximate; on any other device in the network's own number format.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ssgcam.core.capture import Captured, Target, capture
from ssgcam.core.network import explaining, outside_inference_mode
from ssgcam.core.target import output_tensor
from ssgcam.errors import SsgcamError

#: Largest difference that folding may make, as a share of a tensor's largest magnitude.
TOLERANCE = 1e-3


class FastCopy:
    """A network's faster copy, made again whenever the network's own weights have changed.

    Changes are noticed by the version counters of parameters and buffers (an optimizer's step, loading a
    state, moving to another device); an edit through ``parameter.data`` is not noticed.

    Args:
        network: Without wrappers; it is not changed.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._made_from: Any = None
        self._copy: nn.Module | None = None

    def __reduce__(self) -> Any:
        """Another process makes its own copy."""
        return FastCopy, (self.network,)

    @property
    def dtype(self) -> torch.dtype | None:
        """``bfloat16`` on a CUDA device that has it; ``None``, the network's own, on any other."""
        device = next((parameter.device for parameter in self.network.parameters()), None)
        on_cuda = device is not None and device.type == "cuda"
        return torch.bfloat16 if on_cuda and torch.cuda.is_bf16_supported(False) else None

    @property
    def description(self) -> str:
        """What the copy is, in words."""
        return f"batch norms folded, channels last, {'bfloat16' if self.dtype else 'own dtype'}"

    def __call__(self, images: Tensor, targets: Sequence[str]) -> nn.Module:
        """The copy for these target layers.

        Args:
            images: ``[N, C, H, W]``; one of them is run when the copy is made.
            targets: Spellings of the layers that must keep their meaning.

        Returns:
            The copy; modules have the names they had.

        Raises:
            SsgcamError: If the network can't be copied.
        """
        tensors = [*self.network.parameters(), *self.network.buffers()]
        now = (tuple(targets), [(id(t), t.data_ptr(), t._version) for t in tensors])
        if self._copy is None or self._made_from != now:
            self._copy = folded(self.network, images, targets).to(self.dtype)
            self._made_from = now
        return self._copy

    def capture(
        self, images: Tensor, targets: Sequence[str], *, double_backward: bool = False
    ) -> Captured:
        """As :func:`ssgcam.core.capture.capture`, of the copy; the output in float32 or wider."""
        twin = self(images, targets)
        images = images.to(dtype=self.dtype or images.dtype, memory_format=torch.channels_last)
        captured = capture(twin, images, targets, double_backward=double_backward)
        if self.dtype is not None and isinstance(captured.output, Tensor):
            with torch.inference_mode(False), torch.enable_grad():
                return replace(captured, output=captured.output.float())
        return captured


def folded(network: nn.Module, images: Tensor, targets: Sequence[str]) -> nn.Module:
    """A copy in eval mode with frozen parameters, batch norms folded and channels last.

    A batch norm goes into a convolution that feeds it and nothing else, and is no target. Where that
    changes what a probe image gives (an output used in a way that hooks don't see), nothing is folded.

    Raises:
        SsgcamError: If the network can't be copied.
    """
    with torch.inference_mode(False), torch.no_grad():
        image = outside_inference_mode(images[:1])
        plain, twin = _frozen_copy(network), _frozen_copy(network)
        for convolution, norm in _pairs(twin, image).items():
            if not {convolution, norm} & {Target.parse(spelling).module for spelling in targets}:
                _fold(twin, convolution, norm)
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
    for module in twin.modules():
        module.training = False
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


def _same(plain: nn.Module, twin: nn.Module, image: Tensor, targets: list[str]) -> bool:
    def outcome(network: nn.Module) -> list[Tensor]:
        captured = capture(network, image, targets)
        output = output_tensor(captured.output)
        return [*captured.activations.values(), *([output] if isinstance(output, Tensor) else [])]

    return all(
        bool((one - two).abs().amax() <= TOLERANCE * one.abs().amax())
        for one, two in zip(outcome(plain), outcome(twin), strict=True)
    )


def _pairs(network: nn.Module, image: Tensor) -> dict[str, str]:
    """Convolution -> the batch norm that alone takes its output, both called once."""
    makers: dict[int, str] = {}  # a tensor's id -> the convolution that made it
    takers: dict[str, list[str]] = {}
    calls: dict[str, int] = {}
    alive: list[Any] = []  # or the id of a freed tensor would come again
    modules = dict(network.named_modules())

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            alive.append((inputs, output))
            calls[name] = calls.get(name, 0) + 1
            if not module._modules:
                for value in inputs:
                    if id(value) in makers:
                        takers.setdefault(makers[id(value)], []).append(name)
            if isinstance(module, nn.Conv2d):
                makers[id(output)] = name

        return hook

    handles = [m.register_forward_hook(watch(name)) for name, m in modules.items()]
    try:
        with explaining(network):
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return {
        convolution: norms[0]
        for convolution, norms in takers.items()
        if len(norms) == 1
        and isinstance(modules[norms[0]], nn.BatchNorm2d)
        and calls[convolution] == calls[norms[0]] == 1
    }


def _fold(network: nn.Module, convolution: str, norm: str) -> None:
    conv, bn = network.get_submodule(convolution), network.get_submodule(norm)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    if bn.running_mean is None or bn.running_var is None:
        return
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    conv.weight, conv.bias = weight.requires_grad_(False), bias.requires_grad_(False)
    network.set_submodule(norm, nn.Identity())
