"""What do the outputs depend on beside the images? Written to the manifest and the JSON reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from ssgcam.cam import CAM
from ssgcam.errors import SsgcamError
from ssgcam.fingerprint import parameter_hash
from ssgcam.models import LoadedModel
from ssgcam.recipe import BoundRecipe


def settings_of(
    model: LoadedModel, explainer: CAM | BoundRecipe | None, noise: Tensor, **others: Any
) -> dict[str, Any]:
    """The network and the method as JSON values.

    Args:
        model: The network.
        explainer: Makes the maps; None for a segmentation network.
        noise: An input, ``[1, 3, H, W]``, from which ``layers="auto"`` is resolved.
        **others: Further settings.
    """
    method: dict[str, Any] = {"name": "segmentation network"}
    output = model.output
    if explainer is not None:
        cam = explainer.cam if isinstance(explainer, BoundRecipe) else explainer
        method = {"fast": cam.fast, "computation": cam.computation}
        output = cam.output
        if cam.target_function is not None:
            raise SsgcamError("class probabilities are needed; use a named target, not a function")
    if isinstance(explainer, BoundRecipe):
        method["recipe"] = asdict(explainer.recipe)
    elif explainer is not None:
        method |= {
            "name": cam.method_name,
            "layers": list(cam.layers(noise)),
            "gamma": cam.gamma,
            "layer_weights": cam.layer_weights,
            "fusion": cam.fusion,
            "target": asdict(cam.target),
        }
        if cam.method_name == "ssg_cam":
            each = cam.ssg if isinstance(cam.ssg, Sequence) else [cam.ssg]
            method["ssg"] = [asdict(settings) for settings in each]
    return {
        "model": {
            "name": model.name,
            "parameters": parameter_hash(model.network),
            "output": output,
            "preprocessing": asdict(model.preprocessing),
        },
        "method": method,
        **others,
    }
