"""What a sceptic would try first: masks from a stained cell's color, without any network.

A map is a quantity of each pixel in [0, 1] that stain makes larger. It is cut where labeled images say
(the same images that calibrate a recipe), or by each photo's own histogram (Otsu 1979), for two
classes of pixels or for three, which scikit-image computes.
"""

from __future__ import annotations

import torch
from skimage.filters import threshold_multiotsu, threshold_otsu
from torch import Tensor

from ssgcam.search.calibration import Examples
from ssgcam.search.scoring import Counts, choose_cut, fitness, sweep


def color_maps(pixels: Tensor) -> dict[str, Tensor]:
    """Color quantities ``[N, H, W]`` in [0, 1] of RGB ``[N, 3, H, W]`` in [0, 1]."""
    red, green, blue = pixels.unbind(1)
    high, low = pixels.amax(1), pixels.amin(1)
    return {
        "saturation": (high - low) / high.clamp_min(1 / 255),
        "dark red": 1 - red,
        "dark green": 1 - green,
        "blue share": blue / pixels.sum(1).clamp_min(1 / 255),
    }


def otsu_masks(maps: Tensor) -> dict[str, Tensor]:
    """Masks ``[N, H, W]`` of maps by each one's own histogram: two classes, and two cuts of three."""
    found: dict[str, list[Tensor]] = {"Otsu": [], "lower of two Otsu": [], "upper of two Otsu": []}
    for values in maps:
        array = values.numpy()
        if len(torch.unique(values)) < 3:  # nothing to tell apart
            cuts = [float("inf")] * 3
        else:
            cuts = [threshold_otsu(array), *threshold_multiotsu(array, classes=3, nbins=128)]
        for masks, cut in zip(found.values(), cuts, strict=True):
            masks.append(values > cut)
    return {name: torch.stack(masks) for name, masks in found.items()}


def mask_counts(masks: Tensor, truth: Tensor) -> Counts:
    """Counts ``[N]`` of masks ``[N, H, W]`` against 1 object, 255 ignore."""
    valid, inside = truth != 255, truth == 1
    sums = [(part & valid).flatten(1).sum(1).double() for part in (masks & inside, masks, inside)]
    return Counts(*sums, valid.flatten(1).sum(1).double())


def calibrated_cut(
    maps: dict[str, Tensor], calibration: Tensor, others: dict[str, Tensor]
) -> tuple[str, Tensor]:
    """The map and threshold that score best on calibration images, applied to others.

    Args:
        maps: ``[N, H, W]`` each, of the calibration images.
        calibration: Their masks ``[N, H, W]``: 1 object, 255 ignore.
        others: The same maps of other images.

    Returns:
        What was chosen, and the others' masks.
    """
    sure = torch.ones(len(calibration))
    cuts = {
        name: choose_cut(sweep(values, calibration, sure, "pooled"), "pooled", gate=0.0)
        for name, values in maps.items()
    }
    best = max(cuts, key=lambda name: cuts[name][2])
    return f"{best} >= {cuts[best][0]:.3f}", others[best] >= cuts[best][0]


def best_otsu(
    maps: dict[str, Tensor], calibration: Tensor, others: dict[str, Tensor]
) -> tuple[str, Tensor]:
    """As :func:`calibrated_cut`, but the calibration images choose only the map and the kind of cut."""
    scores = {
        (kind, name): float(fitness(mask_counts(masks, calibration), "pooled"))
        for name, values in maps.items()
        for kind, masks in otsu_masks(values).items()
    }
    kind, name = max(scores, key=lambda key: scores[key])
    return f"{kind}, {name}", otsu_masks(others[name])[kind]


def centered_disc(examples: Examples) -> Tensor:
    """A map that only knows that crops are centered on their object: 1 in the middle, 0 in a corner."""
    height, width = examples.size
    y = (torch.arange(height) + 0.5) / height * 2 - 1
    x = (torch.arange(width) + 0.5) / width * 2 - 1
    return (1 - (y[:, None] ** 2 + x**2).sqrt() / 2**0.5).expand(len(examples), -1, -1)
