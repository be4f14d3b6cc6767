"""The report in a real browser: drawn, filtered, sorted, printed, small, in light and dark, for everyone, offline."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.comparisonpage import write_comparison
from analysis.report import write_report
from tests.unit.analysis.conftest import add_measures, add_sides, write_study

pytestmark = pytest.mark.e2e
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = ("</script><script>alert(1)</script>", "a.b[0]", "datum.x'\"`", "murk-colour:c1", "狗", "f", "g", "h")
NUM_TRIALS = 200
SETTINGS = ["rho", "stages", "method", "data.crop", "optim.lr", "optim.name"]
"""What the search of `_widen` changed, in the order in which the page offers it."""


def _grow(folder: Path, count: int) -> None:
    """Copies of the search's trials under new keys, until the study has `count` trials."""
    study = json.loads((folder / "study.json").read_text())
    search, places = study["phases"][0], sorted((folder / "trials").glob("00000000000000*"))
    for number in range(len(list((folder / "trials").iterdir())), count):
        key, source = f"{0xD0000 + number:016x}", places[number % len(places)]
        shutil.copytree(source, folder / "trials" / key)
        info = json.loads((source / "trial.json").read_text())
        info |= {"key": key, "number": number, "params": info["params"] | {"optim.lr": 0.001 * (1 + number)}}
        (folder / "trials" / key / "trial.json").write_text(json.dumps(info))
        search["trials"].append(key)
    (folder / "study.json").write_text(json.dumps(study))


def _widen(folder: Path) -> None:
    """Let the search have a space of six keys and two objectives, and its finished trials values of their own."""
    rng, study = np.random.default_rng(5), json.loads((folder / "study.json").read_text())
    names = ["sgd", HOSTILE[0], HOSTILE[3], "adamw"]
    study["config"]["search"] |= {
        "objectives": [{"metric": "acc/noise", "goal": "maximise"}, {"metric": "cost/passes", "goal": "minimise"}],
        "space": {"method.name": {"choice": ["plain", "pmal"]}, "optim.lr": {"log_uniform": [0.0001, 1.0]},
                  "optim.sam.rho": {"log_uniform": [0.02, 0.5]}, "data.crop": {"uniform": [0.0, 1.0]},
                  "optim.name": {"choice": names},
                  "method.stages": {"choice": [1, 2, 3], "when": {"method.name": "pmal"}}},
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps(study))
    for path in sorted(folder.glob("trials/*/trial.json")):
        info, events = json.loads(path.read_text()), path.with_name("events.jsonl")
        lines = [json.loads(line) for line in events.read_text().splitlines()]
        if info["phase"] != "search" or lines[-1]["event"] != "final":
            continue
        rate, rho = 10 ** rng.uniform(-4, 0), 0.0 if rng.random() < 0.2 else 10 ** rng.uniform(-1.7, -0.3)
        name, crop, method = names[rng.integers(4)], rng.uniform(0, 1), info["config"]["method"]
        info["params"] = {"method.name": method["name"], "optim.lr": rate, "data.crop": crop, "optim.name": name}
        info["params"] |= {"optim.sam.rho": rho} if rho else {}
        info["config"]["optim"]["sam"]["rho"] = rho
        if method["name"] == "pmal":
            info["params"]["method.stages"] = method["stages"] = int(rng.integers(1, 4))
        good = 0.6 - 0.05 * (np.log10(rate) + 2) ** 2 + 0.2 * rho + 0.05 * (name == "sgd") + rng.normal(0, 0.02)
        lines[-1]["metrics"] |= {"acc/noise": good, "cost/passes": float(rng.uniform(1e4, 9e4))}
        path.write_text(json.dumps(info))
        events.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _hostile_training_noise(folder: Path) -> None:
    for path in folder.glob("trials/*/trial.json"):
        info = json.loads(path.read_text())
        if info["config"]["method"]["name"] == "plain":
            info["config"]["noise"]["train"] = [{"name": "</script><img src=x onerror=alert(1)> a.b[0] 'q' datum.x"}]
            path.write_text(json.dumps(info))


@pytest.fixture(scope="module")
def page_path(tmp_path_factory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("study"), num_images=60, classes=HOSTILE)
    add_measures(add_sides(folder, sides=(8, 16), with_noise=False))
    _grow(folder, NUM_TRIALS)
    _widen(folder)
    _hostile_training_noise(folder)
    return Path(write_report(folder, formats=("html", "csv")).html or "")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, page_path):
    """The function that opens the report; whatever a console, a script or a request had to say fails the test."""
    contexts, said = [], []

    def opening(path: Path = page_path, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: None if request.url.startswith("data:") or request.url == path.as_uri()
                else said.append(f"request {request.url}"))  # fmt: skip
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)
        return page

    yield opening
    for context in contexts:
        context.close()
    assert said == []


@pytest.fixture(scope="module")
def once(browser, page_path):
    """The report opened once, for the tests that leave it as it was, and what was said meanwhile."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(page_path.as_uri())
    page.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)
    yield page
    context.close()
    assert said == []


def _redrawn(page, act) -> None:
    """Do something that draws the charts again, and wait until they are."""
    before = int(page.locator("html").get_attribute("data-drawn"))
    act()
    page.wait_for_selector(f"html[data-drawn='{before + 1}']", state="attached", timeout=120_000)


def _problems(page) -> list[str]:
    import axe_playwright_python

    script = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    page.evaluate(script)
    found = page.evaluate("axe.run()")["violations"]
    return [f"{item['impact']} {item['id']}: {item['nodes'][0]['target']}" for item in found
            if item["impact"] in ("serious", "critical")]  # fmt: skip


def test_it_is_one_file_of_less_than_5_mb(page_path):
    assert page_path.stat().st_size < 5_000_000
    assert len(pd.read_csv(page_path.parent / "tables" / "trials.csv")) == NUM_TRIALS


def test_every_chart_is_drawn_from_its_rows(opened):
    page = opened()
    names = [figure.get_attribute("id") for figure in page.locator("figure.is-live").all()]
    assert {"figure-severity", "figure-corruptions", "figure-cost", "figure-search-search", "figure-parallel-search",
            "figure-curves", "figure-sides", "figure-importance-search",
            "figure-effects-search"} <= set(names)  # fmt: skip
    for name in names:
        assert page.locator(f"#{name} .live svg path").count() > 3, name
        assert not page.locator(f"#{name} .still").is_visible(), name
    # three configurations x clean and five severities
    assert page.locator("#figure-severity svg .mark-symbol.role-mark path").count() == 18
    assert page.locator("#figure-corruptions svg .mark-rect.role-mark path").count() == 27
    front = page.locator("#figure-pareto-search .still")
    assert front.is_visible()
    assert front.evaluate("image => image.naturalWidth") > 100


def test_filters_hold_for_charts_and_tables(once):
    page = once
    points = page.locator("#figure-severity svg .mark-symbol.role-mark path")
    _redrawn(page, lambda: page.select_option("select[name=method]", "pmal"))
    assert points.count() == 12
    assert page.locator("tr[data-method=plain]:visible").count() == 0
    assert page.locator("#filters output").inner_text() == "Shown: pmal"
    shown = page.locator("#figure-severity details.data")
    shown.locator("summary").click()
    means = set(shown.locator("tbody td:nth-child(3)").all_inner_texts())
    _redrawn(page, lambda: page.select_option("select[name=over]", "group:blur"))
    assert points.count() == 12
    assert set(shown.locator("tbody td:nth-child(3)").all_inner_texts()) != means
    assert page.locator("#figure-corruptions svg .mark-rect.role-mark path").count() == 4
    _redrawn(page, lambda: page.locator("#filters button").click())
    assert points.count() == 18


def test_the_cost_can_be_chosen(once):
    page = once
    choice = page.locator("#figure-cost .choose select")
    assert "gradient passes" in (page.locator("#figure-cost svg").text_content() or "")
    choice.select_option("seconds of one training run on its device")
    page.locator("#figure-cost svg text", has_text="seconds of one").wait_for()


def test_the_setting_of_an_effect_can_be_chosen(once):
    page = once
    choice, drawn = page.locator("#figure-effects-search .choose select"), "#figure-effects-search svg"
    assert choice.locator("option").all_inner_texts() == SETTINGS
    points = page.locator(f"{drawn} .mark-symbol.role-mark path")
    assert points.count() == 26, "a curve of 25 points, and the trials without SAM"
    assert page.locator(f"{drawn} .role-axis-label text", has_text=re.compile("^0$")).count() == 1
    assert page.locator("#figure-effects-search .live[aria-label*='rho: from ']").count() == 1
    choice.select_option("stages")
    page.wait_for_function(f"document.querySelectorAll('{drawn} .mark-symbol.role-mark path').length === 3")
    choice.select_option("optim.name")
    page.locator(f"{drawn} .role-axis-label text", has_text="adamw").wait_for()
    assert points.count() == 4
    choice.select_option("rho")
    page.wait_for_function(f"document.querySelectorAll('{drawn} .mark-symbol.role-mark path').length === 26")


def test_tables_sort_by_keyboard(once):
    page = once
    table = (
        page.locator("section[aria-labelledby=trials] table.sortable")
        .filter(has=page.locator("th", has_text="no."))
        .last
    )
    table.evaluate("node => { const details = node.closest('details'); if (details) details.open = true; }")
    head = table.locator("th", has_text=re.compile("^no."))
    numbers = lambda: [int(text) for text in table.locator("tbody td:nth-child(2)").all_inner_texts()]  # noqa: E731
    start = numbers()
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers() == sorted(start)
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "descending"
    assert numbers() == sorted(start, reverse=True)
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") is None
    assert numbers() == start


def test_costs_sort_by_size_and_not_as_texts(once):
    page = once
    table = page.locator("section[aria-labelledby=accuracy] table.sortable").first
    place = table.locator("thead th").all_inner_texts().index("passes") + 1
    table.locator(f"thead th:nth-child({place}) button").click()
    texts = table.locator(f"tbody tr > :nth-child({place})").all_inner_texts()
    sizes = [float(text.rstrip("kM")) * {"k": 1e3, "M": 1e6}.get(text[-1], 1.0) for text in texts]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_for_axe(opened, scheme):
    page = opened(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    for details in page.locator("details:not(.data):visible, #figure-severity details.data").all():
        details.evaluate("node => { node.open = true; }")
    assert _problems(page) == []


def test_the_theme_can_be_changed_and_charts_follow(opened):
    page = opened(color_scheme="light")
    label = page.locator("#figure-severity svg .role-axis-title text").first
    light = label.get_attribute("fill")
    _redrawn(page, lambda: page.select_option("#theme", "dark"))
    assert label.get_attribute("fill") != light
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 25, 31)"


def test_a_phone_scrolls_down_only(opened):
    page = opened(viewport={"width": 390, "height": 844}, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("severity", "effects-search", "importance-search", "sides"):
        assert page.locator(f"#figure-{name} svg").bounding_box()["width"] <= 390, name


def test_print_shows_the_still_pictures_in_light(opened, tmp_path):
    page = opened(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("#figure-severity .still").is_visible()
    assert not page.locator("#figure-severity .live").is_visible()
    assert page.locator("#figure-effects-search .still").is_visible()
    assert not page.locator("#figure-effects-search .choose").is_visible()
    assert not page.locator("#filters").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.pdf(path=str(tmp_path / "report.pdf"))
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_print_shows_every_row_whatever_was_filtered(opened):
    page = opened()
    _redrawn(page, lambda: page.select_option("select[name=method]", "pmal"))
    hidden = page.locator("tr[data-method=plain][hidden]")
    before = hidden.count()
    assert before > 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert hidden.count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert hidden.count() == before


def test_a_watched_page_keeps_what_was_chosen_when_it_loads_itself_again(opened, tmp_path):
    folder = write_study(tmp_path, num_images=40)
    first = Path(write_report(folder, formats=("html",), refresh_s=15).html or "")
    _grow(folder, len(list((folder / "trials").iterdir())) + 1)
    second = Path(write_report(folder, out=tmp_path / "later", formats=("html",), refresh_s=15).html or "")
    page = opened(first)
    table = page.locator("section[aria-labelledby=accuracy] table.sortable").first
    fold = page.locator("main details", has_text="The same with intervals")
    trials = page.locator("details[data-name=trials]")
    before = trials.locator("summary").inner_text()
    with page.expect_navigation(timeout=120_000):
        page.select_option("select[name=method]", "pmal")
        table.locator("thead th").nth(1).locator("button").click()
        fold.locator("summary").click()
        page.locator("details[data-name=trials] > summary").click()
        is_open = trials.evaluate("node => node.open")
        page.evaluate("window.isOld = true")
        second.replace(first)
    page.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)
    page.locator("#refresh").uncheck()
    assert page.evaluate("window.isOld") is None
    assert page.locator("select[name=method]").input_value() == "pmal"
    assert page.locator("tr[data-method=plain]:visible").count() == 0
    assert page.locator("#filters output").inner_text() == "Shown: pmal"
    assert table.locator("thead th").nth(1).get_attribute("aria-sort") == "ascending"
    assert fold.evaluate("node => node.open")
    assert trials.locator("summary").inner_text() != before, "no trial was added"
    assert trials.evaluate("node => node.open") == is_open
    page.reload()
    page.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)
    assert page.locator("select[name=method]").input_value() == "", "a reader's own reload starts afresh"


def test_without_scripts_all_is_there_but_what_needs_them(browser, page_path):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_path.as_uri())
    assert page.locator("#figure-severity .still").is_visible()
    assert not page.locator("#filters").is_visible()
    assert not page.locator("#theme").is_visible()
    context.close()


def test_the_comparison_of_two_studies_is_drawn_too(opened, tmp_path):
    folders = [write_study(tmp_path / name, name=name, num_images=40) for name in ("one", "two")]
    made = write_comparison(*folders, out=tmp_path / "both", formats=("html",))
    page = opened(Path(made.html or ""), viewport={"width": 390, "height": 844})
    assert page.locator("#figure-severity svg .mark-symbol.role-mark path").count() == 36
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert _problems(page) == []
