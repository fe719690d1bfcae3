"""Starts the page for this machine alone: 127.0.0.1, no analytics, no requests from or to elsewhere."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ssgcam.errors import require
from ssgcam.models import LoadedModel

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("127.0.0.1", "localhost", "::1")
MAX_FILE_SIZE = "30mb"
#: The page may load nothing from elsewhere, whatever its framework would like to.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; "
    "form-action 'self'"
)


class LocalOnly:
    """ASGI middleware that refuses a request whose Host or Origin is not this machine.

    It stops pages of other sites that reach the server through the user's browser, also by a name that
    resolves to 127.0.0.1 (DNS rebinding).

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not allowed(headers.get("host"), headers.get("origin")):
            text = "ssgcam: this page answers requests of its own machine only"
            await PlainTextResponse(text, 403)(scope, receive, send)
            return

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["content-security-policy"] = POLICY
            await send(message)

        await self.app(scope, receive, with_policy)


def allowed(host: str | None, origin: str | None) -> bool:
    """Whether a request with these headers comes from a page of this machine.

    Example:
        >>> allowed("127.0.0.1:7860", None), allowed("evil.example", None)
        (True, False)
        >>> allowed("localhost:7860", "https://evil.example")
        False
    """
    try:
        from_host = urlsplit(f"//{host}").hostname if host else None
        from_origin = urlsplit(origin).hostname if origin else from_host
    except ValueError:
        return False
    return from_host in LOCAL and from_origin in LOCAL


def launch(
    models: Sequence[LoadedModel],
    examples: Sequence[Path] = (),
    recipe: Path | None = None,
    *,
    port: int | None = None,
    browser: bool = False,
) -> tuple[str, Callable[[], None]]:
    """Serve the page in a thread of its own.

    Args:
        models: The networks that the page offers, the first one chosen.
        examples: Photos that the page offers.
        recipe: A recipe of the first network that the page starts with.
        port: The port; a free one from 7860 on if None.
        browser: Open the page in the browser.

    Returns:
        The page's address, and a function that stops the server and removes its temporary files.

    Raises:
        SsgcamError: If Gradio is not installed.
    """
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    folder = tempfile.TemporaryDirectory(prefix="ssgcam-app-")
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = folder.name
    require("gradio", "app")
    from ssgcam.app.page import STYLE, build, theme

    page = build(models, examples, recipe, Path(folder.name))
    page.queue(api_open=False, max_size=20)

    def stop() -> None:
        page.close(verbose=False)
        folder.cleanup()
        if before is None:
            os.environ.pop("GRADIO_TEMP_DIR", None)
        else:
            os.environ["GRADIO_TEMP_DIR"] = before

    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        inbrowser=browser,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_FILE_SIZE,
        enable_monitoring=False,
        run_history=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        footer_links=[],
        strict_cors=True,
        theme=theme(),
        css=STYLE,
        app_kwargs={"middleware": [(LocalOnly, (), {})], "docs_url": None, "redoc_url": None},
    )
    return address, stop
