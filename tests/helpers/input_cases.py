"""Kinds of pictures, networks, checkpoints and data sets for the page of inputs."""

import json
import pickle

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from helpers.data_trees import mask_file, photo, text
from helpers.pictures import dicom
from ssgcam import CAM, load_model
from ssgcam.data import read_samples
from ssgcam.images import read_image

#: Part of the page and title -> a function from an empty folder to a sentence.
CASES = {}


def case(part, title):
    """Enter a function into the table: from an empty folder to a sentence."""

    def enter(function):
        CASES[part, title] = function
        return function

    return enter


# Pictures


def picture(title, write):
    @case("Pictures", title)
    def run(folder):
        path = write(folder)
        image = read_image(path)
        notes = "; ".join(image.info["notes"])
        return f"read, {image.width}x{image.height}" + (f"; note: {notes}" if notes else "")


def saved(name, pixels, **options):
    def write(folder):
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
        image.save(folder / name, **options)
        return folder / name

    return write


def content(name, data):
    def write(folder):
        (folder / name).write_bytes(data)
        return folder / name

    return write


def tiff(values, **options):
    def write(folder):
        tifffile.imwrite(folder / "a.tif", values, **options)
        return folder / "a.tif"

    return write


COLOR = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
WIDE = np.linspace(0, 4095, 24).reshape(4, 6)
RED, BLUE = Image.new("RGB", (6, 4), "red"), Image.new("RGB", (6, 4), "blue")
picture("JPEG", saved("a.jpg", COLOR))
picture("gray PNG", saved("a.png", COLOR[..., 0]))
picture("CMYK JPEG", saved("a.jpg", RED.convert("CMYK")))
picture("transparent PNG (laid on white)", saved("a.png", RED.convert("RGBA")))
picture(
    "photo of 6x4 turned by EXIF", lambda folder: photo(folder / "a.jpg", (6, 4), orientation=6)
)
picture("PNG of 16 bits with 12-bit values", saved("a.png", WIDE.astype(np.uint16)))
picture("TIFF, 32-bit integers", saved("a.tif", WIDE.astype(np.int32)))
picture("TIFF, floating point", saved("a.tif", WIDE.astype(np.float32)))
picture(
    "TIFF of 2 pages, `--page` chooses", saved("a.tif", RED, save_all=True, append_images=[BLUE])
)
picture("animated GIF", saved("a.gif", RED, save_all=True, append_images=[BLUE]))
picture(
    "TIFF of 5 channels, `--channels` chooses",
    tiff(np.zeros((4, 6, 5), np.uint8), photometric="minisblack", planarconfig="contig"),
)
picture(
    "TIFF of 5 pages of one channel (ImageJ), `--channels` or a network of 5 channels takes all",
    tiff(np.zeros((5, 4, 6), np.uint8), imagej=True),
)
picture("DICOM", lambda folder: dicom(folder / "a.dcm", WIDE))
picture("HEIC", content("a.heic", b"\0\0\0\x18ftypheic" + bytes(100)))
picture("an empty file", content("a.jpg", b""))
picture("a text file named .jpg", content("a.jpg", b"no picture"))
picture("a PNG that was cut short", lambda folder: cut(saved("a.png", COLOR)(folder)))
picture("a file that does not exist", lambda folder: folder / "a.jpg")


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])
    return path


# Networks


class Wrapped(nn.Module):
    """A small network whose logits go through ``change``."""

    def __init__(self, change=lambda logits: logits, channels=3, outputs=4):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 8, 3, stride=4, padding=1), nn.ReLU())
        self.head = nn.Linear(8, outputs)
        self.change = change

    def forward(self, images):
        return self.change(self.head(self.features(images).mean((2, 3))))


class Output:
    def __init__(self, logits):
        self.logits = logits


class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, images):
        return {"out": self.head(self.features(images))}


class WithoutGradients(Wrapped):
    def forward(self, images):
        with torch.no_grad():
            return super().forward(images)


def mixer():
    parts = pytest.importorskip("timm.models.mlp_mixer")
    network = parts.MlpMixer(3, 32, patch_size=8, num_blocks=2, embed_dim=64)
    nn.init.normal_(network.head.weight)
    return network


def network(title, build, channels=3, **options):
    @case("Networks", title)
    def run(folder):
        torch.manual_seed(0)
        cam = CAM(build(), **options)
        images = torch.rand(1, channels, 32, 32)
        found = cam(images)
        grids = " and ".join(f"{m.shape[-2]}x{m.shape[-1]}" for m in found.layer_maps.values())
        layers = "layer" if len(found.layer_maps) == 1 else "layers"
        outputs = "" if found.probabilities is None else f", {found.probabilities.shape[1]} classes"
        return f"explained{outputs}; {layers} {', '.join(found.layer_maps)}, {grids} cells"


network("any torch.nn.Module that gives logits", Wrapped)
network("vision transformer", lambda: load_model("timm/test_vit", "none").network.eval())
network("MLP-Mixer (layers inside the token mixing are left out)", mixer)
network("1 input channel", lambda: Wrapped(channels=1), channels=1)
network("5 input channels", lambda: Wrapped(channels=5), channels=5)
network("one logit (explained as two classes)", lambda: Wrapped(outputs=1))
network("output object with `.logits`", lambda: Wrapped(Output))
network("output tuple", lambda: Wrapped(lambda logits: (logits, None)))
network("segmentation network", Segmenter)
network('the same with `target="mean_of_mask"`', Segmenter, target="mean_of_mask")
network("detector, dictionary of boxes and scores", lambda: Wrapped(lambda z: {"scores": z}))
network(
    "the same with a target function",
    lambda: Wrapped(lambda z: {"scores": z}),
    target=lambda output: output["scores"].amax(1),
)
network("forward under `torch.no_grad`", WithoutGradients)
network("logits that are NaN", lambda: Wrapped(lambda logits: logits * torch.nan))
network("no layer with rows and columns", lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)))
network("a layer that does not exist", Wrapped, layers=["layer9"])


def named(title, name):
    @case("Networks", title)
    def run(folder):
        model = load_model(name, "none")
        return "loaded" + "".join(f"; note: {note}" for note in model.notes)


named("`--model` of torchvision with `--weights none`", "squeezenet1_1")
named("a misspelt `--model`", "resnet35")
named("a factory that is not there", "helpers.factories:none_such")
named("a factory that returns no network", "helpers.factories:nothing")
named("a factory of a bare network", "helpers.factories:five_channels")


# Checkpoints


class Code:
    def __reduce__(self):
        return print, ("code was run",)


def checkpoint(title, write, name="a.pth"):
    @case("Checkpoints", title)
    def run(folder):
        state = load_model("squeezenet1_1", "none", num_classes=5).network.state_dict()
        write(folder / name, state)
        model = load_model("squeezenet1_1", folder / name)
        return f"loaded, {len(model.network.classifier[1].weight)} classes"


def prefixed(prefix):
    return lambda path, state: torch.save(
        {"state_dict": {prefix + key: value for key, value in state.items()}, "epoch": 3}, path
    )


def other(data):
    return lambda path, state: path.write_bytes(data)


checkpoint("state dict", lambda path, state: torch.save(state, path))
checkpoint("safetensors", lambda path, state: save_file(state, path), "a.safetensors")
checkpoint("`{'state_dict': ...}` with names as `module.features...`", prefixed("module."))
checkpoint("names as `encoder.backbone._orig_mod...`", prefixed("encoder.backbone._orig_mod."))
checkpoint(
    "another architecture", lambda path, state: torch.save({"fc.weight": torch.ones(2)}, path)
)
checkpoint("a pickle that runs code", other(pickle.dumps(Code())))
checkpoint("a git-lfs pointer", other(b"version https://git-lfs.github.com/spec/v1\n"))
checkpoint("a web page", other(b"<!DOCTYPE html><html></html>"))
checkpoint("ONNX", other(b"\x08\x08\x12\x07pytorch"), "a.onnx")
checkpoint("HDF5 of Keras", other(b"\x89HDF\r\n\x1a\n"), "a.h5")


# Data sets


def data(title, write, **options):
    @case("Data sets", title)
    def run(folder):
        root = write(folder) or folder
        found = read_samples(root, **options)
        parts = [f"kind `{found.kind}`", f"classes {', '.join(found.class_names) or 'unknown'}"]
        parts += ["boxes"] * any(sample.boxes for sample in found)
        parts += ["masks"] * any(sample.mask is not None for sample in found)
        parts += ["groups"] * any(sample.group for sample in found)
        parts += [f"{found.skipped} left out"] * bool(found.skipped)
        return ", ".join(parts)


def beside_masks(values, name="a.png"):
    def write(folder):
        photo(folder / "images" / "a.jpg", (4, 1))
        mask_file(folder / "masks" / name, [values])

    return write


def renamed(folder):
    beside_masks([0, 0, 1, 1])(folder)
    (folder / "images").rename(folder / "img")
    (folder / "masks").rename(folder / "mask")


def table(lines):
    def write(folder):
        photo(folder / "images" / "a.jpg")
        text(folder / "images" / "set.csv", lines)
        return folder / "images" / "set.csv"

    return write


def class_folders(folder):
    for name in ("cat", "dog"):
        photo(folder / name / "p1_a.jpg")


def coco(folder):
    photo(folder / "a.jpg")
    box = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}
    image = {"id": 1, "file_name": "a.jpg", "width": 20, "height": 10}
    classes = [{"id": 3, "name": "cell"}]
    text(folder / "instances.json", json.dumps(
        {"images": [image], "annotations": [box], "categories": classes}
    ))  # fmt: skip


def yolo(folder):
    photo(folder / "images" / "a.jpg")
    text(folder / "labels" / "a.txt", "0 0.1 0.2 0.4 0.2 0.4 0.7 0.1 0.7\n")


def geojson(folder):
    photo(folder / "images" / "a.jpg")
    ring = [[1, 1], [5, 1], [5, 5], [1, 1]]
    shape = {"geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    text(folder / "masks" / "a.geojson", json.dumps({"features": [shape]}))


data("a folder for each class", class_folders)
data("the same with `--group-pattern '^(p\\d)_'`", class_folders, group_pattern=r"^(p\d)_")
data("a folder of images", lambda folder: photo(folder / "a.jpg") and None)
data("`images/` beside `masks/` of 0 and 255", beside_masks([0, 0, 255, 255]))
data("masks named `a_mask.png`", beside_masks([0, 0, 1, 1], "a_mask.png"))
data("masks of 0, 1 and 2", beside_masks([0, 1, 2, 2]))
data("masks of 0, 1 and 255", beside_masks([0, 1, 255, 255]))
data("the same with `--void 255`", beside_masks([0, 1, 255, 255]), void=255)
data("a mask of another size", beside_masks([0, 0, 255]))
data("CSV: `image,label,group`", table("image,label,group\na,cat,p1\n"))
data("CSV: class names with commas", table('image,label\na,"tench, Tinca"\n'))
data("CSV: `image,x,y,width,height`", table("image,x,y,width,height\na,1,2,3,4\n"))
data("CSV that lists a missing image", table("image,label\nb,cat\n"))
data("the same with `--missing skip`", table("image,label\nb,cat\na,dog\n"), missing="skip")
data("COCO JSON beside its images", coco)
data("YOLO text files", yolo)
data("QuPath GeoJSON", geojson)
data("`img/` beside `mask/`", renamed)
data("a folder without anything", lambda folder: None)
