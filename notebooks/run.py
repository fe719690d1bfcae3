"""Run the notebooks in a temporary folder and report cells that fail.

    python notebooks/run.py [--small] [NAME ...]

With ``--small`` the values in a notebook's metadata (``small``) follow its cell of parameters.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parent


def main() -> int:
    """Run notebooks; return how many failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="all by default")
    parser.add_argument("--small", action="store_true", help="at small size")
    parser.add_argument("--out", type=Path, help="keep the executed notebooks here")
    arguments = parser.parse_args()
    failed = 0
    for path in sorted(FOLDER.glob("*.ipynb")):
        if arguments.names and path.stem not in arguments.names:
            continue
        error = run(path, arguments.small, arguments.out)
        print(f"{path.name}: {'failed' if error else 'passed'}", flush=True)
        if error:
            print(error, file=sys.stderr)
            failed += 1
    return failed


def run(path: Path, small: bool, out: Path | None = None) -> str:
    """Run one notebook; return the error of the cell that failed, else an empty string."""
    notebook = nbformat.read(path, as_version=4)
    if small:
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", []):
                changes = notebook.metadata["small"].items()
                cell.source += "".join(f"\n{name} = {value!r}" for name, value in changes)
    error = ""
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": folder}})
        try:
            client.execute()
        except CellExecutionError as failure:
            error = str(failure)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, out / path.name)
    return error


if __name__ == "__main__":
    sys.exit(main())
