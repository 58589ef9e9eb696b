"""A web page on this machine that writes draft reports of films."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

import typer

import uar
from uar.command.options import BUNDLE, BundlePath, Device

log = logging.getLogger(__name__)

_PATIENCE = 5  # seconds that answers under way have after Ctrl-C


def serve(
    bundle: BundlePath = BUNDLE,
    host: Annotated[str, typer.Option(help="Other than loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="UAR_TOKEN", help="What requests must carry to be answered."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Open a page on 127.0.0.1 that writes draft reports of films. Research use only."""
    import uvicorn

    reporter = uar.load(bundle, device)
    from uar.viewer.web.app import create_app

    app = create_app(reporter, host, token=token)
    log.info(f"serve: http://{host}:{port}/ (Ctrl-C ends it). Research use only.")
    logging.getLogger("uvicorn.error").addFilter(_is_no_end)
    # A request's line is not logged, nor anything of its films.
    uvicorn.run(
        app, host=host, port=port, log_level="warning", access_log=False,
        timeout_graceful_shutdown=_PATIENCE,
    )  # fmt: skip


def _is_no_end(record: logging.LogRecord) -> bool:
    """Whether a record is about anything but an answer that Ctrl-C cut off."""
    kind = record.exc_info[0] if record.exc_info else None
    return not (kind and issubclass(kind, asyncio.CancelledError))
