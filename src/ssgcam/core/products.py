"""Linear layers and attention of a network of tokens, in the way that is fastest on a processor.

PyTorch multiplies matrices by MKL, which uses vectors of 512 bits on Intel's processors alone. oneDNN,
by which PyTorch runs convolutions, uses them on every make. The numbers are the same but for the order
of rounding, the memory as well.
"""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

#: Rows from which a linear layer gains; with fewer, laying out its weights takes longer.
ROWS = 64


@lru_cache(maxsize=1)
def mkl_is_slower() -> bool:
    """Whether this is AMD's processor, with vectors of 512 bits and oneDNN."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        maker = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        maker = platform.processor()
    return "AuthenticAMD" in maker


class FrozenLinear(torch.autograd.Function):
    """``x @ weight.T + bias`` by oneDNN, for frozen weights; differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Of ``[..., n]``, ``[m, n]`` and ``[m]``, float32 on a CPU."""
        ctx.save_for_backward(weight)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The product by the turned weights."""
        return FrozenLinear.apply(gradients[0], ctx.saved_tensors[0].T, None), None, None


class TokenProducts(TorchFunctionMode):
    """Linear layers of many tokens and attention to themselves, as fast as the processor can.

    PyTorch's attention turns its tokens, and multiplies turned tokens by frozen weights image by image;
    here they are multiplied as they lie. Calls of any other kind are left alone, and all inside
    ``torch.func`` and gradient checkpointing, which compares what is kept with a second pass.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace these two functions, pass on all others."""
        kwargs = kwargs or {}
        if func not in (F.linear, F.multi_head_attention_forward) or is_watched():
            return func(*args, **kwargs)
        if func is F.linear:
            return self.linear(*args, **kwargs)
        given = dict(zip(_NAMES, args, strict=False)) | kwargs
        if _attends_to_itself(given):
            return self._attention(given), None
        return func(*args, **kwargs)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """As ``torch.nn.functional.linear``."""
        many = input.numel() >= ROWS * weight.shape[-1] > 0
        if many and _in_reach(input, weight) and is_frozen(weight, bias) and mkl_is_slower():
            return FrozenLinear.apply(input, weight, bias)  # type: ignore[no-any-return]
        return F.linear(input, weight, bias)

    def _attention(self, given: dict[str, Any]) -> Tensor:
        tokens: Tensor = given["query"].transpose(0, 1)  # [N, L, E], as most networks made them
        images, length, width = tokens.shape
        joined = self.linear(tokens, given["in_proj_weight"], given["in_proj_bias"])
        heads = joined.view(images, length, 3, given["num_heads"], -1).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind()
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = mixed.transpose(1, 2).reshape(images, length, width)
        return self.linear(mixed, given["out_proj_weight"], given["out_proj_bias"]).transpose(0, 1)


def is_watched() -> bool:
    """Whether hooks on saved tensors, as of gradient checkpointing, or ``torch.func`` are at work."""
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)
    transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
    return hooks(True) is not None or transformed()


def _in_reach(input: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN takes these as they are."""
    return (
        input.device.type == weight.device.type == "cpu"
        and input.dtype == weight.dtype == torch.float32
        and type(input) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and weight.layout == torch.strided
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )


_NAMES = (
    "query", "key", "value", "width", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v",
    "add_zero_attn", "dropout", "out_proj_weight", "out_proj_bias",
)  # fmt: skip
_UNUSED = (
    "bias_k", "bias_v", "key_padding_mask", "attn_mask", "q_proj_weight", "k_proj_weight",
    "v_proj_weight", "static_k", "static_v",
)  # fmt: skip


def _attends_to_itself(given: dict[str, Any]) -> bool:
    """Whether it is plain self-attention whose weights nobody asked for."""
    special = any(given.get(name) is not None for name in _UNUSED)
    flags = ("training", "need_weights", "add_zero_attn", "use_separate_proj_weight", "is_causal")
    defaults = {"training": True, "need_weights": True}
    flagged = any(given.get(name, defaults.get(name, False)) for name in flags)
    alike = given["query"] is given["key"] is given["value"] and given["query"].ndim == 3
    return alike and not special and not flagged


def is_frozen(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether neither is differentiated."""
    return not (weight.requires_grad or (bias is not None and bias.requires_grad))
