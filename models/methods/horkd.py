"""Hybrid order relational knowledge distillation: a student follows a teacher by points, pairs and triplets.

    L = label_weight * CE + first_order L_1 + second_order L_2 + third_order L_3 + kd_weight L_KD
        + direct_weight * (the same terms to the direct teacher)

Three streams are three phases of a study (reading of the paper's abstract, whose equations could not be had): a teacher
trains on large images; an assistant of the student's structure learns from it on the same large images (only the
structure changes); the student learns from the assistant on images of low resolution (only the resolution changes),
from new weights or from the assistant's (`start: teacher`). Each of the two steps is this method:

- without an assistant the student's phase names the teacher's phase as its teacher;
- an assistant fed with low resolution has `resolution.train` in its phase as the student has;
- a direct term from teacher to student (reading; 0 by default) has `direct_weight` and `method.direct_teacher`.

The weights' defaults, 1 : 25 : 50, are RKD's of the public benchmark for classification; 1 : 1 : 2 are RKD's own for
metric learning. Source: Ge et al. 2020, arXiv 2409.05384 (AAAI 34, doi 10.1609/aaai.v34i07.6715); orders:
models/distillation/orders.py.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from models.distillation.logits import KdSettings
from models.distillation.orders import FirstOrderSettings
from models.methods.common import make_export
from models.methods.distil import Distil, DistilSettings, LossWeights, Start, TeacherInput
from models.methods.method import Context, Export, Viewed, setting

_ORDERS = {"first_order": "order1", "second_order": "order2", "third_order": "order3", "kd_weight": "kd"}


@dataclass(frozen=True)
class HorkdSettings(FirstOrderSettings, KdSettings):
    """Settings of HORKD; a weight of 0 takes its term out."""

    first_order: float = setting(1.0, ge=0, doc="weight of the points: distance of an image's two embeddings")
    second_order: float = setting(25.0, ge=0, doc="weight of the pairs: distances between images")
    third_order: float = setting(50.0, ge=0, doc="weight of the triplets: angles between images")
    kd_weight: float = setting(0.0, ge=0, doc="weight of the softened logits' divergence beside the orders")
    label_weight: float = setting(1.0, ge=0, doc="weight of the labels' cross entropy")
    direct_weight: float = setting(0.0, ge=0, doc="factor of the same terms to method.direct_teacher (reading)")
    teacher_input: TeacherInput = setting(  # noqa: RUF009
        "clean", doc="what the teacher sees: the image as it was, or the same as the student"
    )
    start: Start = setting(  # noqa: RUF009
        "new", doc="initial weights: new ones, or those of a teacher (an assistant) of the same backbone"
    )
    gather: bool = setting(False, doc="several workers: pairs and triplets are of all workers' images")

    def __post_init__(self) -> None:
        if not any(getattr(self, name) for name in _ORDERS):
            raise ValueError(
                "first_order must be above 0, or second_order, third_order or kd_weight, but all are 0; give one a "
                "weight"
            )
        self.as_distil()

    def as_distil(self) -> DistilSettings:
        """The same as settings of a sum of losses."""
        weights = {loss: getattr(self, name) for name, loss in _ORDERS.items()}
        shared = {item.name for item in fields(DistilSettings)} & {item.name for item in fields(self)}
        return DistilSettings(losses=LossWeights(**weights), **{name: getattr(self, name) for name in shared})

    @property
    def decomposable(self) -> bool:
        """Without pairs and triplets."""
        return self.as_distil().decomposable


class Horkd(Distil):
    """See the head of this file."""

    name = "horkd"

    def __init__(self, context: Context, settings: HorkdSettings) -> None:
        self._own = settings
        super().__init__(context, settings.as_distil())

    def export(self) -> Export:
        """timm's own weights, and how timm builds the model."""
        return make_export(
            self.deployed, method=self.name, context=self._context, settings=asdict(self._own), backbone=self.backbone
        )

    def _sources(self) -> dict[str, tuple[Viewed, float]]:
        sources = super()._sources()
        direct: Any = self._context.direct_teacher
        if self._own.direct_weight > 0:
            if not isinstance(direct, Viewed):
                raise ValueError(
                    "direct_weight needs a second teacher that shows its embeddings: name one in method.direct_teacher"
                )
            sources["direct_"] = (direct, self._own.direct_weight)
        return sources
