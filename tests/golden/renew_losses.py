"""Writes `losses.json`: the losses of two tiny trials on the CPU. Run it when numbers are meant to change:

python tests/golden/renew_losses.py, in a commit of its own, with `study.config.NUMERICS` raised.
"""

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
STORE = Path(__file__).with_name("losses.json")


def losses() -> dict[str, list[float]]:
    """Training loss and clean accuracy after each epoch, by method."""
    import torch

    from study.trial import run_trial
    from tests.unit.study.trials import PMAL, ledger_of, tiny_config, tiny_spec

    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, method in {"plain": {"name": "plain"}, "pmal": PMAL}.items():
            spec = tiny_spec(Path(folder), tiny_config(method=method), study=name)
            run_trial(spec)
            events = [e for e in ledger_of(spec).events(spec.key) if e["event"] == "epoch"]
            found[name] = [e["metrics"]["loss/train"] for e in events]
    return found


if __name__ == "__main__":
    STORE.write_text(json.dumps(losses(), indent=1) + "\n")
    print(STORE.read_text())
