"""No file of a user runs code, names code, or makes the program write outside the output folder."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import re
import tarfile
import zipfile
from dataclasses import replace
from importlib.metadata import distribution, requires
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.commands import TINY, photo, run
from helpers.search_sets import GRID, squares, tiny
from helpers.segmentation import photos, recipe_for, small
from helpers.training_sets import TINY as TRAINING
from helpers.training_sets import discs
from ssgcam import SsgcamError, load_model, save_model
from ssgcam.bulk.inputs import list_inputs
from ssgcam.bulk.segment import segment_images
from ssgcam.core.augment import View
from ssgcam.core.layers import auto_layers
from ssgcam.data import read_samples
from ssgcam.data.masks import read_raw_mask
from ssgcam.images import read_image
from ssgcam.manifest import checksum
from ssgcam.recipe import Recipe
from ssgcam.search.cache import build_cache
from ssgcam.search.settings import SearchSettings
from ssgcam.training import train_classifier

SOURCES = sorted((Path(__file__).parents[2] / "src" / "ssgcam").rglob("*.py"))


class Code:
    """A pickle that makes a folder when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Any:
    """A folder that must not exist after the test."""
    folder = tmp_path / "code was run"
    yield folder
    assert not folder.exists()


def test_the_marker_would_be_made_by_reading_the_pickle(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Code(tmp_path / "made")))
    assert (tmp_path / "made").is_dir()


def bombs(marker: Path) -> dict[str, bytes]:
    """Files that run code when they are read by a careless program, by format."""
    zipped = io.BytesIO()
    torch.save({"state_dict": Code(marker)}, zipped)
    old = io.BytesIO()
    torch.save(Code(marker), old, _use_new_zipfile_serialization=False)
    objects = io.BytesIO()
    np.save(objects, np.array([[Code(marker)]], dtype=object), allow_pickle=True)
    archive = io.BytesIO()
    np.savez(archive, a=np.array([Code(marker)], dtype=object))
    return {
        "npy": objects.getvalue(),
        "npz": archive.getvalue(),
        "old": old.getvalue(),
        "pickle": pickle.dumps(Code(marker)),
        "zip": zipped.getvalue(),
    }


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("kind", ["npy", "npz", "old", "pickle", "zip"])
def test_a_pickle_in_a_checkpoint_is_not_run(
    kind: str, suffix: str, marker: Path, tmp_path: Path
) -> None:
    file = tmp_path / f"net{suffix}"
    file.write_bytes(bombs(marker)[kind])
    for call in (lambda: load_model(str(file)), lambda: load_model("squeezenet1_1", file)):
        with pytest.raises(SsgcamError):
            call()


@pytest.mark.parametrize("kind", ["npy", "npz", "old", "pickle", "zip"])
def test_a_pickle_in_a_mask_is_not_run(kind: str, marker: Path, tmp_path: Path) -> None:
    file = tmp_path / "mask.npy"
    file.write_bytes(bombs(marker)[kind])
    with pytest.raises(SsgcamError):
        read_raw_mask(file)


@pytest.mark.parametrize("kind", ["npy", "npz", "old", "pickle", "zip"])
def test_a_pickle_in_a_training_checkpoint_is_not_run(
    kind: str, marker: Path, tmp_path: Path
) -> None:
    file = tmp_path / "net.checkpoint.pth"
    file.write_bytes(bombs(marker)[kind])
    with pytest.raises(SsgcamError, match="is not a checkpoint"):
        train_classifier(discs(24), TRAINING, checkpoint=file, resume=True, progress=False)


def test_a_pickle_in_a_map_cache_is_not_run(marker: Path, tmp_path: Path) -> None:
    model = tiny()
    data = squares(2).with_predictions(model)
    settings = SearchSettings(grid=GRID, working_size=(8, 8))
    layer = auto_layers(model.network, data.images[:1])[-1:]

    def cached() -> Any:
        return build_cache(model, data, layer, settings, View(1.0, ()), folder=tmp_path / "maps")

    expected = cached().values
    (file,) = (tmp_path / "maps").iterdir()
    for content in [*bombs(marker).values(), b"", file.read_bytes()[:-9]]:
        file.write_bytes(content)
        assert torch.equal(cached().values, expected)  # the maps are made again


@pytest.mark.parametrize(
    "name", ["helpers.factories:tiny", "os:getcwd", "timm/hf-hub:a/b", "hf:a/b", "net.pth", 7, None]
)
def test_a_network_file_cannot_name_code(name: object, tmp_path: Path) -> None:
    model = load_model("squeezenet1_1", "none", num_classes=2)
    save_model(replace(model, name=name), tmp_path / "net.pth")  # type: ignore[arg-type]
    with pytest.raises(SsgcamError, match=r"may not choose the code|names no architecture"):
        load_model(str(tmp_path / "net.pth"))


def test_a_network_file_may_name_a_factory_that_the_user_names_too(tmp_path: Path) -> None:
    model = load_model("helpers.factories:tiny")
    save_model(model, tmp_path / "net.pth")
    assert load_model(model.name, tmp_path / "net.pth").name == model.name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fusion", "__import__('os').getcwd()"),
        ("target", {"name": "os:getcwd"}),
        ("code", "import os"),
        ("layers", [{"__class__": "os.getcwd"}]),
        ("threshold", "1 - 0.5"),
        ("network", {"name": "a", "py/object": "os.getcwd"}),
    ],
)
def test_a_recipe_cannot_name_code(key: str, value: object, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    recipe_for(small()).save(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(SsgcamError):
        Recipe.load(file)


def test_yaml_tags_are_not_run(tmp_path: Path, marker: Path) -> None:
    photo(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2")
    code = f"names: !!python/object/apply:os.mkdir ['{marker}']"
    (tmp_path / "data.yaml").write_text(code)
    with pytest.raises(SsgcamError, match="has no list of names"):
        read_samples(tmp_path, "yolo")


def test_the_sources_call_nothing_that_runs_code_from_a_file() -> None:
    """The exception is a factory that the user names on the command line."""
    dangerous = {
        "eval",
        "exec",
        "compile",
        "system",
        "popen",
        "Popen",
        "unsafe_load",
        "loads_pickle",
    }
    modules = {"subprocess", "marshal", "shelve", "tarfile", "dill", "joblib"}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not modules & {name.split(".")[0] for name in names}, path
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            arguments = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert (
                called.split(".")[-1] not in dangerous
                or called == "re.compile"
                or (called.endswith(".eval") and not node.args)
            ), f"{path}: {called}"
            assert not called.startswith("pickle."), path
            assert "allow_pickle" not in arguments, path
            assert arguments.get("trust_remote_code", "False") == "False", path
            if called == "torch.load":
                assert arguments.get("weights_only") == "True", path
            if called == "yaml.load":
                raise AssertionError(path)


@pytest.mark.parametrize(
    "pattern", ["in/*/../../*.png", "in/*/../../../*/up.png", "in/a/../*/x.png"]
)
def test_no_pattern_leads_to_a_name_outside_the_output_folder(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "in" / "a" / "x.png")
    photo(tmp_path / "up.png")
    monkeypatch.chdir(tmp_path)
    found = list_inputs([pattern], tmp_path / "out")
    assert found
    assert [image.name for image in found if ".." in Path(image.name).parts] == []


def forge_last_entry(out: Path, **changes: Any) -> None:
    """Change the last line of a manifest, with a checksum that fits."""
    *others, last = (out / "manifest.jsonl").read_text().splitlines()
    entry = json.loads(last) | changes
    del entry["checksum"]
    forged = json.dumps(entry | {"checksum": checksum(entry)})
    (out / "manifest.jsonl").write_text("\n".join([*others, forged, ""]))


def test_nothing_is_written_outside_the_output_folder(tmp_path: Path) -> None:
    model = small()
    folder = tmp_path / "in"
    photos(folder, 2)
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    photos(tmp_path / "elsewhere", 1)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    segment_images([folder], model, out, threshold=0.3, gate=0.0, review=2, overlays=True)
    forge_last_entry(out, outputs=["../../stolen.png", "/etc/passwd"])
    segment_images([folder], model, out, threshold=0.3, gate=0.0, review=2, overlays=True)
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(out) for path in written)


def test_a_unit_of_a_forged_manifest_does_not_decide_where_files_go(tmp_path: Path) -> None:
    model, out = small(), tmp_path / "out"
    photos(tmp_path / "in", 2)
    segment_images([tmp_path / "in"], model, out, threshold=0.3, gate=0.0)
    forge_last_entry(out, unit="../x.png")
    done = segment_images([tmp_path / "in"], model, out, threshold=0.3, gate=0.0, review=2)
    assert done.total == 2
    assert not (tmp_path / "x.png").exists()
    assert not (out / "x.png").exists()


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_is_not_unpacked(kind: str, tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.png")
    file = tmp_path / "pack.png"
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.write(picture, "../../a.png")
    else:
        with tarfile.open(file, "w") as archive:
            archive.add(picture, "../../a.png")
    with pytest.raises(SsgcamError, match="is not an image"):
        read_image(file)


def test_names_in_a_report_are_escaped(tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>"
    model = replace(small(), class_names=(attack, "dog", "cat"))
    picture = photos(tmp_path / "in", 1)[0]
    picture.rename(picture.with_name("<img src=x onerror=alert(1)>.png"))
    segment_images([tmp_path / "in"], model, tmp_path / "out", report=tmp_path / "r.html", gate=0.0)
    run(
        "explain",
        picture.parent,
        "--model",
        TINY,
        "--out",
        tmp_path / "maps",
        "--report",
        tmp_path / "e.html",
    )
    for page in [*tmp_path.rglob("*.html")]:
        text = page.read_text("utf-8")
        assert attack not in text, page
        assert "<img src=x" not in text, page
    assert len(list(tmp_path.glob("*.html"))) == 2


def test_xml_entities_do_not_fill_the_memory(tmp_path: Path) -> None:
    levels = "".join(f'<!ENTITY e{k} "{f"&e{k - 1};" * 10}">' for k in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "ha">{levels}]><annotation>&e11;</annotation>'
    external = '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>'
    for content in (bomb, external):
        root = tmp_path / str(len(content))
        for part in ("Annotations", "ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
            (root / part).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / "JPEGImages" / "a.jpg")
        Image.new("L", (8, 8)).save(root / "SegmentationClass" / "a.png")
        (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
        (root / "Annotations" / "a.xml").write_text(content)
        with pytest.raises(SsgcamError, match="not XML"):
            read_samples(root, "voc", split="train")


#: What a license's text may say; all permit use in a program under the MIT license.
PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|Python Software|PSF|HPND|ISC|Unlicense|CMU|0BSD|Zlib", re.I
)


def test_every_required_library_has_a_permissive_license() -> None:
    for requirement in requires("ssgcam") or []:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[<>=\[; ~!]", requirement)[0]
        about = distribution(name).metadata
        said = [about.get("License-Expression") or "", (about.get("License") or "")[:300]]
        said += [each for each in about.get_all("Classifier") or [] if "License" in each]
        assert PERMISSIVE.search(" ".join(said)), f"{name}: {said}"
