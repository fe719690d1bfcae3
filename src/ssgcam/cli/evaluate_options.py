"""What the commands of ``ssgcam evaluate`` share: their options, and the data set and network."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssgcam.cli.reading import read_data
from ssgcam.errors import SsgcamError
from ssgcam.files import write_text

if TYPE_CHECKING:
    from ssgcam.data import SampleSet
    from ssgcam.evaluation import Contender, Evaluation, EvaluationSettings
    from ssgcam.models import LoadedModel

DEFAULT_METHODS = (
    "ssg_cam,grad_cam,grad_cam_plus_plus,xgrad_cam,hires_cam,layer_cam,grad_cam_elementwise"
)

Data = Annotated[Path, typer.Argument(help="The data set's folder.")]
Model = Annotated[
    str, typer.Option(help="A torchvision name, timm/NAME, a file, or package.module:factory.")
]
Out = Annotated[Path, typer.Option(help="The folder to write to; made if need be.")]
Weights = Annotated[str, typer.Option(help="DEFAULT, none, or a weights file.")]
Methods = Annotated[
    str,
    typer.Option(help="Names with commas between, or all; ssg_cam:gradient is the other form."),
]
LayerNames = Annotated[
    str, typer.Option(help="Names with commas between, or auto: the last of each resolution.")
]
Each = Annotated[bool, typer.Option(help="Score each layer on its own.")]
Fused = Annotated[bool, typer.Option(help="Score all layers fused.")]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="A recipe that takes part as one more method.")
]
Score = Annotated[
    str | None,
    typer.Option(
        help="What is differentiated: exp, odds, probability, ...",
        show_default="exp; ShapleyCAM's is the logit",
    ),
]
ClassName = Annotated[
    str | None,
    typer.Option("--class", help="Explain this class, by index or name, instead of the labels."),
]
Limit = Annotated[int | None, typer.Option(help="So many images, spread evenly over the set.")]
Seed = Annotated[int, typer.Option(help="Of the bootstrap and of everything else random.")]
Fast = Annotated[
    bool,
    typer.Option(
        "--fast", help="Use a copy with folded batch norms and channels last; bfloat16 on CUDA."
    ),
]
BatchSize = Annotated[int, typer.Option(help="Images whose maps are made in one pass.")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Threads that read images.", min=1, show_default="one per processor, at most 8"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Examples = Annotated[int, typer.Option(help="Images in the panel of examples; 0 for no panel.")]
Resume = Annotated[bool, typer.Option(help="Go on where the same command was cut off.")]


@dataclass(frozen=True)
class Task:
    """What all four commands prepare."""

    model: LoadedModel
    samples: SampleSet
    out: Path
    options: dict[str, Any]

    def run(self, evaluate: Callable[..., Evaluation], command: str, **more: Any) -> None:
        """Evaluate, print the tables, write the files."""
        from ssgcam.evaluation import write_evaluation

        task = command.split()[2]
        write_text(self.out / f"{task}.md", f"# {task.capitalize()}\n\nNot finished: `{command}`\n")
        found = evaluate(self.model, self.samples, **self.options, **more)
        found = replace(found, facts={**found.facts, "command": command})
        told = ("network", "data", "images", "intervals")
        typer.echo("\n".join(f"{name}: {found.facts[name]}" for name in told) + "\n")
        typer.echo(found.text(brief=True))
        written = write_evaluation(found, self.out)
        typer.echo(f"\nwrote {', '.join(path.name for path in written)} in {self.out}")


def prepare(context: typer.Context) -> Task:
    """Read the data set and the network, from the options that all commands share."""
    import torch

    from ssgcam.core.settings import TargetSettings
    from ssgcam.evaluation import Entrants, limited
    from ssgcam.models import load_model
    from ssgcam.recipe import Recipe

    given = context.params
    model = load_model(given["model"], given["weights"])
    model.network.to(memory_format=torch.channels_last)  # faster
    samples = limited(read_data(given, given["data"]), given["limit"])
    class_name = given["class_name"]
    recipe = given.get("recipe")
    who = Entrants(
        contenders=_contenders(given["methods"]),
        layers=_layers(given["layers"]),
        each=given["each"],
        fused=given["fused"],
        score=TargetSettings(given["score"]) if given["score"] is not None else None,
        recipe=Recipe.load(recipe) if recipe else None,
    )
    options: dict[str, Any] = {
        "who": who,
        "class_index": None if class_name is None else model.class_index(class_name),
        "settings": _settings(given),
    }
    return Task(model, samples, given["out"], options)


def _settings(given: dict[str, Any]) -> EvaluationSettings:
    from ssgcam.evaluation import EvaluationSettings

    return EvaluationSettings(
        batch_size=given["batch_size"],
        pixels=given.get("pixels"),
        fast=given["fast"],
        device=given["device"],
        workers=given["workers"],
        seed=given["seed"],
        examples=given.get("examples", 0),
        progress=True,
        unfinished=given["out"],
        resume=given["resume"],
    )


def _contenders(methods: str) -> tuple[Contender, ...]:
    from ssgcam.core.methods import METHODS
    from ssgcam.evaluation import Contender

    names = ",".join(METHODS) if methods == "all" else methods
    return tuple(Contender.parse(name) for name in names.split(",") if name.strip())


def _layers(text: str) -> str | list[str]:
    return "auto" if text == "auto" else [name.strip() for name in text.split(",")]


def number(text: str, option: str) -> float:
    """A number of a list in an option, or one sentence."""
    try:
        return float(text)
    except ValueError as error:
        raise SsgcamError(f"'{text}' in {option} is no number; give 0.1,0.2 or the like") from error


def command_line(context: typer.Context) -> str:
    """The command line, from the options that were given."""
    words = ["ssgcam", "evaluate", str(context.info_name)]
    for parameter in context.command.params:
        name = parameter.name or ""
        value = context.params.get(name)
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif isinstance(value, bool):
            option = parameter.opts[0] if value else parameter.secondary_opts[0]
            words.append(option)
        else:
            words += [parameter.opts[0], str(value)]
    return shlex.join(words)
