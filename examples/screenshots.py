"""Take the screenshots of the docs: two tabs of ``ssgcam app`` and a report.

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

Stroke = tuple[tuple[int, int], ...]
PHOTOS = ("coffee.png", "astronaut.png", "chelsea.png", "motorcycle_left.png", "rocket.jpg")
#: Strokes on the cup of the first photo and around it, in pixels of the photo.
OBJECT = (
    ((190, 110), (210, 62), (290, 30), (365, 60), (398, 110)),
    ((240, 130), (350, 130)),
    ((200, 195), (235, 240), (300, 262), (340, 230)),
    ((222, 270), (218, 290)),
)
NOT_OBJECT = (
    ((30, 40), (30, 360)),
    ((70, 30), (160, 30)),
    ((110, 260), (170, 330), (300, 370), (400, 350)),
    ((450, 60), (465, 260)),
    ((560, 60), (560, 350)),
)
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


def correct(page: Page, path: Path) -> None:
    """The tab Correct and search again after strokes on a cup and around it."""
    address, stop = launch([load_model(NETWORK)])
    try:
        page.goto(address)
        page.get_by_role("tab", name="Correct").click()
        files = page.locator("#paint-photos input[type=file]")
        files.set_input_files(str(Path(skimage.data_dir) / PHOTOS[0]))
        page.locator(".thumbs img:visible").first.wait_for()
        page.wait_for_timeout(6000)  # until the photo is in the editor
        for stroke in OBJECT:
            paint(page, stroke)
        page.get_by_role("button", name="Color").click()
        page.locator("button.color:visible").nth(1).click()
        for stroke in NOT_OBJECT:
            paint(page, stroke)
        page.get_by_role("button", name="Search again").click()
        page.get_by_text("IoU on what was painted here").wait_for(timeout=300_000)
        take(page, path)
    finally:
        stop()


def paint(page: Page, stroke: Stroke) -> None:
    """Paint a line through points of the photo, which is as large as itself, amid the canvas."""
    box = page.locator("canvas:visible").first.bounding_box()
    assert box is not None
    left, top = box["x"] + box["width"] / 2 - 300, box["y"] + box["height"] / 2 - 200
    points = [(left + x, top + y) for x, y in stroke]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=6)
    page.mouse.up()
    page.wait_for_timeout(300)


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
    """Take the screenshots."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    out = parser.parse_args().out.resolve()
    program = next(filter(None, map(shutil.which, PROGRAMS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1200})
        app(page, out / "app.jpg")
        correct(page, out / "correct.jpg")
        page.set_viewport_size({"width": 1000, "height": 800})
        report(page, out / "report.jpg")
        browser.close()


if __name__ == "__main__":
    main()
