"""The page in a browser: every tab once, at the width of a desk, and its messages."""

import shutil
import tempfile
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from helpers.evaluation_cases import blobs, masked_tree
from ssgcam.app.server import launch

pytest.importorskip("gradio", reason="the extra 'app' is not installed")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return masked_tree(tmp_path_factory.mktemp("page") / "set", (96, 80), 4, (255, 255, 255))


@pytest.fixture(scope="module")
def address(root):
    address, stop = launch([blobs()], sorted((root / "images").iterdir()))
    yield address
    stop()


@pytest.fixture(scope="module")
def browser():
    program = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if program is None:
        pytest.skip("no Chromium on this machine")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    outside = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    page.on("request", lambda r: outside.append(r.url) if "//127.0.0.1" not in r.url else None)
    page.goto(address)
    page.wait_for_selector(".layers img")
    yield page
    assert [url for url in outside if not url.startswith(("data:", "blob:"))] == []
    page.close()


def status(address, **headers):
    try:
        with urlopen(Request(address, headers=headers), timeout=20) as answer:
            return answer.status
    except HTTPError as error:
        return error.code


def test_requests_of_other_machines_and_pages_are_refused(address):
    assert status(address) == 200
    assert status(address, Host="evil.example") == 403
    assert status(address, Origin="https://evil.example") == 403
    assert status(f"{address}config", Host="127.0.0.1.evil.example") == 403
    assert status(f"{address}gradio_api/upload", Origin="null") == 403
    for name in ("docs", "redoc", "monitoring"):
        assert status(f"{address}{name}") >= 400


def upload(page, name, *files):
    page.locator(f"#{name} input[type=file]").set_input_files([str(file) for file in files])


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def test_a_photo_is_explained_and_a_bad_file_is_a_message(page, root, tmp_path):
    assert page.get_by_text("0: red").first.is_visible()
    left, right = page.locator(".compared .content img").all()
    assert left.bounding_box() == right.bounding_box()  # the divider shows the same place of both
    picture = page.locator(".layers img").first
    before = picture.get_attribute("src")
    page.get_by_label("number input for Opacity").fill("0.3")
    page.get_by_label("number input for Opacity").press("Enter")
    page.wait_for_function("old => document.querySelector('.layers img').src !== old", arg=before)
    page.get_by_role("button", name="Prepare files to download").first.click()
    page.get_by_text("settings").last.wait_for()
    (tmp_path / "bad<b>.png").write_text("no picture")
    upload(page, "explain-photos", tmp_path / "bad<b>.png")
    message = page.get_by_text("is not an image")
    message.wait_for()
    assert "badb.png" in message.inner_text()
    assert "Traceback" not in page.content()
    Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save(tmp_path / "good.png")
    upload(page, "explain-photos", tmp_path / "good.png")
    page.get_by_text("good.png").first.wait_for()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.documentElement.scrollWidth <= 390")


def test_photos_and_names_of_layers_are_whole_and_every_tab_has_the_full_width(page):
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(
            """() => {
            const frame = document.querySelector(".compared").getBoundingClientRect();
            return [...document.querySelectorAll(".compared .content img")].every(image => {
                const box = image.getBoundingClientRect();
                return box.height > 50 && box.top >= frame.top && box.bottom <= frame.bottom;
            }) && [...document.querySelectorAll(".layers .caption-label")].every(
                label => label.scrollWidth <= label.clientWidth);
            }"""
        )
    page.set_viewport_size({"width": 1280, "height": 900})
    tab(page, "Masks")
    page.wait_for_function(
        "document.querySelector('.gradio-container').getBoundingClientRect().width === 1280"
    )


@pytest.mark.long
def test_a_recipe_is_searched_and_applied(page, root):
    tab(page, "Masks")
    upload(page, "segment-photos", *sorted((root / "images").iterdir()))
    page.get_by_role("tabpanel").locator("visible=true").locator(".thumbs img").first.wait_for()
    page.get_by_text("Or search one").click()
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_text("drop a few photos and a mask for each").wait_for()
    for name in ("images", "masks"):
        field = f"search-{name}".replace("images", "photos")
        upload(page, field, *sorted((root / name).iterdir()))
        uploaded = "field => document.querySelector(field).innerText.split('⇣').length === 5"
        page.wait_for_function(uploaded, arg=f"#{field}")
    page.get_by_label("number input for Generations").fill("5")
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_text("foreground IoU of all").wait_for()


@pytest.mark.long
def test_strokes_are_painted_and_searched(page, root):
    tab(page, "Correct")
    page.get_by_role("button", name="Search again").click()
    page.get_by_text("drop one and paint on it").wait_for()
    upload(page, "paint-photos", root / "images" / "0.png")
    page.locator(".thumbs img:visible").first.wait_for()
    page.get_by_text("50%", exact=True).wait_for(state="hidden")  # until the photo is in the editor
    box = page.locator("canvas:visible").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def stroke(down):
        page.mouse.move(x - 20, y + down)
        page.mouse.down()
        page.mouse.move(x + 20, y + down, steps=4)
        page.mouse.up()

    stroke(-80)
    page.get_by_role("button", name="Search again").click()
    page.get_by_text("nothing is painted as not the object").wait_for()
    page.get_by_role("button", name="Color").click()
    page.locator("button.color:visible").nth(1).click()
    stroke(80)
    page.get_by_role("button", name="Search again").click()
    page.get_by_text("IoU on what was painted here").wait_for()


def test_temporary_files_are_removed_when_it_stops(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    address, stop = launch([blobs()])
    assert status(address) == 200
    assert any(tmp_path.iterdir())
    stop()
    assert not any(tmp_path.iterdir())
