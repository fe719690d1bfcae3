"""Max pooling as this project does it below the target layers, against PyTorch's own, to the last bit."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssgcam import CAM
from ssgcam.core import network as lending
from ssgcam.core import pooling
from ssgcam.core.capture import capture
from ssgcam.core.network import explaining, forward_pass
from ssgcam.core.pooling import max_pool, pools_of


class Pooled(nn.Module):
    """Pools before and after the layer that is explained."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.act = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.act(self.stem(images))).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the pools that are not left to PyTorch."""
    calls: Counter[str] = Counter()

    def counting(maps: Tensor, pool: nn.MaxPool2d) -> Tensor | None:
        found = max_pool(maps, pool)
        calls["quick"] += found is not None
        return found

    monkeypatch.setattr(pooling, "max_pool", counting)
    return calls


def some_pool(choice: random.Random) -> nn.MaxPool2d:
    kernel, stride, dilation = (
        (choice.randint(1, 4), choice.randint(1, 4)) if two else choice.randint(1, 4)
        for two in choice.choices([True, False], k=3)
    )
    least = kernel if isinstance(kernel, int) else min(kernel)
    padding = choice.randint(0, least // 2)
    return nn.MaxPool2d(
        kernel, choice.choice([stride, None]), padding, dilation, ceil_mode=choice.random() < 0.5
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_pool_of_any_map(dtype: torch.dtype) -> None:
    choice, seen = random.Random(0), Counter[bool]()
    torch.manual_seed(0)
    for _ in range(1500):
        pool = some_pool(choice)
        shape = (*choice.choice([(2, 3), (3,)]), choice.randint(1, 14), choice.randint(1, 14))
        maps = torch.randn(shape, dtype=dtype).relu_()
        for value in (torch.nan, -torch.inf, torch.inf):
            if choice.random() < 0.2:
                maps[..., choice.randrange(shape[-2]), choice.randrange(shape[-1])] = value
        before = maps.clone()
        try:
            expected = pool(maps)
        except RuntimeError:  # windows larger than the map
            expected = None
        found = max_pool(maps, pool)
        seen[expected is None] += 1
        torch.testing.assert_close(maps, before, rtol=0, atol=0, equal_nan=True)
        if expected is None:
            assert found is None
        else:
            assert found is not None
            assert found.is_contiguous()
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert min(seen.values()) > 50


def test_settings_that_stand_for_both_axes() -> None:
    maps = torch.rand(2, 3, 9, 8)
    pool = nn.MaxPool2d((3,), [2], (1,))  # type: ignore[arg-type]
    assert torch.equal(max_pool(maps, pool), pool(maps))  # type: ignore[arg-type]
    pool.stride = None  # type: ignore[assignment]
    assert torch.equal(max_pool(maps, pool), pool(maps))  # type: ignore[arg-type]


def test_padding_that_pytorch_refuses_is_left_to_it() -> None:
    assert max_pool(torch.rand(1, 1, 8, 8), nn.MaxPool2d(2, padding=2)) is None


def test_pools_below_the_target_are_quick_and_maps_the_same(
    quick: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)
    network = Pooled()
    found = CAM(network, ["act"])(images)
    assert quick["quick"] == 1  # the other is differentiated
    monkeypatch.setattr(lending, "pools_of", lambda _: [])
    twin = Pooled()
    twin.load_state_dict(network.state_dict())
    expected = CAM(twin, ["act"])(images)
    assert quick["quick"] == 1
    assert torch.equal(found.logits, expected.logits)  # type: ignore[arg-type]
    assert torch.equal(found.maps, expected.maps)


def test_a_pool_that_is_differentiated_has_pytorchs_gradient(quick: Counter[str]) -> None:
    torch.manual_seed(0)
    network, images = Pooled().eval(), torch.rand(2, 3, 32, 32)
    captured = capture(network, images, ["stem:in", "act"])
    found = captured.gradients(captured.output[:, 1].sum())
    assert quick["quick"] == 0
    first = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(first)[:, 1].sum(), first)
    assert torch.equal(found["stem:in"], expected)


def test_the_network_is_as_it_was(quick: Counter[str]) -> None:
    network = Pooled()
    fields = [set(vars(module)) for module in network.modules()]
    CAM(network, ["act"])(torch.rand(1, 3, 32, 32))
    assert quick["quick"] == 1
    assert [set(vars(module)) for module in network.modules()] == fields
    network.head = nn.Linear(7, 5)  # fails after the pools
    with pytest.raises(RuntimeError):
        capture(network, torch.rand(1, 3, 32, 32), ["act"])
    assert quick["quick"] == 2
    assert [set(vars(module)) for module in network.modules()] == fields


def test_a_forward_of_the_users_own_stays(quick: Counter[str]) -> None:
    class Halved(nn.MaxPool2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) / 2  # type: ignore[no-any-return]

    network = Pooled()
    network.stem[2] = Halved(3, 2, 1)
    assert pools_of(network) == [network.pool]
    own = vars(network.pool)["forward"] = lambda maps: nn.MaxPool2d.forward(network.pool, maps) + 1
    expected = network.eval()(torch.ones(1, 3, 32, 32))
    with explaining(network), torch.no_grad():
        assert torch.equal(forward_pass(network, torch.ones(1, 3, 32, 32)), expected)
    assert vars(network.pool)["forward"] is own
    assert quick["quick"] == 0


def test_what_is_not_plain_is_left_to_pytorch(quick: Counter[str]) -> None:
    network = Pooled().eval()
    images = torch.rand(2, 3, 32, 32)

    def passed(given: Tensor) -> Any:
        with explaining(network), torch.no_grad():
            return forward_pass(network, given)

    expected = passed(images)
    assert quick["quick"] == 2
    channels_last = passed(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(channels_last, expected)
    each = torch.func.vmap(lambda image: passed(image[None])[0])(images)
    torch.testing.assert_close(each, expected)
    assert quick["quick"] == 2
    network.pool.return_indices = True
    with pytest.raises(AttributeError):  # a tuple has no mean
        passed(images)


def test_a_pool_inside_gradient_checkpointing(quick: Counter[str]) -> None:
    class Checkpointed(Pooled):
        def forward(self, images: Tensor) -> Tensor:
            maps = self.act(self.stem(images))
            pooled = checkpoint(
                lambda x: self.pool(x) * self.pool(x.detach()), maps, use_reentrant=False
            )
            return self.head(pooled.mean((2, 3)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    network, images = Checkpointed().eval(), torch.rand(2, 3, 32, 32)
    found = CAM(network, ["act"], "layer_cam")(images, 1).layer_maps["act"]
    assert quick["quick"] == 1  # the stem's
    kept: list[Tensor] = []
    network.act.register_forward_hook(lambda *given: kept.append(given[2]))
    (gradient,) = torch.autograd.grad(network(images)[:, 1].sum(), kept[0])
    expected = (gradient.clamp_min(0) * kept[0]).sum(1).clamp_min(0)
    torch.testing.assert_close(found, expected.detach())
