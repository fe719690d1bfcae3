"""The network that is trained: where it starts, its head, and what of it stays frozen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ssgcam.checkpoints import read_state
from ssgcam.errors import SsgcamError
from ssgcam.models import LoadedModel, load_model
from ssgcam.training.settings import TrainingSettings


def start_model(settings: TrainingSettings, class_names: tuple[str, ...]) -> LoadedModel:
    """Build the network to train, with a head for these classes.

    Raises:
        SsgcamError: If the network or its weights can't be had, or its head can't be replaced.
    """
    name, weights, count = settings.model, settings.weights, len(class_names)
    size = (settings.size, settings.size)
    if weights == "none":
        loaded = load_model(name, "none", num_classes=count)
    elif weights != "DEFAULT" and "format" in read_state(Path(weights)):
        loaded = load_model(weights)
        if loaded.name != name:
            raise SsgcamError(
                f"'{weights}' holds a {loaded.name}, not a {name}; train with --model {loaded.name}"
            )
    else:
        loaded = load_model(name, weights)
    replace_head(loaded.network, count, name)
    given = loaded.preprocessing
    preprocessing = replace(given, input_size=size, resize_shorter=None)
    model = LoadedModel(loaded.network, name, preprocessing, class_names)
    try:
        with torch.inference_mode():
            model.network.eval()(torch.zeros(1, 3, *size))
    except Exception as error:  # each network fails with its own kind
        raise SsgcamError(
            f"'{name}' can't take photos of {size[0]}x{size[1]} px; give another size"
        ) from error
    return model


def replace_head(network: nn.Module, count: int, name: str = "the network") -> None:
    """Give a network's last linear (or 1x1 convolution) layer ``count`` outputs, if it has others.

    Args:
        network: Changed in place; the new layer is initialized at random.
        count: Number of classes.
        name: For the message.

    Raises:
        SsgcamError: If no such layer is the last one with parameters.
    """
    modules = [
        (path, module)
        for path, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    path, head = modules[-1] if modules else ("", None)
    new: nn.Module
    if isinstance(head, nn.Linear):
        if head.out_features == count:
            return
        new = nn.Linear(head.in_features, count, bias=head.bias is not None)
    elif isinstance(head, nn.Conv2d) and head.kernel_size == (1, 1):
        if head.out_channels == count:
            return
        new = nn.Conv2d(head.in_channels, count, 1, bias=head.bias is not None)
    else:
        raise SsgcamError(
            f"the head of '{name}' can't be replaced ('{path}' is a {type(head).__name__}); "
            "train it from a random start: --weights none"
        )
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, new)


def freeze_before(network: nn.Module, name: str | None) -> list[nn.Module]:
    """Freeze the parameters of all modules that are defined before one.

    Args:
        network: Its parameters' ``requires_grad`` flags are set.
        name: The first module to train; nothing is frozen if None.

    Returns:
        The frozen modules, to be kept in eval mode (batch-norm statistics).

    Raises:
        SsgcamError: If there is no such module, or nothing from it on has parameters.
    """
    if name is None:
        return []
    names = [path for path, _ in network.named_modules()]
    if name not in names or not name:
        top = ", ".join(path for path, _ in network.named_children())
        raise SsgcamError(
            f"the network has no module '{name}' to train from; its top modules are {top}"
        )
    frozen = []
    for path, module in list(network.named_modules())[: names.index(name)]:
        around = not path or name.startswith(f"{path}.")
        for parameter in module.parameters(recurse=not around):
            parameter.requires_grad_(False)
        if not around:
            frozen.append(module)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise SsgcamError(
            f"no module from '{name}' on has parameters to train; give an earlier one"
        )
    return frozen
