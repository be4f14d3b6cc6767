"""The ledger: what every trial of a study was, did and gave, on any fsspec place. All else is read from it.

A trial owns `<storage>/<study>/trials/<key>/` with its resolved config, an append-only `events.jsonl`, checkpoints and
tables. Its state is never stored; it follows from the events, so no crash can make the two disagree.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from analysis.recordfile import parse_record, parse_study, parse_trial
from study.config import NUMERICS
from study.config_data import check_name
from study.config_resolution import ResolutionConfig
from study.config_task import Classification
from study.credentials import redact, scrub
from study.events import EventLog, RecentLogs
from study.storage import Storage

Status = Literal["finished", "pruned", "failed", "running"]
Role = Literal["search", "train", "confirm"]
FULL_EVENT = "full"
"""A finalist's figures on the whole validation grid, found after its end."""
_ENDS: dict[str, Status] = {"final": "finished", "pruned": "pruned", "failed": "failed"}


@dataclass(frozen=True)
class TrialSpec:
    """One trial, whole: enough to run it anywhere the storage place can be reached.

    Args:
        config: `TrialConfig.model_dump(mode="json")`, with the seed in `train.seed`.
        params: The sampled dotted keys; empty outside a search.
        storage: Absolute path or URL that holds the study's folder.
        cache_dir: Folder for decoded images on the machine that runs the trial.
        real: Name -> fingerprint of each folder of real noisy images; empty in a search, which reads none.
        teacher: Of a method that has one: the `place` (folder or URL) and the `digest` of its weights; of a second one
            `direct_place` and `direct_digest`.
        pairs: Fingerprint of the pairs that verification is tested on; empty in a search and for other tasks.
        fidelity: The part of the validation grid that a search scores it by; empty for the whole.
        system_metrics: Whether the trial samples the load of its machine.
        checkpoints_kept: Checkpoints beside each other while it runs.
    """

    key: str
    study: str
    phase: str
    role: Role
    number: int
    seed: int
    config: dict[str, Any]
    fingerprint: str
    storage: str
    cache_dir: str
    params: dict[str, Any] = field(default_factory=dict)
    real: dict[str, str] = field(default_factory=dict)
    teacher: dict[str, str] = field(default_factory=dict)
    pairs: str = ""
    fidelity: dict[str, Any] = field(default_factory=dict)
    system_metrics: bool = False
    checkpoints_kept: int = 2

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able dict, the inverse of `TrialSpec(**d)`."""
        return asdict(self)


_TEACHERS = ("teacher", "direct_teacher")
_LATER = {"task": Classification().model_dump(mode="json"), "resolution": ResolutionConfig().model_dump(mode="json")}


def trial_key(
    config: BaseModel | dict[str, Any],
    *,
    fingerprint: str,
    role: Role,
    phase: str = "",
    real: Mapping[str, str] | None = None,
    teacher: str = "",
    pairs: str = "",
    fidelity: Mapping[str, Any] | None = None,
) -> str:
    """A trial's identity: 16 hexadecimal characters of a hash of what decides its numbers.

    Where the images lie does not enter (their fingerprint does), nor does a commit hash, which would void every resume.

    Args:
        config: A `TrialConfig` or its JSON form.
        fingerprint: Hash of the data's content and settings.
        role: Search trials see validation rows only, so they are other trials than confirming ones.
        phase: A trial belongs to one phase.
        real: Name -> fingerprint of the folders of real noisy images; no part of a search trial's identity.
        teacher: Digest of the teacher's weights; how the study file names it does not enter.
        pairs: Fingerprint of the pairs that verification is tested on; no part of a search trial's identity.
        fidelity: The part of the validation grid that scores a search trial; no part of its identity where empty.
    """
    tree = config.model_dump(mode="json") if isinstance(config, BaseModel) else json.loads(json.dumps(config))
    tree["data"] = {name: value for name, value in tree["data"].items() if name != "path"}
    if tree["data"].get("unseen_classes") is None:  # older than this setting are the keys of all other trials
        tree["data"].pop("unseen_classes", None)
    if role == "search":  # what only the test reads
        tree["train"].pop("adapt_bn", None)
        if "resolution" in tree:
            tree["resolution"] = {**tree["resolution"], "test": []}
            if not tree["resolution"].get("validation"):
                tree["resolution"]["with_noise"] = False
    for name, default in _LATER.items():  # keys are older than these settings, which say nothing by default
        if tree.get(name) == default:
            tree.pop(name)
    if role == "search" or not tree["noise"].get("similarity"):
        tree["noise"].pop("similarity", None)
    if not tree["train"].get("adapt_bn"):
        tree["train"].pop("adapt_bn", None)
    if tree["optim"].get("schedule") != "step":
        tree["optim"] = {name: value for name, value in tree["optim"].items() if not name.startswith("step_")}
    for name in ("pairs", "images"):  # paths; the content enters below
        tree.get("task", {}).pop(name, None)
    weights = tree["model"]["pretrained"]
    if isinstance(weights, str):
        tree["model"]["pretrained"] = _file_digest(weights)
    tree["noise"].pop("real", None)  # a path; the content enters below
    tree["method"] = {name: value for name, value in tree["method"].items() if name not in _TEACHERS}
    # Test noise is read by no search trial: naming another must not void a search.
    if role == "search":
        tree["noise"] = {k: v for k, v in tree["noise"].items() if not k.startswith("test") and k != "held_out"}
        tree.get("resolution", {}).pop("test", None)
    facts: dict[str, Any] = {
        "fingerprint": fingerprint,
        "reads_test": role != "search",
        "phase": phase,
        "numerics": NUMERICS,
    }
    if real and role != "search":
        facts["real"] = dict(real)
    if teacher:
        facts["teacher"] = teacher
    if pairs and role != "search":
        facts["pairs"] = pairs
    if fidelity:
        facts["fidelity"] = dict(fidelity)
    whole = {"config": tree, **facts}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


class Ledger:
    """The records of one study.

    Args:
        storage: Absolute path or fsspec URL under which studies lie.
        study: The study's name.
    """

    def __init__(self, storage: str, study: str) -> None:
        try:
            check_name(study)
        except ValueError as error:
            raise ValueError(f"the study {error}") from None
        self.storage = storage
        self.study = study
        self.files = Storage(f"{storage.rstrip('/')}/{study}")
        self.root = self.files.root
        self._recent = RecentLogs()

    def path(self, key: str, *names: str) -> str:
        """Where a trial's file lies."""
        return self.files.path("trials", key, *names)

    def create_trial(self, spec: TrialSpec) -> bool:
        """Write a trial's `trial.json` unless it is there; says whether it was written now."""
        if self.files.exists("trials", spec.key, "trial.json"):
            return False
        record = {**spec.as_dict(), "numerics": NUMERICS, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        for name in (
            "storage",
            "cache_dir",
            "system_metrics",
            "checkpoints_kept",
        ):  # where and how it runs now, not what it is
            record.pop(name)
        self.write_bytes(spec.key, "trial.json", _json(record))
        return True

    def append(self, key: str, event: str, **fields: Any) -> None:
        """Append one event with the time of now; credentials in its texts, such as an error's, are masked."""
        self.files.append_line(_json({"event": event, "time": time.time(), **_scrubbed(fields)}, indent=None).decode(),
                               "trials", key, "events.jsonl")  # fmt: skip

    def events(self, key: str) -> list[dict[str, Any]]:
        """All whole events of a trial; a line torn by a crash is passed over."""
        return self._log(key).events()

    def events_backwards(self, key: str) -> Iterator[dict[str, Any]]:
        """The same from the last to the first; a line is parsed only when it is asked for."""
        return self._log(key).backwards()

    def status(self, key: str) -> Status:
        """What the last event that starts or ends the trial says; a trial without an end is `running`."""
        for event in self.events_backwards(key):
            if event["event"] in _ENDS:
                return _ENDS[event["event"]]
            if event["event"] in {"start", "resume"}:
                break
        return "running"

    def metrics(self, key: str) -> dict[str, float]:
        """Metrics of the last event that has some, with `epoch`; empty when there is none.

        What a finalist was found to be on the whole grid stands beside them, under names of its own.
        """
        later: dict[str, float] = {}
        for event in self.events_backwards(key):
            if event["event"] == FULL_EVENT:
                later = event["metrics"] | later
            elif event.get("metrics"):
                return {**later, **event["metrics"], "epoch": event.get("epoch", 0)}
        return {}

    def trial(self, key: str) -> dict[str, Any]:
        """A trial's `trial.json`.

        Raises:
            ValueError: No such trial in this study.
        """
        data = self.read_bytes(key, "trial.json")
        if data is None:
            raise ValueError(f"study {self.study!r} has no trial {key!r}")
        return parse_trial(data, redact(self.path(key, "trial.json")))

    def keys(self, phase: str | None = None) -> list[str]:
        """Keys of all trials, or of one phase's, in the order of their numbers."""
        rows = []
        for key in self.files.folders("trials"):
            data = self.read_bytes(key, "trial.json")
            record = None if data is None else parse_trial(data, redact(self.path(key, "trial.json")))
            if record is not None and (phase is None or record["phase"] == phase):
                rows.append((record["phase"], record["number"], key))
        return [key for _, _, key in sorted(rows)]

    def is_lost(self) -> bool:
        """Whether another driver has taken over the study that this process held by `lock`."""
        return self.files.is_lost

    def _log(self, key: str) -> EventLog:
        return self._recent.read(key, lambda known: self.files.read_changed(known, "trials", key, "events.jsonl"))

    def read_bytes(self, key: str, name: str) -> bytes | None:
        """A trial's file, or None."""
        return self.files.read_bytes("trials", key, name)

    def write_bytes(self, key: str, name: str, data: bytes) -> None:
        """Write a trial's file whole."""
        self.files.write_bytes(data, "trials", key, name)

    def remove(self, key: str, name: str) -> None:
        """Remove a trial's file where it is there."""
        self.files.remove("trials", key, name)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the study itself, such as `study.json`, or None.

        Raises:
            RecordError: It is damaged; a ValueError.
        """
        data = self.files.read_bytes(name)
        parse = parse_study if name == "study.json" else parse_record
        return None if data is None else parse(data, redact(self.files.path(name)))

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file of the study itself."""
        self.files.write_bytes(_json(value), name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the study: a second driver is refused (`StudyLockedError`), and so is one that lost it from then on."""
        with self.files.lock("driver.lock"):
            yield


def _file_digest(path: str) -> str:
    place = Path(path)
    state = place.stat()
    return _digest_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest_of(path: str, _size: int, _mtime_ns: int) -> str:
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _json(value: Any, indent: int | None = 1) -> bytes:
    return json.dumps(_finite(value), indent=indent, allow_nan=False).encode()


def _scrubbed(value: Any) -> Any:
    """A tree whose texts hold no credentials; keys are names of Murk's own."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {name: _scrubbed(item) for name, item in value.items()}
    return [_scrubbed(item) for item in value] if isinstance(value, (list, tuple)) else value


def _finite(value: Any) -> Any:
    """JSON has no NaN: it is written as null, which readers take for missing."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
