"""The page: four tabs over the functions of ``app.state``, laid out with Gradio."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from html import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

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
from ssgcam.search import SearchResult, SearchSettings

#: Photos that one upload may have.
MOST = 200
TOP = "the most probable"
NONE = "none"
STYLE = """
.gradio-container { max-width: min(1280px, 100vw) !important; margin: 0 auto !important; }
.gradio-container, .gradio-container :is(.main, .wrap, .contain, .tabs, .tabitem) {
  min-width: 0 !important; }
.thumbs img { object-fit: contain !important; }
.layers .grid-container { grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)) !important; }
@media (max-width: 640px) {
  .gradio-container .main { padding: 8px !important; }
  .row > .column { flex-basis: 100% !important; }
}
"""
#: A photo with its name.
Named = tuple[str, Image.Image]


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
        tabs = _Tabs(by_name, network, used, folder)
        with gr.Tabs():
            with gr.Tab("Explain", id="explain"):
                tabs.explain(page, examples)
            with gr.Tab("Masks", id="masks"):
                tabs.masks()
            with gr.Tab("Correct and search again", id="correct"):
                tabs.correct()
            with gr.Tab("Network card", id="card"):
                tabs.card()
        tabs.on(network.change, lambda name: None, [network], [used])
    return page


class _Tabs:
    """The tabs, and what they share."""

    def __init__(
        self, models: dict[str, LoadedModel], network: gr.Dropdown, used: gr.State, folder: Path
    ) -> None:
        self.models, self.network, self.used, self.folder = models, network, used, folder

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
        box = gr.Dropdown(start, value=first, label=label, min_width=150)
        changed = lambda name: gr.update(choices=choices(name), value=first)  # noqa: E731
        self.on(self.network.change, changed, [self.network], [box])
        return box

    def temporary(self) -> Path:
        """A new folder for files to download."""
        return Path(mkdtemp(dir=self.folder))

    def explain(self, page: gr.Blocks, examples: Sequence[Path]) -> None:
        """Which parts of a photo speak for a class, in which layer?"""
        start = state.MapSettings()
        photos, found = gr.State([]), gr.State(None)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                upload = _files("Drop photos here", "explain-photos")
                gallery = _gallery("Photos: choose one", 4, 150)
                label = gr.Label(label="Top predictions", num_top_classes=5)
                with gr.Row():
                    index = self.classes("Class")
                    against = self.classes("And not", NONE)
            with gr.Column(scale=3, min_width=320):
                compared = gr.ImageSlider(
                    label="Left: method. Right: the other one", interactive=False, height=430
                )
                with gr.Row():
                    method = gr.Dropdown(list(state.OFFERED), value="SSG-CAM", label="Method")
                    other = gr.Dropdown(
                        list(state.OFFERED), value=METHODS["grad_cam"].title, label="Compared with"
                    )
                    layer = gr.Dropdown([state.FUSED], value=state.FUSED, label="Layer")
                with gr.Row():
                    sigma = gr.Slider(0, 0.3, start.sigma, step=0.01, label="Sigma (SSG-CAM)")
                    first = gr.Slider(0, 3, start.first_exponent, step=0.1, label="First exponent")
                    second = gr.Slider(
                        0, 3, start.second_exponent, step=0.1, label="Second exponent"
                    )
                    gamma = gr.Slider(0.1, 3, start.gamma, step=0.1, label="Gamma")
                    opacity = gr.Slider(0.1, 1, start.opacity, step=0.05, label="Opacity")
        layers = _gallery("Every layer: choose one", 6, None)
        make, files = _download("Overlay, map, settings")
        sliders = [method, sigma, first, second, gamma, layer, opacity]

        def settings(method: str, *rest: Any) -> state.MapSettings:
            return state.MapSettings(state.OFFERED[method], *rest)

        def draw(explained: state.Explanation | None, other: str, *given: Any) -> Any:
            if explained is None:
                return None, []
            own = settings(*given)
            right = settings(other, *given[1:])
            pair = explained.overlay(own), explained.overlay(right)
            return pair, explained.layers(own)

        def run(named: Named | None, name: str, index: str, against: str, *rest: Any) -> Any:
            if named is None:
                raise SsgcamError("there is no photo yet; drop one")
            model, photo = self.models[name], named[1]
            known = state.probabilities(model, photo)
            names = state.class_names(model)
            predicted = {names[k]: float(known[k]) for k in known.argsort(descending=True)[:5]}
            of, rival = state.class_of(index), state.class_of(against)
            explained = state.explain(model, photo, of, rival)
            other, *given = rest
            given[5] = given[5] if given[5] in explained.signals else state.FUSED
            list_of = gr.update(choices=[state.FUSED, *explained.signals], value=given[5])
            return explained, predicted, list_of, *draw(explained, other, *given)

        def choose(photos: list[Named], *rest: Any, data: gr.SelectData) -> Any:
            return photos[data.index], *run(photos[data.index], *rest)

        chosen = gr.State(None)
        drawn = [found, label, layer, compared, layers]
        asked = [self.network, index, against, other, *sliders]
        add, redraw = [upload, photos], [found, other, *sliders]

        def added(files: list[str] | None, photos: list[Named], *rest: Any) -> Any:
            photos = [*photos, *_read(files)]
            named = photos[-1] if photos else None
            return None, photos, _thumbs(photos), named, *run(named, *rest)

        def begin(*rest: Any) -> Any:
            photos = _read([str(path) for path in examples]) if examples else []
            if not photos:
                return [], [], None, None, None, gr.update(), None, []
            return photos, _thumbs(photos), photos[0], *run(photos[0], *rest)

        # Gradio finds SelectData by its annotation, which the wrapper of errors hides
        def select(event: gr.SelectData, photos: list[Named], *rest: Any) -> Any:
            return shown(choose)(photos, *rest, data=event)

        options: dict[str, Any] = {"concurrency_id": "networks", "concurrency_limit": 1}
        gallery.select(
            select, [photos, *asked], [chosen, *drawn], api_visibility="private", **options
        )
        self.on(upload.upload, added, [*add, *asked], [upload, photos, gallery, chosen, *drawn])
        for box in (index, against):
            self.on(box.input, run, [chosen, *asked], drawn)
        self.on(self.network.change, run, [chosen, *asked], drawn)
        for each in (method, other, layer):
            self.on(each.input, draw, redraw, [compared, layers], fast=True)
        for slider in (sigma, first, second, gamma, opacity):
            self.on(slider.input, draw, redraw, [compared, layers], fast=True)

        def pick(event: gr.SelectData, found: state.Explanation, *given: Any) -> Any:
            name = list(found.signals)[event.index]
            values = list(given)
            values[6] = name
            return name, shown(draw)(found, *values)[0]

        layers.select(pick, redraw, [layer, compared], api_visibility="private", queue=True)

        def download(found: state.Explanation | None, *given: Any) -> Any:
            if found is None:
                raise SsgcamError("there is no map yet; choose a photo")
            return gr.update(value=found.save(settings(*given), self.temporary()), visible=True)

        self.on(make.click, download, [found, *sliders], [files])
        self.on(page.load, begin, asked, [photos, gallery, chosen, *drawn])

    def masks(self) -> None:
        """Masks by a recipe, which is loaded or searched from a few labeled photos."""
        done = gr.State([])
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                file = gr.File(label="Load a recipe (.json)", file_types=[".json"], height=110)
                with gr.Accordion("Or search one from a few labeled photos", open=False):
                    images = _files("Photos", "search-photos")
                    masks = _files("Masks of the same names", "search-masks")
                    index = self.classes("Class of the object")
                    rounds = gr.Slider(5, 200, 40, step=5, label="Generations")
                    start = gr.Button("Search", variant="primary")
                about = gr.Markdown("No recipe yet: the default layers are used.")
                examples = gr.Image(
                    label="Worst, median and best photos", interactive=False, visible=False
                )
            with gr.Column(scale=3, min_width=320):
                upload = _files("Photos to segment", "segment-photos")
                threshold = gr.Slider(0, 1, 0.5, step=0.01, label="Threshold")
                gallery = _gallery("Outlines", 3, None)
                make, files = _download("Masks and recipe")

        def use(recipe: Recipe, photos: list[state.MaskedPhoto], name: str) -> Any:
            model = self.models[name]
            photos = [state.masked_photo(model, recipe, p.photo, p.name) for p in photos]
            return photos, recipe.threshold, outline(photos, recipe.threshold)

        def load(path: str | None, photos: list[state.MaskedPhoto], name: str) -> Any:
            if path is None:
                return None, gr.update(), photos, gr.update(), outline(photos, 0.5)
            recipe = Recipe.load(path)
            recipe.bind(self.models[name])
            return recipe, state.describe(recipe), *use(recipe, photos, name)

        def search(
            images: list[str] | None,
            masks: list[str] | None,
            index: str,
            rounds: int,
            photos: list[state.MaskedPhoto],
            name: str,
            progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008
        ) -> Any:
            model = self.models[name]
            if not images or not masks:
                raise SsgcamError("drop a few photos and a mask for each")
            samples = state.staged(images, masks, self.temporary())
            labeled = state.labeled(model, samples, state.class_of(index))
            found, notes = self.searched(model, labeled, rounds)
            text = "\n\n".join([found.report.summary(), state.describe(found.recipe), *notes])
            picture = gr.update(value=found.report.examples, visible=True)
            return found.recipe, text, picture, *use(found.recipe, photos, name)

        def add(files: list[str] | None, recipe: Recipe | None, threshold: float, name: str) -> Any:
            model = self.models[name]
            recipe = recipe or state.start_recipe(model)
            made = [state.masked_photo(model, recipe, photo, at) for at, photo in _read(files)]
            return None, made, outline(made, threshold)

        def outline(photos: list[state.MaskedPhoto], threshold: float) -> Any:
            return [
                (state.outlined(each.photo, each.mask(threshold), 600), each.name)
                for each in photos
            ]

        def download(
            photos: list[state.MaskedPhoto], recipe: Recipe | None, threshold: float, name: str
        ) -> Any:
            if not photos:
                raise SsgcamError("there is no mask yet; drop photos to segment")
            recipe = recipe or state.start_recipe(self.models[name])
            path = state.save_masks(photos, recipe, threshold, self.temporary() / "masks.zip")
            return gr.update(value=path, visible=True)

        shared = [done, threshold, gallery]
        self.on(file.change, load, [file, done, self.network], [self.used, about, *shared])
        self.on(
            start.click, search, [images, masks, index, rounds, done, self.network],
            [self.used, about, examples, *shared],
        )  # fmt: skip
        self.on(
            upload.upload, add, [upload, self.used, threshold, self.network],
            [upload, done, gallery],
        )  # fmt: skip
        self.on(threshold.input, outline, [done, threshold], [gallery], fast=True)
        self.on(make.click, download, [done, self.used, threshold, self.network], [files])

    def correct(self) -> None:
        """Paint what is object and what is not, and search again."""
        photos, chosen, made = gr.State([]), gr.State(None), gr.State([])
        gr.Markdown(
            "Paint a few strokes: **green** on the object, **red** on what is not the object. The rest "
            "counts as unknown. The search uses all photos that were painted so far."
        )
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                upload = _files("Drop photos here", "paint-photos")
                gallery = _gallery("Photos: choose one", 4, 150)
                editor = gr.ImageEditor(
                    label="Paint",
                    type="numpy",
                    sources=(),
                    transforms=(),
                    layers=False,
                    height=460,
                    brush=gr.Brush(
                        default_size=12, colors=[state.OBJECT, state.NOT_OBJECT], color_mode="fixed",
                        default_color=state.OBJECT,
                    ),
                )  # fmt: skip
            with gr.Column(scale=2, min_width=300):
                index = self.classes("Class of the object")
                with gr.Row():
                    start = gr.Button("Search again", variant="primary")
                    forget = gr.Button("Forget all strokes")
                about = gr.Markdown("Nothing is painted yet.")
                before = gr.Image(label="Before", interactive=False)
                after = gr.Image(label="After", interactive=False)

        def added(files: list[str] | None, photos: list[Named]) -> Any:
            photos = [*photos, *_read(files)]
            return None, photos, _thumbs(photos), photos[-1], _canvas(photos[-1][1])

        def select(event: gr.SelectData, photos: list[Named]) -> Any:
            return photos[event.index], _canvas(photos[event.index][1])

        def search(
            named: Named | None,
            painted: dict[str, Any] | None,
            index: str,
            made: list[state.Correction],
            recipe: Recipe | None,
            name: str,
            progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008
        ) -> Any:
            if named is None:
                raise SsgcamError("there is no photo yet; drop one and paint on it")
            model, (file, photo) = self.models[name], named
            strokes = state.strokes_to_mask((painted or {}).get("layers", ()), photo.size)
            of = state.class_of(index)
            of = int(state.probabilities(model, photo).argmax()) if of is None else of
            correction = state.Correction(file, photo, strokes, of)
            made = [*(each for each in made if each.name != file), correction]
            old = recipe or state.start_recipe(model)
            found, _ = self.searched(model, made, state.QUICK.generations)
            pictures, scores = [], []
            for each in (old, found.recipe):
                mask = state.masked_photo(model, each, photo, file, of).mask(each.threshold)
                pictures.append(state.outlined(photo, mask))
                scores.append(state.painted_iou(mask, strokes))
            text = (
                f"IoU on what was painted here: before **{scores[0]:.3f}**, after "
                f"**{scores[1]:.3f}**. {len(made)} photo{'s' * (len(made) != 1)} so far.\n\n"
                f"{state.describe(found.recipe)}\n\nThe tab Masks uses this recipe now."
            )
            return made, found.recipe, text, *pictures

        self.on(upload.upload, added, [upload, photos], [upload, photos, gallery, chosen, editor])
        gallery.select(select, [photos], [chosen, editor], api_visibility="private")
        asked = [chosen, editor, index, made, self.used, self.network]
        self.on(start.click, search, asked, [made, self.used, about, before, after])
        self.on(forget.click, lambda: ([], "Nothing is painted yet."), None, [made, about])
        self.on(self.network.change, lambda: [], None, [made])

    def card(self) -> None:
        """Measure every layer and method on a few photos."""
        with gr.Row():
            upload = _files("Photos", "card-photos")
            masks = _files("Masks of the same names (can be left out)", "card-masks")
        with gr.Row():
            count = gr.Slider(2, 50, 8, step=1, label="Photos to use")
            index = self.classes("Class")
            start = gr.Button("Measure (minutes)", variant="primary")
        about = gr.Markdown()
        sheet = gr.Image(
            label="Every layer and method on one photo", interactive=False, visible=False
        )
        table = gr.Dataframe(label="Every layer and method", interactive=False, visible=False)
        label = "Network card (HTML) and numbers (JSON)"
        files = gr.File(label=label, interactive=False, visible=False)

        def measure(
            paths: list[str] | None,
            masks: list[str] | None,
            count: int,
            index: str,
            name: str,
            progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008
        ) -> Any:
            if not paths:
                raise SsgcamError("there is no photo yet; drop two or more")
            folder = self.temporary()
            samples = state.staged(paths, masks or (), folder)
            card = evaluate_card(
                self.models[name], samples, photos=int(count), mosaics=8, stages=2,
                classes=state.class_of(index), settings=EvaluationSettings(progress=True),
            )  # fmt: skip
            written = write_card(card, folder / "card")
            values = {"headers": ["method", "layer", *card.columns()], "data": card.rows()}
            text = "\n\n".join(
                [*card.recommendation(), *(f"*{each}*" for each in card.notes), MEANING]
            )
            return (
                text,
                gr.update(value=card.sheet, visible=True),
                gr.update(value=values, visible=True),
                gr.update(value=[str(path) for path in written[:2]], visible=True),
            )

        asked = [upload, masks, count, index, self.network]
        self.on(start.click, measure, asked, [about, sheet, table, files])

    def searched(
        self, model: LoadedModel, labeled: list[state.Correction], rounds: int
    ) -> tuple[SearchResult, list[str]]:
        """A quick search that keeps the layers' maps for the next one."""
        quick = vars(state.QUICK) | {"generations": int(rounds)}
        settings = SearchSettings(**quick)
        return state.search_corrections(model, labeled, settings, self.folder / "maps", True)


def _files(label: str, name: str) -> gr.File:
    """A place to drop pictures."""
    kinds = sorted(IMAGE_EXTENSIONS)
    return gr.File(
        label=label, elem_id=name, file_count="multiple", file_types=kinds, height=120, min_width=200
    )  # fmt: skip


def _download(label: str) -> tuple[gr.Button, gr.File]:
    """A button that prepares files, and where they appear."""
    button = gr.Button("Prepare files to download", size="sm")
    return button, gr.File(label=label, interactive=False, visible=False)


def _gallery(label: str, columns: int, height: int | None) -> gr.Gallery:
    """Small pictures to choose from."""
    return gr.Gallery(
        label=label, columns=columns, height=height, allow_preview=False, fit_columns=False,
        object_fit="contain",
        interactive=False, elem_classes=["thumbs", *(["layers"] if height is None else [])], buttons=[],
    )  # fmt: skip


def _read(files: Sequence[str] | None) -> list[Named]:
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
