"""The page's parts: the decision, what reproduces a study, example images, tables for papers."""

import io
import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from analysis import examplecards, page
from analysis.contrasts import contrast_table
from analysis.decision import decision_table
from analysis.load import read_examples, read_study
from analysis.page import cells_of
from analysis.report import write_report
from analysis.reproduce import recipe
from analysis.scores import headline
from analysis.tablefiles import latex, latex_text, rows_of, table_files
from analysis.tables import Column, Table, accuracy_table

pytestmark = pytest.mark.slow  # whole reports with their charts


@pytest.fixture(scope="module")
def study(study_folder):
    snapshot = read_study(study_folder)
    return snapshot, headline(snapshot)


@pytest.fixture(scope="module")
def html(study_folder, tmp_path_factory):
    return write_report(study_folder, out=tmp_path_factory.mktemp("page")).html.read_text()


def test_the_decision_holds_accuracy_certainty_and_cost(study):
    snapshot, found = study
    table = decision_table(snapshot, found, contrast_table(found, snapshot.study))
    assert [column.title for column in table.columns] == [
        "configuration", "mean noise", "mean noise, difference", "clean", "clean, difference", "training cost",
    ]  # fmt: skip
    assert table.frame["chosen"].tolist() == [False, True, False]
    assert table.texts()[0][0].endswith("(baseline)")
    assert table.texts()[1][5] == "5.0 ×"
    verdicts = contrast_table(found, snapshot.study).frame.set_index(["endpoint", "config_id"])["verdict"]
    chosen = table.frame.iloc[1]
    assert chosen["noise_mean_verdict"] == verdicts["noise_mean", chosen["config_id"]]
    assert table.texts()[1][2].endswith(chosen["noise_mean_verdict"])


def test_the_decision_draws_no_difference_that_the_study_did_not_state(tmp_path, write_ledger):
    folder = write_ledger(tmp_path, num_images=20)
    record = json.loads((folder / "study.json").read_text())
    record["config"]["report"]["contrasts"] = [{"arm": "confirm", "against": "confirm"}]
    (folder / "study.json").write_text(json.dumps(record))
    snapshot = read_study(folder)
    found = headline(snapshot)
    table = decision_table(snapshot, found, contrast_table(found, snapshot.study))
    assert not [column for column in table.columns if "difference" in column.title]


def test_what_it_takes_to_run_it_again(study):
    snapshot, _ = study
    found = recipe(snapshot)
    shown = dict(found.pairs)
    assert shown["Training seeds"] == "phase search: 0; phase confirm: 101, 102, 103"
    assert shown["Other seeds"] == "data 0"
    assert shown["Data fingerprint"].startswith("5f0c")
    assert "torch 2.15.0" in shown["Versions"]
    assert "lr: 0.05" in found.study_yaml
    assert found.command == "murk run study.yaml"


def test_code_is_named_with_its_changes(study):
    snapshot, _ = study
    study_json = {**snapshot.study, "code": {"commit": "abc1234", "dirty": True}}
    changed = type(snapshot)(snapshot.name, study_json, snapshot.trials)
    assert dict(recipe(changed).pairs)["Code"] == "commit abc1234 with changed files"


def test_sections_come_in_order_and_only_where_there_is_something(html, tmp_path, write_ledger):
    ids = re.findall(r'<h2 id="([\w-]+)"', html)
    assert ids == [
        "summary-title", "decision", "differences", "accuracy", "examples", "fails", "search", "trials", "best", "run",
        "again", "notes",
    ]  # fmt: skip
    assert re.findall(r'<li><a href="#([\w-]+)"', html) == ids[1:]
    young = write_report(write_ledger(tmp_path, confirm=False)).html.read_text()
    assert "examples" not in re.findall(r'<h2 id="([\w-]+)"', young)
    levels = [int(level) for level in re.findall(r"<h(\d)", html)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_first_words_are_the_answer_with_its_interval(html):
    first = re.search(r'<p class="first">([^<]*)</p>', html)
    assert first is not None
    assert re.match(
        r"pmal S=3 rho=0\.1 got \d+\.\d % \(95 % interval \d+\.\d to \d+\.\d\) of test images right", first[1]
    )


def test_a_page_reloads_itself_only_while_watched(html, study_folder, tmp_path):
    assert 'id="refresh"' not in html
    watched = write_report(study_folder, out=tmp_path, refresh_s=7, formats=("html",)).html.read_text()
    assert 'data-seconds="7"' in watched
    assert 'http-equiv="refresh"' not in watched


def test_cards_say_what_was_seen_and_predicted(study):
    snapshot, found = study
    key = found.arms[1].trials[0]
    examples = read_examples(snapshot, key)
    assert examples is not None
    cards = examplecards.cards(examples)
    assert [card.title for card in cards][:2] == ["shot_noise 3", "impulse_noise 3"]
    assert [image.kind for image in cards[0].images] == ["clean", "noisy", "restored"]
    assert cards[1].images[1].alt.startswith(f"{cards[1].label}, noisy under impulse_noise 3: predicted ")
    assert cards[0].images[2].said == ""
    assert cards[0].images[1].heads == ()
    heads = np.stack([examples["labels"], (examples["labels"] + 1) % len(examples["class_names"])], axis=1)
    several = {**examples, "head_names": np.array(["stage1", "backbone"]), "predicted_heads": heads}
    clean, noisy, restored = examplecards.cards(several)[0].images
    assert [(one.head, one.is_right) for one in noisy.heads] == [("stage1", True), ("backbone", False)]
    assert noisy.heads[0].name == cards[0].label
    assert clean.heads == restored.heads == ()
    large = {**examples, "clean": np.zeros((len(examples["labels"]), 300, 300, 3), np.uint8)}
    assert len(examplecards.cards(large)[0].images[0].uri) < 2000


def test_latex_has_booktabs_rules_and_escapes(study):
    _, found = study
    text = latex(accuracy_table(found))
    assert [rule for rule in ("\\toprule", "\\midrule", "\\bottomrule") if rule not in text] == []
    assert "shot\\_noise" in text
    assert text.count("\\\\") == 4
    table = Table(
        "bad", accuracy_table(found).frame.head(1), [Column("a & b", lambda row: "50 % of $x_1^2$ {\\x} ~ # <b>")]
    )
    assert (
        r"50 \% of \$x\_1\textasciicircum{}2\$ \{\textbackslash{}x\} \textasciitilde{} \# \textless{}b\textgreater{}"
        in latex(table)
    )
    assert latex_text("two\nlines") == "two lines"


def test_latex_writes_the_columns_that_are_asked_for_in_their_order(study):
    snapshot, found = study
    table = decision_table(snapshot, found, contrast_table(found, snapshot.study))
    lines = latex(table, columns=["configuration", "clean", "mean noise"]).splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert lines[2] == r"configuration & clean & mean noise \\"
    assert max(map(len, lines[:-1])) < 90 < max(map(len, latex(table).splitlines()[:-1]))
    with pytest.raises(ValueError, match=r"columns must be titles of the table decision, but got \['mCE'\]; there are"):
        latex(table, columns=["mCE", "clean"])
    with pytest.raises(ValueError, match="but got none"):
        latex(table, columns=[])


def test_latex_text_of_what_no_engine_sets_is_seen_and_letters_stay():
    assert latex_text("Citroe\u0308n C4 | µ=3 …") == "Citroën C4 \\textbar{} µ=3 …"
    assert latex_text("a\u202eb\x1b\x00\ud800") == "aU+202EbU+001BU+0000U+D800"
    assert latex_text("ρ 大") == "ρ 大"


def test_latex_refuses_columns_of_one_title(study):
    _, found = study
    twice = [Column("same", lambda row: "1"), Column("same", lambda row: "2")]
    with pytest.raises(ValueError, match="different titles"):
        latex(Table("twice", accuracy_table(found).frame, twice))


def test_formats_are_those_asked_for(study_folder, tmp_path):
    made = write_report(study_folder, out=tmp_path, formats=("latex", "md"))
    assert made.html is None
    assert {path.suffix for path in made.tables} == {".tex", ".md"}
    assert not (tmp_path / "figures").exists()
    with pytest.raises(ValueError, match="must be of html, md, csv, parquet, latex, but got docx"):
        write_report(study_folder, out=tmp_path, formats=("docx",))  # pyright: ignore[reportArgumentType]


def test_rows_for_scripts_hold_null_and_not_nan(study):
    _, found = study
    rows = rows_of(accuracy_table(found))
    assert rows[0]["mce_low"] is None
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_the_decisions_note_is_of_its_columns_and_names_what_differences_are_from(study):
    snapshot, found = study
    contrasts = contrast_table(found, snapshot.study)
    (note,) = decision_table(snapshot, found, contrasts).notes
    assert "A difference is from the baseline in points" in note
    assert "MACs" not in note
    nobody = replace(found, baseline=None)
    (note,) = decision_table(snapshot, nobody, contrasts).notes
    assert f"A difference is from {nobody.arms[0].label} in points" in note
    assert f"against those of {nobody.arms[0].label}." in note
    assert "baseline" not in note
    stated = replace(snapshot, study=snapshot.study | {"config": {"report": {"contrasts": [{}]}}})
    (note,) = decision_table(stated, found, contrasts).notes
    assert "difference" not in note


def _of_cars() -> Table:
    frame = pd.DataFrame({"name": ["Audi TT [2011, coupe]", "[EU] plate", "*star"], "text": ["61.2 [58.0, 64.1]"] * 3})
    return Table("cars", frame, [Column("[class]", lambda row: row["name"], is_number=False),
                                 Column("flips", lambda row: row["text"])])  # fmt: skip


def test_a_table_without_rows_has_a_header_in_every_format():
    files = table_files(Table("none", pd.DataFrame(), _of_cars().columns), ("csv", "parquet"))
    assert files["none.csv"] == b"[class],flips\n"
    assert list(pd.read_parquet(io.BytesIO(files["none.parquet"]))) == ["[class]", "flips"]


def test_only_numbers_are_taken_apart():
    (name, figure), *_ = cells_of(_of_cars())["rows"]
    assert name == {"value": "Audi TT [2011, coupe]", "interval": "", "more": ""}
    assert figure == {"value": "61.2", "interval": "58.0 – 64.1", "more": ""}


def test_only_the_formats_asked_for_are_made(monkeypatch):
    monkeypatch.setattr("analysis.tablefiles.latex", lambda table: pytest.fail("nobody asked for LaTeX"))
    assert list(table_files(_of_cars(), ("html", "csv", "md"))) == ["cars.csv", "cars.md"]


def test_no_cell_is_an_argument_of_what_stands_before_it_in_latex():
    lines = latex(_of_cars()).splitlines()
    assert [line.split(" & ")[0] for line in lines if " & " in line] == [
        "{}[class]", "Audi TT [2011, coupe]", "{}[EU] plate", "{}*star",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((), "became of it."),
        (("csv", "md"), "of it; tables/trials.csv holds"),
        (("md",), "of it; tables/trials.md holds"),
    ],
)
def test_the_page_names_only_a_file_that_was_written(files, words):
    assert words in page._trials_legend(pd.DataFrame(), files)
