"""Who acts: a recipe's teachers and students as policies that any process can build."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from raykd.config import Config
from raykd.config.data import Preprocess
from raykd.config.models import FactoryModel, PrivilegedModel, RuleModel
from raykd.config.roles import Teacher
from raykd.control.environments import Spaces
from raykd.control.policies import (
    EnsemblePolicy,
    ModelPolicy,
    RecordedPolicy,
    Take,
)
from raykd.control.rolling import Policy, PrivilegedPolicy
from raykd.errors import InputError
from raykd.importing import load_callable
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.preprocess import IDENTITY
from raykd.models.weights import apply_weights, load_weights, matching
from raykd.tasks import find_task
from raykd.teachers import Spec
from raykd.teachers.answers import as_logits
from raykd.teachers.model import AnySpec, TeacherModel


@dataclass(eq=False)
class HostedModel:
    """A teacher of a spec, built by whoever first asks it."""

    spec: Spec
    _built: list[Network] = field(default_factory=list, init=False)

    def __call__(self, observations_BO: Tensor) -> Tensor:
        """Outputs of a policy [B, C]."""
        if not self._built:
            self._built.append(TeacherModel(self.spec).network)
        outputs = self._built[0](observations_BO).float()
        return as_logits(outputs, self.spec.kind, self.spec.answers, self.spec.outputs)

    def __getstate__(self) -> dict[str, object]:
        return {"spec": self.spec, "_built": []}


def outputs_needed(spaces: Spaces) -> int:
    """C: how many numbers a policy puts out."""
    return spaces.actions if spaces.discrete else 2 * spaces.actions


def privileged_of(config: Config) -> dict[str, str]:
    """Teachers that see the simulator -> their functions."""
    return {
        one.name: one.model.path
        for one in config.teachers
        if isinstance(one.model, PrivilegedModel)
    }


def policy_of_spec(spec: Spec, *, discrete: bool, take: Take = "best") -> ModelPolicy:
    """One teacher acts."""
    return ModelPolicy(HostedModel(spec), discrete, take)


def ensemble_policy(
    specs: Mapping[str, AnySpec], *, discrete: bool, take: Take = "best"
) -> EnsemblePolicy:
    """All teachers with a model act together, each counting the same.

    Raises:
        InputError: there is none.
    """
    members = [policy_of_spec(one, discrete=discrete) for one in specs.values() if isinstance(one, Spec)]  # fmt: skip
    if not members:
        raise InputError.at("teachers", "none of them has a model that could act beside the student: leave `mix` at 0")  # fmt: skip
    return EnsemblePolicy(tuple(members), (1.0,) * len(members), take)


def routed_teacher(config: Config, simulator: str) -> str | None:
    """The teacher that the states of a simulator are routed to; None where they are routed to nobody in particular."""
    if config.objective.weighting.type != "routed":
        return None
    owners = [one.name for one in config.teachers if simulator in (one.domains or ())]
    return owners[0] if owners else None


def student_policy(network: Network, *, discrete: bool, take: Take = "best") -> ModelPolicy:
    """A student with its weights acts."""
    return ModelPolicy(network.eval(), discrete, take)


def acting_teachers(config: Config, names: Sequence[str] | None) -> list[Teacher]:
    """The teachers that can act before there is any sample.

    Raises:
        InputError: one that is named is unknown, or cannot; none can.
    """
    key = "data.source.behaviour"
    teachers = {one.name: one for one in config.teachers}
    if names is None:
        found = [one for one in teachers.values() if _why_not(one) is None]
        if not found:
            why = "; ".join(f"{name} {_why_not(one)}" for name, one in teachers.items())
            raise InputError.at(key, f"nobody can act in the environment: {why}; add a teacher that can, such as a rule")  # fmt: skip
        return found
    if unknown := [name for name in names if name not in teachers]:
        raise InputError.at(key, f"found {unknown[0]!r}; the teachers are {', '.join(teachers)}")
    for name in names:
        if (reason := _why_not(teachers[name])) is not None:
            raise InputError.at(key, f"{name} {reason}; name other teachers")
    return [teachers[name] for name in names]


def _why_not(teacher: Teacher) -> str | None:
    """Why a teacher cannot act before there are samples; None where it can."""
    if teacher.model is None:
        return "has recorded outputs and no model"
    if teacher.learns:
        return "is fitted on what is still to be rolled"
    if teacher.stage is not None:
        return "is a student of an earlier stage"
    if teacher.preprocess != Preprocess():
        return "has a preprocessing, which may need samples"
    return None


def first_policy(
    config: Config, teacher: Teacher, spaces: Spaces, take: Take
) -> tuple[Policy | PrivilegedPolicy, str]:
    """A teacher that acts before there is any sample, and what tells it from others.

    Raises:
        InputError: its model cannot be built, or does not fit the environment.
    """
    key, model = f"teachers.{teacher.name}", teacher.model
    assert model is not None, "`acting_teachers` has looked"
    if isinstance(model, PrivilegedModel):
        return RecordedPolicy(teacher.name, spaces.discrete), f"{model.path} {code_of_path(model.path, f'{key}.model.path')}"  # fmt: skip
    outputs = outputs_needed(spaces)
    built = build_model(
        model, input_shape=(spaces.observations,), classes=outputs, key=f"{key}.model"
    )
    if teacher.weights is not None:
        loaded = load_weights(teacher.weights, key=f"{key}.weights", prefix=teacher.prefix)
        apply_weights(built, matching(built, loaded, key=f"{key}.weights"), key=f"{key}.weights")
    spec = Spec(
        name=teacher.name,
        key=f"{key}.model",
        model=model,
        weights={name: one.detach().clone() for name, one in built.state_dict().items()},
        preprocessing=IDENTITY,
        input_shape=(spaces.observations,),
        outputs=outputs,
        classes=outputs,
        label_map=None,
        kind=teacher.kind,
        dtype=teacher.dtype,
        batch_size=1,
        answers=find_task(config.task).metrics.kind,
    )
    code = ""
    if isinstance(model, RuleModel | FactoryModel):
        code = code_of_path(model.path, f"{key}.model.path")
    return policy_of_spec(spec, discrete=spaces.discrete, take=take), f"{spec.fingerprint} {code}"


def code_of_path(path: str, key: str) -> str:
    """Hash of the file that a user's function is written in."""
    function = load_callable(path, key=key)
    text = path.encode()
    with suppress(OSError, TypeError):  # not written in Python, or its file is gone
        file = inspect.getsourcefile(function)
        text += b"" if file is None else Path(file).read_bytes()
    return hashlib.sha256(text).hexdigest()[:16]
