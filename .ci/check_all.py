"""Run the long checks before a release and write their results to docs/check_all.md.

The test suite runs from the unpacked source archive, with one thread (of the installed wheel), two
and four threads and with the instruction set limited to AVX2; the long checks run file by file; then
the demo, the notebooks and each benchmark that has a small form. The output of each check is in
build/check_all/.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "check_all.md"
LOGS = ROOT / "build" / "check_all"


def main() -> int:
    """Run every check, two at a time, write the report, and return the number of failed checks."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        source, installed = build(Path(folder))
        pytest = [sys.executable, "-m", "pytest"]
        avx2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
        checks: list[tuple[str, list[str], int, dict[str, str]]] = [
            *((f"{name} -m long", [*pytest, "-m", "long", name], 1, {}) for name in long_tests()),
            (
                "tests, 1 thread, of the installed wheel",
                [*pytest, "tests"],
                1,
                {"PYTHONPATH": str(installed)},
            ),
            (
                "tests, 2 threads",
                [*pytest, "--cov=ssgcam", "--cov-branch", "--cov-report=term"],
                2,
                {},
            ),
            ("tests, 4 threads", pytest, 4, {}),
            ("tests, AVX2", pytest, 1, avx2),
            ("examples/demo.py", [sys.executable, "examples/demo.py", "--out", "demo"], 2, {}),
            ("notebooks", [sys.executable, "notebooks/run.py", "--small"], 2, {}),
        ]
        for script in sorted((source / "benchmarks").glob("*.py")):
            if '"--quick"' in script.read_text(encoding="utf-8"):
                name = f"benchmarks/{script.name} --quick"
                checks.append((name, [sys.executable, *name.split()], 2, {}))
        rows = list(pool.map(lambda each: check(*each, source=source), checks))
    write_report(rows)
    return sum(result != "passed" for _, result, _, _ in rows)


def long_tests() -> list[str]:
    """The test modules that have long checks."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return [
        path.relative_to(ROOT).as_posix()
        for path in paths
        if "mark.long" in path.read_text(encoding="utf-8")
    ]


def build(folder: Path) -> tuple[Path, Path]:
    """Build the source archive and the wheel; the unpacked sources and the installed package."""
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (archive,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*install, str(folder / "installed"), str(wheel)], check=True)
    return folder / archive.name.removesuffix(".tar.gz"), folder / "installed"


def check(
    name: str,
    command: list[str],
    threads: int,
    variables: dict[str, str],
    *,
    source: Path,
) -> tuple[str, str, str, float]:
    """Run one command in the unpacked sources: name, passed or failed, last line, seconds."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(source / "src"),
        "OMP_NUM_THREADS": str(threads),
        "SSGCAM_TEST_THREADS": str(threads),
        **variables,
    }
    log = LOGS / (re.sub(r"\W+", "_", name) + ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            command,
            cwd=source,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    seconds = time.monotonic() - started
    lines = log.read_text(encoding="utf-8").strip().splitlines() or [""]
    result = "passed" if done.returncode == 0 else f"failed ({done.returncode})"
    print(f"{name}: {result}, {seconds:.0f} s", flush=True)
    if done.returncode:
        print("\n".join(lines[-40:]), flush=True)
    covered = [line for line in lines if line.startswith("TOTAL")]
    words = [*lines[-1:], *(f"lines and branches covered: {line.split()[-1]}" for line in covered)]
    summary = "; ".join(words).strip("= ") if "pytest" in command else ""
    return name, result, summary, seconds


def write_report(rows: list[tuple[str, str, str, float]]) -> None:
    """Write docs/check_all.md."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    lines = [
        "# Results of `make check-all`\n",
        f"Commit {commit}, {datetime.now(UTC):%Y-%m-%d}. Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} processors, {torch.backends.cpu.get_cpu_capability()}.\n",
        "| check | result | summary | seconds |",
        "| --- | --- | --- | ---: |",
        *(
            f"| {name} | {result} | {text} | {seconds:.0f} |"
            for name, result, text, seconds in rows
        ),
    ]
    REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {REPORT.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
