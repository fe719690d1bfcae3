"""One object of the demo explained by four methods and two layers, and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ssgcam.cam import CAM
from ssgcam.core.methods import METHODS
from ssgcam.demo.mass import Mass, share_inside
from ssgcam.demo.objects import Outlined
from ssgcam.models import LoadedModel

DRAWN = ("grad_cam", "grad_cam_plus_plus", "layer_cam", "ssg_cam")


@dataclass(frozen=True)
class Drawn:
    """One map.

    Attributes:
        values: ``[H, W]`` in [0, 1], as it is drawn.
        mass: Its measurement.
        plain: The measurement with gamma 1, where the map is drawn with another.
    """

    values: NDArray[np.float32]
    mass: Mass
    plain: Mass | None


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

    def masses(self) -> list[Mass]:
        """All measurements, in the order of the maps."""
        return [m for d in self.maps.values() for m in (d.mass, d.plain) if m is not None]


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
            cam, plain_cam = CAM(model, [layer], method), CAM(model, [layer], method, gamma=1.0)
            result = cam(images, thing.index)
            probabilities = result.probabilities
            title = METHODS[method].title
            values = result.maps[0].cpu().numpy()
            mass, plain = _mass(thing, values, title, layer), None
            if cam.gamma != plain_cam.gamma:  # with the gamma of the others, for a fair comparison
                same = plain_cam.fuse(result.layer_maps, model.preprocessing.size)[0].cpu().numpy()
                plain = _mass(thing, same, f"{title}, gamma 1", layer)
            maps[layer, method] = Drawn(values, mass, plain)
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


def _mass(thing: Outlined, values: NDArray[np.float32], method: str, layer: str) -> Mass:
    share, area = share_inside(values, thing.inside), float(thing.inside.mean())
    return Mass(thing.photo, thing.name, thing.index, method, layer, share, area)
