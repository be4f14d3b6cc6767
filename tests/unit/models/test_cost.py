"""A method's cost is counted once for each structure that a process meets."""

from dataclasses import replace

import pytest

from models.methods import cost, pmal
from models.methods.method import Context
from models.methods.registry import METHODS

SMALL = pmal.PmalSettings(stages=2, head_widths=(8, 8), classifier_width=8, decoder_widths=(8, 8, 8))
CONTEXT = Context(backbone="test_resnet", num_classes=3, image_size=32)


def passes(settings: pmal.PmalSettings, context: Context = CONTEXT) -> float:
    return METHODS["pmal"].build(context, settings).passes_per_image()


@pytest.mark.slow
def test_a_structure_is_counted_once_and_others_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_counted", {})
    counts: list[float] = []
    counted = pmal.gradient_passes

    def counting(*args: object, **kwargs: object) -> float:
        counts.append(counted(*args, **kwargs))  # type: ignore[arg-type]
        return counts[-1]

    monkeypatch.setattr(pmal, "gradient_passes", counting)
    first = passes(SMALL)
    assert passes(SMALL, replace(CONTEXT, seed=7, label_smoothing=0.1)) == first
    assert counts == [first]
    others = [
        passes(replace(SMALL, stages=1)),
        passes(replace(SMALL, head_widths=(8, 16))),
        passes(SMALL, replace(CONTEXT, image_size=64)),
    ]
    assert counts == [first, *others]
    assert len({first, *others}) == 4
