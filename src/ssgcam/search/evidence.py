"""All that a recipe is measured with: the counts of every contender, the table, the pictures."""

from __future__ import annotations

from torch import Tensor, nn

from ssgcam.core.augment import Augmentation
from ssgcam.core.fusion import resize, threshold
from ssgcam.metrics import MaskOffset, mask_offset
from ssgcam.models import LoadedModel
from ssgcam.recipe import Recipe
from ssgcam.search.baselines import Mapped, rival_sweeps
from ssgcam.search.calibration import Examples
from ssgcam.search.report import Shown
from ssgcam.search.scoring import Sweep
from ssgcam.search.settings import SearchSettings
from ssgcam.search.steps import Draft, Variant
from ssgcam.search.validation import Contender, Kind, Table, compare

Model = nn.Module | LoadedModel
#: How far masks are moved at most to see whether they lie beside their outlines, of the shorter side.
REACH = 0.125
BEST_LAYER = "SSG-CAM, best layer and settings"


def validated(
    model: Model,
    examples: Examples,
    other: Examples | None,
    names: list[str],
    settings: SearchSettings,
    main: Draft,
    drafts: list[Draft],
    folds: list[list[int]],
    tried: list[Variant],
    chosen: Variant,
) -> tuple[Table, tuple[Shown, ...], MaskOffset]:
    """Score the recipe, its variants and its rivals.

    Args:
        model: The network.
        examples: The calibration images.
        other: Held-out images.
        names: The candidate layers.
        settings: Of the search.
        main: The search on all calibration images.
        drafts: The searches of the folds.
        folds: Rows of each fold.
        tried: The recipe with every augmentation and refinement.
        chosen: One of these.

    Returns:
        The table, images for the report (held-out ones if there are any), and where the masks of all
        of these would fit best.
    """
    kind, batch = settings.fitness, settings.batch_size

    def swept(recipe: Recipe, data: Examples) -> Sweep:
        return Mapped.of(recipe.bind(model), data, batch).sweep(data, kind)

    rivals = rival_sweeps(model, examples, names, kind, batch)
    far = {} if other is None else rival_sweeps(model, other, names, kind, batch)
    contenders = [
        Contender(
            rival.name,
            "mean" if rival.layer is None else "ssg" if rival.method == "ssg_cam" else "single",
            sweep,
            far.get(rival),
        )
        for rival, sweep in rivals.items()
    ]
    alone: list[tuple[str, Kind, Recipe, list[Recipe]]] = [
        (BEST_LAYER, "ssg", main.best_layer, [each.best_layer for each in drafts])
    ]
    if main.layer_cam is not None:
        views = "" if main.recipe.augmentation == Augmentation() else ", same views"
        across = [each.layer_cam for each in drafts if each.layer_cam is not None]
        alone.append((f"LayerCAM, best layer{views}", "single", main.layer_cam, across))
    contenders += [
        Contender(
            title,
            row_kind,
            swept(recipe, examples),
            None if other is None else swept(recipe, other),
            tuple(swept(each, examples) for each in across),
        )
        for title, row_kind, recipe, across in alone
    ]
    finals: dict[str, Mapped] = {}
    plain: Mapped | None = None
    for each in tried:
        if other is not None:
            recipe = each.recipe
            if recipe.refinement is None:
                plain = Mapped.of(recipe.bind(model), other, batch)
                finals[each.name] = plain
            else:
                assert plain is not None
                finals[each.name] = plain.refined(other, recipe.refinement)
        contenders.append(
            Contender(
                f"Recipe, {each.name}",
                "recipe",
                each.swept,
                finals[each.name].sweep(other, kind) if other is not None else None,
                # the folds' own recipes have the views of the first
                tuple(swept(one.recipe, examples) for one in drafts) if each is tried[0] else (),
            )
        )
    table = compare(
        contenders,
        examples,
        other,
        folds,
        kind,
        final=f"Recipe, {chosen.name}",
        gate=settings.gate,
        seed=settings.seed,
    )
    if other is None:
        finals[chosen.name] = Mapped.of(chosen.recipe.bind(model), examples, batch)
    data = examples if other is None else other
    size = (int(data.masks.shape[-2]), int(data.masks.shape[-1]))
    maps = resize(finals[chosen.name].maps, size)
    masks = threshold(maps, chosen.recipe.threshold)
    masks &= (finals[chosen.name].probabilities >= chosen.recipe.gate)[:, None, None]
    offset = mask_offset(masks, data.masks, int(REACH * min(size)))
    return table, _shown(model, data, maps, masks), offset


def _shown(model: Model, data: Examples, maps: Tensor, masks: Tensor) -> tuple[Shown, ...]:
    """The two worst, two median and two best images that show an object."""
    valid, truth = data.masks != 255, data.masks == 1
    shared = (masks & truth).flatten(1).sum(1)
    union = ((masks | truth) & valid).flatten(1).sum(1)
    scores = shared / union.clamp_min(1)
    rows = (~data.negatives).nonzero()[:, 0]
    ranked = rows[scores[rows].argsort(stable=True)].tolist()
    middle = len(ranked) // 2
    places = {"worst": ranked[:2], "median": ranked[middle - 1 : middle + 1], "best": ranked[-2:]}
    seen: dict[int, str] = {}
    for place, chosen in places.items():
        for row in chosen:
            seen.setdefault(row, place)
    pixels = _resized(_pixels(data.images, model), (int(maps.shape[-2]), int(maps.shape[-1])))
    return tuple(
        Shown(
            data.names[row],
            place,
            float(scores[row]),
            pixels[row],
            maps[row],
            masks[row],
            data.masks[row],
        )
        for row, place in seen.items()
    )


def _pixels(images: Tensor, model: Model) -> Tensor:
    """RGB in [0, 1] of the network's input; each image by its own range where it isn't known how."""
    if isinstance(model, LoadedModel):
        shape = model.preprocessing
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (shape.mean, shape.std))
        pixels = images * std + mean
        return pixels.flip(-3) if shape.channel_order == "bgr" else pixels
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(1e-12)


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """``[N, 3, H, W]`` to ``[N, 3, *size]``."""
    return resize(pixels.flatten(0, 1), size).view(*pixels.shape[:2], *size)
