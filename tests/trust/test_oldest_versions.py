"""The file of oldest versions names the lower bounds of pyproject.toml."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def test_the_oldest_versions_are_the_lower_bounds_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"]]
    lines += [line for name in extras if name not in ("dev", "docs") for line in extras[name]]
    bounds = {}
    for requirement in map(Requirement, lines):
        (lower,) = [part.version for part in requirement.specifier if part.operator == ">="]
        bounds[requirement.name] = Version(lower)
    oldest = {}
    for line in (ROOT / "constraints" / "oldest.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            oldest[name] = Version(version)
    assert oldest == bounds
