"""Boxes of objects in images. What a recipe may say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from raykd.config.data import RandAugment, RandomResizedCrop, Rotate, ViewStep
from raykd.config.models import DetectorModel, FactoryModel, Model
from raykd.config.tasks import CONTROLS, GIVEN_WEIGHTINGS, NO_VECTORS, TaskSettings
from raykd.errors import Problem
from raykd.methods import losses_of

if TYPE_CHECKING:
    from raykd.config.root import Config

_MOST_DEGREES = 10.0
"""A box around a square that is turned by so much has an area that is a third larger."""
_MOST_MAGNITUDE = 10
"""Of `rand_augment`: it turns by at most as many degrees."""
_REFUSED = {
    "cutout": "hides objects whose boxes would stay",
    "mixup": "lays two images over each other: the boxes of either would be called background by the other's labels",
    "cutmix": "hides objects under a part of another image, whose boxes would be called background",
    "factory": "does not say where it moves pixels, so that boxes cannot follow",
}
"""View steps that boxes cannot follow."""
_STEPS = ("pad_crop", "shift", "flip", "rotate", "random_resized_crop", "color_jitter", "rand_augment", "noise")  # fmt: skip


def _problems(config: Config) -> Iterator[Problem]:
    models = {"student.model": config.student.model}
    models |= {f"teachers.{one.name}.model": one.model for one in config.teachers if one.model}
    models |= {f"evaluate.compare.{one.name}.model": one.model for one in config.evaluate.compare}
    for key, model in models.items():
        if not isinstance(model, DetectorModel | FactoryModel):
            yield Problem(
                f"{key}.type",
                f"found {model.type}, which says nothing of where things are; use detector, or a factory whose module "
                "answers as raykd.detection.layout.packed writes it",
            )
    for index, step in enumerate(config.data.views.policy):
        yield from _step_problems(step, f"data.views.policy.{index}")
    yield from _of_files(config)
    yield from _of_bins(config, models)
    if isinstance(config.student.model, DetectorModel) and config.student.model.knows is not None:
        yield Problem(
            "student.model.knows", "is for teachers; a student learns every class: leave it out"
        )
    if config.objective.features and any(
        "statistics" in (term.loss.row.state or "") for term in config.objective.features
    ):
        yield Problem(
            "objective.features",
            "holds a loss with running statistics, which detectors do not have yet; use pkd, cwd or hint",
        )


def _step_problems(step: ViewStep, key: str) -> Iterator[Problem]:
    """Steps that boxes cannot follow, or cannot follow well."""
    if step.type in _REFUSED:
        allowed = ", ".join(_STEPS)
        yield Problem(
            f"{key}.type", f"found {step.type}, which {_REFUSED[step.type]}; allowed: {allowed}"
        )
    elif isinstance(step, Rotate) and step.degrees > _MOST_DEGREES:
        yield Problem(
            f"{key}.degrees",
            f"found {step.degrees:g}; the box around a turned box is larger than what it surrounds, at {_MOST_DEGREES:g} degrees "
            f"by a third: at most {_MOST_DEGREES:g}",
        )
    elif isinstance(step, RandAugment) and step.magnitude > _MOST_MAGNITUDE:
        yield Problem(
            f"{key}.magnitude",
            f"found {step.magnitude}; it turns and shears by more than boxes can follow, at most {_MOST_MAGNITUDE}",
        )
    elif isinstance(step, RandomResizedCrop) and step.size is not None:
        yield Problem(
            f"{key}.size",
            f"found {step.size}; detectors answer at fixed locations of images of one size: leave it out, then a crop is "
            "resized to the size of its image",
        )


def _of_bins(config: Config, models: Mapping[str, Model]) -> Iterator[Problem]:
    """Answers have one layout, so that all detectors have the same bins, or none."""
    own = config.student.model.bins if isinstance(config.student.model, DetectorModel) else None
    for key, model in models.items():
        if isinstance(model, DetectorModel) and model.bins != own:
            yield Problem(
                f"{key}.bins",
                f"found {model.bins or 'none'}, and student.model.bins is {own or 'none'}; what they say of edges is compared "
                "bin by bin: give all of them the same, or none",
            )
    soft = config.objective.soft_targets
    if soft is not None and soft.loss.knob("localisation") and own is None:
        yield Problem(
            "objective.soft_targets.loss.localisation",
            "compares distributions of edges, and student.model has no bins: set `bins` of the student and of all teachers, "
            "or leave it out",
        )


def _of_files(config: Config) -> Iterator[Problem]:
    """What cannot be said of files of found boxes."""
    soft = config.objective.soft_targets
    for teacher in config.teachers:
        key = f"teachers.{teacher.name}"
        if teacher.outputs is None:
            if teacher.categories is not None:
                yield Problem(
                    f"{key}.categories",
                    "says what the ids in a file of found boxes mean, and there is no `outputs`; a detector has `model.knows`",
                )
            continue
        if not teacher.outputs.endswith(".json"):
            yield Problem(
                f"{key}.outputs",
                f"found {teacher.outputs}; needs a results file of COCO, .json: a list of image_id, category_id, bbox and score",
            )
        if soft is not None and soft.mixing == "locations":
            yield Problem(
                "objective.soft_targets.loss.type",
                f"{soft.loss.type} compares location by location, and the boxes of teacher {teacher.name!r} are at none; use "
                "fused_boxes, which takes teachers of both forms",
            )


SETTINGS = TaskSettings(
    select=("ap", "ap50"),
    label_losses=(),
    soft_losses=losses_of("boxes"),
    combine=("locations", "boxes"),
    weightings=GIVEN_WEIGHTINGS,
    kinds=("logits",),
    expect=("ap",),
    controls=(*CONTROLS, "all_labels"),
    unused={
        **NO_VECTORS,
        "objective.soft_targets.temperature": 1.0,
        "objective.soft_targets.sharpen": None,
        "objective.labels.smoothing": 0.0,
        "objective.labels.class_weights": None,
        "objective.choose": None,
        "student.preprocess.size": None,
        "teachers.*.preprocess.size": None,
        "teachers.*.temperature": 1.0,
        "teachers.*.label_map": None,
        "teachers.*.fit.label_smoothing": 0.0,
        "evaluate.compare.*.label_map": None,
        "evaluate.compare.*.preprocess.size": None,
    },
    defaults={
        "objective": {
            "labels": {"weight": 1.0, "mode": "add"},
            "soft_targets": {"loss": {"type": "dense_boxes"}, "temperature": 1.0, "weight": 1.0},
        },
    },
    boxes=True,
    problems=_problems,
)
