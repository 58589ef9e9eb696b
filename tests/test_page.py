"""The page of generated reports: its content, and its behaviour in a real browser."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from pipeline.page import sample
from tests.conftest import serious_faults
from uar.analysis.heatmap import color_levels, heatmap_ceiling
from uar.data.views import view_names
from uar.evaluation.clinical.labeller import Mention
from uar.evaluation.clinical.labels import OBSERVATIONS, Label
from uar.evaluation.predictions import Prediction
from uar.viewer.page.build import (
    Findings,
    PageHead,
    StudyShown,
    attention_entry,
    marked_words,
    render_page,
)

SIDE, VIEWS, WORDS = 3, 2, 6
SENTENCE = ("the", "heart", "is", "enlarged", "today", ".")
HEAD = PageHead(
    title="Phantoms, test split",
    rows={"This model": {"CIDEr": "1.000"}, "Constant report": {"CIDEr": "0.500"}},
    notes=["A note."],
)
BOX = {"view": 1, "finding": "nodule", "x0": 0.25, "y0": 0.5, "x1": 0.75, "y1": 0.9}
HOSTILE = "a </script><b id=injected>x</b> & {{ y }}"


# ---- what stands on it


def mention(text: str, word: str, name: str, label: Label = Label.POSITIVE) -> Mention:
    start = text.index(word)
    return Mention(name, label, start, start + len(word))


def test_words_that_assert_a_finding_are_marked() -> None:
    text = "Heart  is enlarged.\nNo effusion, maybe edema."
    mentions = [
        mention(text, "enlarged", "Cardiomegaly"),
        mention(text, "enlarged", "Enlarged Cardiomediastinum"),
        mention(text, "effusion", "Pleural Effusion", Label.NEGATIVE),
        mention(text, "edema", "Edema", Label.UNCERTAIN),
    ]
    asserted = ["Cardiomegaly", "Enlarged Cardiomediastinum", "Pleural Effusion"]
    assert marked_words(text, mentions, asserted) == [
        ["Heart"], ["is"], ["enlarged.", ["Cardiomegaly", "Enlarged Cardiomediastinum"]],
        ["No"], ["effusion,"], ["maybe"], ["edema."],
    ]  # fmt: skip
    assert marked_words(text, mentions, ["Edema"])[-1] == ["edema.", ["Edema"]]


def test_color_levels_are_roots_of_multiples_of_uniform() -> None:
    attention = np.array([[1.0, 1, 1, 1], [4, 0, 0, 0]])
    assert heatmap_ceiling(attention) == 4
    levels = color_levels(attention, 4)
    assert levels.tolist() == [[128, 128, 128, 128], [255, 0, 0, 0]]  # 255 * sqrt(1 / 4)
    assert color_levels(np.empty((0, 4)), heatmap_ceiling(np.empty((0, 4)))).size == 0


def test_few_cells_do_not_make_all_others_look_alike() -> None:
    attention = np.ones((10, 100))
    attention[3, :5] = 50, 40, 4, 4, 4
    assert heatmap_ceiling(attention) == 4
    levels = color_levels(attention, 4)
    assert levels[3, :6].tolist() == [255, 255, 255, 255, 255, 128]


def test_a_finding_is_in_both_reports_missing_or_added() -> None:
    confusion = np.zeros((14, 3), int)
    confusion[1, 0] = confusion[7, 1] = confusion[9, 2] = 1  # true positive, false ones
    assert Findings(confusion, [], []).found() == {
        "Cardiomegaly": "both", "Atelectasis": "added", "Pleural Effusion": "missing",
    }  # fmt: skip


def test_a_sample_is_drawn_only_from_more_studies_than_wanted() -> None:
    assert sample(5, 5, seed=0) == [0, 1, 2, 3, 4]
    drawn = sample(100, 10, seed=0)
    assert drawn == sorted(set(drawn)) == sample(100, 10, seed=0) != sample(100, 10, seed=1)
    assert len(drawn) == 10


def test_views_are_named_as_far_as_they_are_known() -> None:
    assert view_names(["frontal", "unknown"], 2) == ["frontal", "film 2"]
    assert view_names(["lateral"], 2) == ["lateral", "film 2"]


def study(number: int, size: int = 8, side: int = SIDE, words: int = WORDS) -> StudyShown:
    """Study `number` looks, while it writes word w, at cell (number + w) of each film."""
    report = HOSTILE if number == 2 else f"the heart of phantom {number} ."
    generated = " ".join(SENTENCE[w % len(SENTENCE)] for w in range(words))
    confusion = np.zeros((14, 3), int)
    confusion[1, number % 3] = 1  # both, added, missing
    enlarged = [mention(generated, "enlarged", "Cardiomegaly")]
    attention = np.full((words + 1, VIEWS * side**2), 1e-4)
    cells = (number + np.arange(words)) % side**2
    attention[np.arange(words), cells] = attention[np.arange(words), side**2 + cells] = 0.4
    coarse = np.random.default_rng(number).integers(0, 256, (VIEWS, 8, 8), np.uint8)
    films = coarse.repeat(size // 8, axis=1).repeat(size // 8, axis=2)
    return StudyShown(
        Prediction(f"p{number:03d}", report, report, generated, -1.0),
        films,
        ("frontal", "lateral"),
        np.array([True, number != 1]),
        attention,
        {"CIDEr": None if number == 3 else (number * 7) % 10 / 10, "words": float(words)},
        Findings(confusion, [], enlarged if number % 3 < 2 else []),
    )


# ---- in a browser


@pytest.fixture
def page(browser: webdriver.Chrome, tmp_path: Path) -> webdriver.Chrome:
    """The page of 30 studies, opened."""
    return opened(browser, tmp_path / "page.html", [study(i) for i in range(30)])


def opened(
    browser: webdriver.Chrome, path: Path, studies: Sequence[StudyShown]
) -> webdriver.Chrome:
    path.write_text(render_page(HEAD, studies), encoding="utf-8")
    browser.set_window_size(1200, 900)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(path.as_uri())
    return browser


def ids(page: webdriver.Chrome) -> list[str]:
    return [name.text for name in page.find_elements(By.CSS_SELECTOR, ".study h2")]


def article(page: webdriver.Chrome, study_id: str) -> WebElement:
    return next(
        a for a in page.find_elements(By.CLASS_NAME, "study")
        if a.find_element(By.TAG_NAME, "h2").text == study_id
    )  # fmt: skip


def words(of_study: WebElement) -> list[WebElement]:
    return of_study.find_elements(By.CSS_SELECTOR, ".generated button")


def heat(page: webdriver.Chrome, of_study: WebElement) -> list[list[int]]:
    """Opacity of each cell over each film."""
    script = """
      return [...arguments[0].querySelectorAll("canvas")].map((canvas) => {
        const cells = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return [...cells].filter((_, i) => i % 4 === 3);
      });
    """
    return page.execute_script(script, of_study)


def brightest(page: webdriver.Chrome, of_study: WebElement) -> list[int]:
    return [int(np.argmax(cells)) for cells in heat(page, of_study)]


def point_at(page: webdriver.Chrome, target: WebElement) -> None:
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", target)
    ActionChains(page).move_to_element(target).perform()


def test_the_page_is_whole_in_itself(page: webdriver.Chrome) -> None:
    assert page.title.startswith("Phantoms, test split")
    page.find_element(By.CSS_SELECTOR, "header summary").click()
    assert "1.000" in page.find_element(By.CSS_SELECTOR, "header table").text
    assert not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]
    logged = [entry["message"] for entry in page.get_log("performance")]
    asked = [message for message in logged if "Network.requestWillBeSent" in message]
    assert asked
    assert not [message for message in asked if '"url":"http' in message]


def test_a_reports_text_is_text(page: webdriver.Chrome) -> None:
    shown = article(page, "p002").find_element(By.CLASS_NAME, "reference").text
    assert shown == HOSTILE
    assert not page.find_elements(By.ID, "injected")


def test_films_are_the_studys(page: webdriver.Chrome) -> None:
    first = article(page, "p000")
    sources = [i.get_attribute("src") for i in first.find_elements(By.TAG_NAME, "img")]
    for source, film in zip(sources, study(0).films, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
        assert np.abs(pixels.astype(int) - film).mean() < 12  # noise is what JPEG keeps worst
    lacking = article(page, "p001")
    assert len(lacking.find_elements(By.TAG_NAME, "img")) == 1
    assert lacking.find_element(By.CSS_SELECTOR, ".film.absent").text == "no film"


def test_pointing_at_a_word_shows_where_the_model_looked(page: webdriver.Chrome) -> None:
    of_study = article(page, "p004")
    assert np.max(heat(page, of_study)) == 0
    for w in (0, 3):
        point_at(page, words(of_study)[w])
        assert brightest(page, of_study) == [4 + w, 4 + w]
        assert max(heat(page, of_study)[0]) == 204  # 0.8 of 255
        caption = of_study.find_element(By.CLASS_NAME, "caption").text
        assert words(of_study)[w].text.lower() in caption and "7.2 ×" in caption  # 0.4 of 18 cells
    point_at(page, of_study.find_element(By.TAG_NAME, "h2"))
    assert np.max(heat(page, of_study)) == 0


def test_a_tapped_words_attention_stays(page: webdriver.Chrome) -> None:
    of_study = article(page, "p005")
    page.execute_script("arguments[0].click()", words(of_study)[2])
    point_at(page, of_study.find_element(By.TAG_NAME, "h2"))
    assert brightest(page, of_study) == [7, 7]


def test_keys_go_from_word_to_word_and_from_study_to_study(page: webdriver.Chrome) -> None:
    def press(*keys: str) -> None:
        ActionChains(page).send_keys(*keys).perform()

    press("j")
    first, second = article(page, "p000"), article(page, "p001")
    assert brightest(page, first) == [0, 0]
    press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert brightest(page, first) == [2, 2]
    press(Keys.ARROW_LEFT)
    assert brightest(page, first) == [1, 1]
    press(Keys.END, Keys.ARROW_RIGHT)
    assert page.switch_to.active_element == words(first)[-1]
    press("j")
    WebDriverWait(page, 5).until(lambda _: np.max(heat(page, first)) == 0)
    assert page.switch_to.active_element == words(second)[0]
    press("k")
    WebDriverWait(page, 5).until(lambda _: np.max(heat(page, second)) == 0)
    assert page.switch_to.active_element == words(first)[-1]  # where one was
    press(Keys.ESCAPE)
    WebDriverWait(page, 5).until(lambda _: np.max(heat(page, first)) == 0)
    press("/", "phantom 7")
    assert ids(page) == ["p007"]


def test_it_begins_with_findings_and_no_text_twice(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    """What the models write most often of normal films would fill the first screens."""

    def changed(number: int, text: str, *findings: str) -> StudyShown:
        confusion = np.zeros((14, 3), int)
        for name in findings:
            confusion[OBSERVATIONS.index(name), 0] = 1
        made = study(number)
        words = " ".join((text.split() * WORDS)[:WORDS])
        prediction = replace(made.prediction, generated=words)
        return replace(made, prediction=prediction, findings=Findings(confusion, [], []))

    studies = [
        changed(0, "normal", "No Finding"),
        changed(4, "large heart", "Cardiomegaly"),
        changed(5, "normal", "Edema"),
        changed(6, "large heart", "Cardiomegaly"),
        changed(7, "normal", "No Finding"),
    ]
    page = opened(browser, tmp_path / "page.html", studies)
    assert ids(page) == ["p004", "p005", "p000", "p006", "p007"]
    found = article(page, "p000").find_element(By.CSS_SELECTOR, ".findings li")
    assert found.text == "✓ No Finding (of CheXpert’s 13)"
    Select(page.find_element(By.ID, "sort")).select_by_visible_text("the data set's order")
    assert ids(page) == ["p000", "p004", "p005", "p006", "p007"]


def test_sorting_by_a_score(page: webdriver.Chrome) -> None:
    sort = Select(page.find_element(By.ID, "sort"))
    sort.select_by_visible_text("CIDEr")
    values = {i: study(i).scores["CIDEr"] for i in range(30)}
    known = sorted((i for i in values if values[i] is not None), key=lambda i: (values[i], i))
    assert ids(page) == [f"p{i:03d}" for i in known][: len(ids(page))]
    page.find_element(By.ID, "descending").click()
    assert ids(page)[0] == "p007"  # 0.9, the first of equals
    sort.select_by_index(0)
    assert ids(page)[0] == "p029"
    page.find_element(By.ID, "descending").click()
    assert ids(page)[0] == "p000"


def test_studies_without_the_score_come_last(page: webdriver.Chrome) -> None:
    page.find_element(By.ID, "search").send_keys("phantom 3")  # and no other has "phantom 3 "
    assert "p003" in ids(page)
    Select(page.find_element(By.ID, "sort")).select_by_visible_text("CIDEr")
    page.find_element(By.ID, "search").send_keys(" ")
    assert ids(page)[-1] == "p003"


def test_filtering_by_finding(page: webdriver.Chrome) -> None:
    finding = Select(page.find_element(By.ID, "finding"))
    where = Select(page.find_element(By.ID, "where"))
    count = page.find_element(By.ID, "count")
    assert len(finding.options) == 1 + len(OBSERVATIONS)
    finding.select_by_value("Cardiomegaly")
    assert count.text == "30 of 30 studies"
    for value, remainder in (("both", 0), ("added", 1), ("missing", 2)):
        where.select_by_value(value)
        assert count.text == "10 of 30 studies"
        assert ids(page)[:2] == [f"p{remainder:03d}", f"p{remainder + 3:03d}"]
    finding.select_by_value("Edema")
    assert count.text == "0 of 30 studies"
    assert page.find_element(By.CLASS_NAME, "nothing").is_displayed()


def test_findings_are_marked_and_told_apart_without_color(page: webdriver.Chrome) -> None:
    for study_id, where, sign in (("p000", "both", "✓"), ("p001", "added", "+")):
        of_study = article(page, study_id)
        word = next(w for w in words(of_study) if w.text == "enlarged")
        assert where in word.get_attribute("class").split()
        assert word.value_of_css_property("text-decoration-line") == "underline"
        chip = of_study.find_element(By.CSS_SELECTOR, ".findings li")
        assert chip.text == f"{sign} Cardiomegaly"
        assert word.value_of_css_property("color") == chip.value_of_css_property("color")


def test_more_studies_come_as_one_scrolls(page: webdriver.Chrome) -> None:
    last = 0
    while last < 30:
        page.execute_script("window.scrollTo(0, document.body.scrollHeight)")
        WebDriverWait(page, 5).until(lambda _, last=last: len(ids(page)) > last)
        last = len(ids(page))
    assert ids(page) == [f"p{i:03d}" for i in range(30)]


def test_on_a_phone_nothing_is_wider_than_the_screen(page: webdriver.Chrome) -> None:
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= 360
        of_study = article(page, "p000")
        films = of_study.find_elements(By.CLASS_NAME, "film")
        assert films[0].rect["y"] == films[1].rect["y"]
        assert min(film.rect["width"] for film in films) > 140
        text = of_study.find_element(By.CLASS_NAME, "generated")
        assert text.rect["y"] > films[0].rect["y"] + films[0].rect["height"]
        assert float(text.value_of_css_property("font-size").removesuffix("px")) >= 16
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_whole_test_split_stays_small(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """590 studies of 128-pixel films, 60 words and 2 x 196 cells."""
    path = tmp_path / "page.html"
    opened(browser, path, [study(i, 128, 14, 60) for i in range(590)])
    assert path.stat().st_size < 30_000_000
    assert browser.find_element(By.ID, "count").text == "590 of 590 studies"
    assert len(ids(browser)) < 60  # the rest waits to be scrolled to


def test_no_number_has_a_long_tail(page: webdriver.Chrome) -> None:
    """Float32 attention of 1.9 would be 1.899999976158142."""
    entry = attention_entry(np.array([[1.9, 0.1]], np.float32))
    assert entry["peaks"] == [1.9]
    of_study = article(page, "p004")
    for word in words(of_study):
        point_at(page, word)
        numbers = re.findall(r"\d+\.\d+", of_study.find_element(By.CLASS_NAME, "caption").text)
        assert numbers and all(len(number.partition(".")[2]) == 1 for number in numbers)


def test_generated_text_reads_as_sentences(page: webdriver.Chrome) -> None:
    shown = article(page, "p000").find_element(By.CLASS_NAME, "generated").text
    assert shown == "The heart is enlarged today."


def test_films_are_named_and_enlarge(page: webdriver.Chrome) -> None:
    of_study = article(page, "p004")
    captions = of_study.find_elements(By.TAG_NAME, "figcaption")
    assert [caption.text for caption in captions] == ["frontal", "lateral"]
    words(of_study)[0].send_keys(Keys.NULL)
    film = of_study.find_element(By.CSS_SELECTOR, "button.film")
    width = film.rect["width"]
    film.click()
    dialog = page.find_element(By.TAG_NAME, "dialog")
    assert dialog.rect["width"] > 2 * width
    dialog.find_element(By.TAG_NAME, "button").click()
    WebDriverWait(page, 5).until(lambda _: not page.find_elements(By.TAG_NAME, "dialog"))
    assert page.switch_to.active_element == film


def test_uniform_attention_leaves_films_clear(browser: webdriver.Chrome, tmp_path: Path) -> None:
    even = replace(study(0), attention=np.full((WORDS, VIEWS * SIDE**2), 1 / (VIEWS * SIDE**2)))
    page = opened(browser, tmp_path / "page.html", [even])
    of_study = article(page, "p000")
    point_at(page, words(of_study)[0])
    assert np.max(heat(page, of_study)) == 0


def test_attention_boxes_and_differences_have_switches(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    boxed = replace(study(0), boxes=[BOX])
    page = opened(browser, tmp_path / "page.html", [boxed, study(1)])
    first, second = article(page, "p000"), article(page, "p001")
    drawn = first.find_elements(By.TAG_NAME, "rect")
    assert len(drawn) == 1 and not second.find_elements(By.TAG_NAME, "rect")
    film = first.find_elements(By.CSS_SELECTOR, "button.film")[1].rect
    assert drawn[0].rect["x"] == pytest.approx(film["x"] + film["width"] / 4, abs=1.5)
    assert drawn[0].rect["height"] == pytest.approx(film["height"] * 0.4, abs=2.5)
    canvas = first.find_element(By.TAG_NAME, "canvas")
    for switch, target in (("heat", canvas), ("boxes", first.find_element(By.TAG_NAME, "svg"))):
        assert target.value_of_css_property("visibility") == "visible"
        page.find_element(By.ID, switch).click()
        assert target.value_of_css_property("visibility") == "hidden"
    differing = first.find_elements(By.CSS_SELECTOR, ".generated .differs")
    # "the heart of phantom 0 ." against "the heart is enlarged today ."
    assert [word.text for word in differing] == ["is", "enlarged", "today"]
    lacking = first.find_elements(By.CSS_SELECTOR, ".reference .differs")
    assert [word.text for word in lacking] == ["of", "phantom", "0"]
    assert differing[0].value_of_css_property("border-bottom-style") == "none"
    page.find_element(By.ID, "differences").click()
    assert differing[0].value_of_css_property("border-bottom-style") == "dotted"


def test_hits_of_a_search_are_highlighted(page: webdriver.Chrome) -> None:
    marked = """
      return [...CSS.highlights.get("hits")].map((range) => range.toString());
    """
    search = page.find_element(By.ID, "search")
    search.send_keys("Heart is  enl")
    hits = page.execute_script(marked)
    assert len(hits) == len(ids(page)) and set(hits) == {"heart is enl"}
    search.clear()
    search.send_keys("today .")  # as decoded
    assert set(page.execute_script(marked)) == {"today."}
    search.clear()
    search.send_keys(Keys.SPACE)
    assert page.execute_script(marked) == []


def test_a_link_leads_to_its_study(page: webdriver.Chrome, tmp_path: Path) -> None:
    page.get((tmp_path / "page.html").as_uri() + "#study=p027")
    page.refresh()
    linked = page.find_element(By.CSS_SELECTOR, ".study.linked")
    assert linked.find_element(By.TAG_NAME, "h2").text == "p027"
    assert 0 <= page.execute_script(
        "return arguments[0].getBoundingClientRect().top", linked
    ) < 900  # fmt: skip
    link = article(page, "p003").find_element(By.CSS_SELECTOR, "h2 a")
    assert link.get_attribute("href").endswith("#study=p003")


def test_printing_gives_every_study(page: webdriver.Chrome) -> None:
    assert len(ids(page)) < 30
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert len(ids(page)) == 30


def test_without_a_labeller_nothing_speaks_of_findings(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    page = opened(browser, tmp_path / "page.html", [replace(study(0), findings=None)])
    size = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        shown = page.find_elements(By.CLASS_NAME, "labelled")
        assert len(shown) == 6 and not any(part.is_displayed() for part in shown)
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_overview_takes_a_fifth_of_the_screen(page: webdriver.Chrome) -> None:
    header = page.find_element(By.TAG_NAME, "header").rect["height"]
    assert header <= page.execute_script("return innerHeight") / 5


def test_on_a_phone_the_overview_takes_a_fifth_of_the_screen(page: webdriver.Chrome) -> None:
    size = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        header, tools = (page.find_element(By.CSS_SELECTOR, name) for name in ("header", "#tools"))
        assert header.rect["height"] <= 800 / 5
        assert tools.rect["height"] <= 800 / 8
        assert not page.find_element(By.ID, "sort").is_displayed()
        page.find_element(By.ID, "choose").click()
        assert page.find_element(By.ID, "sort").is_displayed()
        assert page.find_element(By.ID, "choose").get_attribute("aria-expanded") == "true"
        assert serious_faults(page) == []
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_an_accessibility_checker_finds_nothing_serious(page: webdriver.Chrome) -> None:
    page.find_element(By.CSS_SELECTOR, "header summary").click()
    page.find_element(By.ID, "differences").click()
    assert serious_faults(page) == []
