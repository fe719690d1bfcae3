"""Run the long checks before a release and write their results to docs/check_all.md.

The test suite runs from the unpacked source archive, with one, two and four threads and with the
instruction set limited to AVX2; the long checks, the demo, the notebooks and each
benchmark run at small size.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "check_all.md"


def main() -> int:
    """Run every check, write the report, and return the number of failed checks."""
    with tempfile.TemporaryDirectory() as folder:
        source = unpacked_sdist(Path(folder))
        pytest = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile"]
        rows = [check(f"tests, {n} thread(s)", pytest, source, n) for n in (1, 2, 4)]
        avx2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
        rows.append(check("tests, AVX2", pytest, source, 1, avx2))
        long = [sys.executable, "-m", "pytest", "-m", "long", "tests"]
        rows.append(check("long checks", long, source, 1))
        demo = [sys.executable, "examples/demo.py", "--out", "demo"]
        rows.append(check("examples/demo.py", demo, source, 2))
        notebooks = [sys.executable, "notebooks/run.py", "--small"]
        rows.append(check("notebooks/*.ipynb, at small size", notebooks, source, 2))
        for script in sorted((source / "benchmarks").glob("*.py")):
            if '"--quick"' in script.read_text(encoding="utf-8"):
                name = f"benchmarks/{script.name}"
                rows.append(check(f"{name} --quick", [sys.executable, name, "--quick"], source, 2))
    write_report(rows)
    return sum(result != "passed" for _, result, _, _ in rows)


def unpacked_sdist(folder: Path) -> Path:
    """Build the source archive and unpack it in a folder."""
    build = [sys.executable, "-m", "build", "--sdist", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def check(
    name: str,
    command: list[str],
    source: Path,
    threads: int,
    variables: dict[str, str] | None = None,
) -> tuple[str, str, str, float]:
    """Run one command in the unpacked sources: name, passed or failed, last line, seconds."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(source / "src"),
        "OMP_NUM_THREADS": str(threads),
        "SSGCAM_TEST_THREADS": str(threads),
        **(variables or {}),
    }
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=source, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - started
    lines = done.stdout.strip().splitlines() or [""]
    result = "passed" if done.returncode == 0 else f"failed ({done.returncode})"
    print(f"{name}: {result}, {seconds:.0f} s", flush=True)
    if done.returncode:
        print("\n".join(lines[-40:]), done.stderr[-4000:], sep="\n", flush=True)
    summary = lines[-1].strip("= ") if "pytest" in command else ""
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
