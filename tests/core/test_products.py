"""Linear layers and attention as this project multiplies them, against PyTorch's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ssgcam import CAM
from ssgcam.core import products
from ssgcam.core.capture import capture
from ssgcam.core.network import explaining, forward_pass
from ssgcam.core.products import FrozenLinear, TokenProducts
from ssgcam.evaluation.answers import Answers
from ssgcam.models import LoadedModel

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="PyTorch without oneDNN")
KINDS = [pytest.param(True, marks=needs_onednn), False]


@pytest.fixture
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Counter[str]]:
    """Choose the library, whatever the processor, and count what was asked of it."""
    calls: Counter[str] = Counter()
    own = FrozenLinear.apply

    def counting(*inputs: Any) -> Any:
        calls["linear"] += 1
        return own(*inputs)

    def choose(yes: bool) -> Counter[str]:
        monkeypatch.setattr(products, "mkl_is_slower", lambda: yes)
        monkeypatch.setattr(FrozenLinear, "apply", counting)
        return calls

    return choose


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(70, 6), (2, 40, 6), (2, 5, 8, 6)])
def test_linear_and_its_derivatives(
    by_onednn: Callable[[bool], Counter[str]], shape: tuple[int, ...], bias: bool
) -> None:
    torch.manual_seed(0)
    x, weight, shift = torch.randn(*shape), torch.randn(9, 6), torch.randn(9) if bias else None

    def derivatives(dtype: torch.dtype, mode: bool) -> list[Tensor]:
        turned = x.to(dtype).transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
        given = (weight.to(dtype), None if shift is None else shift.to(dtype))
        if mode:
            with TokenProducts():
                value = F.linear(turned, *given)
        else:
            value = F.linear(turned, *given)
        out = value.sin()
        (first,) = torch.autograd.grad(out.sum(), turned, create_graph=True)
        (second,) = torch.autograd.grad((first**2).sum(), turned)
        return [value.detach(), first.detach(), second]

    calls = by_onednn(True)
    found = derivatives(torch.float32, mode=True)
    assert calls["linear"] >= 2
    for one, two in zip(found, derivatives(torch.float64, mode=False), strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_linear_keeps_nothing_of_its_input(by_onednn: Callable[[bool], Counter[str]]) -> None:
    by_onednn(True)
    x, weight = torch.randn(80, 6, requires_grad=True), torch.randn(9, 6)
    with TokenProducts():
        found = F.linear(x, weight)
    assert found.grad_fn is not None
    assert [kept.shape for kept in found.grad_fn.saved_tensors] == [weight.shape]  # type: ignore[attr-defined]


@needs_onednn
def test_an_in_place_function_may_follow(by_onednn: Callable[[bool], Counter[str]]) -> None:
    by_onednn(True)
    x, weight = torch.randn(80, 6, requires_grad=True), torch.randn(9, 6)
    with TokenProducts():
        found = F.hardswish(F.linear(x, weight), inplace=True)
    expected = F.hardswish(F.linear(x, weight))
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(value.sum(), x)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_who_is_left_to_pytorch(by_onednn: Callable[[bool], Counter[str]]) -> None:
    calls = by_onednn(True)
    many, few, weight = torch.randn(80, 6), torch.randn(3, 6), torch.randn(9, 6)
    with TokenProducts():
        assert torch.equal(F.linear(few, weight), few @ weight.T)
        F.linear(many.double(), weight.double())
        F.linear(many.bfloat16(), weight.bfloat16())
        F.linear(many[:0], weight)
        trained = weight.clone().requires_grad_()
        F.linear(many, trained).sum().backward()
        with torch.autocast("cpu", torch.bfloat16):
            assert F.linear(many, weight).dtype == torch.bfloat16
        with pytest.MonkeyPatch.context() as without:
            without.setattr(torch.backends.mkldnn, "enabled", False)
            F.linear(many, weight)
        with pytest.raises(RuntimeError, match="dtype"):
            F.linear(many, weight.bfloat16())
    assert trained.grad is not None
    assert not calls
    by_onednn(False)
    with TokenProducts():
        F.linear(many, weight)
    assert not calls


@needs_onednn
@pytest.mark.parametrize(
    ("vectors", "maker", "slower"),
    [
        ("AVX512", "AuthenticAMD", True),
        ("AVX512", "GenuineIntel", False),
        ("AVX2", "AuthenticAMD", False),
    ],
)
@pytest.mark.parametrize("has_file", [True, False])
def test_which_processors(
    monkeypatch: pytest.MonkeyPatch, vectors: str, maker: str, slower: bool, has_file: bool
) -> None:
    def read(*_: Any, **__: Any) -> str:
        if not has_file:
            raise FileNotFoundError
        return f"vendor_id : {maker}"

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    monkeypatch.setattr(products.Path, "read_text", read)
    monkeypatch.setattr(products.platform, "processor", lambda: f"AMD64 Family 25, {maker}")
    assert products.mkl_is_slower.__wrapped__() == slower


class Attending(nn.Module):
    """Two blocks of attention over tokens, then a linear layer."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attentions = nn.ModuleList(
            nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.flatten(2).transpose(1, 2)
        for norm, attention in zip(self.norms, self.attentions, strict=True):
            normed = norm(tokens)
            tokens = tokens + attention(normed, normed, normed, need_weights=False)[0]
        return self.head(tokens).tanh().mean(1)


@pytest.mark.parametrize("fast", KINDS)
@pytest.mark.parametrize(("width", "heads"), [(8, 2), (12, 4)])
def test_attention_to_itself(
    by_onednn: Callable[[bool], Counter[str]], width: int, heads: int, fast: bool
) -> None:
    torch.manual_seed(0)
    network, images = Attending(width, heads).eval(), torch.rand(4, width, 5, 5)
    kept: list[Tensor] = []
    handles = [
        norm.register_forward_hook(lambda module, inputs, output: kept.append(output))
        for norm in network.norms
    ]
    expected = network(images)
    gradients = torch.autograd.grad(expected[:, 2].sum(), kept)
    for handle in handles:
        handle.remove()
    calls = by_onednn(fast)
    captured = capture(network, images, ["norms.0", "norms.1"])
    assert bool(calls["linear"]) == fast
    torch.testing.assert_close(captured.output, expected)
    found = captured.gradients(captured.output[:, 2].sum())
    for name, gradient in zip(("norms.0", "norms.1"), gradients, strict=True):
        torch.testing.assert_close(found[name], gradient)


@pytest.mark.parametrize("fast", KINDS)
@pytest.mark.parametrize("method", ["ssg_cam", "shapley_cam"])
def test_maps_are_those_of_the_plain_network_in_float64(
    by_onednn: Callable[[bool], Counter[str]], method: str, fast: bool
) -> None:
    torch.manual_seed(1)
    network, images = Attending().eval(), torch.rand(4, 8, 5, 5)
    calls = by_onednn(fast)
    found = CAM(network, ["norms.0", "norms.1"], method)(images, 1)
    assert bool(calls["linear"]) == fast
    network.double()
    expected = CAM(network, ["norms.0", "norms.1"], method)(images.double(), 1)
    torch.testing.assert_close(found.maps.double(), expected.maps, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fast", KINDS)
def test_perturbed_images_are_asked_about_in_the_same_way(
    by_onednn: Callable[[bool], Counter[str]], fast: bool
) -> None:
    torch.manual_seed(0)
    network, images = Attending().eval(), torch.rand(4, 8, 5, 5)
    expected = network(images).softmax(1)
    calls = by_onednn(fast)
    with explaining(network):
        found = Answers(LoadedModel(network, "attending"))(images)
    assert bool(calls["linear"]) == fast
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("fast", KINDS)
def test_other_attention_is_as_it_was(
    by_onednn: Callable[[bool], Counter[str]], fast: bool
) -> None:
    by_onednn(fast)
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    others = torch.rand(3, 7, 8)
    x = torch.rand(3, 5, 8, requires_grad=True)
    mask = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    padded = torch.tensor([[False, False, False, True, True]]).expand(3, 5)
    ways: list[tuple[tuple[Tensor, ...], dict[str, Any]]] = [
        ((x, others, others), {}),
        ((x, x, x), {}),  # the attention weights are asked for
        ((x, x, x), {"need_weights": False, "attn_mask": mask}),
        ((x, x, x), {"need_weights": False, "attn_mask": mask, "is_causal": True}),
        ((x, x, x), {"need_weights": False, "key_padding_mask": padded}),
        ((x[0], x[0], x[0]), {"need_weights": False}),
    ]
    for inputs, how in ways:
        expected = attention(*inputs, **how)
        with TokenProducts():
            found = attention(*inputs, **how)
        for one, two in zip(found, expected, strict=True):
            assert (one is None) == (two is None)
            if one is not None:
                torch.testing.assert_close(one, two)


@pytest.mark.parametrize("fast", KINDS)
@pytest.mark.parametrize("extra", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 6}])
def test_special_attention_is_as_it_was(
    by_onednn: Callable[[bool], Counter[str]], extra: dict[str, Any], fast: bool
) -> None:
    by_onednn(fast)
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True, **extra).eval()
    x = torch.rand(3, 5, 8)
    keys = torch.rand(3, 5, extra.get("kdim", 8)) if "kdim" in extra else x
    values = x if "kdim" not in extra else torch.rand(3, 5, 8)
    expected = attention(x, keys, values, need_weights=False)[0]
    with TokenProducts():
        torch.testing.assert_close(attention(x, keys, values, need_weights=False)[0], expected)


def test_dropout_of_a_network_in_training_is_left_alone() -> None:
    attention, x = nn.MultiheadAttention(8, 2, dropout=0.5), torch.rand(5, 3, 8)
    torch.manual_seed(3)
    expected = attention(x, x, x, need_weights=False)[0]
    torch.manual_seed(3)
    with TokenProducts():
        found = attention(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("fast", KINDS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_transformer_layer(
    by_onednn: Callable[[bool], Counter[str]], batch_first: bool, fast: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first).eval()
    images = torch.rand(9, 16, 8)
    with torch.no_grad():
        expected = layer(images)
    calls = by_onednn(fast)
    with explaining(layer), torch.no_grad():
        torch.testing.assert_close(forward_pass(layer, images), expected)
    assert calls["linear"] == 4 * fast


class Checkpointed(Attending):
    """Its head runs again in the backward pass, which compares what is kept with the first time."""

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.flatten(2).transpose(1, 2)
        tokens = self.norms[0](tokens)
        tokens = tokens + checkpoint(self.block, tokens, use_reentrant=False)
        return self.head(tokens).tanh().mean(1)

    def block(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.attentions[0](tokens, tokens, tokens, need_weights=False)[0]
        return mixed.tanh()


@pytest.mark.parametrize("fast", KINDS)
def test_a_checkpointed_part_after_the_target(
    by_onednn: Callable[[bool], Counter[str]], fast: bool
) -> None:
    by_onednn(fast)
    torch.manual_seed(2)
    network, images = Checkpointed().eval(), torch.rand(4, 8, 5, 5)
    found = CAM(network, ["norms.0"])(images, 1)
    network.double()
    expected = CAM(network, ["norms.0"])(images.double(), 1)
    torch.testing.assert_close(found.maps.double(), expected.maps, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_what_cannot_be_replaced_stays(
    by_onednn: Callable[[bool], Counter[str]], precision: Any
) -> None:
    class Mapped(Checkpointed):
        """An image at a time, by ``torch.func.vmap``, and a convolution in a checkpointed part."""

        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(8, 8, 3)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.norms[0](images.flatten(2).transpose(1, 2))
            images = tokens.transpose(1, 2).unflatten(2, (12, 12))
            images = checkpoint(self.convolution, images, use_reentrant=False)
            head = torch.func.vmap(self.head)(images.flatten(2).transpose(1, 2))
            logits: Tensor = head.tanh().mean(1)
            return logits

    by_onednn(HAS_ONEDNN)
    torch.manual_seed(2)
    network, images = Mapped().eval(), torch.rand(4, 8, 12, 12)
    found = CAM(network, ["norms.0"], "layer_cam", precision=precision)(images, 1)
    network.double()
    expected = CAM(network, ["norms.0"], "layer_cam")(images.double(), 1)
    torch.testing.assert_close(found.maps.double(), expected.maps, rtol=1e-3, atol=1e-3)


def test_the_mode_is_left_when_the_network_fails() -> None:
    class Failing(Attending):
        def forward(self, images: Tensor) -> Tensor:
            super().forward(images)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        capture(Failing(), torch.rand(2, 8, 4, 4), ["norms.0"])
    assert torch._C._len_torch_function_stack() == 0
