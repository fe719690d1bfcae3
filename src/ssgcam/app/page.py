"""The page: four tabs over the functions of ``app.state``, laid out with Gradio."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from html import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

import gradio as gr
from PIL import Image

from ssgcam.app import state
from ssgcam.core.methods import METHODS
from ssgcam.errors import SsgcamError, first_line
from ssgcam.evaluation import EvaluationSettings
from ssgcam.evaluation.card import MEANING, evaluate_card, write_card
from ssgcam.images import IMAGE_EXTENSIONS, read_image
from ssgcam.models import LoadedModel
from ssgcam.recipe import Recipe
from ssgcam.report.tables import cell_texts
from ssgcam.search import CalibrationSet, SearchResult

#: Photos that one upload may have.
MOST = 200
TOP = "the most probable"
NONE = "none"
STYLE = """
.gradio-container { width: 100%; max-width: min(1280px, 100vw) !important; margin: 0 auto !important; }
.gradio-container, .gradio-container :is(.main, .wrap, .contain, .tabs, .tabitem) {
  min-width: 0 !important; }
.thumbs img { object-fit: contain !important; }
.thumbs .grid-container { padding-top: 28px !important;
  grid-template-columns: repeat(auto-fill, minmax(88px, 1fr)) !important; }
.thumbs .caption-label { left: 0; right: 0; max-width: 100% !important; padding: 1px 4px !important;
  font-size: 11px !important; text-align: center; }
.layers .grid-container { grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)) !important; }
.outlines .grid-container { grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)) !important; }
:is(.layers, .outlines) .grid-wrap { height: auto !important; min-height: 0 !important;
  max-height: none !important; }
.compared .content img { top: 0 !important; width: 100% !important; height: 100% !important;
  max-height: none !important; }
@media (max-width: 640px) {
  .gradio-container .main { padding: 8px !important; }
  .row > .column { flex-basis: 100% !important; }
  .photos .grid-container { grid-template-columns: repeat(auto-fill, minmax(64px, 1fr)) !important; }
  .compared { height: 300px !important; }
}
"""
#: Setting of the maps, title, lowest and highest value, and step of each slider.
SLIDERS = (
    ("sigma", "Sigma (SSG-CAM)", 0, 0.3, 0.01),
    ("first_exponent", "First exponent", 0, 3, 0.1),
    ("second_exponent", "Second exponent", 0, 3, 0.1),
    ("gamma", "Gamma", 0.1, 3, 0.1),
    ("opacity", "Opacity", 0.1, 1, 0.05),
)
#: Shows the progress of a search on the page.
PROGRESS = gr.Progress(track_tqdm=True)
#: A photo with its name.
Named = tuple[str, Image.Image]
Files = Sequence[str] | None
Photos = list[state.MaskedPhoto]


def theme() -> Any:
    """Gradio's default look in the system's own fonts, so that no font is fetched."""
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
    return gr.themes.Default(**fonts)


def shown(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn every error of a handler into a message on the page; the session goes on."""

    @wraps(function)
    def handler(*given: Any, **options: Any) -> Any:
        try:
            return function(*given, **options)
        except gr.Error:
            raise
        except (SsgcamError, OSError) as error:
            raise gr.Error(escape(str(error)), print_exception=False) from None
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            text = f"{type(error).__name__}: {first_line(error)}; this is a bug of ssgcam"
            raise gr.Error(escape(text), print_exception=False) from None

    return handler


def build(
    models: Sequence[LoadedModel], examples: Sequence[Path], recipe: Path | None, folder: Path
) -> Any:
    """Lay out the page: a ``gradio.Blocks``.

    Args:
        models: The networks to choose from, not empty.
        examples: Photos to start with.
        recipe: A recipe of the first network, or None.
        folder: For temporary files; whoever calls removes it.
    """
    by_name = {model.name: model for model in models}
    given = Recipe.load(recipe) if recipe else None
    with gr.Blocks(title="ssgcam", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("## ssgcam: what does the network look at?")
        network = gr.Dropdown(list(by_name), value=models[0].name, label="Network")
        used = gr.State(given)  # the recipe in use, shared by two tabs
        shared = by_name, network, used, folder
        with gr.Tabs():
            with gr.Tab("Explain", id="explain"):
                _ExplainTab(*shared).lay_out(page, examples)
            with gr.Tab("Masks", id="masks"):
                _MasksTab(*shared).lay_out()
            with gr.Tab("Correct and search again", id="correct"):
                _CorrectTab(*shared).lay_out()
            with gr.Tab("Network card", id="card"):
                _CardTab(*shared).lay_out()
        _Tab(*shared).on(network.change, lambda name: None, [network], [used])
    return page


@dataclass
class _Tab:
    """What the tabs share.

    Attributes:
        models: The networks by name.
        network: Where one of them is chosen.
        used: The recipe in use.
        folder: For temporary files.
    """

    models: dict[str, LoadedModel]
    network: gr.Dropdown
    used: gr.State
    folder: Path

    def on(
        self,
        events: Any,
        function: Callable[..., Any],
        inputs: Any,
        outputs: Any,
        *,
        fast: bool = False,
    ) -> Any:
        """Call a handler at an event: one at a time for the networks, ``fast`` without one."""
        return events(
            shown(function),
            inputs,
            outputs,
            concurrency_id="maps" if fast else "networks",
            concurrency_limit=4 if fast else 1,
            trigger_mode="always_last" if fast else "once",
            show_progress="hidden" if fast else "minimal",
            api_visibility="private",
        )

    def classes(self, label: str, first: str = TOP) -> gr.Dropdown:
        """A list of the network's classes, kept up to date."""

        def choices(name: str) -> list[str]:
            return [first, *state.class_names(self.models[name])]

        start = choices(next(iter(self.models)))
        box = gr.Dropdown(start, value=first, label=label, min_width=180)
        changed = lambda name: gr.update(choices=choices(name), value=first)  # noqa: E731
        self.on(self.network.change, changed, [self.network], [box])
        return box

    def temporary(self) -> Path:
        """A new folder for files to download."""
        return Path(mkdtemp(dir=self.folder))

    def searched(self, model: LoadedModel, data: CalibrationSet, rounds: int) -> SearchResult:
        """A quick search that keeps the layers' maps for the next one."""
        settings = replace(state.QUICK, generations=int(rounds))
        return state.quick_search(model, data, settings, cache=self.folder / "maps", progress=True)


class _ExplainTab(_Tab):
    """Which parts of a photo speak for a class, in which layer?"""

    def lay_out(self, page: gr.Blocks, examples: Sequence[Path]) -> None:
        """Lay out the tab; ``examples`` are read when the page is opened."""
        start = state.MapSettings()
        photos, chosen, found = gr.State([]), gr.State(None), gr.State(None)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                upload = _files("Drop photos here", "explain-photos")
                gallery = _gallery("Photos: choose one", "photos")
                label = gr.Label(label="Top predictions", num_top_classes=5)
                with gr.Row():
                    index = self.classes("Class")
                    against = self.classes("And not", NONE)
            with gr.Column(scale=3, min_width=320):
                compared = gr.ImageSlider(
                    label="Left: method. Right: the other one", interactive=False, height=430,
                    elem_classes="compared",
                )  # fmt: skip
                with gr.Row():
                    method = gr.Dropdown(list(state.OFFERED), value="SSG-CAM", label="Method")
                    other = gr.Dropdown(
                        list(state.OFFERED), value=METHODS["grad_cam"].title, label="Compared with"
                    )
                    layer = gr.Dropdown([state.FUSED], value=state.FUSED, label="Layer")
                with gr.Row():
                    sliders = [
                        gr.Slider(low, high, getattr(start, name), step=step, label=title)
                        for name, title, low, high, step in SLIDERS
                    ]
        layers = _gallery("Every layer: choose one", "layers")
        make, files = _download("Overlay, map, settings")
        settings = [layer, method, *sliders]
        drawn = [found, label, layer, compared, layers]
        asked = [self.network, index, against, other, *settings]
        redraw = [found, other, *settings]
        self.on(gallery.select, self.choose, [photos, *asked], [chosen, *drawn])
        begun = [photos, gallery, chosen, *drawn]
        self.on(upload.upload, self.add, [upload, photos, *asked], [upload, *begun])
        for event in (index.input, against.input, self.network.change):
            self.on(event, self.run, [chosen, *asked], drawn)
        changed: list[Any] = [method, other, layer, *sliders]
        for each in changed:
            self.on(each.input, self.draw, redraw, [compared, layers], fast=True)
        self.on(layers.select, self.pick, redraw, [layer, compared], fast=True)
        self.on(make.click, self.download, [found, *settings], [files])
        paths = [str(path) for path in examples]
        self.on(page.load, lambda *rest: self.show(_read(paths), 0, *rest), asked, begun)

    @staticmethod
    def settings(layer: str, method: str, *sliders: float) -> state.MapSettings:
        """The values of the page as settings."""
        values: dict[str, Any] = {
            name: value for (name, *_), value in zip(SLIDERS, sliders, strict=True)
        }
        return state.MapSettings(method=state.OFFERED[method], layer=layer, **values)

    def draw(
        self, explained: state.Explanation | None, other: str, layer: str, method: str, *rest: float
    ) -> Any:
        """The two maps over the photo, and a picture of every layer."""
        if explained is None:
            return None, []
        own = self.settings(layer, method, *rest)
        right = self.settings(layer, other, *rest)
        return (explained.overlay(own), explained.overlay(right)), explained.layers(own)

    def run(
        self, named: Named | None, name: str, index: str, against: str, other: str, layer: str,
        *rest: Any,
    ) -> Any:  # fmt: skip
        """Explain a photo: its signals, the top predictions, the layers, and what is drawn."""
        if named is None:
            raise SsgcamError("there is no photo yet; drop one")
        model, photo = self.models[name], named[1]
        known = state.probabilities(model, photo)
        names = state.class_names(model)
        predicted = {names[k]: float(known[k]) for k in known.argsort(descending=True)[:5]}
        explained = state.explain(model, photo, state.class_of(index), state.class_of(against))
        layer = layer if layer in explained.signals else state.FUSED
        choices = gr.update(choices=[state.FUSED, *explained.signals], value=layer)
        return explained, predicted, choices, *self.draw(explained, other, layer, *rest)

    def choose(self, event: gr.SelectData, photos: list[Named], *rest: Any) -> Any:
        """Explain the photo that was clicked."""
        return photos[event.index], *self.run(photos[event.index], *rest)

    def add(self, files: Files, photos: list[Named], *rest: Any) -> Any:
        """Add photos and explain the last one."""
        return None, *self.show([*photos, *_read(files)], -1, *rest)

    def show(self, photos: list[Named], number: int, *rest: Any) -> Any:
        """Show all photos and explain one of them, if there is any."""
        if not photos:
            return [], [], None, None, None, gr.update(), None, []
        return photos, _thumbs(photos), photos[number], *self.run(photos[number], *rest)

    def pick(
        self, event: gr.SelectData, found: state.Explanation, other: str, layer: str, *rest: Any
    ) -> Any:
        """Show the layer that was clicked."""
        layer = list(found.signals)[event.index]
        return layer, self.draw(found, other, layer, *rest)[0]

    def download(self, found: state.Explanation | None, *settings: Any) -> Any:
        """Write overlay, map and settings."""
        if found is None:
            raise SsgcamError("there is no map yet; choose a photo")
        return gr.update(value=found.save(self.settings(*settings), self.temporary()), visible=True)


class _MasksTab(_Tab):
    """Masks by a recipe, which is loaded or searched from a few labeled photos."""

    def lay_out(self) -> None:
        """Lay out the tab."""
        done = gr.State([])
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                file = gr.File(label="Recipe (.json)", file_types=[".json"], height=140)
                with gr.Accordion("Or search one from a few labeled photos", open=False):
                    images = _files("Photos", "search-photos")
                    masks = _files("Masks of the same names", "search-masks")
                    index = self.classes("Class of the object")
                    rounds = gr.Slider(5, 200, 40, step=5, label="Generations")
                    start = gr.Button("Search", variant="primary")
                about = gr.Markdown("No recipe yet: the default layers are used.")
                examples = gr.Image(interactive=False, visible=False, show_label=False)
            with gr.Column(scale=3, min_width=320):
                upload = _files("Photos to segment", "segment-photos")
                threshold = gr.Slider(0, 1, 0.5, step=0.01, label="Threshold")
                gallery = _gallery("Outlines", "outlines")
                make, files = _download("Masks and recipe")
        outputs = [self.used, about, done, threshold, gallery]
        self.on(file.change, self.load, [file, done, self.network], outputs)
        asked = [images, masks, index, rounds, done, self.network]
        self.on(start.click, self.search, asked, [examples, *outputs])
        asked = [upload, self.used, threshold, self.network]
        self.on(upload.upload, self.add, asked, [upload, done, gallery])
        self.on(threshold.input, _outlines, [done, threshold], [gallery], fast=True)
        self.on(make.click, self.download, [done, self.used, threshold, self.network], [files])

    def use(self, recipe: Recipe, text: str, photos: Photos, name: str) -> Any:
        """A recipe, what is said about it, and the masks of all photos by it."""
        model = self.models[name]
        photos = [state.masked_photo(model, recipe, p.photo, p.name) for p in photos]
        threshold = round(recipe.threshold, 3)
        return recipe, text, photos, threshold, _outlines(photos, threshold)

    def load(self, path: str | None, photos: Photos, name: str) -> Any:
        """Use the recipe of a file."""
        if path is None:
            return None, gr.update(), photos, gr.update(), _outlines(photos, 0.5)
        recipe = Recipe.load(path)
        recipe.bind(self.models[name])
        return self.use(recipe, state.describe(recipe), photos, name)

    def search(
        self, images: Files, masks: Files, index: str, rounds: int, photos: Photos, name: str,
        progress: gr.Progress = PROGRESS,
    ) -> Any:  # fmt: skip
        """Search a recipe and use it."""
        if not images or not masks:
            raise SsgcamError("drop a few photos and a mask for each")
        model = self.models[name]
        samples = state.staged(images, masks, self.temporary())
        known = state.class_of(index)
        data = CalibrationSet.from_samples(samples, model, classes=known, any_count=True)
        report, recipe = (found := self.searched(model, data, rounds)).report, found.recipe
        text = "\n\n".join([report.summary(), state.describe(recipe), *report.warnings])
        picture = gr.update(value=report.examples, visible=True)
        return picture, *self.use(recipe, text, photos, name)

    def add(self, files: Files, recipe: Recipe | None, threshold: float, name: str) -> Any:
        """Segment photos."""
        model = self.models[name]
        recipe = recipe or state.start_recipe(model)
        made = [state.masked_photo(model, recipe, photo, at) for at, photo in _read(files)]
        return None, made, _outlines(made, threshold)

    def download(self, photos: Photos, recipe: Recipe | None, threshold: float, name: str) -> Any:
        """Write the masks and the recipe."""
        if not photos:
            raise SsgcamError("there is no mask yet; drop photos to segment")
        recipe = recipe or state.start_recipe(self.models[name])
        path = state.save_masks(photos, recipe, threshold, self.temporary() / "masks.zip")
        return gr.update(value=path, visible=True)


class _CorrectTab(_Tab):
    """Paint what is object and what is not, and search again."""

    def lay_out(self) -> None:
        """Lay out the tab."""
        photos, chosen, made = gr.State([]), gr.State(None), gr.State([])
        gr.Markdown(
            "Paint a few strokes: **green** on the object, **red** on what is not the object. The rest "
            "counts as unknown. The search uses all photos that were painted so far."
        )
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                upload = _files("Drop photos here", "paint-photos")
                gallery = _gallery("Photos: choose one", "photos")
                brush = gr.Brush(
                    default_size=12, colors=[state.OBJECT, state.NOT_OBJECT], color_mode="fixed",
                    default_color=state.OBJECT,
                )  # fmt: skip
                editor = gr.ImageEditor(
                    label="Paint", type="numpy", sources=(), transforms=(), layers=False, height=460,
                    brush=brush,
                )  # fmt: skip
            with gr.Column(scale=2, min_width=300):
                index = self.classes("Class of the object")
                with gr.Row():
                    start = gr.Button("Search again", variant="primary")
                    forget = gr.Button("Forget all strokes")
                about = gr.Markdown("Nothing is painted yet.")
                before = gr.Image(label="Before", interactive=False)
                after = gr.Image(label="After", interactive=False)
        self.on(
            upload.upload, self.add, [upload, photos], [upload, photos, gallery, chosen, editor]
        )
        self.on(gallery.select, self.choose, [photos], [chosen, editor], fast=True)
        asked = [chosen, editor, index, made, self.used, self.network]
        self.on(start.click, self.search, asked, [made, self.used, about, before, after])
        self.on(forget.click, lambda: ([], "Nothing is painted yet."), None, [made, about])
        self.on(self.network.change, lambda: [], None, [made])

    def add(self, files: Files, photos: list[Named]) -> Any:
        """Add photos and show the last one."""
        photos = [*photos, *_read(files)]
        return None, photos, _thumbs(photos), photos[-1], _canvas(photos[-1][1])

    def choose(self, event: gr.SelectData, photos: list[Named]) -> Any:
        """Show the photo that was clicked."""
        return photos[event.index], _canvas(photos[event.index][1])

    def search(
        self, named: Named | None, painted: dict[str, Any] | None, index: str,
        made: list[state.Correction], recipe: Recipe | None, name: str,
        progress: gr.Progress = PROGRESS,
    ) -> Any:  # fmt: skip
        """Search a recipe on all strokes so far; masks of this photo before and after."""
        if named is None:
            raise SsgcamError("there is no photo yet; drop one and paint on it")
        model, (file, photo) = self.models[name], named
        strokes = state.strokes_to_mask((painted or {}).get("layers", ()), photo.size)
        of = state.class_of(index)
        of = int(state.probabilities(model, photo).argmax()) if of is None else of
        correction = state.Correction(file, photo, strokes, of)
        made = [*(each for each in made if each.name != file), correction]
        data = state.correction_set(model, made)
        found = self.searched(model, data, state.QUICK.generations)
        pictures, scores = [], []
        for each in (recipe or state.start_recipe(model), found.recipe):
            mask = state.masked_photo(model, each, photo, file, of).mask(each.threshold)
            pictures.append(state.outlined(photo, mask))
            scores.append(state.painted_iou(mask, strokes))
        text = (
            f"IoU on what was painted here: before **{scores[0]:.3f}**, after "
            f"**{scores[1]:.3f}**. {len(made)} photo{'s' * (len(made) != 1)} so far.\n\n"
            f"{state.describe(found.recipe)}\n\nThe tab Masks uses this recipe now."
        )
        return made, found.recipe, text, *pictures


class _CardTab(_Tab):
    """Measure every layer and method on a few photos."""

    def lay_out(self) -> None:
        """Lay out the tab."""
        gr.Markdown(
            "Measures every layer and method on a few photos. Masks have the names of their photos."
        )
        with gr.Row():
            upload = _files("Photos", "card-photos")
            masks = _files("Masks (optional)", "card-masks")
        with gr.Row():
            count = gr.Slider(2, 50, 8, step=1, label="Photos to use")
            index = self.classes("Class")
            start = gr.Button("Measure (minutes)", variant="primary")
        about, title = gr.Markdown(), "Every layer and method"
        sheet = gr.Image(interactive=False, visible=False, show_label=False)
        table = gr.Dataframe(label=title, interactive=False, visible=False)
        label = "Network card (HTML) and numbers (JSON)"
        files = gr.File(label=label, interactive=False, visible=False)
        asked = [upload, masks, count, index, self.network]
        self.on(start.click, self.measure, asked, [about, sheet, table, files])

    def measure(
        self, paths: Files, masks: Files, count: int, index: str, name: str,
        progress: gr.Progress = PROGRESS,
    ) -> Any:  # fmt: skip
        """The card: recommendation, layers on a photo, table and files."""
        if not paths:
            raise SsgcamError("there is no photo yet; drop two or more")
        folder = self.temporary()
        card = evaluate_card(
            self.models[name], state.staged(paths, masks or (), folder), photos=int(count), mosaics=8,
            stages=2, classes=state.class_of(index), settings=EvaluationSettings(progress=True),
        )  # fmt: skip
        written = [str(path) for path in write_card(card, folder / "card")[:2]]
        rows = card.rows()
        style = [
            ["text-align: right" * (not isinstance(each, str)) for each in row] for row in rows
        ]
        values = {
            "headers": ["method", "layer", *card.columns()],
            "data": rows,
            "metadata": {"display_value": cell_texts(rows), "styling": style},
        }
        notes = [f"*{each}*" for each in card.notes]
        text = "\n\n".join([*card.recommendation(), *notes, MEANING])
        return text, *(
            gr.update(value=each, visible=True) for each in (card.sheet, values, written)
        )


def _outlines(photos: Photos, threshold: float) -> list[tuple[Image.Image, str]]:
    """The photos with the outlines of their masks at a threshold."""
    return [(state.outlined(each.photo, each.mask(threshold), 600), each.name) for each in photos]


def _files(label: str, name: str) -> gr.File:
    """A place to drop pictures."""
    kinds = sorted(IMAGE_EXTENSIONS)
    return gr.File(
        label=label, elem_id=name, file_count="multiple", file_types=kinds, height=140, min_width=200
    )  # fmt: skip


def _download(label: str) -> tuple[gr.Button, gr.File]:
    """A button that prepares files, and where they appear."""
    button = gr.Button("Prepare files to download", size="sm")
    return button, gr.File(label=label, interactive=False, visible=False)


def _gallery(label: str, look: Literal["photos", "layers", "outlines"]) -> gr.Gallery:
    """Small pictures to choose from; ``look`` names their style, which sets the columns."""
    return gr.Gallery(
        label=label, height=150 if look == "photos" else None, allow_preview=False,
        fit_columns=False, object_fit="contain", interactive=False, elem_classes=["thumbs", look],
        buttons=[],
    )  # fmt: skip


def _read(files: Files) -> list[Named]:
    """The photos that can be read; a warning for each other one, an error if there is none."""
    if len(files or ()) > MOST:
        raise SsgcamError(f"{len(files or ())} files at once; drop at most {MOST}")
    photos, wrong = [], []
    for file in files or ():
        try:
            photos.append((Path(file).name, read_image(file)))
        except SsgcamError as error:
            wrong.append(str(error).replace(file, Path(file).name))
    if wrong and not photos:
        raise SsgcamError(wrong[0])
    for sentence in wrong[:3]:
        gr.Warning(escape(sentence))
    return photos


def _thumbs(photos: Sequence[Named]) -> list[tuple[Image.Image, str]]:
    return [(state.shrunk(photo, 200), name) for name, photo in photos]


def _canvas(photo: Image.Image) -> dict[str, Any]:
    return {"background": state.shrunk(photo, 800), "layers": [], "composite": None}
