"""A backward pass whose products are taken in bfloat16, with the forward pass as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssgcam.core.capture import Target
from ssgcam.core.products import TokenProducts, is_frozen, is_watched


class RoundedBackward(TokenProducts):
    """Convolutions, linear layers and attention called inside have a backward pass in bfloat16.

    Only calls with frozen weights, on something that is differentiated; all others are as they were.
    The weights' bfloat16 copies are kept between passes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[int, tuple[Tensor, Tensor]] = {}

    @contextmanager
    def starting_at(self, network: nn.Module, targets: Sequence[str]) -> Iterator[None]:
        """In the block, active in a pass of the network from the first call of a target layer on.

        Before it nothing is differentiated.
        """
        active = ExitStack()
        begun = False

        def begin(module: nn.Module, inputs: Any) -> None:
            nonlocal begun
            if not begun:
                begun = True
                active.enter_context(self)

        def end(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal begun
            begun = False
            active.close()

        with ExitStack() as hooks:
            for name in {Target.parse(spelling).module for spelling in targets}:
                handle = network.get_submodule(name).register_forward_pre_hook(begin)
                hooks.callback(handle.remove)
            hooks.callback(network.register_forward_hook(end, always_call=True).remove)
            yield

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace convolutions as well."""
        if func is torch.conv2d and not is_watched():
            given = dict(zip(_NAMES, args, strict=False)) | (kwargs or {})
            x, weight, bias = given["input"], given["weight"], given.get("bias")
            depthwise = weight.shape[1] == 1  # so few products that rounding takes longer
            padded = isinstance(given.get("padding"), str)
            if _rounds(x, weight, bias) and not (depthwise or padded):
                how = [given.get(name, default) for name, default in _DEFAULTS.items()]
                return _Convolution.apply(x, weight, bias, self._rounded(weight), how)
        return super().__torch_function__(func, types, args, kwargs)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """As ``torch.nn.functional.linear``, with that backward pass."""
        if _rounds(input, weight, bias):
            return _Linear.apply(input, weight, bias, self._rounded(weight))  # type: ignore[no-any-return]
        return F.linear(input, weight, bias)

    def _rounded(self, weight: Tensor) -> Tensor:
        known = self._weights.get(id(weight))
        if known is None:
            known = self._weights[id(weight)] = (weight, weight.detach().bfloat16())
        return known[1]


def _rounds(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return x.requires_grad and x.dtype == torch.float32 and is_frozen(weight, bias)


_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_NAMES = ("input", "weight", "bias", *_DEFAULTS)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Any, rounded: Tensor, how: Any
    ) -> Tensor:
        ctx.rounded, ctx.shape, ctx.how = rounded, x.shape, how
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient = gradients[0].bfloat16()
        stride, padding, dilation = ([n, n] if isinstance(n, int) else list(n) for n in ctx.how[:3])
        shape = gradient.new_empty(1).expand(ctx.shape)  # its numbers are not read
        found = torch.ops.aten.convolution_backward(
            gradient, shape, ctx.rounded, None, stride, padding, dilation,
            False, [0, 0], ctx.how[3], [True, False, False],
        )[0]  # fmt: skip
        return found.float(), None, None, None, None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Any, rounded: Tensor) -> Tensor:
        ctx.rounded = rounded
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (gradients[0].bfloat16() @ ctx.rounded).float(), None, None, None
