"""`python -m tests.pictures`: the documentation's pictures, taken of the demo's current run.

They show the page of reports after a search, and the page that writes reports with the films of a
test study, and go to docs/images/. Run it after `dvc repro`; it needs chromium and chromedriver.
"""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

import uar
from pipeline import paths
from tests.conftest import start_browser
from tests.test_web import serving, upload
from uar.analysis.grounding import head_word
from uar.core.files import read_table
from uar.evaluation.predictions import read_predictions

IMAGES = Path("docs/images")
SEARCHED = "edema"
WIDTH = 1200
_ROOM = 200  # pixels of a window's height that are not the page's


def picture_reports(page: webdriver.Chrome) -> None:
    """Picture the test studies with the highest CIDEr among those that match the search."""
    page.set_window_size(WIDTH, _ROOM + 905)
    page.get(paths.PAGE.absolute().as_uri())
    page.find_element(By.ID, "search").send_keys(SEARCHED)
    Select(page.find_element(By.ID, "sort")).select_by_visible_text("CIDEr")
    page.find_element(By.ID, "descending").click()
    point_at(page, SEARCHED)
    save(page, "reports.png", 905)


def picture_serve(page: webdriver.Chrome) -> None:
    """Picture the test study of highest CIDEr whose report names one of its known findings."""
    boxes, studies = read_table(paths.BOXES), read_table(paths.STUDIES)
    scores = pd.read_csv(paths.STUDY_SCORES).sort_values("CIDEr", ascending=False)
    written = {p.study_id: p.generated.split() for p in read_predictions(paths.PREDICTIONS)}
    chosen, word = next(
        (study, head_word(finding))
        for study in scores["study_id"]
        for finding in boxes.loc[boxes["study_id"] == study, "finding"]
        if head_word(finding) in written[study]
    )
    (films,) = studies.loc[studies["study_id"] == chosen, "image_paths"]
    with serving(uar.load(paths.BUNDLE)) as address:
        page.set_window_size(WIDTH, _ROOM + 1300)
        page.get(address)
        upload(page, *(Path("data/raw/demo/images", film).absolute() for film in films))
        page.find_element(By.CSS_SELECTOR, "#sure summary").click()
        point_at(page, word)
        save(page, "serve.png", 1300)


def point_at(page: webdriver.Chrome, word: str) -> None:
    """Point at a word of a written report, until its attention is shown and stays."""
    point = """
      const shown = document.querySelector("button.shown");
      const same = (button) => button.textContent === arguments[0];
      const found = [...document.querySelectorAll("button:not(.film)")].find(same);
      found?.dispatchEvent(new Event("pointerenter"));
      return found !== undefined && shown === found;"""
    WebDriverWait(page, 20).until(lambda _: page.execute_script(point, word))


def save(page: webdriver.Chrome, name: str, height: int) -> None:
    """Save the window's top `height` pixels, in 128 colours."""
    shot = Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("RGB")
    shot.crop((0, 0, shot.width, height)).quantize(128).save(IMAGES / name, optimize=True)
    print(IMAGES / name)


if __name__ == "__main__":
    with start_browser() as browser:
        picture_reports(browser)
        picture_serve(browser)
