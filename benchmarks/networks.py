"""Networks of the studies that need more than a name: ``--model networks:squeezenet_caffe``."""

from __future__ import annotations

from torchvision import models

from ssgcam import LoadedModel, Preprocessing


def squeezenet_caffe() -> LoadedModel:
    """SqueezeNet 1.1 for weights converted from Caffe: BGR, 0 to 255 minus the mean, 227 px."""
    mean = (104.006 / 255, 116.669 / 255, 122.679 / 255)
    preprocessing = Preprocessing((227, 227), mean, (1 / 255,) * 3, "bgr", resize_shorter=256)
    names = tuple(models.SqueezeNet1_1_Weights.DEFAULT.meta["categories"])
    network = models.squeezenet1_1(weights=None)
    return LoadedModel(network, "networks:squeezenet_caffe", preprocessing, names)
