"""A segmentation network: a U-Net with its classes and preprocessing, and its file.

The network is built by segmentation-models-pytorch. Its output has a channel for the background and one
for each class.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ssgcam.checkpoints import read_checkpoint
from ssgcam.errors import SsgcamError, rephrased, require
from ssgcam.models import LoadedModel, load_model, write_network
from ssgcam.preprocessing import Preprocessing

FILE_FORMAT, FILE_VERSION = "ssgcam-segmenter", 1
#: The input's sides are multiples of it: a U-Net halves them five times.
STRIDE = 32


def build_segmenter(
    encoder: str,
    class_names: tuple[str, ...],
    preprocessing: Preprocessing,
    weights: str = "none",
) -> LoadedModel:
    """Build a U-Net.

    Args:
        encoder: A name of segmentation-models-pytorch, such as ``"resnet18"``; ``"tu-NAME"`` is a
            network of timm.
        class_names: Of the classes, without the background.
        preprocessing: Of its input. Mean, standard deviation and channel order are replaced by those
            that the encoder's weights were trained with, if it has weights.
        weights: Of the encoder: ``"none"`` (random), ``"imagenet"`` (downloaded), or a classifier of
            this architecture, the file that ``ssgcam train`` writes or a name such as
            ``"efficientnet_lite0"``. Its tensors are matched by name or, where two libraries name
            them differently, in order; the shapes must agree.

    Returns:
        The network: ``[N, C, H, W]`` to logits ``[N, 1 + classes, H, W]``.

    Raises:
        SsgcamError: If the library is missing, the encoder is unknown, or the weights can't be had.
    """
    smp = require("segmentation_models_pytorch", "segmenter")
    of_timm = encoder.startswith("tu-") and require("timm", "segmenter").is_model(encoder[3:])
    if not of_timm and encoder not in smp.encoders.get_encoder_names():
        raise SsgcamError(
            f"no encoder named '{encoder}'; resnet18, mobilenet_v2 and tu-tf_efficientnet_lite0 are "
            "three of them"
        )
    if any(side % STRIDE for side in preprocessing.input_size):
        raise SsgcamError(
            f"input_size is {list(preprocessing.input_size)}; sides must be multiples of {STRIDE}"
        )
    colors: dict[str, Any] = {}
    what = f"the weights '{weights}' of the encoder '{encoder}' can't be had"
    with rephrased(what, "give none, or a classifier's file", Exception):
        network = smp.Unet(
            encoder,
            encoder_weights="imagenet" if weights == "imagenet" else None,
            in_channels=preprocessing.channels,
            classes=1 + len(class_names),
        )
        if weights == "imagenet":
            given = smp.encoders.get_preprocessing_params(encoder)
            colors = {name: tuple(given[name]) for name in ("mean", "std")}
            colors["channel_order"] = given["input_space"].lower()
        elif weights != "none":
            classifier, own = load_model(weights), network.encoder.state_dict()
            tensors = classifier.network.state_dict()
            fitting = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
            if not fitting:  # another library's names
                pairs = zip(own.items(), tensors.values(), strict=False)
                fitting = {k: v for (k, tensor), v in pairs if tensor.shape == v.shape}
            if len(fitting) < len(own):
                raise SsgcamError(
                    f"'{weights}' fits {len(fitting)} of {len(own)} tensors of the encoder '{encoder}'; "
                    "give a classifier of the same architecture"
                )
            network.encoder.load_state_dict(fitting)
            of_classifier = vars(classifier.preprocessing)
            colors = {name: of_classifier[name] for name in ("mean", "std", "channel_order")}
    return LoadedModel(network.eval(), encoder, replace(preprocessing, **colors), class_names)


def save_segmenter(model: LoadedModel, path: Path) -> None:
    """Write the network with its architecture, preprocessing and class names, whole or not at all."""
    write_network(model, path, format=FILE_FORMAT, version=FILE_VERSION, encoder=model.name)


def load_segmenter(path: str | Path) -> LoadedModel:
    """Read what :func:`save_segmenter` wrote.

    Raises:
        SsgcamError: If the file is no segmentation network, or is damaged.
    """
    content = read_checkpoint(Path(path))
    if content.get("format") != FILE_FORMAT or content.get("version") != FILE_VERSION:
        raise SsgcamError(
            f"'{path}' is not a segmentation network of this version; write one with "
            "'ssgcam train-segmenter'"
        )
    with rephrased(f"'{path}' is damaged", "write it again", Exception):
        preprocessing = Preprocessing.from_json(content["preprocessing"])
        names = tuple(content["class_names"])
        model = build_segmenter(content["encoder"], names, preprocessing)
        model.network.load_state_dict(content["state"])
    return model
