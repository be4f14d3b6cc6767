"""The sub-commands of `murk`. Only typer is imported here; torch, Ray and MLflow wait inside the commands."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer

DONE, FAILED_TRIALS, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
PRESETS = Path(__file__).parent / "presets"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find the training that keeps image recognition accurate under noise, and prove it.",
    epilog="Exit codes: 0 done, 1 finished with failed trials, 2 bad input.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at image sets.")
noise_app = typer.Typer(no_args_is_help=True, help="Look at noise.")
app.add_typer(data_app, name="data")
app.add_typer(noise_app, name="noise")

Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the file.")]
StudyFile = Annotated[str, typer.Argument(metavar="STUDY.yaml", help="A study file, or a preset's name.")]
StudyName = Annotated[str | None, typer.Option("--name", help="Name of the study (its folder and experiment).")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show Ray's own log.")]
StorageOption = Annotated[str | None, typer.Option("--storage", help="Folder or URL of the records [./results].")]
Again = Annotated[
    bool, typer.Option("--again", help="Let a changed study read the test split once more; the report says so.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON, for scripts.")]


def _say(text: object, *, err: bool = False) -> None:
    """A text that names of files or classes, or another program's words, may be part of."""
    from study.credentials import printable, scrub

    typer.echo(printable(scrub(str(text))), err=err)


def _answer(text: str, facts: dict[str, Any], *, as_json: bool) -> None:
    """What a command found: in colour at a terminal, plain in a pipe, or as JSON."""
    import json

    from study.credentials import printable, scrub
    from study.terminal import painted, wants_colour

    if as_json:
        typer.echo(scrub(json.dumps(facts, indent=2, ensure_ascii=True)))
        return
    clean = printable(scrub(text))
    typer.echo(painted(clean) if wants_colour() else clean)


def _scrubbed_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python prints of an error that nobody foresaw, without credentials."""
    _say("".join(traceback.format_exception(kind, error, trace)).rstrip(), err=True)


def _scrubbed_thread(ended: threading.ExceptHookArgs) -> None:
    """The same of a thread's."""
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        _scrubbed_traceback(ended.exc_type, ended.exc_value, ended.exc_traceback)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Bad input ends in one clear message and exit code 2, without a traceback."""
    from study.credentials import ScrubbingFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(ScrubbingFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    sys.excepthook = _scrubbed_traceback
    threading.excepthook = _scrubbed_thread
    try:
        yield
    except (ValueError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        if os.environ.get("MURK_TRACEBACK"):
            raise
        _say(f"murk: {error}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except OSError as error:
        from study.fulldisk import full_disk_in

        if full_disk_in(error) is None or os.environ.get("MURK_TRACEBACK"):
            raise
        _say(f"murk: {error}; free some space there and try again", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        typer.echo("murk: stopped", err=True)
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def run(
    study: StudyFile,
    sets: Sets = None,
    name: StudyName = None,
    storage: StorageOption = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join (auto in a submitted job).")] = None,
    again: Again = False,
    verbose: Verbose = False,
) -> None:
    """Run a study: all its phases, then its report."""
    with _plain_errors():
        from study.phases import run_study
        from study.studyfile import load_study

        loaded = load_study(_preset_or_path(study), sets or (), name)
        raise typer.Exit(run_study(loaded, storage=storage, address=address, again=again, verbose=verbose))


@app.command()
def resume(
    name: Annotated[str, typer.Argument(help="Name of a study that was started before.")],
    storage: StorageOption = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join.")] = None,
    verbose: Verbose = False,
) -> None:
    """Go on with a study where it stopped; finished trials are not run again."""
    with _plain_errors():
        from study.phases import resume_study

        raise typer.Exit(resume_study(name, storage=storage, address=address, verbose=verbose))


@app.command()
def check(
    study: StudyFile,
    sets: Sets = None,
    name: StudyName = None,
    storage: StorageOption = None,
    address: Annotated[
        str | None, typer.Option(help="Check what fits this cluster: its job API's URL, or a Ray address to join.")
    ] = None,
    as_job: Annotated[
        bool, typer.Option("--as-job", help="Check the file alone, as fit for a cluster; print its name and place.")
    ] = False,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A variable that the job is to have: no credential.")
    ] = None,
) -> None:
    """Validate a study file and show what it would do; starts nothing."""
    with _plain_errors():
        from study.studyfile import load_study

        loaded = load_study(_preset_or_path(study), sets or (), name)
        if as_job:
            import json

            from study.asjob import job_facts

            variables = {name: os.environ[name] for name in env or () if name in os.environ}
            facts = job_facts(loaded, sets=sets or (), storage=storage, cwd=Path.cwd(), variables=variables)
            typer.echo(json.dumps(facts))
            return
        from study.nodes import nodes_at
        from study.plan import make_plan

        plan = make_plan(loaded, nodes=nodes_at(address) if address else None)
        _say(plan.text())
        if plan.lacks:
            raise typer.Exit(BAD_INPUT)


@app.command()
def schema() -> None:
    """Print the JSON schema of a study file, for editors."""
    import json

    from study.config import StudyConfig

    typer.echo(json.dumps(StudyConfig.model_json_schema(), indent=2))


@app.command()
def train(
    preset: StudyFile = "quickstart",
    sets: Sets = None,
    name: StudyName = None,
    storage: StorageOption = None,
    verbose: Verbose = False,
) -> None:
    """Train one configuration as the file and --set give it: a study of a single trial."""
    with _plain_errors():
        from study.phases import run_study, single_trial
        from study.studyfile import load_study

        loaded = single_trial(load_study(_preset_or_path(preset), sets or (), name), named=name is not None)
        raise typer.Exit(run_study(loaded, storage=storage, address=None, again=False, verbose=verbose))


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="STUDY/KEY, a trial's folder, model file.")],
    data: Annotated[str | None, typer.Option(help="Other images: a class folder or a parquet file.")] = None,
    noise: Annotated[
        list[str] | None, typer.Option(help="Corruptions to test under [the study's validation noise].")
    ] = None,
    storage: StorageOption = None,
    out: Annotated[Path | None, typer.Option(help="Also write the rows here (.csv or .parquet).")] = None,
) -> None:
    """Accuracy of a trained model under noise, on the trial's validation images or on images of your own."""
    with _plain_errors():
        from study.reevaluate import evaluate_model

        _say(evaluate_model(model, data=data, corruptions=noise, storage=storage, out=out))


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="STUDY/KEY, a trial's folder, model file.")],
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="safetensors, torch or onnx; repeat it for more [all].")
    ] = None,
    storage: StorageOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write into [TRIAL-export].")] = None,
) -> None:
    """Write a trained network for other programs (safetensors, torch.export, ONNX), each checked against it."""
    with _plain_errors():
        from study.export import export_model

        _say(export_model(model, formats=formats, storage=storage, out=out))


@app.command()
def report(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME [OTHER]", help="A study, or two to compare: names, folders or URLs.")
    ],
    storage: StorageOption = None,
    tracking: Annotated[str | None, typer.Option(help="Read from this MLflow server instead.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write into [the study's own; NAME-against-OTHER].")
    ] = None,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="html, md, csv, parquet or latex; repeat it [all but latex].")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Write it again while the study runs.")] = False,
    every: Annotated[int | None, typer.Option(help="Seconds between two looks, with --watch [30].")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a study's report again (page, tables, figures), or compare two studies."""
    with _plain_errors():
        from study.reporting import report as write
        from study.watching import EVERY_S

        if every is not None and not watch:
            raise ValueError("--every is for --watch; give both or neither")
        every_s = (EVERY_S if every is None else every) if watch else None
        made = write(names, storage=storage, tracking=tracking, out=out, formats=formats or (), every_s=every_s,
                     say=lambda line: _say(line, err=True))  # fmt: skip
        _answer(made.text, made.facts, as_json=as_json)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="STUDY/KEY, or the first digits of a trial's key.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="The other trial.")],
    storage: StorageOption = None,
    as_json: AsJson = False,
) -> None:
    """Test one trained network against another, paired by image: McNemar for each noise, the difference over all."""
    with _plain_errors():
        from study.comparing import compare_runs

        made = compare_runs(first, second, storage=storage)
        _answer(made.text, made.facts, as_json=as_json)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="Study name.")],
    storage: StorageOption = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow server of the cluster.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to copy into.")] = Path("results"),
) -> None:
    """Fetch a study's records from a cluster's storage or MLflow server and write its report here."""
    with _plain_errors():
        from study.pull import pull_study

        _say(pull_study(name, storage=storage, tracking=tracking, out=out))


@app.command()
def sync(
    name: Annotated[str, typer.Argument(help="Study name.")],
    storage: StorageOption = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow server or database [the study's own].")] = None,
) -> None:
    """Bring MLflow up to date with a study's ledger; nothing is written twice."""
    with _plain_errors():
        from study.reporting import sync_study

        _say(sync_study(name, storage=storage, tracking=tracking))


@app.command()
def optuna(
    name: Annotated[str, typer.Argument(help="Study name.")],
    storage: StorageOption = None,
    storage_url: Annotated[
        str | None, typer.Option(help="Database to write to, such as sqlite:///optuna.db [the study's own].")
    ] = None,
) -> None:
    """Write a study's searches to a database for optuna-dashboard; nothing is written twice."""
    with _plain_errors():
        from study.optunastore import write_study

        _say(write_study(name, url=storage_url, storage=storage))


@app.command()
def presets(name: Annotated[str | None, typer.Argument(help="Print this one, to start your own from.")] = None) -> None:
    """List the study files that come with Murk, or print one."""
    with _plain_errors():
        if name is not None:
            typer.echo(_preset(name).read_text(encoding="utf-8"), nl=False)
            return
        for path in sorted(PRESETS.glob("*.yaml")):
            first = path.read_text(encoding="utf-8").splitlines()[0]
            typer.echo(f"{path.stem:<16} {first.lstrip('# ')}")
        typer.echo("\nRun one:   murk run NAME [--set KEY=VALUE]\nCopy one:  murk presets NAME > mine.yaml")


@data_app.command("inspect")
def data_inspect(
    source: Annotated[str, typer.Argument(help="A study file, a preset, a class folder or a parquet file.")],
    sets: Sets = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet here (.png).")] = None,
) -> None:
    """Count images by split and class, find unreadable ones, draw a contact sheet."""
    with _plain_errors():
        from study.reevaluate import inspect_source

        place = source if Path(source).exists() else _preset_or_path(source)
        _say(inspect_source(place, sets=sets or (), sheet=sheet))


@data_app.command("duplicates")
def data_duplicates(
    source: Annotated[str, typer.Argument(help="A study file, a preset, a class folder or a parquet file.")],
    sets: Sets = None,
    distance: Annotated[int | None, typer.Option(help="Tell pairs up to so many bits of 256 apart [40].")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write the nearest pairs side by side here (.png).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON instead.")] = False,
) -> None:
    """Find images that stand in two splits, as the same bytes or nearly so, by a perceptual hash."""
    with _plain_errors():
        from study.reevaluate import duplicates_in

        place = source if Path(source).exists() else _preset_or_path(source)
        _say(duplicates_in(place, sets=sets or (), distance=distance, sheet=sheet, as_json=as_json))


@noise_app.command("list")
def noise_list(
    which: Annotated[list[str] | None, typer.Argument(help="Corruptions, groups or families [all].")] = None,
) -> None:
    """List the corruptions: name, group, parameters at severity 1 to 5 for each image size, source."""
    with _plain_errors():
        from noise.families import catalogue, catalogue_text

        typer.echo(catalogue_text(catalogue(which or ())))


@noise_app.command("preview")
def noise_preview(
    source: Annotated[
        str, typer.Argument(metavar="IMAGE|DATASET", help="An image, class folder, parquet or study file, or a preset.")
    ],
    row: Annotated[int | None, typer.Option(help="Which image of a data set, from 0 [0].")] = None,
    families: Annotated[
        list[str] | None, typer.Option(help="Corruptions, groups or families, with commas or repeated [all].")
    ] = None,
    severities: Annotated[str, typer.Option(help="Severities, with commas.")] = "1,2,3,4,5",
    diff: Annotated[bool, typer.Option("--diff", help="Show what the noise changes.")] = False,
    size: Annotated[
        int | None, typer.Option(help="Shorter side to work at, in pixels [a study's own, else 224].")
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("noise-preview.png"),
) -> None:
    """Draw a contact sheet: every corruption at every severity of one image."""
    with _plain_errors():
        from study.noisepreview import preview_noise

        place = source if Path(source).exists() or Path(source).suffix else _preset_or_path(source)
        _say(preview_noise(place, row=row, families=families, severities=severities, diff=diff, size=size, out=out))


@noise_app.command("fit")
def noise_fit(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Images of one camera (png, jpg, ...), from 1 up.")],
    size: Annotated[
        int | None, typer.Option(help="Give values for images made this small, as data.image_size does.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write values and severities here (.yaml).")] = None,
) -> None:
    """Measure a camera's noise and blur on its own images and make a severity scale of them."""
    with _plain_errors():
        from study.noisefit import fit_folder

        _say(fit_folder(folder, size=size, out=out))


def _preset(name: str) -> Path:
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"no preset {name!r}; there are {', '.join(sorted(p.stem for p in PRESETS.glob('*.yaml')))}")
    return path


def _preset_or_path(name: str) -> str:
    """A file as given, or the preset of that name."""
    if Path(name).exists() or Path(name).suffix in {".yaml", ".yml"}:
        return name
    return str(_preset(name))
