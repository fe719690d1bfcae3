"""What the page does, without the page: cached signals, maps, outlines, corrections, the next search."""

from __future__ import annotations

import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageColor
from torch import Tensor

from ssgcam.cam import CAM
from ssgcam.core import fusion
from ssgcam.core.augment import Augmentation
from ssgcam.core.layers import auto_layers, block_layers
from ssgcam.core.methods import LOCALIZE, METHODS, method_of
from ssgcam.core.network import explaining
from ssgcam.core.settings import SSGSettings
from ssgcam.core.signals import Signal
from ssgcam.data import IGNORE, SampleSet, read_photos
from ssgcam.errors import SsgcamError
from ssgcam.files import write_array, write_json, write_png
from ssgcam.fingerprint import Fingerprint, layer_shapes
from ssgcam.metrics.masks import confusion_matrix, foreground_iou
from ssgcam.models import LoadedModel, check_network
from ssgcam.recipe import Recipe, RecipeLayer
from ssgcam.report.heatmap import overlay, resized
from ssgcam.report.panel import LINE
from ssgcam.search import CalibrationSet, SearchResult, SearchSettings, search_recipe

#: Methods of one pass that the page offers, by title.
OFFERED = {
    method.title: key
    for key, method in METHODS.items()
    if method.needs in ("activation", "first", "second") and method.against is None
}
FUSED = "all layers fused"
#: Colors of the two brushes.
OBJECT, NOT_OBJECT = "#00c853", "#ff1744"
#: The search of the page: one view, no folds, done in seconds.
QUICK = SearchSettings(
    generations=40, views=(Augmentation(),), augmentations=(Augmentation(),), refinement=None, folds=0
)  # fmt: skip
Map = NDArray[np.float32]
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class MapSettings(SSGSettings):
    """The sliders of the page; the settings of SSG-CAM are those of its base class.

    Attributes:
        method: A key of ``core.methods.METHODS``; the settings of SSG-CAM belong to ``"ssg_cam"``.
        gamma: Power of each layer's scaled map.
        layer: A layer, or :data:`FUSED`.
        opacity: Of the largest value in the overlay.
    """

    method: str = "ssg_cam"
    gamma: float = 1.0
    layer: str = FUSED
    opacity: float = 0.85


@dataclass(frozen=True, eq=False)
class Explanation:
    """A photo and all that its maps are made of; no further pass of the network is needed.

    Attributes:
        photo: RGB.
        network: Name of the network.
        name: The class, and the one it is compared with.
        signals: Layer -> signals ``[1, C, h, w]``.
        fused: The layers of :data:`FUSED`.
        size: Height and width of the network's input.
    """

    photo: Image.Image
    network: str
    name: str
    signals: dict[str, Signal]
    fused: tuple[str, ...]
    size: tuple[int, int]

    def map(self, settings: MapSettings) -> Map:
        """The map ``[H, W]`` in [0, 1] at the network's input size."""
        names = self.fused if settings.layer == FUSED else (settings.layer,)
        method = method_of(settings.method, settings)
        method = method.fused if len(names) > 1 else method
        assert method.function is not None
        with torch.no_grad():
            raw = [method.function(self.signals[name]) for name in names]
            gammas = [settings.gamma] * len(raw)
            fused = fusion.fuse(raw, self.size, gammas=gammas, fusion=method.fusion)
        values: Map = fused[0].float().cpu().numpy()
        return values

    def overlay(self, settings: MapSettings, side: int = 900) -> Image.Image:
        """The map over the photo, its longer side at most so many pixels."""
        return overlay(shrunk(self.photo, side), self.map(settings), strength=settings.opacity)

    def layers(self, settings: MapSettings, side: int = 220) -> list[tuple[Image.Image, str]]:
        """A small overlay of every layer, with its name and resolution."""
        found = []
        for name, signal in self.signals.items():
            rows, columns = signal.activation.shape[-2:]
            picture = self.overlay(replace(settings, layer=name), side)
            found.append((picture, f"{name} ({rows}x{columns})"))
        return found

    def save(self, settings: MapSettings, folder: Path) -> list[str]:
        """Write map, overlay and settings into a folder; return the files."""
        values = self.map(settings)
        write_array(folder / "map.npy", values)
        write_png(folder / "overlay.png", overlay(self.photo, values, strength=settings.opacity))
        facts = {"network": self.network, "class": self.name, **asdict(settings)}
        write_json(folder / "settings.json", facts)
        return [str(folder / name) for name in ("overlay.png", "map.npy", "settings.json")]


def class_names(model: LoadedModel) -> list[str]:
    """A name with its index for each output, as the page lists them."""
    count = check_network(model)[1]
    names = model.class_names or [f"class {index}" for index in range(count)]
    return [f"{index}: {name}" for index, name in enumerate(names)]


def class_of(choice: str | None) -> int | None:
    """The index of an entry of :func:`class_names`; None for none."""
    return int(choice.split(":")[0]) if choice and choice[0].isdigit() else None


def probabilities(model: LoadedModel, photo: Image.Image) -> Tensor:
    """The network's probabilities ``[classes]`` of a photo."""
    with explaining(model.network), torch.no_grad():
        return model.probabilities(model(model.preprocessing([photo])).float())[0].cpu()


def explain(
    model: LoadedModel, photo: Image.Image, index: int | None = None, against: int | None = None
) -> Explanation:
    """Run the network once and keep the signals of up to twelve layers.

    Args:
        model: The network.
        photo: RGB.
        index: The class; the most probable one if None.
        against: Another class that it is compared with, or None.

    Raises:
        SsgcamError: If the classes are the same or a layer can't be explained.
    """
    if index is None:
        index = int(probabilities(model, photo).argmax())
    if index == against:
        raise SsgcamError("the class and the one against which it is explained are the same")
    inputs = model.preprocessing([photo])
    fused = auto_layers(model.network, inputs)
    layers = fused
    with suppress(SsgcamError):  # a network without blocks has the default layers
        layers = list(dict.fromkeys([*block_layers(model.network, inputs), *fused]))
    cam = CAM(model, layers)
    others = None if against is None else torch.tensor([against])
    signals, _ = cam.signals(inputs, torch.tensor([index]), against=others)
    names = model.class_names or {k: f"class {k}" for k in (index, against) if k is not None}
    name = names[index] + ("" if against is None else f" and not {names[against]}")
    size = model.preprocessing.input_size
    return Explanation(photo, model.name, name, signals, tuple(fused), size)


def start_recipe(model: LoadedModel) -> Recipe:
    """The recipe before any search: the default layers, the whole object, half of the maximum."""
    noise, _ = check_network(model)
    names = auto_layers(model.network, noise)
    size = model.preprocessing.input_size
    shapes, _ = layer_shapes(model.network, names, size)
    layers = tuple(RecipeLayer(name, 1 / len(names), LOCALIZE, 1.0, shapes[name]) for name in names)
    return Recipe(layers, 0.5, 0.0, Fingerprint.of(model, size), QUICK.working_size)


@dataclass(frozen=True, eq=False)
class MaskedPhoto:
    """A photo and its map by a recipe; the mask follows from a threshold.

    Attributes:
        name: File name.
        photo: RGB.
        values: ``[H, W]`` in [0, 1], of the photo's size.
        is_open: Whether the class reaches the recipe's gate; else the mask is empty.
    """

    name: str
    photo: Image.Image
    values: Map
    is_open: bool

    def mask(self, threshold: float) -> NDArray[np.bool_]:
        """``[H, W]``: where the map reaches the threshold."""
        inside = self.values >= threshold if threshold > 0 else self.values > 0
        return inside & self.is_open


def masked_photo(
    model: LoadedModel, recipe: Recipe, photo: Image.Image, name: str, index: int | None = None
) -> MaskedPhoto:
    """Apply a recipe to a photo, for a class or for the most probable of the recipe's classes."""
    bound = recipe.bind(model)
    inputs = model.preprocessing([photo])
    result = bound(inputs, None if index is None else [index])
    values = resized(result.maps[0].cpu().numpy(), photo.size)
    return MaskedPhoto(name, photo, values, bool(bound.is_open(result)[0]))


def outlined(photo: Image.Image, mask: NDArray[np.bool_], side: int = 900) -> Image.Image:
    """A photo with the outline of a mask, its longer side at most so many pixels."""
    picture = shrunk(photo, side)
    small = cv2.resize(mask.astype(np.uint8), picture.size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    canvas = np.array(picture)
    width = max(2, max(picture.size) // 250)
    for color, line in (((0, 0, 0), width + 2), (ImageColor.getrgb(LINE), width)):
        cv2.drawContours(canvas, contours, -1, color, line, cv2.LINE_AA)
    return Image.fromarray(canvas)


def save_masks(photos: Sequence[MaskedPhoto], recipe: Recipe, threshold: float, path: Path) -> str:
    """Write the masks (255: object) and the recipe with this threshold into a zip file."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path, "w") as archive:
        recipe_file = Path(folder, "recipe.json")
        replace(recipe, threshold=threshold).save(recipe_file)
        archive.write(recipe_file, recipe_file.name)
        for number, each in enumerate(photos):
            file = Path(folder, f"{Path(each.name).stem}_{number}.png")
            write_png(file, Image.fromarray(each.mask(threshold).astype(np.uint8) * 255))
            archive.write(file, f"masks/{file.name}")
    return str(path)


@dataclass(frozen=True, eq=False)
class Correction:
    """Strokes on a photo.

    Attributes:
        name: File name of the photo, which a later correction of it replaces.
        photo: RGB.
        mask: ``[H, W]`` of the photo's size: 1 object, 0 not the object, 255 unknown.
        index: The class of the object.
    """

    name: str
    photo: Image.Image
    mask: Mask
    index: int


def strokes_to_mask(layers: Sequence[Any], size: tuple[int, int]) -> Mask:
    """Strokes in the colors of the two brushes as a mask of the photo's size.

    Args:
        layers: RGBA arrays of any one size; later ones lie above earlier ones.
        size: Width and height of the photo.

    Raises:
        SsgcamError: If nothing is painted in the color of the object.
    """
    mask = np.full(size[::-1], IGNORE, np.uint8)
    colors = np.array([ImageColor.getrgb(color) for color in (NOT_OBJECT, OBJECT)])
    for layer in layers:
        strokes = np.asarray(layer)
        if strokes.ndim != 3 or strokes.shape[2] != 4:
            continue
        nearest = np.abs(strokes[..., None, :3].astype(int) - colors).sum(-1).argmin(-1)
        values = np.where(strokes[..., 3] > 127, nearest, IGNORE).astype(np.uint8)
        fitted = cv2.resize(values, size, interpolation=cv2.INTER_NEAREST)
        mask = np.where(fitted == IGNORE, mask, fitted)
    if not (mask == 1).any():
        raise SsgcamError("nothing is painted as object; draw a stroke on it with the green brush")
    return mask


def painted_iou(mask: NDArray[np.bool_], strokes: Mask) -> float:
    """Foreground IoU on the painted pixels alone; NaN if there is no object in either."""
    counts = confusion_matrix(torch.from_numpy(mask), torch.from_numpy(strokes), 2, IGNORE)
    return float(foreground_iou(counts))


def correction_set(model: LoadedModel, corrections: Sequence[Correction]) -> CalibrationSet:
    """Strokes as what a search learns from.

    Raises:
        SsgcamError: If there is no correction, or none says what is not the object.
    """
    if not corrections:
        raise SsgcamError("there is no photo with strokes yet; add one")
    if not any((each.mask == 0).any() for each in corrections):
        raise SsgcamError(
            "nothing is painted as not the object, so a mask of the whole photo would fit; draw a stroke "
            "beside the object with the red brush"
        )
    return CalibrationSet(
        [each.photo for each in corrections],
        [each.mask for each in corrections],
        [each.index for each in corrections],
        names=[each.name for each in corrections],
        preprocessing=model.preprocessing,
        any_count=True,
    )


def quick_search(
    model: LoadedModel,
    data: CalibrationSet,
    settings: SearchSettings = QUICK,
    *,
    cache: Path | None = None,
    progress: bool = False,
) -> SearchResult:
    """Search a recipe as ``search_recipe`` does; its warnings are in the report only."""
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        return search_recipe(model, data, settings=settings, cache=cache, progress=progress)


def shrunk(photo: Image.Image, side: int) -> Image.Image:
    """A copy of a photo whose longer side has at most so many pixels."""
    small = photo.convert("RGB")
    small.thumbnail((side, side))
    return small


def staged(photos: Sequence[str], masks: Sequence[str], folder: Path) -> SampleSet:
    """Uploaded photos and masks as a data set in a folder; a mask has its photo's name.

    Raises:
        SsgcamError: If a photo has no mask although there are masks, or a file is wrong.
    """
    for kind, paths in (("photos", photos), ("masks", masks)):
        for path in paths:
            target = folder / kind / Path(path).name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return read_photos(folder / "photos", masks=folder / "masks" if masks else None)


def describe(recipe: Recipe) -> str:
    """A recipe in one line of Markdown."""
    layers = ", ".join(f"`{layer.name}` {layer.weight:.2f}" for layer in recipe.layers)
    score = recipe.origin.scores.get("calibration")
    fit = "" if score is None else f" IoU {score:.3f} on the labeled pixels."
    return f"Layers {layers}; threshold {recipe.threshold:.2f}.{fit}"
