"""What a call must leave as it was: the network, random generators and global settings."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers.networks import digest, state_of

#: Where an exception is raised while an image is explained.
STAGES = ("backward", "fuse", "images", "layer", "network", "target")


class InjectedError(Exception):
    """The exception that a test raises."""


def made_untidy(network: nn.Module) -> nn.Module:
    """Give a network mixed flags, a kept gradient and a user's hook, all of which must stay."""
    network.train()
    for index, module in enumerate(network.modules()):
        if index % 3 == 2:
            module.training = False
    parameters = list(network.parameters())
    for index, parameter in enumerate(parameters):
        parameter.requires_grad = index % 4 != 1
    parameters[0].grad = torch.ones_like(parameters[0])
    network.register_forward_hook(lambda module, inputs, output: None)
    return network


@contextmanager
def unchanged(network: nn.Module) -> Iterator[None]:
    """Assert that the block leaves everything outside it as it was."""
    before = state_of(network), surroundings()
    yield
    after = state_of(network), surroundings()
    for old, new in zip(before, after, strict=True):
        changed = [key for key in old if old[key] != new[key]]
        assert not changed, changed


def surroundings() -> dict[str, Any]:
    """Random generators and PyTorch's global modes."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  # the one that users seed
    return {
        "torch generator": digest(torch.get_rng_state()),
        "numpy generator": (name, keys.tobytes(), *rest),
        "python generator": random.getstate(),
        "gradient mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "number format": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "attention": torch.backends.cuda.flash_sdp_enabled(),
    }


class _RaiseInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise InjectedError


def failing(stage: str, network: nn.Module, images: Tensor, cam: Callable[..., Any]) -> None:
    """Explain images with an exception at one stage, and assert that it reaches the caller.

    Args:
        stage: One of ``STAGES``.
        network: The network; a hook of its own raises for the stages ``"layer"`` and ``"network"``.
        images: Its input.
        cam: Makes the explainer, from the network and keywords of :class:`ssgcam.CAM`.
    """

    def raises(*_: object, **__: object) -> Any:
        raise InjectedError

    def in_backward(output: Any) -> Tensor:
        output = output if isinstance(output, Tensor) else output[0]
        return _RaiseInBackward.apply(output[:, 0])  # type: ignore[no-any-return]

    explainer = cam(network, target={"target": raises, "backward": in_backward}.get(stage))
    if stage == "images":
        images = images[:, :0]  # no channel
    if stage == "fuse":
        explainer.fuse = raises
    module = {"layer": list(network.modules())[-1], "network": network}.get(stage)
    hook = module.register_forward_pre_hook(raises) if module is not None else None
    try:
        explainer(images)
    except (InjectedError, RuntimeError, ValueError) as error:
        assert isinstance(error, InjectedError) or stage == "images"  # noqa: PT017
    else:
        raise AssertionError(f"nothing was raised at stage '{stage}'")
    finally:
        if hook is not None:
            hook.remove()


def resident_megabytes() -> float:
    """Memory of this process that is not on disk; Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6
