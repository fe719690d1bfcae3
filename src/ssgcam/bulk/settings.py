"""What do the outputs depend on beside the images? Written to the manifest and the JSON reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from ssgcam.cam import CAM
from ssgcam.core.fast import Computation
from ssgcam.errors import SsgcamError
from ssgcam.fingerprint import parameter_hash
from ssgcam.manifest import Manifest
from ssgcam.models import LoadedModel, check_network
from ssgcam.recipe import Recipe


def network_settings(
    model: LoadedModel,
    cam_or_recipe: CAM | Recipe | None,
    manifest: Path,
    *,
    fast: bool = False,
) -> tuple[dict[str, Any], bool]:
    """The network and the method as JSON values, and what a pass of the network on noise resolves.

    Where the manifest is of an earlier run with the same network and method, the network has been
    checked and what it resolves is known, so it is not run.

    Args:
        model: The network.
        cam_or_recipe: Makes the maps; None for a segmentation network, which is not run here.
        manifest: The file of the run's manifest.
        fast: Whether a recipe's maps are computed by a faster copy; a ``CAM`` has its own.

    Returns:
        ``model``, ``method`` and ``resolved``: the number of ``classes`` and, of a ``CAM``, the names of
        its ``layers``; and whether an earlier run has checked the network.

    Raises:
        SsgcamError: If the network can't be run, or the manifest can't be read.
    """
    names = json.dumps(model.class_names).encode()
    about = {
        "name": model.name,
        "class_names": f"sha256:{sha256(names).hexdigest()}",
        "parameters": parameter_hash(model.network),
        "output": cam_or_recipe.output if isinstance(cam_or_recipe, CAM) else model.output,
        "preprocessing": asdict(model.preprocessing),
    }
    method: dict[str, Any] = {"name": "segmentation network"}
    if isinstance(cam_or_recipe, Recipe):
        how = Computation(model.network, fast).description
        method = {"fast": fast, "computation": how, "recipe": asdict(cam_or_recipe)}
    elif cam_or_recipe is not None:
        method = _method(cam_or_recipe)
    settings = json.loads(json.dumps({"model": about, "method": method}, default=str))
    resolved: dict[str, Any] = {"classes": len(model.class_names)}
    if cam_or_recipe is None:
        return settings | {"resolved": resolved}, False
    earlier = next(Manifest(manifest, {}).lines(), {}).get("settings", {})
    known = earlier.get("resolved")
    same = all(earlier.get(part) == value for part, value in settings.items())
    if known and same and resolved["classes"] in (0, known["classes"]):
        return settings | {"resolved": known}, True
    noise, resolved["classes"] = check_network(model)
    if isinstance(cam_or_recipe, CAM):
        resolved["layers"] = cam_or_recipe.layers(noise)
    return settings | {"resolved": resolved}, False


def _method(cam: CAM) -> dict[str, Any]:
    """What the maps of a ``CAM`` depend on, as it was given."""
    if cam.target_function is not None:
        raise SsgcamError("class probabilities are needed; use a named target, not a function")
    method = {
        "fast": cam.fast,
        "computation": cam.computation,
        "name": cam.method_name,
        "layers": cam.given_layers,
        "gamma": cam.gamma,
        "layer_weights": cam.layer_weights,
        "fusion": cam.fusion,
        "target": asdict(cam.target),
    }
    if cam.method_name == "ssg_cam":
        each = cam.ssg if isinstance(cam.ssg, Sequence) else [cam.ssg]
        method["ssg"] = [asdict(settings) for settings in each]
    return method
