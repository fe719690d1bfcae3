"""Mutation score: how many small changes of the formulas do the tests notice?

Each mutant is one changed operator, comparison, constant or function of ``metrics/`` or of the formula
modules of ``core/``, chosen with a seed. It runs in a forked child, against the tests of its module only;
nothing on disk changes. A mutant is killed if a test fails or the tests take too long.

    python .ci/mutation.py --count 300 --seed 0 --out mutation.json
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.machinery
import importlib.util
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "ssgcam"
#: Formula module of ``core`` -> the test modules that are run for its mutants, quickest first.
CORE = {
    "augment": ("core/test_fusion", "test_recipe", "search/test_cache"),
    "forward_methods": ("core/test_methods", "core/test_rivals", "core/test_peers"),
    "fusion": ("core/test_fusion", "test_cam"),
    "methods": ("core/test_methods", "core/test_sum_form", "core/test_rivals", "core/test_ssg_cam"),
    "numerics": ("core/test_methods", "core/test_signals", "core/test_ssg_cam"),
    "refine": ("core/test_refine",),
    "signals": ("core/test_signals", "core/test_ssg_cam", "core/test_methods", "core/test_target"),
    "smoothing": ("core/test_smoothing", "core/test_methods"),
    "target": ("core/test_target", "core/test_contrast", "core/test_signals"),
}
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv, ast.MatMult: ast.Mult, ast.Lt: ast.LtE,
    ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
NAMES = {
    "amax": "amin", "amin": "amax", "max": "min", "min": "max", "sum": "mean", "mean": "sum",
    "maximum": "minimum", "minimum": "maximum", "argmax": "argmin", "ceil": "floor",
    "floor": "ceil", "cumsum": "cumprod", "softmax": "log_softmax", "abs": "neg", "any": "all",
    "all": "any", "sqrt": "abs", "exp": "sin", "log": "abs", "clamp_min": "clamp_max",
}  # fmt: skip


def sites(tree: ast.Module) -> Iterator[tuple[ast.AST, str, Any]]:
    """Node, attribute and new value of every possible change; not of types, messages and texts."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)):
            parts = [node]
        if isinstance(node, (ast.FunctionDef, ast.AnnAssign, ast.arg)):
            parts += [getattr(node, "returns", None), getattr(node, "annotation", None)]
        if isinstance(node, ast.FunctionDef):
            parts += node.decorator_list
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            parts += [node] * (node.value.id[:1].isupper())
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            parts += [node] * (node.targets[0].id[:1].isupper())  # type aliases and constants
        for part in parts:
            skipped |= {id(each) for each in ast.walk(part)} if part is not None else set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPS:
            yield node, "op", SWAPS[type(node.op)]()
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            yield node, "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]]
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, "value", not node.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            yield node, "value", node.value + 1
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield node, "op", ast.UAdd()
        elif isinstance(node, ast.Attribute) and node.attr in NAMES:
            yield node, "attr", NAMES[node.attr]


def all_mutants() -> list[tuple[str, int]]:
    """Module (``metrics/masks``) and number of the change in it."""
    modules = [f"metrics/{path.stem}" for path in sorted((PACKAGE / "metrics").glob("[a-z]*.py"))]
    modules += [f"core/{name}" for name in sorted(CORE)]
    return [(module, k) for module in modules for k in range(len(list(sites(parsed(module)))))]


def parsed(module: str) -> ast.Module:
    """The syntax tree of a module of the package."""
    return ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))


def mutated(module: str, number: int) -> tuple[ast.Module, str]:
    """The changed tree, and what was changed."""
    tree = parsed(module)
    node, attribute, value = list(sites(tree))[number]
    before = ast.unparse(node)
    setattr(node, attribute, value)
    line = getattr(node, "lineno", 0)
    return tree, f"{module}.py:{line}: `{before}` -> `{ast.unparse(node)}`"


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module of the package the changed code."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self.name = f"ssgcam.{module.replace('/', '.')}"
        self.path = str(PACKAGE / f"{module}.py")
        self.code = compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Of that module only."""
        if name != self.name:
            return None
        return importlib.util.spec_from_loader(name, self, origin=self.path)

    def exec_module(self, module: Any) -> None:
        """Run the changed code."""
        module.__file__ = self.path
        exec(self.code, module.__dict__)


def tests_of(module: str) -> list[str]:
    """The test modules for a module's mutants."""
    folder, name = module.split("/")
    if folder == "core":
        paths = [ROOT / "tests" / f"{test}.py" for test in CORE[name]]
    else:
        own = ROOT / "tests" / "metrics" / f"test_{name}.py"
        paths = [own, *sorted((ROOT / "tests" / "metrics").glob("test_*.py"))]
        paths = list(dict.fromkeys(paths)) if not own.exists() else [own]
    return [str(path) for path in paths if path.exists()]


def child(module: str, number: int | None, seconds: int) -> None:
    """Run the tests on one mutant (None: on the sources as they are) and exit with their code."""
    import pytest
    import torch

    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    torch.set_num_threads(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    if number is not None:
        sys.meta_path.insert(0, Finder(module, mutated(module, number)[0]))
    os.chdir(ROOT)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-W", "ignore"]
    os._exit(int(pytest.main([*options, *tests_of(module)])))


def start(module: str, number: int | None, seconds: int) -> Any:
    """Start the tests on one mutant (None: on the sources as they are) in a child process."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=child, args=(module, number, seconds))
    process.start()
    return process


def outcome(process: Any) -> str:
    """``"survived"``, ``"killed"`` or ``"too long"``, when the process has ended."""
    process.join()
    if process.exitcode == 0:
        return "survived"
    return "killed" if process.exitcode in (1, 2, 3, 4) else "too long"


def run(chosen: list[tuple[str, int]], seconds: int, jobs: int) -> Iterator[tuple[str, int, str]]:
    """Module, number and outcome of each mutant, as they end; so many run at a time."""
    waiting, running = list(reversed(chosen)), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            running[start(*mutant, seconds)] = mutant
        multiprocessing.connection.wait([process.sentinel for process in running])
        for process in [each for each in running if not each.is_alive()]:
            yield *running.pop(process), outcome(process)


def main() -> int:
    """Run mutants until all are done or the time is over; write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=120, help="CPU seconds of each mutant")
    parser.add_argument("--minutes", type=float, default=600, help="stop after so long")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--out", type=Path, default=Path("mutation.json"))
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "src"))
    # what the tests import from other libraries is loaded once, before the forks
    for library in ("cv2", "matplotlib.figure", "scipy.ndimage", "torchvision.models", "pytest"):
        __import__(library)
    mutants = all_mutants()
    chosen = random.Random(options.seed).sample(mutants, min(options.count, len(mutants)))
    started, outcomes, survivors = time.monotonic(), Counter[str](), []
    for module in dict.fromkeys(module for module, _ in chosen):
        if outcome(start(module, None, options.seconds)) != "survived":
            print(f"the tests of {module} fail without a change")
            return 1
    for module, number, result in run(chosen, options.seconds, options.jobs):
        outcomes[result] += 1
        change = mutated(module, number)[1]
        if result == "survived":
            survivors.append(change)
        done = sum(outcomes.values())
        print(f"{done} {result}: {change}", flush=True)
        score = 1 - outcomes["survived"] / done
        found = {"possible": len(mutants), "run": done, "score": score, **outcomes}
        text = json.dumps({**found, "seed": options.seed, "survivors": survivors}, indent=2)
        options.out.write_text(text + "\n", encoding="utf-8")
        if time.monotonic() - started > 60 * options.minutes:
            break
    print(f"mutation score: {dict(outcomes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
