"""What a fit is trained with where the recipe leaves it open: optimizer, precision, what chooses the best epoch.

The optimizer goes by the kind of model, the precision by the device, the choosing samples by the data.

Of networks that packaged recipes train it is the setting of least mean regret on validation (`raykd/models/README.md`,
`jobs/bench/optimizer_defaults.py`). Of others: `vit` as in DeiT (Touvron et al. 2021) with weight decay 0.05, `hf` as for
fine-tuning BERT (Devlin et al. 2019, App. A.3), `text_transformer` and everything else AdamW's usual 1e-3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from raykd.config.models import Model, expand_model
from raykd.config.root import Config
from raykd.config.training import AdamW, ChoosingSamples, Optimizer, Training

_Training = TypeVar("_Training", bound=Training)


class _Change(Protocol):
    """Another training of a model, of the same kind; takes a teacher's name (None: the student)."""

    def __call__(self, name: str | None, training: _Training, /) -> _Training: ...


GENERAL = AdamW()
DEFAULTS: Mapping[str, Optimizer] = {
    "mlp": AdamW(lr=1e-2),
    "cnn": AdamW(lr=3e-3),
    "resnet": AdamW(lr=3e-3, weight_decay=0.05),
    "wrn": AdamW(lr=3e-3),
    "detector": AdamW(lr=5e-3),
    "bag": AdamW(lr=3e-2, weight_decay=0.05),
    "text_cnn": AdamW(lr=1e-2, weight_decay=0.05),
    "vit": AdamW(lr=1e-3, weight_decay=0.05),
    "text_transformer": AdamW(lr=1e-3),
    "gru_lm": AdamW(lr=5e-3),
    "transformer_lm": AdamW(lr=3e-3),
    "hf": AdamW(lr=5e-5),
}


def default_optimizer(model: Model) -> Optimizer:
    """What a model of this kind is trained with where the recipe says nothing."""
    return DEFAULTS.get(model.type, GENERAL)


def completed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's plain values in which every optimizer that is named in part is whole; others are left as they are.

    Without `type`, or with the type of the model's default and without `lr`, what is missing is the default's of that
    kind of model. Any other has what is missing from its own type, as where `type` and `lr` are both named.
    """
    student = tree.get("student")
    whole = dict(tree)
    if isinstance(student, Mapping):
        whole["train"] = _completed(tree.get("train"), student.get("model"))
    if isinstance(teachers := tree.get("teachers"), list | tuple):
        whole["teachers"] = [
            {**one, "fit": _completed(one["fit"], one.get("model"))}
            if isinstance(one, Mapping) and "fit" in one
            else one
            for one in teachers
        ]
    return {name: value for name, value in whole.items() if name in tree}


def _completed(training: Any, model: Any) -> Any:
    given = training.get("optimizer") if isinstance(training, Mapping) else None
    spec = expand_model(model)
    if not isinstance(given, Mapping) or not isinstance(spec, Mapping):
        return training
    default = DEFAULTS.get(str(spec.get("type")), GENERAL)
    if given.get("type", default.type) != default.type or given.keys() >= {"type", "lr"}:
        return training
    return {**training, "optimizer": {**default.model_dump(mode="json"), **given}}


def with_training_settings(config: Config) -> Config:
    """The recipe with its kind's optimizer wherever it leaves one out, and the precision of each fit's device."""
    return _with_precisions(_filled(config, lambda _, model: default_optimizer(model)))


def _with_precisions(config: Config) -> Config:
    """The recipe with what `precision: auto` comes to: bfloat16 for a fit on a GPU, float32 on a CPU."""
    shared = config.cluster.hosting.gpus
    own = {one.name: one.resources.gpus for one in config.teachers}
    gpus = {name: shared if one is None else one for name, one in own.items()}

    def settle(name: str | None, training: _Training) -> _Training:
        if training.precision != "auto":
            return training
        on_gpu = config.cluster.student.gpus if name is None else gpus[name]
        return training.model_copy(update={"precision": "bfloat16" if on_gpu else "float32"})

    return _each_fit(config, settle)


def with_choosing_samples(config: Config, select_on: ChoosingSamples) -> Config:
    """The recipe with what `select_on: null` of the student and of every teacher comes to."""

    def settle(_: str | None, training: _Training) -> _Training:
        if training.select_on is not None:
            return training
        return training.model_copy(update={"select_on": select_on})

    return _each_fit(config, settle)


def optimizers_as_in(config: Config, began: Config) -> Config:
    """The recipe with the optimizer of an earlier version of itself wherever it leaves one out."""
    fits = _fits(began)

    def find(name: str | None, _: Model) -> Optimizer | None:
        found = fits.get(name)
        return None if found is None else found.optimizer

    return _filled(config, find)


def choosing_samples_as_in(config: Config, began: Config) -> Config:
    """The recipe with the `select_on` of an earlier version of itself, or of what it varies, wherever it leaves it open."""
    fits = _fits(began)

    def choose(name: str | None, training: _Training) -> _Training:
        found = fits.get(name)
        if found is None or training.select_on is not None:
            return training
        return training.model_copy(update={"select_on": found.select_on})

    return _each_fit(config, choose)


def _fits(config: Config) -> dict[str | None, Training | None]:
    """How each teacher is trained by its name, and the student (None)."""
    return {None: config.train, **{one.name: one.fit for one in config.teachers}}


def _each_fit(config: Config, change: _Change) -> Config:
    """The recipe with the training of the student (None) and of every teacher that is fitted, by name, changed."""
    teachers = tuple(
        one if one.fit is None else one.model_copy(update={"fit": change(one.name, one.fit)})
        for one in config.teachers
    )
    train = change(None, config.train)
    return config.model_copy(update={"train": train, "teachers": teachers})


def left_out(config: Config) -> dict[str, str]:
    """Key of each optimizer that the recipe leaves to the kind of model -> what it comes to, in words."""
    found: dict[str, str] = {}

    def note(name: str | None, model: Model) -> Optimizer:
        key = "train.optimizer" if name is None else f"teachers.{name}.fit.optimizer"
        chosen = default_optimizer(model)
        words = f"{chosen.type}, lr {chosen.lr:g}, weight decay {chosen.weight_decay:g}"
        found[key] = f"{words}, the default of {model.type}"
        return chosen

    _filled(config, note)
    return found


def _filled(config: Config, find: Callable[[str | None, Model], Optimizer | None]) -> Config:
    """The recipe with what is found wherever an optimizer is left out.

    Args:
        config: the recipe.
        find: takes a teacher's name (None: the student) and its model.
    """

    def fill(training: _Training, name: str | None, model: Model) -> _Training:
        if training.optimizer is not None:
            return training
        return training.model_copy(update={"optimizer": find(name, model)})

    teachers = tuple(
        one
        if one.fit is None or one.model is None
        else one.model_copy(update={"fit": fill(one.fit, one.name, one.model)})
        for one in config.teachers
    )
    train = fill(config.train, None, config.student.model)
    return config.model_copy(update={"train": train, "teachers": teachers})
