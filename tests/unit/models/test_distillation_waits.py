"""On a GPU the contrastive losses read nothing back, nor do their commits; only keys are copied there.

Fake tensors stand for the GPU's, as in `test_no_waits`.
"""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models.distillation.class_attention import AT_PLUS, AtPlusSettings
from models.distillation.contrast import CRD, CrdSettings
from models.distillation.instance_relation import AIRD, AirdSettings
from models.distillation.loss import LossSpec, View
from models.distillation.relation_contrast import CRRCD, CrrcdSettings
from tests.unit.models.contrast_views import facts, sample, shape, view
from tests.unit.models.test_no_waits import GPU, Copies, to_gpu

SHAPES = shape(6, side=2), shape(9, side=4)
ENTRIES = [
    (CRD, CrdSettings(), 1),
    (CRRCD, CrrcdSettings(), 0),
    (AIRD, AirdSettings(), 0),
    (AT_PLUS, AtPlusSettings(), 0),
]


@pytest.mark.parametrize(("spec", "settings", "copies"), ENTRIES, ids=["crd", "crrcd", "aird", "at_plus"])
def test_a_loss_waits_for_nothing(spec: LossSpec, settings: Any, copies: int) -> None:
    module = spec.build(facts(*SHAPES), settings)
    views, given = [view(each, dtype=torch.float32) for each in SHAPES], sample()
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_gpu(module)
        moved = []
        for each in views:
            maps, *others = each
            moved.append(View(tuple(values.to(GPU) for values in maps), *(values.to(GPU) for values in others)))
        given = given._replace(labels_B=given.labels_B.to(GPU), rows_B=given.rows_B.to(GPU))
        with Copies() as seen:
            loss = module(*moved, given)
            module.commit()
    assert loss.device.type == GPU
    assert len(seen.seen) == copies, seen.seen
