"""MLflow's own pages of a finished study, in a real browser: what a person compares runs by is there and opens.

MURK_SCREENSHOTS=FOLDER keeps pictures of the pages (those of docs/tracking.md were made so).
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.e2e.heads import free_port
from tests.e2e.studies import SMALL, murk
from tests.mlflow_server import mlflow_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
PATIENCE_MS = 120_000
SIZE: Any = {"width": 1280, "height": 720}
TRAINING = "workflowType=machine_learning"  # MLflow's pages of models; the others are of language models


class Study:
    """A finished study in MLflow and a browser's page."""

    def __init__(self, page: Any, url: str, client: MlflowClient) -> None:
        self.page = page
        self.url = url
        experiment = client.get_experiment_by_name("small")
        assert experiment is not None
        self.place = f"{url}/#/experiments/{experiment.experiment_id}"
        self.id = experiment.experiment_id
        runs = list(client.search_runs([self.id], max_results=1000))
        self.parent = next(run for run in runs if run.data.tags.get("murk.phase") == "confirm")
        trials = [run for run in runs if "murk.trial" in run.data.tags]
        self.trials = sorted(trials, key=lambda run: run.info.run_name or "")
        self.confirmed = [run for run in self.trials if run.data.tags["phase"] == "confirm"]

    def open(self, address: str) -> None:
        """Go to a page anew."""
        self.page.goto("about:blank")
        self.page.goto(address)

    def close_assistant(self) -> None:
        """Close MLflow's assistant, which takes a third of the page when a browser comes for the first time."""
        self.open(f"{self.place}/runs?{TRAINING}")
        self.page.locator("[data-component-id='mlflow.assistant.chat_panel.close']").click()

    def text(self) -> str:
        """All that the page shows."""
        return self.page.inner_text("body")

    def wait_for(self, text: str | re.Pattern[str]) -> None:
        """Wait until a text is there."""
        self.page.get_by_text(text).first.wait_for()

    def rolled_names(self) -> list[str]:
        """The names of metrics on the page that compares runs, from top to bottom; it draws those in sight only."""
        seen: dict[str, None] = {}
        for place in range(0, 12_000, 150):
            self.page.evaluate(
                """place => document.querySelectorAll('.ReactVirtualized__Grid').forEach(grid => {
                       grid.scrollTop = place; grid.dispatchEvent(new Event('scroll', {bubbles: true})) })""",
                place,
            )
            self.page.wait_for_timeout(60)
            names = self.page.evaluate(
                """() => [...document.querySelectorAll('.ReactVirtualized__Grid a')].map(a => a.textContent)"""
            )
            seen |= dict.fromkeys(name for name in names if "/" in name)
        return list(seen)

    def picture(self, name: str, *, left: int = 0) -> None:
        """Keep the page as it looks, where someone asked for it, without its first `left` pixels of each line."""
        if folder := os.environ.get("MURK_SCREENSHOTS"):
            self.page.mouse.move(5, 500)  # a pointer over a chart shows its tools
            self.page.wait_for_timeout(3000)
            size = self.page.viewport_size
            shown = {"x": left, "y": 0, "width": size["width"] - left, "height": size["height"]}
            self.page.screenshot(path=str(Path(folder) / f"mlflow-{name}.png"), clip=shown)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("ui")
    (folder / "small.yaml").write_text(SMALL)
    with mlflow_server(folder, free_port()) as url:
        done = murk("run", "small.yaml", "--set", f"tracking.uri={url}", cwd=folder, timeout=900)
        assert done.returncode == 0, done.stderr
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE)
            page.set_default_timeout(PATIENCE_MS)
            study = Study(page, url, MlflowClient(tracking_uri=url))
            study.close_assistant()
            yield study
            browser.close()


def names_of(runs: list[Run]) -> list[str]:
    return [run.info.run_name or "" for run in runs]


def test_parents_stand_with_their_children_and_what_the_study_is(study: Study) -> None:
    study.open(f"{study.place}/runs?{TRAINING}")
    study.wait_for("matching runs")
    for phase in ("search", "confirm"):
        study.page.get_by_role("link", name=phase, exact=True).first.wait_for()
    text = study.text()
    assert "a study of Murk" in text
    assert not any(name in text for name in names_of(study.trials)), "trials are folded into their phases"
    row = study.page.get_by_role("row").filter(has=study.page.get_by_role("link", name="confirm", exact=True))
    row.get_by_role("button").first.click()
    for name in names_of(study.confirmed):
        study.page.get_by_role("link", name=name, exact=True).wait_for()
    searched = [run for run in study.trials if run.data.tags["phase"] == "search"]
    assert not any(name in study.text() for name in names_of(searched)), "the other phase stays folded"
    study.picture("children")
    study.open(f"{study.place}/runs/{study.confirmed[0].info.run_id}?{TRAINING}")
    study.wait_for("Parent run")
    study.page.get_by_role("link", name="confirm", exact=True).wait_for()
    assert "test_cell/contrast/1" in {*study.confirmed[0].data.metrics}


def test_charts_are_grouped_by_method(study: Study) -> None:
    study.open(f"{study.place}/runs?{TRAINING}&compareRunsMode=CHART")
    study.wait_for("matching runs")
    study.page.get_by_role("button", name="Group by").click()
    study.page.locator("[role=menu]").get_by_text("method", exact=True).first.click()
    study.page.keyboard.press("Escape")
    for method in ("plain", "pmal"):
        study.wait_for(f"Group: {method}")
    assert all(name in study.text() for name in names_of(study.confirmed))
    study.page.get_by_placeholder("Search metric charts").fill("sev/")
    study.wait_for(re.compile(r"plain \(sev/contrast\)"))
    for noise in ("contrast", "shot_noise"):
        title = study.page.get_by_text(f"sev/{noise}", exact=True).first
        title.wait_for()
        assert title.evaluate("node => node.scrollWidth <= node.clientWidth"), "a title is cut"
    study.picture("charts")


def test_three_trials_compare_by_settings_and_by_corruption_and_severity(study: Study) -> None:
    ids = [run.info.run_id for run in study.confirmed[:3]]
    query = f"runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([study.id]))}"
    study.open(f"{study.url}/#/compare-runs?{query}")
    study.wait_for("Run details")
    study.wait_for("optim.sam.rho")
    text = study.text()
    assert all(name in text for name in names_of(study.confirmed[:3]))
    assert "contrast, shot_noise" in text, "a list stands in one line"
    assert "data.image_size" in text
    names = study.rolled_names()
    wanted = [f"test_cell/{noise}/{severity}" for noise in ("contrast", "shot_noise") for severity in (1, 3)]
    assert set(wanted) <= set(names), names
    assert [name for name in names if name in wanted] == wanted, "corruption by corruption, each from weak to strong"
    study.page.get_by_role("switch", name="Parameters - Show diff only").click()
    study.page.get_by_text("data.image_size", exact=True).wait_for(state="detached")
    values = [run.data.params for run in study.confirmed[:3]]
    for setting in ("method.name", "optim.sam.rho"):
        own = [one[setting] for one in values]
        assert len({*own}) > 1
        assert re.search(rf"{re.escape(setting)}\s+" + r"\s+".join(map(re.escape, own)), study.text()), setting
    study.page.set_viewport_size(SIZE | {"height": 1370})
    for place in ("method.name", "Run details"):  # within its own table, then the page
        study.page.get_by_text(place, exact=True).first.evaluate("node => node.scrollIntoView({block: 'start'})")
    study.picture("compare", left=198)
    study.page.set_viewport_size(SIZE)


def test_artifacts_open(study: Study) -> None:
    study.open(f"{study.place}/runs/{study.parent.info.run_id}/artifacts?{TRAINING}")
    study.page.get_by_text("report", exact=True).last.click()
    study.page.get_by_text("report.html").first.click()
    frame = study.page.frame_locator("iframe").first
    frame.locator("h1").first.wait_for()
    assert "small" in frame.locator("body").inner_text()
    study.picture("report")
    study.page.get_by_text("figures", exact=True).first.click()
    study.page.get_by_text("severity.png").first.click()
    image = study.page.locator("img[src*='blob:'], img[src*='get-artifact'], img[src*='artifacts']").first
    image.wait_for()
    assert image.evaluate("image => image.naturalWidth") > 100
    study.open(f"{study.place}/runs/{study.confirmed[0].info.run_id}/artifacts?{TRAINING}")
    study.page.get_by_text("grid.json").first.click()
    study.wait_for("corruption")
    study.wait_for("shot_noise")
    study.picture("grid")
