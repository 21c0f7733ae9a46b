"""Teachers that are objects of the user's own process: what the samples decide of how they are asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raykd.config.data import NoTokenizer, Preprocess
from raykd.config.models import Model, ObjectModel
from raykd.config.roles import Teacher
from raykd.data import Samples
from raykd.errors import InputError, Problem
from raykd.objects import Held, held
from raykd.tasks import find_task

_ANSWERS = {"logits": "classes", "label_logits": "marks", "value": "values", "embedding": None}
"""What a task's teachers answer -> what an estimator is asked for."""


def held_object(model: Model, key: str) -> Held | None:
    """The object that a model is; None for other kinds.

    Raises:
        InputError: this process does not have it.
    """
    if not isinstance(model, ObjectModel):
        return None
    return held(model.fingerprint, model.describes, key=key)


def is_raw(teacher: Teacher, samples: Samples) -> bool:
    """Whether it is given rows of a table as they are, gaps and words too: a pipeline that the user has fitted on them."""
    model = teacher.model
    own = isinstance(model, ObjectModel) and model.library == "sklearn"
    return own and samples.is_table and teacher.preprocess == Preprocess(normalize="none")


def with_samples(teacher: Teacher, samples: Samples, *, key: str) -> Teacher:
    """A teacher that is the user's own object, with what the samples decide: columns, classes, what it is given.

    Args:
        teacher: its settings; another kind of teacher comes back as it is.
        samples: the data.
        key: its dotted key, for errors.

    Raises:
        InputError: its columns or classes are not the data's; it answers another task; nobody says what of a text it
            takes.
    """
    model, changed = teacher.model, dict[str, Any]()
    if not isinstance(model, ObjectModel):
        return teacher
    preprocess = teacher.preprocess
    if samples.is_text and preprocess.tokenizer is None:
        if model.library == "torch" and not model.wants_texts:
            raise InputError(
                Problem(f"{key}.preprocess.tokenizer", "is needed: none, for a module that takes a list of texts; or the "
                        "tokenizer that it was trained with (of transformers, give the pipeline instead)")
            )  # fmt: skip
        changed["preprocess"] = preprocess.model_copy(update={"tokenizer": NoTokenizer()})
    answers = _ANSWERS[find_task(samples.task).metrics.kind]
    fitting = (answers, "classes") if answers == "marks" else (answers,)
    if model.answers is not None and model.answers not in fitting:
        raise InputError(
            Problem(f"{key}.model", f"{model.describes} answers {model.answers}; `task: {samples.task}` needs "
                    f"{answers or 'a module that puts out vectors'}")
        )  # fmt: skip
    where = f"{key}.model"
    columns = column_places(model, samples.features, key=where)
    update: dict[str, Any] = {"columns": columns}
    if model.answers is not None:
        update["answers"] = answers
        words = samples.word_columns if is_raw(teacher, samples) else {}
        update["words"] = {n: w for n, w in words.items() if columns is None or n in columns}
    changed["model"] = model.model_copy(update=update)
    if teacher.label_map is None and answers == "classes":
        changed["label_map"] = matched_classes(model, samples.classes, key=where)
    return teacher.model_copy(update=changed)


def column_places(
    spec: ObjectModel, features: tuple[str, ...], *, key: str
) -> tuple[int, ...] | None:
    """Places of an estimator's own columns among those of the samples; None where the samples' have no names.

    Args:
        spec: the estimator.
        features: names of the samples' columns; none = they have none.
        key: dotted key of the model, for errors.

    Raises:
        InputError: the samples lack a column.
    """
    if spec.features is None or not features:
        return None
    if lacking := [name for name in spec.features if name not in features]:
        raise InputError.at(
            key, f"was fitted on columns that the samples lack: {', '.join(map(repr, lacking[:5]))}; they have "
            f"{', '.join(features)}: name its columns as data.source.inputs"
        )  # fmt: skip
    return tuple(features.index(name) for name in spec.features)


def matched_classes(
    spec: ObjectModel, names: tuple[str, ...], *, key: str
) -> tuple[str, ...] | None:
    """The data's class of each class of a model, by name; None where they are the data's own, in order.

    Args:
        spec: the model.
        names: of the data's classes.
        key: dotted key of the model, for errors.

    Raises:
        InputError: a class of the model is none of the data's.
    """
    own = spec.classes
    if own is None or own == names:
        return None
    if all(name in names for name in own):
        return own
    if own == tuple(map(str, range(len(names)))):
        return None
    unknown = next(name for name in own if name not in names)
    raise InputError.at(
        f"{key.removesuffix('.model')}.label_map", f"is needed: the model's classes are {', '.join(_few(own))}, of which "
        f"{unknown!r} is none of the data's ({', '.join(_few(names))}); give the data's class of each, or null"
    )  # fmt: skip


def _few(names: tuple[str, ...]) -> Iterator[str]:
    yield from names[:5]
    if len(names) > 5:
        yield f"and {len(names) - 5} more"
