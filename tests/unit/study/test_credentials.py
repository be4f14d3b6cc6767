"""Credentials are masked wherever they stand, refused in settings, and end up in nothing that is written."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.credentials import ScrubbingFormatter, credential_problems, has_credentials, printable, redact, scrub
from study.ledger import Ledger
from study.places import resolve_places
from study.studyfile import StudyFileError, load_study
from study.studyrecord import _keep_file

SECRET = "Xy7-planted"


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{SECRET}@host/x", f"postgresql+psycopg://me:a/{SECRET}@db/m", f"https://{SECRET}@host",
        f"s3://b/x?X-Amz-Signature={SECRET}&y=1", f"https://h/#access_token={SECRET}",
        f"MLFLOW_TRACKING_PASSWORD={SECRET}", f"# db_password: '{SECRET}'", f'{{"aws_secret_access_key": "{SECRET}"}}',
        f"Authorization: Bearer {SECRET}", f"could not connect as me with {SECRET}, says the server",
    ],
)  # fmt: skip
def test_a_secret_is_masked_wherever_it_stands(text: str) -> None:
    found = scrub(text, {"SOME_PASSWORD": SECRET})
    assert SECRET not in found
    assert "***" in found


@pytest.mark.parametrize(
    "text",
    ["http://host:5000/a@b", "s3://bucket/folder@v1/x", "sqlite:////data/m.db", "num_tokens=128", "a@b.org", "C:/x"],
)
def test_what_holds_no_secret_stays(text: str) -> None:
    assert scrub(text, {"HOME": "/home/me", "RAY_AUTH_TOKEN_PATH": "bucket"}) == text
    assert not has_credentials(text)


@pytest.mark.parametrize("secret", ["two words", "a;b,c'd\"e", "Bearer x", "p@ss/w:rd"])
def test_a_secret_of_odd_signs_is_masked_whole_where_its_name_stands_before_it(secret: str) -> None:
    text = f"PGPASSWORD={secret} and password: {secret}, http://me:{secret}@h/x {secret}"
    assert scrub(text, {"PGPASSWORD": secret}) == "PGPASSWORD=*** and password: ***, http://***@h/x ***"


def test_values_of_the_environment_are_masked_as_words_alone() -> None:
    environment = {"POSTGRES_PASSWORD": "postgres", "DB": "mysql://u:a%40bcdefg@h/x", "API_KEY": "abc"}
    assert scrub("postgresql and postgres; a%40bcdefg or a@bcdefg; abc", environment) == (
        "postgresql and ***; *** or ***; abc"
    )


def test_a_secret_may_begin_with_a_slash_and_a_file_is_none(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch()
    secrets = {"AWS_SECRET_ACCESS_KEY": "/wJalrXUtnFEMI/K7MDENG", "LONG_TOKEN": "/" + "a" * 300, "MY_TOKEN": str(token)}
    for name in ("AWS_SECRET_ACCESS_KEY", "LONG_TOKEN"):
        assert scrub(f"it said {secrets[name]} and no", secrets) == "it said *** and no"
    assert scrub(f"it read {token}", secrets) == f"it read {token}"


@given(st.text(max_size=60))
def test_masking_never_fails_and_stays(text: str) -> None:
    assert redact(redact(text)) == redact(text)
    assert printable(printable(text)) == printable(text)
    assert "\x1b" not in printable(scrub(text, {}))


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert printable("\x1b[31mred\u202egnp.exe\x07\n\tok é") == "\\x1b[31mred\\u202egnp.exe\\x07\n\tok é"


def test_a_log_record_and_its_traceback_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    try:
        raise RuntimeError(f"refused {SECRET}")
    except RuntimeError as error:
        record = logging.LogRecord("murk", 30, "x", 1, "at %s", (f"http://u:{SECRET}@h",), (type(error), error, None))
    text = ScrubbingFormatter().format(record)
    assert SECRET not in text
    assert "RuntimeError: refused ***" in text


@pytest.mark.parametrize(
    "lines",
    [
        "tracking: {uri: 'https://me:SECRET@mlflow'}", "tracking: {uri: \"https://me:SE'SECRET@mlflow\"}",
        "tracking: {storage: 's3://b/x?token=SECRET'}", "tracking: {uri: ['https://me:SECRET@mlflow']}",
        "data: {source: parquet, path: 's3://me:SECRET@bucket/x.parquet'}",
        "noise: {real: {camera: 'https://SECRET@h/x.parquet'}}", "no_such: {x: 'https://me:SECRET@h'}",
        "search: {space: {data.path: {choice: ['s3://me:SECRET@b/x']}}}", "'https://me:SECRET@h': 1",
        "method: {name: distil, teacher: 's3://me:SECRET@b/t'}", "phases: [{kind: train, name: 'http://u:SECRET@h'}]",
    ],
)  # fmt: skip
def test_a_study_file_with_a_secret_is_refused_and_does_not_show_it(tmp_path: Path, lines: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: a\n{lines.replace('SECRET', SECRET)}\n")
    with pytest.raises(StudyFileError, match=r"must hold no user, password or token.*MLFLOW_TRACKING_PASSWORD") as got:
        load_study(path)
    assert SECRET not in str(got.value)
    assert str(got.value).startswith(f"{path}:")


@pytest.mark.parametrize("item", ["tracking.uri=https://me:SECRET@h", 'tracking.uri="http://u:a\'SECRET@h"'])
def test_a_secret_given_by_set_is_not_shown(tmp_path: Path, item: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: a\n")
    with pytest.raises(StudyFileError, match=r"--set tracking\.uri=\*\*\*: tracking\.uri: must hold no") as got:
        load_study(path, [item.replace("SECRET", SECRET)])
    assert SECRET not in str(got.value)


def test_the_kept_study_file_has_no_secret_of_comments_and_overridden_lines(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: a\n# password: {SECRET}\ntracking: {{uri: 'http://u:{SECRET}@h'}}\n")
    loaded = load_study(path, ["tracking.uri=http://h"])
    ledger = Ledger(str(tmp_path / "results"), "a")
    _keep_file(ledger, loaded)
    kept = (ledger.files.read_bytes("study.yaml") or b"").decode()
    assert SECRET not in kept
    assert "http://***@h" in kept


def test_an_option_with_a_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--storage must hold no user") as got:
        resolve_places(None, cwd=tmp_path, storage=f"s3://me:{SECRET}@bucket", environment={})
    assert SECRET not in str(got.value)


def test_events_hold_no_secret_of_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    ledger = Ledger(str(tmp_path), "a")
    ledger.append("k", "failed", error=f"S3 said no to {SECRET} at s3://u:{SECRET}@b", traceback=f"x\n{SECRET}")
    assert SECRET not in Path(ledger.path("k", "events.jsonl")).read_text()
    assert ledger.events("k")[0]["error"] == "S3 said no to *** at s3://***@b"


def test_a_clean_tree_has_no_problem() -> None:
    assert not list(credential_problems({"a": ["http://h:80/x", 1, None], "b": {"c": "sqlite:///x"}}))
