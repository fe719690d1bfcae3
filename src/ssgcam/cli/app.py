"""``ssgcam app``: a local page to explain photos, make masks and correct them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Event

from ssgcam.cli import options as shared
from ssgcam.cli import output
from ssgcam.cli.options import argument, grouped, option

EXAMPLE = "ssgcam app photos/ --model net.pth"
#: Photos of scikit-image (extra ``demo``) that are shown if no other is given.
PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """What the page shows and where it is served."""

    photos: list[str] | None = argument("Photos that the page starts with.", None)
    also: list[str] | None = option(
        None, "Another network to choose from (a name or a file); can be repeated."
    )
    recipe: Path | None = option(None, shared.RECIPE)
    port: int | None = option(
        None, "Port on 127.0.0.1.", min=1, max=65535, shown="a free one from 7860 on"
    )
    browser: bool = option(False, "Open the page in the browser.", "--browser")


@grouped(model=None)
def app(page: PageOptions, network: shared.DescribedNetworkOptions) -> None:
    """Serve a page on this machine: explain, masks, correct and search again, network card.

    Photos stay on this machine: the page answers only requests of its own machine, nothing is sent
    elsewhere, and uploaded files are removed at the end. Ctrl-C stops it.
    """
    from ssgcam.app.server import launch
    from ssgcam.images import find_images
    from ssgcam.models import load_model

    models = [network.load(), *(load_model(name) for name in page.also or ())]
    photos = find_images(page.photos) if page.photos else _bundled()
    address, stop = launch(models, photos[:24], page.recipe, port=page.port, browser=page.browser)
    output.say(f"the page is at {address} (Ctrl-C stops it)")
    output.result(address=address)
    try:
        Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        stop()


def _bundled() -> list[Path]:
    """Photos of scikit-image, none if it is not installed."""
    found = find_spec("skimage")
    folder = Path(str(found.origin)).parent / "data" if found else Path()
    return [folder / name for name in PHOTOS if found and (folder / name).is_file()]
