"""Serving the page with uvicorn, and shutting down at Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import socket

import uvicorn
from fastapi import FastAPI

_PATIENCE = 5  # seconds that answers in progress get after Ctrl-C


class Server(uvicorn.Server):
    """Serves what `create_app` made; at shutdown, films still arriving are refused at once."""

    def __init__(self, app: FastAPI, host: str = "127.0.0.1", port: int = 8000) -> None:
        # Neither a request's line nor anything about its films is logged.
        config = uvicorn.Config(
            app, host=host, port=port, log_level="warning", access_log=False,
            timeout_graceful_shutdown=_PATIENCE,
        )  # fmt: skip
        logging.getLogger("uvicorn.error").addFilter(_is_no_end)
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down: end uploads now, answers when they are written or `_PATIENCE` is over."""
        self._app.state.queue.end_uploads()
        await super().shutdown(sockets)


def _is_no_end(record: logging.LogRecord) -> bool:
    """Whether a record is about anything but an answer that Ctrl-C cut off."""
    kind = record.exc_info[0] if record.exc_info else None
    return not (kind and issubclass(kind, asyncio.CancelledError))
