"""Evaluations that take minutes: kept in a file, read back, and told as rows and Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssgcam.evaluation import Difference, Evaluation, Score
from ssgcam.evaluation.figures import Chart, Series
from ssgcam.evaluation.result import ALL_FUSED, MEAN, Table, markdown_table
from ssgcam.files import write_json
from study import Row, command

TOLD = ("images", "layers", "blurred", "blur", "random control", "insertion and deletion",
        "explained class", "accuracy of the intact images", "threshold")  # fmt: skip


def finished(file: Path, key: str, run: Callable[[], Evaluation]) -> Evaluation:
    """The evaluation, from its file if that was made with the same settings (``key``)."""
    if file.is_file():
        content = json.loads(file.read_text())
        if content.pop("key") == key:
            return restored(content)
    print(file.stem, flush=True)
    evaluation = run()
    write_json(file, {"key": key, **evaluation.to_json()})
    return evaluation


def restored(content: dict[str, Any]) -> Evaluation:
    """An evaluation from its JSON."""
    nan = float("nan")

    def filled(values: dict[str, Any]) -> dict[str, Any]:
        return {key: nan if value is None else value for key, value in values.items()}

    charts = []
    for chart in content["charts"]:
        plots = {
            layers: tuple(Series(**line) for line in lines)
            for layers, lines in chart["plots"].items()
        }
        charts.append(Chart(**{**chart, "plots": plots}))
    tables = [
        Table(table["title"], tuple(table["header"]), tuple(map(tuple, table["rows"])))
        for table in content["tables"]
    ]
    differences = [{k: v for k, v in d.items() if k != "verdict"} for d in content["differences"]]
    return Evaluation(
        content["task"],
        content["facts"],
        tuple(Score(**filled(score)) for score in content["scores"]),
        tuple(Difference(**difference) for difference in differences),
        tuple(tables),
        tuple(charts),
        notes=tuple(content["notes"]),
    )


def rows_of(study: str, network: str, data: str, found: Evaluation, seed: int) -> list[Row]:
    """Scores and paired differences as rows of a study."""
    made_by = found.facts.get("command", command())
    rows = [
        Row(study, network, s.method, s.layers, f"{s.metric}, {data}",
            round(s.value, 4), round(s.low, 4), round(s.high, 4), s.n, seed, made_by)
        for s in found.scores
    ]  # fmt: skip
    rows += [
        Row(study, network, f"{d.method} less {d.rival}", d.layers,
            f"{d.metric}, {data}, paired difference to the best rival",
            round(d.value, 4), round(d.low, 4), round(d.high, 4), d.n, seed, made_by)
        for d in found.differences
    ]  # fmt: skip
    return rows


def section(title: str, data: str, found: Evaluation) -> str:
    """One evaluation in a report: what is fused and the means, the first metric by layer."""
    facts = "; ".join(f"{name}: {found.facts[name]}" for name in TOLD if name in found.facts)
    joint = tuple(s for s in found.scores if s.layers in (MEAN, ALL_FUSED))
    brief = replace(found, scores=joint, notes=()).text(brief=True)
    parts = [f"### {title}", f"{data}; {facts}.", brief, by_layer(found), *found.notes]
    return "\n\n".join(part for part in parts if part)


def by_layer(found: Evaluation) -> str:
    """The first metric, methods by layers."""
    first = next((score.metric for score in found.scores if score.shown), None)
    single = [s for s in found.scores if s.metric == first and s.layers not in (MEAN, ALL_FUSED)]
    if not single:
        return ""
    layers = list(dict.fromkeys(score.layers for score in single))
    values = {(s.method, s.layers): f"{s.value:.3f}" for s in single}
    rows = [
        [method, *(values.get((method, layer), "") for layer in layers)]
        for method in dict.fromkeys(score.method for score in single)
    ]
    return f"{first} of each layer:\n\n" + markdown_table(["method", *layers], rows)
