"""Take the screenshots of the docs: the page of ``ssgcam app`` and the report of ``ssgcam explain``.

    python examples/screenshots.py --out docs/images

It needs the extra ``dev`` (playwright) and a Chromium on the path. Photos are scikit-image's.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import skimage
from playwright.sync_api import Page, sync_playwright

from demo import NETWORK
from ssgcam import load_model
from ssgcam.app.server import launch

PHOTOS = ("coffee.png", "astronaut.png", "chelsea.png", "motorcycle_left.png", "rocket.jpg")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def app(page: Page, path: Path) -> None:
    """The tab Explain with the first photo explained."""
    photos = [Path(skimage.data_dir) / name for name in PHOTOS]
    address, stop = launch([load_model(NETWORK)], photos)
    try:
        page.goto(address)
        page.wait_for_selector(".layers img")
        take(page, path)
    finally:
        stop()


def report(page: Page, path: Path) -> None:
    """The report of all photos; one file is no image, so that there is a warning."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        for photo in PHOTOS:
            shutil.copy(Path(skimage.data_dir) / photo, folder / "photos")
        (folder / "photos" / "damaged.jpg").write_text("no image")
        command = [sys.executable, "-m", "ssgcam", "explain", "photos", "--model", NETWORK]
        command += ["--out", "maps", "--report", "report.html"]
        subprocess.run(command, cwd=folder, check=False)  # it fails for one file
        page.goto((folder / "report.html").as_uri())
        take(page, path)


def take(page: Page, path: Path) -> None:
    """Save the whole page as JPEG, once its pictures are drawn."""
    page.wait_for_timeout(2000)
    page.screenshot(path=path, full_page=True, type="jpeg", quality=80)
    print(f"wrote {path}")


def main() -> None:
    """Take both screenshots."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    out = parser.parse_args().out.resolve()
    program = next(filter(None, map(shutil.which, PROGRAMS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        app(page, out / "app.jpg")
        page.set_viewport_size({"width": 1000, "height": 800})
        report(page, out / "report.jpg")
        browser.close()


if __name__ == "__main__":
    main()
