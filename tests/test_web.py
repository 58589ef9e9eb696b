"""The page that writes reports: its limits, and its behaviour in a real browser."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.bundles import EVIDENCE, chest, judge_of, make_bundle
from tests.conftest import serious_faults
from tests.film_files import save, save_dicom
from tests.hostile import CRASH, HANG, hostile
from tests.test_bundle import film
from uar.bundle.reporter import Reporter
from uar.core.errors import UserError
from uar.data.films import decode_film
from uar.data.isolation import Decode
from uar.viewer.web.app import Limits, create_app, render
from uar.viewer.web.server import Server, _is_no_end

BINARY = {"Content-Type": "application/octet-stream"}


def tiny() -> dict[str, Any]:
    """params.yaml with tiny sizes and a findings head."""
    import yaml

    from tests.conftest import ROOT, override
    from tests.test_pipeline import TINY

    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in TINY.items():
        override(raw, key, value)
    raw["model"]["findings"] = True
    return raw


@pytest.fixture(scope="module")
def reporter() -> Reporter:
    bundle = make_bundle(tiny(), seed=2, index=True)
    assert bundle.tokenizer is not None
    return Reporter(replace(bundle, evidence=EVIDENCE, judge=judge_of(bundle.tokenizer)))


@pytest.fixture
def client(reporter: Reporter) -> Iterator[TestClient]:
    with TestClient(create_app(reporter), base_url="http://127.0.0.1") as started:
        yield started


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    return [save(tmp_path / "front.png", film(1)), save_dicom(tmp_path / "side.dcm", film(2))]


def post(client: Any, *parts: bytes, **headers: str) -> Any:
    sizes = ",".join(str(len(part)) for part in parts)
    body = b"".join(parts)
    return client.post(f"/api/report?sizes={sizes}", content=body, headers=BINARY | headers)


def test_the_server_says_what_python_says(
    client: TestClient, reporter: Reporter, films: list[Path]
) -> None:
    answer = post(client, *(path.read_bytes() for path in films)).json()
    expected = reporter.report(films)
    assert answer["text"] == expected.text
    assert answer["words"] == list(expected.words)
    assert len(answer["films"]) == 2
    levels = np.frombuffer(base64.b64decode(answer["attention"]), np.uint8)
    assert len(levels) == expected.attention.size


def test_bad_requests_are_refused(reporter: Reporter, films: list[Path]) -> None:
    limits = Limits(film_bytes=50_000)
    client = TestClient(create_app(reporter, limits=limits), base_url="http://127.0.0.1")
    good = films[0].read_bytes()
    assert post(client, good).status_code == 200
    assert post(client, bytes(50_001)).status_code == 413
    assert post(client, good, good, good).status_code == 422
    assert post(client, good, b"").status_code == 422
    assert post(client).status_code == 422
    refused = post(client, b"junk")
    assert refused.status_code == 422
    assert refused.json()["detail"] == "film 1: not a PNG, JPEG or DICOM file"
    wrong = client.post("/api/report?sizes=5", content=good, headers=BINARY)
    assert wrong.status_code == 422
    form = client.post("/api/report", content=good, headers={"Content-Type": "text/plain"})
    assert form.status_code == 415  # what a form of another site could send
    assert post(client, good, Host="example.org").status_code == 400
    assert client.get("/docs").status_code == 404


def test_other_hosts_need_the_token(reporter: Reporter, films: list[Path]) -> None:
    with pytest.raises(UserError, match="needs a --token"):
        create_app(reporter, "0.0.0.0")
    client = TestClient(create_app(reporter, "0.0.0.0", token="secret"))
    good = films[0].read_bytes()
    assert post(client, good).status_code == 401
    assert post(client, good, Authorization="Bearer wrong").status_code == 401
    assert post(client, good, Authorization="Bearer secret").status_code == 200


def test_nothing_of_a_film_is_written_logged_or_shown(
    client: TestClient, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def no_files(*_: Any, **__: Any) -> None:
        raise AssertionError("a temporary file")

    path = save_dicom(
        tmp_path / "a.dcm", film(1, 1200), PatientName="DOE^JANE", PatientID="4711",
        PatientBirthDate="19500101",
    )  # fmt: skip
    data = path.read_bytes()
    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, no_files)
    with caplog.at_level(logging.DEBUG):
        good, bad = post(client, data), post(client, data[: len(data) // 2])
    assert (good.status_code, bad.status_code) == (200, 422)
    for said in (good.text, bad.text, caplog.text):
        assert not any(secret in said for secret in ("DOE", "4711", "19500101"))


def test_who_would_wait_behind_too_many_is_sent_away(
    reporter: Reporter, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    prepare = reporter.prepare

    def slow(*arguments: Any) -> Any:
        go.wait(60)
        return prepare(*arguments)

    monkeypatch.setattr(reporter, "prepare", slow)
    data = films[0].read_bytes()
    with (
        serving(reporter, Limits(waiting=2)) as address,
        ThreadPoolExecutor(5) as pool,
        httpx.Client(base_url=address, timeout=20) as client,
    ):
        sent = [pool.submit(post, client, data) for _ in range(5)]
        while sum(answer.done() for answer in sent) < 3:
            time.sleep(0.01)
        go.set()
        statuses = sorted(answer.result().status_code for answer in sent)
    assert statuses == [200, 200, 503, 503, 503]


def test_no_request_is_lost(reporter: Reporter, films: list[Path]) -> None:
    """40 requests from 8 clients; each gets its own film's report."""
    expected = {i: reporter.write([reporter.prepare([film(i)])])[0].text for i in range(4)}
    assert len(set(expected.values())) >= 3
    data = {i: save(films[0].parent / f"{i}.png", film(i)).read_bytes() for i in range(4)}
    with serving(reporter) as address:

        def one_client(number: int) -> list[bool]:
            with httpx.Client(base_url=address, timeout=60) as client:
                which = number % 4
                return [
                    post(client, data[which]).json()["text"] == expected[which] for _ in range(5)
                ]

        with ThreadPoolExecutor(8) as pool:
            answers = [ok for each in pool.map(one_client, range(8)) for ok in each]
    assert answers == [True] * 40


def test_a_film_that_crashes_its_decoder_or_hangs_costs_nobody_else_a_report(
    reporter: Reporter, films: list[Path]
) -> None:
    """While hostile films come in, another client gets all of its reports."""
    good = films[0].read_bytes()
    expected = reporter.report(films[0]).text
    with (
        serving(reporter, Limits(decode_seconds=10), hostile) as address,
        httpx.Client(base_url=address, timeout=120) as client,
        ThreadPoolExecutor(3) as pool,
    ):
        crash, hang = (pool.submit(post, client, data) for data in (CRASH, HANG))
        honest = [pool.submit(post, client, good).result() for _ in range(3)]
        assert [answer.json()["text"] for answer in honest] == [expected] * 3
        for answer, reason in ((crash, "crashed or ran out"), (hang, "took more than 10 seconds")):
            assert answer.result().status_code == 422
            assert f"film 1: decoding it {reason}" in answer.result().json()["detail"]
        assert post(client, good).json()["text"] == expected


def begin_upload(address: str) -> socket.socket:
    """A connection on which three of nine bytes of a film have been sent."""
    place = ("127.0.0.1", int(address.rpartition(":")[2]))
    client = socket.create_connection(place)
    client.sendall(
        f"POST /api/report HTTP/1.1\r\nHost: {place[0]}:{place[1]}\r\nContent-Length: 9\r\n"
        "Content-Type: application/octet-stream\r\n\r\nabc".encode()
    )
    return client


@contextmanager
def log_of_uvicorn() -> Iterator[list[logging.LogRecord]]:
    """What it says while the block runs."""
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]
    logging.getLogger("uvicorn.error").addHandler(handler)
    yield said
    logging.getLogger("uvicorn.error").removeHandler(handler)


def test_a_dropped_upload_leaves_no_traceback_in_the_log(reporter: Reporter) -> None:
    with serving(reporter) as address, log_of_uvicorn() as said:
        for _ in range(3):
            with begin_upload(address):
                time.sleep(0.2)
        assert httpx.get(address, timeout=60).status_code == 200  # it goes on
    assert [record for record in said if record.exc_info] == []


def test_slow_uploads_do_not_hold_up_the_servers_end(reporter: Reporter) -> None:
    """They are answered at once: uvicorn's patience, after which it cancels, is not needed."""
    server = serving(reporter, Limits(upload_seconds=600))
    server.server.config.timeout_graceful_shutdown = 60
    with ExitStack() as clients:
        with log_of_uvicorn() as said, server as address:
            uploads = [clients.enter_context(begin_upload(address)) for _ in range(16)]
            while server.app.state.queue.waiting < 16:
                time.sleep(0.05)
        for upload in uploads:
            assert upload.recv(12) == b"HTTP/1.1 408"
    assert [record.getMessage() for record in said if "Cancel" in record.getMessage()] == []


def test_what_ctrl_c_cuts_off_leaves_no_traceback_in_the_log() -> None:
    def record(error: BaseException | None) -> logging.LogRecord:
        info = error and (type(error), error, None)
        return logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "x", None, info)

    assert not _is_no_end(record(asyncio.CancelledError()))
    assert _is_no_end(record(ValueError())) and _is_no_end(record(None))


# ---- in a browser


class serving:
    """A server at a free port, while the block runs."""

    def __init__(
        self, reporter: Reporter, limits: Limits | None = None, decode: Decode = decode_film
    ) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.app = create_app(reporter, limits=limits, decode=decode)
        self.server = Server(self.app)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))

    def __enter__(self) -> str:
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def __exit__(self, *exception: object) -> None:
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def address(reporter: Reporter) -> Iterator[str]:
    with serving(reporter) as started:
        yield started


@pytest.fixture
def page(browser: webdriver.Chrome, address: str) -> webdriver.Chrome:
    browser.set_window_size(1200, 900)
    browser.get_log("browser")
    browser.get(address)
    return browser


def upload(page: webdriver.Chrome, *paths: Path) -> None:
    page.find_element(By.ID, "files").send_keys("\n".join(str(path) for path in paths))
    status = page.find_element(By.ID, "status")
    shown = page.find_element(By.ID, "result")
    WebDriverWait(page, 20).until(
        lambda _: shown.is_displayed() or "error" in status.get_attribute("class").split()
    )


def opacities(page: webdriver.Chrome) -> list[int]:
    return page.execute_script(
        "return [...document.querySelectorAll('#result canvas')].map((canvas) => Math.max("
        "...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data"
        ".filter((_, i) => i % 4 === 3)))"
    )


def test_png_and_dicom_become_a_report(
    page: webdriver.Chrome, reporter: Reporter, films: list[Path]
) -> None:
    assert "Research use only" in page.find_element(By.TAG_NAME, "header").text
    upload(page, *films)
    expected = reporter.report(films)
    assert page.find_element(By.CSS_SELECTOR, ".report .words").text == expected.text
    spoken = page.find_element(By.ID, "spoken")  # to screen readers
    assert spoken.get_attribute("textContent") == f"Draft report: {expected.text}"
    assert expected.origin in page.find_element(By.ID, "caveats").text
    page.find_element(By.CSS_SELECTOR, "#sure summary").click()
    listed = page.find_elements(By.CSS_SELECTOR, "#sentences li > span:last-child")
    assert [line.text for line in listed] == [s.text for s in expected.sentences]
    shown = page.find_elements(By.CSS_SELECTOR, "#sentences .certainty")
    assert [each.text for each in shown] == [
        "" if sure is None else f"{100 * sure:.0f} %" if sure <= 0.995 else "> 99 %"
        for sure in expected.certainties
    ]
    captions = page.find_elements(By.CSS_SELECTOR, ".films figcaption")
    assert [caption.text for caption in captions] == list(expected.captions)
    assert captions[0].text == "film 1, taken as frontal"
    assert not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_threshold_that_none_exceeds_is_no_percentage(
    page: webdriver.Chrome,
    reporter: Reporter,
    films: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = reporter._model.findings
    assert head is not None
    never = torch.full_like(head.thresholds, 1.01)
    monkeypatch.setitem(head._buffers, "thresholds", never)
    upload(page, *films)
    for line in page.find_elements(By.CSS_SELECTOR, ".findings li"):
        assert line.text.endswith("% (never found: too rare in validation)")


def test_findings_and_similar_studies_are_listed(
    page: webdriver.Chrome, reporter: Reporter, films: list[Path]
) -> None:
    upload(page, *films)
    report = reporter.report(films)
    lines = page.find_elements(By.CSS_SELECTOR, ".findings li")
    assert len(lines) == len(report.findings) == 13
    for line, finding in zip(lines, report.findings, strict=True):
        assert finding.probability is not None and finding.threshold is not None
        assert line.text.startswith(f"{finding.name}: ")
        assert f", {100 * finding.probability:.0f} % (" in line.text
        assert ("not found" in line.text) == (finding.probability <= finding.threshold)
    rows = page.find_elements(By.CSS_SELECTOR, "#similar li")
    assert [row.text.split("\n") for row in rows] == [
        [f"{study.cosine:.3f}", study.study_id, study.report] for study in report.similar
    ]


def test_pointing_at_a_word_shows_its_attention(
    page: webdriver.Chrome, reporter: Reporter, films: list[Path]
) -> None:
    upload(page, *films)
    assert opacities(page) == [0, 0]
    attention = reporter.report(films).attention
    word = int(attention.max(axis=(1, 2, 3)).argmax())
    button = page.find_elements(By.CSS_SELECTOR, ".words button")[word]
    ActionChains(page).move_to_element(button).perform()
    assert max(opacities(page)) > 150
    assert f"{attention[word].max():.1f} ×" in page.find_element(By.CLASS_NAME, "caption").text
    page.find_element(By.ID, "heat").click()
    canvas = page.find_element(By.CSS_SELECTOR, "#result canvas")
    assert canvas.value_of_css_property("visibility") == "hidden"


def test_keys_and_enlarging(page: webdriver.Chrome, films: list[Path]) -> None:
    upload(page, *films)
    buttons = page.find_elements(By.CSS_SELECTOR, ".words button")
    buttons[0].send_keys(Keys.ARROW_RIGHT)
    assert page.switch_to.active_element == buttons[1]
    enlarge = page.find_element(By.CSS_SELECTOR, ".films button")
    enlarge.send_keys(Keys.ENTER)
    dialog = page.find_element(By.TAG_NAME, "dialog")
    assert dialog.rect["width"] > 2 * enlarge.rect["width"]
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    WebDriverWait(page, 5).until(lambda _: not page.find_elements(By.TAG_NAME, "dialog"))
    assert page.switch_to.active_element == enlarge


def test_errors_are_said_and_the_next_film_works(
    page: webdriver.Chrome, films: list[Path], tmp_path: Path
) -> None:
    junk, empty = tmp_path / "junk.png", tmp_path / "empty.png"
    junk.write_bytes(b"junk")
    empty.touch()
    status = page.find_element(By.ID, "status")
    for paths, said in (
        ([junk], "junk.png: not a PNG, JPEG or DICOM file"),
        ([empty], "empty.png is empty."),
        ([*films, films[0].rename(tmp_path / "third.png")], "at most 2 images"),
    ):
        if len(paths) == 3:
            save(films[0], film(1))
        upload(page, *paths)
        assert said in status.text
        assert not page.find_element(By.ID, "result").is_displayed()
    upload(page, films[0])
    assert status.text == ""
    assert "stands for both" in page.find_element(By.CSS_SELECTOR, ".report .notes").text


# ---- films that are none, or in the wrong order


@pytest.fixture(scope="module")
def wary() -> Reporter:
    """Of a bundle that knows what films of training are like."""
    return Reporter(make_bundle(tiny(), seed=2, likeness=True))


@pytest.fixture
def wary_page(browser: webdriver.Chrome, wary: Reporter) -> Iterator[webdriver.Chrome]:
    with serving(wary) as address:
        browser.set_window_size(1200, 900)
        browser.get(address)
        yield browser


def shown(page: webdriver.Chrome, name: str) -> bool:
    return page.find_element(By.ID, name).is_displayed()


def test_the_server_refuses_a_stranger_unless_it_is_forced(wary: Reporter, tmp_path: Path) -> None:
    data = save(tmp_path / "a.png", film(1)).read_bytes()
    with TestClient(create_app(wary), base_url="http://127.0.0.1") as client:
        refused = post(client, data).json()
        assert refused["text"] is None and "words" not in refused
        assert refused["doubts"] and refused["likeness"][0]["strangeness"] > 1
        address = f"/api/report?sizes={len(data)}&force=true"
        forced = client.post(address, content=data, headers=BINARY).json()
    assert forced["text"] and forced["doubts"] == refused["doubts"]
    assert refused["doubts"][0] in forced["text_with_caveats"]


def test_a_stranger_gets_no_report_on_the_page_unless_it_is_forced(
    wary_page: webdriver.Chrome, tmp_path: Path
) -> None:
    page = wary_page
    upload(page, save(tmp_path / "cat.png", film(1)))
    assert shown(page, "refusal")
    assert not page.find_element(By.CSS_SELECTOR, ".report").is_displayed()
    said = page.find_element(By.CSS_SELECTOR, "#refusal .doubts").text
    assert said.startswith("cat.png: unlike the frontal films")
    assert said in page.find_element(By.ID, "spoken").get_attribute("textContent")
    assert serious_faults(page) == []
    page.find_element(By.ID, "force").send_keys(Keys.ENTER)
    WebDriverWait(page, 20).until(lambda _: shown(page, "forced"))
    assert said in page.find_element(By.ID, "forced").text
    assert page.find_element(By.CSS_SELECTOR, ".report .words").text
    assert page.switch_to.active_element == page.find_element(By.ID, "result")
    assert serious_faults(page) == []


def test_films_in_the_wrong_order_are_swapped_by_a_button(
    wary_page: webdriver.Chrome, wary: Reporter, tmp_path: Path
) -> None:
    page = wary_page
    films = [save(tmp_path / f"{view}.png", chest(3, view)) for view in (0, 1)]
    upload(page, *reversed(films))
    said = page.find_element(By.CSS_SELECTOR, "#refusal .doubts").text
    assert said == "1.png: taken as frontal, but it and 0.png look swapped."
    page.find_element(By.ID, "swap").click()
    WebDriverWait(page, 20).until(lambda _: not shown(page, "refusal") and shown(page, "result"))
    assert page.find_element(By.CSS_SELECTOR, ".report .words").text == wary.report(films).text
    assert not shown(page, "forced")


def test_films_whose_headers_say_what_they_are_cannot_be_swapped(
    wary_page: webdriver.Chrome, tmp_path: Path
) -> None:
    films = [
        save_dicom(
            tmp_path / f"{view}.dcm",
            chest(3, view),
            ViewPosition=position,
            WindowCenter=128,  # values as they are
            WindowWidth=256,
        )
        for view, position in enumerate(("PA", "LL"))
    ]
    upload(wary_page, *reversed(films))
    captions = wary_page.find_elements(By.CSS_SELECTOR, ".films figcaption")
    assert [caption.text for caption in captions] == ["frontal", "lateral"]
    assert not shown(wary_page, "swap") and not shown(wary_page, "refusal")
    assert "was put second" in wary_page.find_element(By.CSS_SELECTOR, ".report .notes").text


def test_an_example_fills_the_empty_page(wary_page: webdriver.Chrome, wary: Reporter) -> None:
    page = wary_page
    page.find_element(By.ID, "example").send_keys(Keys.ENTER)
    WebDriverWait(page, 20).until(lambda _: shown(page, "own"))
    assert wary.bundle.example is not None
    assert wary.bundle.example.report in page.find_element(By.ID, "own").text
    expected = wary.report(list(wary.bundle.example.films))
    assert page.find_element(By.CSS_SELECTOR, ".report .words").text == expected.text
    assert serious_faults(page) == []


def test_the_model_card_is_a_page(wary_page: webdriver.Chrome) -> None:
    wary_page.find_element(By.CSS_SELECTOR, "main > details > summary").click()
    card = wary_page.find_element(By.CLASS_NAME, "card")
    assert card.find_element(By.TAG_NAME, "h2").text == "A test's model"
    assert len(wary_page.find_elements(By.TAG_NAME, "h1")) == 1
    cells = card.find_elements(By.TAG_NAME, "td")
    assert [cell.text for cell in cells] == ["BLEU-4", "0.100"]
    assert serious_faults(wary_page) == []


def test_a_card_cannot_bring_scripts_or_links_that_are(wary: Reporter) -> None:
    card = "<script>alert(1)</script> [x](javascript:alert(1)) ![y](http://example.org/y.png)"
    hostile = Reporter(replace(wary.bundle, card=card))
    page = render(hostile, Limits(), "nonce")
    assert "<script>alert" not in page and 'href="javascript:' not in page
    assert "&lt;script&gt;alert(1)" in page  # what stays is text


def test_two_users_at_once(page: webdriver.Chrome, reporter: Reporter, tmp_path: Path) -> None:
    """Two windows, each with its own study."""
    drawn = (
        [save(tmp_path / f"{i}{j}.png", film(10 * i + j)) for j in range(2)] for i in range(50)
    )
    studies = list(islice((study for study in drawn if reporter.report(study).text), 2))
    first = page.current_window_handle
    address = page.current_url
    page.switch_to.new_window("tab")
    second = page.current_window_handle
    page.get(address)
    try:
        for window, study in ((first, studies[0]), (second, studies[1])):
            page.switch_to.window(window)
            page.find_element(By.ID, "files").send_keys("\n".join(map(str, study)))
        for window, study in ((first, studies[0]), (second, studies[1])):
            page.switch_to.window(window)
            shown = page.find_element(By.ID, "result")
            WebDriverWait(page, 20).until(lambda _, shown=shown: shown.is_displayed())
            words = page.find_element(By.CSS_SELECTOR, ".report .words").text
            assert words == reporter.report(study).text
    finally:
        page.switch_to.window(second)
        page.close()
        page.switch_to.window(first)


def test_on_a_phone_nothing_is_wider_than_the_screen(
    page: webdriver.Chrome, films: list[Path]
) -> None:
    size = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        upload(page, *films)
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_an_accessibility_checker_finds_nothing_serious(
    page: webdriver.Chrome, films: list[Path]
) -> None:
    assert serious_faults(page) == []
    upload(page, *films)
    assert serious_faults(page) == []
