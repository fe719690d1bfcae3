"""Networks of the studies that need more than a name: ``--model networks:squeezenet_caffe``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision import models

from ssgcam import LoadedModel, Preprocessing, load_model


def squeezenet_caffe() -> LoadedModel:
    """SqueezeNet 1.1 for weights converted from Caffe: BGR, 0 to 255 minus the mean, 227 px."""
    mean = (104.006 / 255, 116.669 / 255, 122.679 / 255)
    preprocessing = Preprocessing((227, 227), mean, (1 / 255,) * 3, "bgr", resize_shorter=256)
    names = tuple(models.SqueezeNet1_1_Weights.DEFAULT.meta["categories"])
    network = models.squeezenet1_1(weights=None)
    return LoadedModel(network, "networks:squeezenet_caffe", preprocessing, names)


@dataclass(frozen=True)
class Network:
    """A network of a study and its target layers."""

    title: str
    model: LoadedModel
    layers: str | list[str]


def imagenet_networks(squeezenet: Path) -> list[Network]:
    """EfficientNet-Lite0 and SqueezeNet with their ImageNet weights.

    Args:
        squeezenet: The state dict from Caffe.
    """
    fires = ["features.4", "features.7", "features.9", "features.12"]
    lite = load_model("efficientnet_lite0")
    squeeze = load_model("networks:squeezenet_caffe", squeezenet)
    for model in (lite, squeeze):
        model.network.to(memory_format=torch.channels_last)  # faster on a CPU
    return [Network("EfficientNet-Lite0", lite, "auto"), Network("SqueezeNet", squeeze, fires)]
