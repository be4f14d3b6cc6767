"""The commands `murk submit` and `murk jobs`. Only typer is imported here; Ray waits inside the commands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
BAD_INPUT, INTERRUPTED = 2, 130

jobs_app = typer.Typer(no_args_is_help=True, help="Look after studies on a cluster.")

Address = Annotated[
    str, typer.Option(help="The cluster's job API [RAY_API_SERVER_ADDRESS].", envvar="RAY_API_SERVER_ADDRESS")
]  # fmt: skip
StudyName = Annotated[str, typer.Argument(metavar="NAME", help="Study name.")]


def mount(app: typer.Typer) -> None:
    """Add these commands to Murk's."""
    app.command()(submit)
    app.add_typer(jobs_app, name="jobs")


def submit(
    study: Annotated[str, typer.Argument(metavar="STUDY.yaml", help="A study file, or a preset's name.")],
    address: Address = DEFAULT_ADDRESS,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the file.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study (its folder and experiment).")] = None,
    storage: Annotated[str | None, typer.Option(help="Folder or URL of the records that every node reaches.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show the job's log until it ends.")] = False,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Pass this variable on, no credential; repeat it for more.")
    ] = None,
    requirements: Annotated[
        Path | None, typer.Option(help="Have Ray install these on each node; left out: the nodes have all.")
    ] = None,
    working_dir: Annotated[
        Path | None, typer.Option(help="Send this folder, by its .rayignore [Murk's own code alone].")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="As of `murk run`.")] = False,
) -> None:
    """Run a study on a Ray cluster, or go on with it there."""
    with _plain_errors():
        from cluster import jobs
        from cluster.submit import Wish, submit_study

        wish = Wish(
            study, tuple(sets or ()), name=name, storage=storage, env=tuple(env or ()), requirements=requirements,
            working_dir=working_dir, again=again,
        )  # fmt: skip
        api, attempt = submit_study(wish, address=address, say=_say)
        _say(f"submitted as {attempt.id}; it goes on without this window")
        _say(f"  murk jobs logs {attempt.study} --follow    murk jobs stop {attempt.study}")
        if follow:
            _follow(jobs, api, attempt.id)


@jobs_app.command("list")
def list_jobs(address: Address = DEFAULT_ADDRESS) -> None:
    """List the studies that were submitted to a cluster, each with its last attempt."""
    with _plain_errors():
        from cluster import jobs

        found = jobs.studies(jobs.connect(address))
        typer.echo("\n".join(attempt.text() for attempt in found) or "no study was submitted to this cluster")


@jobs_app.command()
def status(name: StudyName, address: Address = DEFAULT_ADDRESS) -> None:
    """Say where each attempt at a study stands."""
    with _plain_errors():
        from cluster import jobs

        api = jobs.connect(address)
        jobs.last_attempt(api, name)
        typer.echo("\n".join(attempt.text() for attempt in jobs.attempts(api, name)))


@jobs_app.command()
def logs(
    name: StudyName,
    address: Address = DEFAULT_ADDRESS,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
    attempt: Annotated[int | None, typer.Option(help="Which attempt [the last].")] = None,
) -> None:
    """Print what a study's job has written."""
    with _plain_errors():
        from cluster import jobs

        api = jobs.connect(address)
        found = jobs.last_attempt(api, name)
        if attempt is not None:
            numbers = [item.number for item in jobs.attempts(api, name)]
            if attempt not in numbers:
                raise ValueError(f"--attempt must be one of {', '.join(map(str, numbers))}, but got {attempt}")
            found = next(item for item in jobs.attempts(api, name) if item.number == attempt)
        if follow:
            _follow(jobs, api, found.id)  # leaves from here
        typer.echo(api.get_job_logs(found.id), nl=False)


@jobs_app.command()
def stop(
    name: StudyName,
    address: Address = DEFAULT_ADDRESS,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait for running trials to save.")] = 180.0,
) -> None:
    """Stop a study's job; running trials save where they stand, and a later submission goes on from there."""
    with _plain_errors():
        from cluster import jobs

        api = jobs.connect(address)
        typer.echo(jobs.stop(api, jobs.last_attempt(api, name), timeout_s=timeout_s).text())


def _follow(jobs, api, job_id: str) -> None:
    """Write a job's log until it ends, and leave with what its end means."""
    ended = jobs.follow(api, job_id, lambda text: typer.echo(text, nl=False))
    _say(ended.text())
    raise typer.Exit(jobs.exit_code(ended))


def _say(text: str) -> None:
    typer.echo(text, err=True)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Bad input ends in one clear message and exit code 2, without a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        if os.environ.get("MURK_TRACEBACK"):
            raise
        typer.echo(f"murk: {error}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        typer.echo("murk: no longer following; the job goes on", err=True)
        raise typer.Exit(INTERRUPTED) from None
