"""A small web application around a `Reporter`, for a person at the same machine.

FastAPI and plain HTML rather than Gradio: the page shares its components with the page of a test
split's reports, every limit below is a few readable lines, and an upload passes through no
temporary file. A film is sent as the request's body, not as a form: form parsers write large parts
to disk. Nothing in a request is logged, and films are decoded in another process.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import ChoiceLoader, PackageLoader
from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from uar.bundle.report import Report, StudyFilms, png
from uar.bundle.reporter import Prepared, Reporter
from uar.core.errors import UserError
from uar.data.films import LIMITS, Film, decode_film
from uar.data.isolation import Decode, FilmDecoder
from uar.viewer.page.build import attention_entry, colors, environment

log = logging.getLogger(__name__)

# HTML in a card is shown as text, not interpreted.
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Limits:
    """The limits on what a server accepts.

    Attributes:
        film_bytes: size of one film's file.
        held_bytes: total size of the films that wait or are being read.
        decode_seconds: time for one film to be decoded.
        decode_bytes: memory that decoding may take.
        waiting: number of requests that wait or are being answered.
        upload_seconds: time for one request's films to arrive.
    """

    film_bytes: int = LIMITS.file_bytes
    held_bytes: int = 256_000_000
    decode_seconds: float = LIMITS.seconds
    decode_bytes: int = LIMITS.memory
    waiting: int = 16
    upload_seconds: float = 60.0


class _Queue:
    """Writes one report at a time; refuses requests if too many wait or their films are too large.

    Meanwhile, the next study's films are decoded in a process that they cannot escape.
    """

    def __init__(self, reporter: Reporter, limits: Limits, decode: Decode) -> None:
        self.reporter, self.limits = reporter, limits
        self.waiting = self.held = 0
        self._arriving: set[asyncio.Timeout] = set()
        size = reporter.bundle.preprocessing.image_size
        self.decoder = FilmDecoder(size, limits.decode_seconds, limits.decode_bytes, decode)
        self.decoding, self.writing = (ThreadPoolExecutor(1, name) for name in ("decode", "write"))

    @asynccontextmanager
    async def place(self, size: int) -> AsyncIterator[None]:
        limits = self.limits
        if self.waiting >= limits.waiting or self.held + size > limits.held_bytes:
            raise HTTPException(503, "Busy: try again in a moment.", {"Retry-After": "1"})
        self.waiting += 1
        self.held += size
        try:
            yield
        finally:
            self.waiting -= 1
            self.held -= size

    async def body(self, request: Request, size: int) -> bytes:
        """Read a request's films, which must arrive in time."""
        try:
            async with asyncio.timeout(self.limits.upload_seconds) as deadline:
                self._arriving.add(deadline)
                return await _body(request, size)
        except TimeoutError:
            raise HTTPException(408, "The films took too long to arrive.") from None
        except ClientDisconnect:
            raise HTTPException(
                400, "The connection closed before the films had arrived."
            ) from None
        finally:
            self._arriving.discard(deadline)

    def end_uploads(self) -> None:
        """Time out the films that are still arriving."""
        for deadline in self._arriving:
            deadline.reschedule(asyncio.get_running_loop().time())

    async def report(self, films: list[bytes], force: bool) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        decoded = await loop.run_in_executor(self.decoding, self._decode, films)
        return await self.write(decoded, force)

    async def write(self, films: list[Film], force: bool) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.writing, self._write, films, force)

    def _decode(self, films: list[bytes]) -> list[Film]:
        return [self.decoder.decode(film, f"film {i + 1}") for i, film in enumerate(films)]

    def _write(self, films: list[Film], force: bool) -> dict[str, Any]:
        prepared = self.reporter.prepare(films)
        if prepared.doubts and not force:
            return refusal(prepared)
        return entry(self.reporter.write([prepared])[0])


def create_app(
    reporter: Reporter,
    host: str = "127.0.0.1",
    *,
    token: str | None = None,
    limits: Limits | None = None,
    decode: Decode = decode_film,
) -> FastAPI:
    """Create the application.

    Args:
        reporter: writes the reports.
        host: address that it will listen on.
        token: what requests for a report must carry; may be None only on a loopback address.
        limits: None for the defaults.
        decode: decodes a film's file, as `FilmDecoder` takes it.

    Raises:
        UserError: an address other than loopback without a token.
    """
    if host not in LOOPBACK and not token:
        raise UserError(f"--host {host} can be reached by others: it needs a --token")
    limits = limits or Limits()
    queue = _Queue(reporter, limits, decode)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        queue.decoder.close()

    app = FastAPI(title="UAR", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.queue = queue
    if host in LOOPBACK:  # keeps out web sites whose names lead here
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK])

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        response.headers["Cache-Control"] = "no-store"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.get("/", response_class=HTMLResponse)
    def page() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
            "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        return HTMLResponse(
            render(reporter, limits, nonce), headers={"Content-Security-Policy": policy}
        )

    @app.post("/api/report")
    async def report(request: Request, sizes: str = "", force: bool = False) -> dict[str, Any]:
        """Report on the films in the body, one after the other; `sizes` are their sizes in bytes.

        Doubtful films get a report only with `force`.
        """
        _refuse_unauthorised(request, token)
        lengths = _lengths(request, sizes, limits, reporter.bundle.preprocessing.views)
        async with queue.place(sum(lengths)):
            body = await queue.body(request, sum(lengths))
            ends = np.cumsum(lengths).tolist()
            films = [body[end - size : end] for end, size in zip(ends, lengths, strict=True)]
            del body
            return await _answered(queue.report(films, force))

    @app.post("/api/example")
    async def example(request: Request) -> dict[str, Any]:
        """Report on the bundle's example study, and return the study's own report too."""
        _refuse_unauthorised(request, token)
        study = reporter.bundle.example
        if study is None:
            raise HTTPException(404, "This model comes without an example.")
        films = [Film(film, view) for film, view in zip(study.films, study.views, strict=True)]
        async with queue.place(0):
            answer = await _answered(queue.write(films, force=True))
        return answer | {"example": {"study_id": study.study_id, "report": study.report}}

    return app


async def _answered(answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await answer
    except UserError as reason:
        raise HTTPException(422, str(reason)) from None
    except Exception as error:  # its message could quote the film
        log.error(f"a report failed: {type(error).__name__}")
        raise HTTPException(500, "The report failed.") from None


def _refuse_unauthorised(request: Request, token: str | None) -> None:
    """Refuse a request that lacks the token, or that another site's form could have sent.

    Forms cannot send the content type that is required.
    """
    if request.headers.get("content-type") != "application/octet-stream":
        raise HTTPException(415, "Send the film as application/octet-stream.")
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token and not hmac.compare_digest(given.encode(), token.encode()):
        raise HTTPException(401, "This server needs its token.", {"WWW-Authenticate": "Bearer"})


def _lengths(request: Request, sizes: str, limits: Limits, views: int) -> list[int]:
    """The size of each film in bytes; for a single film, Content-Length is enough."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise HTTPException(411, "State the length of the films (Content-Length).")
    parts = (sizes or length).split(",")
    if not all(part.isdecimal() and len(part) < 12 for part in parts):
        raise HTTPException(422, "sizes: expected each film's bytes, separated by commas.")
    lengths = [int(part) for part in parts]
    if not 1 <= len(lengths) <= views:
        raise HTTPException(422, f"{len(lengths)} films, but this model takes at most {views}.")
    if max(lengths) > limits.film_bytes:
        most = limits.film_bytes // 1_000_000
        raise HTTPException(413, f"A film is larger than {most} MB.")
    if not all(lengths) or sum(lengths) != int(length):
        raise HTTPException(422, "A film is empty, or the sizes do not match the films.")
    return lengths


async def _body(request: Request, size: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > size:
            raise HTTPException(413, "More bytes than announced.")
    if len(body) != size:
        raise HTTPException(422, "Fewer bytes than announced.")
    return bytes(body)


def entry(report: Report) -> dict[str, Any]:
    """A report as web.js reads it."""
    words, *place = report.attention.shape
    attention = report.attention.reshape(words, math.prod(place))  # a report may have no words
    return {
        **report.as_json(),
        **attention_entry(attention),
        **_films(report),
        "text_with_caveats": report.text_with_caveats,
        "words": report.words,
        "spans": [[s.start, s.end] for s in report.sentences],
        "side": report.attention.shape[-1],
    }


def refusal(prepared: Prepared) -> dict[str, Any]:
    """Films without a report, as web.js reads them."""
    return {**prepared.refusal_json(), **_films(prepared), "side": 1}


def _films(study: StudyFilms) -> dict[str, Any]:
    several = int(study.present.sum()) > 1
    return {
        "films": [
            f"data:image/png;base64,{png(film)}" if there else None
            for film, there in zip(study.films, study.present, strict=True)
        ],
        "views": study.captions,
        "can_swap": several and not study.stated.any(),
    }


def _card_in_page(card: str) -> Markup:
    """A model card as HTML, its headings one level lower: the page has a title of its own."""
    tokens = _MARKDOWN.parse(card)
    for token in tokens:
        if token.tag in ("h1", "h2", "h3", "h4", "h5"):
            token.tag = f"h{int(token.tag[1]) + 1}"
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))


def render(reporter: Reporter, limits: Limits, nonce: str) -> str:
    """The page as HTML."""
    templates = environment()
    assert templates.loader is not None
    templates.loader = ChoiceLoader([PackageLoader("uar.viewer.web", ""), templates.loader])
    settings, evidence = reporter.bundle.preprocessing, reporter.bundle.evidence
    return templates.get_template("web.html").render(
        nonce=nonce,
        dataset=reporter.bundle.provenance.get("dataset", "unknown"),
        films=reporter.bundle.provenance.get("films", "chest films"),
        example=reporter.bundle.example is not None,
        card=_card_in_page(reporter.bundle.card),
        data={
            "colors": colors(),
            "views": settings.views,
            "film_bytes": limits.film_bytes,
            "studies": None if evidence is None else evidence.studies,
            "calibrated": evidence is not None and evidence.scaling is not None,
        },
    )
