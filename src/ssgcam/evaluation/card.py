"""The network card: which layer and method show what, and can they be believed?

One line for each layer and method with the scores of the other evaluations of this package on the same
photos, a plain recommendation, and pictures of every layer's map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from PIL import Image
from torch import Tensor

from ssgcam.cam import CAM, Layers
from ssgcam.core.layers import block_layers, resolve
from ssgcam.data import SampleSet
from ssgcam.errors import SsgcamError
from ssgcam.evaluation.grid import evaluate_grid
from ssgcam.evaluation.localization import evaluate_localization
from ssgcam.evaluation.maps import BatchMaps, MapSource, MethodsCompared, parse_method
from ssgcam.evaluation.perturbation import evaluate_perturbation
from ssgcam.evaluation.randomization import evaluate_sanity
from ssgcam.evaluation.report import Drawn, Evaluation
from ssgcam.evaluation.run import EvaluationSettings, Item, Run, limited, no_extra
from ssgcam.evaluation.scores import Score
from ssgcam.files import write_json, write_png
from ssgcam.metrics.checks import check
from ssgcam.models import LoadedModel, check_network
from ssgcam.report.html import Gallery, Picture, Section, Table, Text, write_html
from ssgcam.report.panel import panel

#: Ours, which tells classes apart or finds the object, and five first-order methods.
CARD_METHODS = (
    "ssg_cam", "localize", "grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam",
)  # fmt: skip
#: Layers of a card by default.
CARD_LAYERS = 6
#: Photos whose maps are shown.
SHOWN = 3
#: Probabilities that photos of a mosaic must have if too few reach the usual one.
FALLBACKS = (0.5, 0.0)
#: Column of the table -> evaluation and metric; ``weights`` is in the JSON file only.
COLUMNS = {
    "class specificity": ("grid", "mass in the cell"),
    "class sensitivity": ("sanity", "class sensitivity"),
    "weights": ("sanity", "rank correlation"),
    "blur": ("perturbation", "probability drop"),
    "localization": ("localization", "PxAP"),
}
MEANING = (
    "Class specificity: share of a class's map that lies on its own photo in a mosaic of four (grid "
    "pointing game; 0.25 is chance). Class sensitivity: rank correlation of the maps of two classes; "
    "lower is better, 1 means that the class plays no part. Sanity: whether the map changes when the "
    "weights are replaced by random ones; a map that does not change says nothing about what the network "
    "learned. Blur: drop of the class's probability when the highlighted 20 % of the photo are "
    "blurred. Localization: pixel average precision against the masks. Cost: milliseconds for one photo."
)


@dataclass(frozen=True)
class CardLine:
    """One layer and method.

    Attributes:
        method: Title of the method.
        layer: Name of the layer.
        scores: Column -> number with its interval; a column that could not be measured is missing.
        passes: Verdict of the sanity check.
        milliseconds: For one photo, alone.
    """

    method: str
    layer: str
    scores: dict[str, Score]
    passes: bool
    milliseconds: float

    @property
    def title(self) -> str:
        """Such as ``"Grad-CAM on layer4"``."""
        return f"{self.method} on {self.layer}"

    @property
    def verdict(self) -> str:
        """Of the sanity check, in a word."""
        return "passes" if self.passes else "fails"

    def value(self, column: str) -> float | None:
        """The number in a column, or None."""
        return self.scores[column].value if column in self.scores else None


@dataclass(frozen=True, eq=False)
class NetworkCard:
    """What was measured on a network.

    Attributes:
        network: Its name.
        lines: One for each layer and method.
        notes: What a reader must know, such as what could not be measured.
        facts: Photos, seed, settings.
        pictures: For each photo the pictures of each layer's map.
        sheet: All layers and methods on the first photo.
    """

    network: str
    lines: tuple[CardLine, ...]
    notes: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    pictures: tuple[Gallery, ...] = ()
    sheet: Image.Image | None = None

    def recommendation(self) -> list[str]:
        """Plain sentences: what to use for which question, and what not to use."""
        masked = any("localization" in line.scores for line in self.lines)
        grid = any("class specificity" in line.scores for line in self.lines)
        where, why = "localization" if masked else "blur", "class specificity"
        why = why if grid else "class sensitivity"
        return [
            f"To see where the object is: {self._best(where, max)}.",
            f"To ask why this class and not that one: {self._best(why, max if grid else min)}.",
            f"Do not use: {self._failed()}.",
        ]

    def _best(self, column: str, choose: Callable[..., CardLine]) -> str:
        """The line with the best number of those that pass the sanity check, in words."""
        usable = [line for line in self.lines if line.passes and column in line.scores]
        if not usable:
            return "nothing that was measured passes the sanity check"
        line = choose(usable, key=lambda line: line.scores[column].value)
        score = line.scores[column]
        others = [other.scores[column].value for other in usable if other is not line]
        alike = sum(score.low <= value <= score.high for value in others)
        found = f"{column} {score.value:.2f}, {score.low:.2f} to {score.high:.2f}"
        if alike:
            found += f", which holds {alike} of {len(others)} other rows that may be as good"
        return f"{line.title} ({found})"

    def _failed(self) -> str:
        layers: dict[str, list[str]] = {}
        for line in self.lines:
            if not line.passes:
                layers.setdefault(line.method, []).append(line.layer)
        if not layers:
            return "nothing was found to avoid, every line passes the sanity check"
        count = len({line.layer for line in self.lines})
        failed = "; ".join(
            f"{method} on {'any layer' if len(names) == count else ', '.join(names)}"
            for method, names in layers.items()
        )
        return f"{failed} (fails the sanity check)"

    def rows(self) -> list[list[str | float | None]]:
        """The table: method, layer, and the columns of :meth:`columns`."""
        rows: list[list[str | float | None]] = []
        for line in self.lines:
            values = [line.value(name) for name in self.columns() if name in COLUMNS]
            rounded = [None if value is None else round(value, 3) for value in values]
            rows.append([line.method, line.layer, *rounded, line.verdict, round(line.milliseconds)])
        return rows

    def columns(self) -> list[str]:
        """Names of the columns after method and layer; what could not be measured is left out."""
        measured = {name for line in self.lines for name in line.scores} - {"weights"}
        return [*(name for name in COLUMNS if name in measured), "sanity", "cost (ms)"]

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, as plain values."""
        return {
            "network": self.network,
            "recommendation": self.recommendation(),
            "lines": [{**asdict(line), "sanity": line.verdict} for line in self.lines],
            "notes": list(self.notes),
            "facts": self.facts,
        }


def evaluate_card(
    model: LoadedModel,
    samples: SampleSet,
    methods: Sequence[str] = CARD_METHODS,
    layers: Layers = "auto",
    *,
    photos: int | None = 20,
    mosaics: int = 10,
    stages: int = 4,
    area: float = 0.2,
    classes: int | str | None = None,
    settings: EvaluationSettings | None = None,
) -> NetworkCard:
    """Measure every layer and method of a network on a few photos.

    The explained class is ``classes``, a photo's label, or else the network's top class.

    Args:
        model: The network.
        samples: Photos with or without labels, boxes or masks.
        methods: See :func:`ssgcam.evaluation.maps.parse_method`.
        layers: Names or modules; ``"auto"``: the outputs of six blocks, the last of each resolution
            and others evenly over the depth.
        photos: At most so many photos, spread evenly over the set; all if None.
        mosaics: Mosaics of the grid pointing game.
        stages: Stages of the sanity check, besides those just above a layer.
        area: Share of the photo that the blur test blurs.
        classes: Explain this class in every photo, by index or name.
        settings: Batch size, seed, progress bars, ...

    Returns:
        The card.

    Raises:
        SsgcamError: If there is no photo or one can't be read, a layer or method does not exist, or the
            network can't be explained. What a network or the photos don't allow (a mosaic, a mask) is
            left out and noted.
    """
    settings = replace(settings or EvaluationSettings(), examples=0)
    noise, _ = check_network(model)
    if isinstance(layers, str) and layers == "auto":
        names = block_layers(model.network, noise, most=CARD_LAYERS)
    else:
        names = resolve(model.network, [layers] if isinstance(layers, str) else layers)
    parsed = tuple(parse_method(method) for method in methods)
    compared = MethodsCompared(parsed, names, fused=False)
    given = limited(samples, photos)
    check(
        len(given),
        f"no photo of '{given.root}' can be used; with labels and masks, a photo needs both",
    )
    run = Run("card", model, given, compared, replace(settings, examples=SHOWN))
    index = run.class_index(classes)
    samples = _labeled(run, given, index)
    notes = []
    shared: dict[str, Any] = {"model": model, "methods": compared, "settings": settings}
    blur: dict[str, Any] = {"measures": ("blur",), "areas": (area,), "control": False}
    found = {
        "sanity": evaluate_sanity(samples=samples, images=10, stages=stages, **shared),
        "perturbation": evaluate_perturbation(samples=samples, **blur, **shared),
    }
    parts = {"grid": partial(evaluate_grid, samples=samples, mosaics=mosaics, fallbacks=FALLBACKS)}
    objects = {sample.name for sample in given if sample.mask and sample.labels}
    if objects:
        named = given if index is None and given.class_names != ("object",) else samples
        masked = replace(named, samples=tuple(s for s in named if s.name in objects))
        parts["localization"] = partial(evaluate_localization, samples=masked)
    for task, evaluate in parts.items():
        try:
            found[task] = evaluate(**shared)
        except SsgcamError as error:
            notes.append(f"The part '{task}' is left out: {error}.")
    if "localization" not in found:
        notes.append(
            "There are no masks, so where the object is was judged by the blur test alone, which asks "
            "what the network uses; give masks to measure localization."
        )
    costs = _costs(model, compared, noise.to(run.device))
    lines = tuple(_line(source, found, costs[source]) for source in run.sources if source in costs)
    notes += [note for each in found.values() for note in each.notes]
    facts = found["sanity"].facts | {"photos": f"{len(samples)} of '{samples.root.name}'"}
    del facts["images"], facts["explained class"]  # of the sanity check alone
    facts |= {f"{task}, images": each.facts["images"] for task, each in found.items()}
    items = [Item(sample, (), sample.labels) for sample in limited(samples, SHOWN)]
    titles = [f"{item.sample.name}: {run.class_title(item.classes[0])}" for item in items]
    explained = [*run.examples(items, no_extra, _draw, sources=run.sources)]
    pictures = []
    for title, (photo, *cells) in zip(titles, explained, strict=True):
        shown = [Picture(cell.image, cell.caption) for cell in cells[: len(names)]]  # first method
        shown.insert(0, Picture(photo.image, "photo"))
        pictures.append(Gallery(f"Layers on {title}", shown, f"Maps by {parsed[0].title}."))
    cells = [replace(cell, caption="") for cell in explained[0][1:]]
    rows = [cells[k :: len(names)] for k in range(len(names))]
    sheet = panel(rows, title=titles[0], row_titles=names, cell_width=1.6)
    return NetworkCard(
        model.name, lines, tuple(dict.fromkeys(notes)), facts, tuple(pictures), sheet
    )


def write_card(card: NetworkCard, out: str | Path) -> list[Path]:
    """Write ``card.html``, ``card.json`` and ``layers.png``, each whole or not at all.

    Args:
        card: What was measured.
        out: The folder; made if need be.

    Returns:
        The files.
    """
    out = Path(out)
    files = [out / "card.html", out / "card.json"]
    columns = ["method", "layer", *card.columns()]
    sections: list[Section] = [
        Text("Which layer and method?", card.recommendation()),
        Table("Every layer and method", columns, card.rows(), MEANING),
    ]
    sections += card.pictures
    if card.sheet is not None:
        files.append(out / "layers.png")
        write_png(files[-1], card.sheet)
    write_json(files[1], card.to_json())
    write_html(
        files[0],
        f"Network card of {Path(card.network).name}",
        sections,
        warnings=card.notes,
        settings=card.facts,
    )
    return files


def _labeled(run: Run, samples: SampleSet, index: int | None) -> SampleSet:
    """Give each sample one class of the network: the given one, its label, or the top class."""
    mapping: dict[int, int] = {}
    if index is None and samples.class_names != ("object",):
        mapping = run.class_mapping(samples, None) if any(s.labels for s in samples) else {}
    tops = run.probabilities([Item(sample) for sample in samples]).argmax(1).tolist()
    labeled = []
    for sample, top in zip(samples, tops, strict=True):
        own = mapping.get(sample.labels[0], top) if len(sample.labels) == 1 else top
        label = own if index is None else index
        labeled.append(replace(sample, labels=(label,), boxes=(), box_labels=()))
    names = run.model.class_names or tuple(map(str, range(run.outputs)))
    masks = ("object",) if samples.mask_names else ()
    return replace(samples, samples=tuple(labeled), class_names=names, mask_names=masks)


def _line(source: MapSource, found: dict[str, Evaluation], milliseconds: float) -> CardLine:
    scores = {}
    for column, (task, metric) in COLUMNS.items():
        with suppress(KeyError):
            scores[column] = found[task].score(source.method, source.layers, metric)
    verdicts = {row[:2]: row[-1] for row in found["sanity"].tables[0].rows}
    passes = verdicts.get((source.method, source.layers)) == "passes"  # the control has no verdict
    return CardLine(source.method, source.layers, scores, passes, milliseconds)


def _costs(model: LoadedModel, compared: MethodsCompared, noise: Tensor) -> dict[MapSource, float]:
    """Milliseconds of each method on each layer for one image: the faster of two runs."""
    costs = {}
    for method in compared.methods:
        for layer in compared.layers:
            cam = CAM(model, [layer], method.name, ssg=method.ssg)
            times = []
            for _ in range(2):
                start = perf_counter()
                cam(noise).maps.cpu()  # waits for the device
                times.append(perf_counter() - start)
            costs[MapSource(method.title, str(layer))] = 1000 * min(times)
    return costs


def _draw(found: BatchMaps, source: MapSource, k: int, item: Item, extra: None) -> Drawn:
    return found.maps[source][k, 0], [], None
