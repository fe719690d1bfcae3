"""One object of the demo explained by four methods and two layers, and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ssgcam.cam import CAM
from ssgcam.core.methods import METHODS
from ssgcam.demo.measure import Measured, mass_inside, precision_inside
from ssgcam.demo.objects import Outlined
from ssgcam.models import LoadedModel

DRAWN = ("grad_cam", "grad_cam_plus_plus", "layer_cam", "ssg_cam")


@dataclass(frozen=True)
class Drawn:
    """One map.

    Attributes:
        values: ``[H, W]`` in [0, 1], as it is drawn.
        measured: How well it agrees with the outline.
    """

    values: NDArray[np.float32]
    measured: Measured


@dataclass(frozen=True)
class Explained:
    """The maps of one object.

    Attributes:
        thing: The object.
        class_name: Of the class that is explained.
        guesses: The five most probable classes and their probabilities.
        probability: Of the explained class.
        maps: (layer, method) -> map.
    """

    thing: Outlined
    class_name: str
    guesses: tuple[tuple[str, float], ...]
    probability: float
    maps: dict[tuple[str, str], Drawn]


def two_layers(model: LoadedModel, thing: Outlined) -> tuple[str, str]:
    """A deep layer, the last of the default ones, and a shallow one, the second."""
    names = CAM(model).layers(model.preprocessing([thing.image]))
    return names[-1], names[1]


def explain_object(model: LoadedModel, thing: Outlined, layers: Sequence[str]) -> Explained:
    """Explain an object's class by every method and layer, and measure each map."""
    images = model.preprocessing([thing.image])
    maps: dict[tuple[str, str], Drawn] = {}
    probabilities: Tensor | None = None
    for layer in layers:
        for method in DRAWN:
            result = CAM(model, [layer], method)(images, thing.index)
            probabilities = result.probabilities
            values = result.maps[0].cpu().numpy()
            maps[layer, method] = Drawn(
                values, measure(thing, values, METHODS[method].title, layer)
            )
    assert probabilities is not None  # there is a layer and a method
    top = probabilities[0].topk(5)
    guesses = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return Explained(
        thing=thing,
        class_name=model.class_names[thing.index],
        guesses=tuple((model.class_names[index], value) for index, value in guesses),
        probability=float(probabilities[0, thing.index]),
        maps=maps,
    )


def measure(thing: Outlined, values: NDArray[np.float32], method: str, layer: str) -> Measured:
    """How well a map ``[H, W]`` agrees with an outline."""
    return Measured(
        photo=thing.photo,
        object=thing.name,
        index=thing.index,
        method=method,
        layer=layer,
        mass=mass_inside(values, thing.inside),
        precision=precision_inside(values, thing.inside),
        area=float(thing.inside.mean()),
    )
