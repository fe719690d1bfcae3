"""What holds for all subcommands: help, examples, shared options, exit codes, completion."""

import re
import shlex
import subprocess
import sys
from dataclasses import asdict
from inspect import signature

import pytest
import typer

import ssgcam
from helpers.commands import run
from ssgcam.cli import app
from ssgcam.cli.train import train
from ssgcam.training import TrainingSettings

GROUP = typer.main.get_command(app)
COMMANDS = {
    **{(name,): command for name, command in GROUP.commands.items() if name != "evaluate"},
    **{("evaluate", name): c for name, c in GROUP.commands["evaluate"].commands.items()},
}


def options(command) -> dict:
    return {flag: each for each in command.params for flag in each.opts if flag.startswith("--")}


def in_a_new_process(code: str, *words: str) -> str:
    shown = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def test_overview_lists_the_commands_and_exit_codes_without_importing_torch():
    code = (
        "import sys\nfrom ssgcam.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    shown = in_a_new_process(code)
    for name in ("explain", "layers", "train", "search", "segment", "evaluate"):
        assert f" {name} " in shown
    assert "Exit codes: 0 done; 1 a bug of ssgcam; 2 wrong input" in shown


def test_help_of_every_command_does_not_import_torch():
    code = (
        "import sys\nfrom ssgcam.cli import app\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        app([*name.split(), '--help'])\n"
        "    except SystemExit as end:\n        assert not end.code\n"
        "    assert 'torch' not in sys.modules, name"
    )
    assert "--learning-rate" in in_a_new_process(code, *map(" ".join, COMMANDS))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_an_example_with_options_that_exist(path):
    command = COMMANDS[path]
    words = shlex.split(command.epilog.removeprefix("Example: "))
    assert tuple(words[: len(path) + 1]) == ("ssgcam", *path)
    used = {word for word in words if word.startswith("--")}
    assert used <= set(options(command))
    required = {flag for flag, each in options(command).items() if each.required}
    assert required <= used
    shown = " ".join(run(*path, "--help").stdout.replace("\u2502", " ").split())
    assert " ".join(words) in shown


def test_options_are_in_groups():
    shown = run("explain", "--help").stdout
    for panel in ("Network", "Method", "Speed", "Options"):
        assert re.search(rf"\u256d\u2500 {panel} \u2500", shown)


def test_an_option_has_the_same_help_in_every_command():
    #: option -> commands in which it may be described differently
    different = {
        "--recipe": ["search"], "--out": ["train", "train-segmenter"],
        "--class": ["explain", "segment"], "--workers": ["train"],
        "--weights": ["train-segmenter"], "--layers": ["search", "inspect"],
        "--masks": ["inspect", "train-segmenter"], "--held-out": ["search"],
        "--against": ["evaluate"],
    }  # fmt: skip
    found: dict[str, tuple] = {}
    for path, command in COMMANDS.items():
        for flag, each in options(command).items():
            if path[0] in different.get(flag, []):
                continue
            about = (each.help, getattr(each, "multiple", None))
            assert found.setdefault(flag, about) == about, (flag, path)
    assert len(found) > 60


def test_every_command_that_reads_data_has_the_same_reading_options():
    reading = {"--kind", "--edges", "--split", "--first-label", "--mask-values", "--void"}
    reading |= {"--mask-suffix", "--group-pattern", "--missing"}
    for path, command in COMMANDS.items():
        if path[0] in ("search", "evaluate"):
            assert reading <= set(options(command)), path


def test_defaults_of_train_are_those_of_the_settings():
    given = {name: option.default for name, option in signature(train).parameters.items()}
    settings = asdict(TrainingSettings())
    assert settings == {name: given[name] for name in settings}


def test_layers_lists_blocks_and_defaults():
    result = run("layers", "resnet18")
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert {"layer1", "layer2", "layer3", "layer4", "layer3.0"} <= set(lines)
    assert "layer3.0.conv1" not in lines
    assert "7x7" in lines["layer4"]
    assert "yes: last of 7x7" in lines["layer4"]
    assert "yes" not in lines["layer3.0"]
    assert "--layers auto" in result.stdout
    everything = run("layers", "resnet18", "--all")
    assert "layer3.0.conv1" in everything.stdout


def test_version():
    assert run("--version").stdout == f"ssgcam {ssgcam.__version__}\n"


def test_every_public_name_exists():
    for name in ssgcam.__all__:
        assert getattr(ssgcam, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ssgcam.nonsense  # noqa: B018
