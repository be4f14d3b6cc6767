"""Writes `losses.json`: the losses of three tiny trials on the CPU. Run it when numbers are meant to change:

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
    """Training loss after each epoch, by method.

    PMAL's tiny heads magnify what processors round otherwise: at the rate of the other tests its losses differ by up to
    4 % between kernels for SSE4.1, AVX2 and AVX-512, so it has a rate of its own, and with SAM one epoch.
    """
    import torch

    from study.trial import run_trial
    from tests.unit.study.trials import PMAL, ledger_of, tiny_config, tiny_spec

    torch.set_num_threads(1)
    plain, base = {"lr": 0.02, "sam": {"rho": 0.05}}, {"lr": 0.001, "sam": {"rho": 0.0}}
    trials = {
        "plain": ({"name": "plain"}, plain, 2),
        "pmal": (PMAL, base, 2),
        "pmal-sam": (PMAL, base | {"sam": {"rho": 0.05}}, 1),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (method, optim, epochs) in trials.items():
            spec = tiny_spec(
                Path(folder), tiny_config(method=method, optim=optim, train={"epochs": epochs}), study=name
            )
            run_trial(spec)
            events = [e for e in ledger_of(spec).events(spec.key) if e["event"] == "epoch"]
            found[name] = [e["metrics"]["loss/train"] for e in events]
    return found


if __name__ == "__main__":
    STORE.write_text(json.dumps(losses(), indent=1) + "\n")
    print(STORE.read_text())
