"""Teachers that are engines, asked before anything starts: which tokens they have, and whether they answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from raykd.config import Config
from raykd.config.engines import EngineModel
from raykd.config.roles import Teacher
from raykd.data import Samples
from raykd.data.occurring import OccurringTokens
from raykd.errors import InputError, TargetTimeoutError, TeacherError, UnreachableError
from raykd.folders import home, read_json, write_json
from raykd.targets import codec
from raykd.targets.packing import Packing
from raykd.teachers import EngineSpec
from raykd.teachers.engines import described, require_same_tokenizer
from raykd.teachers.engines.protocol import Engine
from raykd.teachers.engines.teacher import EngineTeacher
from raykd.types import CHUNKS, ORIGINAL_VIEW

_TEXTS = ("Größe 5", "it's  10,000", "\n\tdef f(x):\n", "naïve — 漢字")
"""What tokenizers differ in: capitals, digits, spaces, characters of several bytes."""
_CUT = 2
_PROBED = 4


@dataclass(frozen=True, eq=False)
class AskedEngine:
    """What is known of an engine.

    Attributes:
        own_E: its id of each of the data's tokens; None where they are the same.
        says: what it says of itself, or said when it was asked last.
        behaviour: hash of a few answers, of one that says nothing.
        unreachable: why it cannot be asked now; None = it can.
    """

    own_E: np.ndarray | None = None
    says: Mapping[str, Any] = field(default_factory=dict)
    behaviour: str | None = None
    unreachable: str | None = None


def engine_spec(
    teacher: Teacher,
    packing: Packing,
    samples: Samples,
    batch_size: int,
    engine: AskedEngine | None,
    *,
    key: str | None = None,
    on_gpu: bool = False,
) -> EngineSpec:
    """All that it takes to ask an engine anywhere.

    Args:
        teacher: its settings.
        packing: what is kept of its answers.
        samples: the data.
        batch_size: chunks of one request.
        engine: what is known of it; None before it is asked.
        key: of its model, for errors; None = as one of the teachers.
        on_gpu: whether its actors have one.
    """
    assert isinstance(teacher.model, EngineModel), "only for engines"
    assert samples.vocabulary is not None, "cross_check allows engines for chunks of tokens alone"
    known = engine or AskedEngine()
    return EngineSpec(
        name=teacher.name,
        key=key or f"teachers.{teacher.name}.model",
        model=teacher.model,
        classes=samples.class_count,
        tokens=samples.vocabulary.fingerprint,
        packing=packing,
        batch_size=batch_size,
        own_E=known.own_E,
        says=known.says,
        behaviour=known.behaviour,
        device="cuda" if on_gpu else "cpu",
    )


def resolve_engine(
    config: Config, teacher: Teacher, samples: Samples, temperatures: tuple[float, ...], key: str
) -> tuple[Packing, AskedEngine, tuple[str, ...]]:
    """What is kept of an engine's answers, what is known of it, and what a reader should know.

    Args:
        config: the recipe.
        teacher: its settings.
        samples: the data.
        temperatures: at which its answers will be used, 1 among them.
        key: dotted key of the teacher.

    Raises:
        InputError: as `ask_engine`, or it is to keep too many tokens.
    """
    assert isinstance(teacher.model, EngineModel), "only for engines"
    kept = kept_tokens(teacher.model, config.targets.top_k, samples, f"{key}.model")
    packing = Packing(kept, temperatures, mass=config.targets.mass)
    engine = ask_engine(
        engine_spec(teacher, packing, samples, _PROBED, None, key=f"{key}.model"), samples
    )
    notes = [f"of each answer of teacher {teacher.name!r}, an engine, the {kept} likeliest of {samples.class_count:,} tokens "
             "are kept, and what the others amount to, which is spread evenly over them where it is measured"]  # fmt: skip
    if engine.unreachable is not None:
        notes.append(f"teacher {teacher.name!r} cannot be asked now: {engine.unreachable}")
    return packing, engine, tuple(notes)


def kept_tokens(model: EngineModel, top_k: int, samples: Samples, key: str) -> int:
    """K of an engine.

    Args:
        model: its settings.
        top_k: `targets.top_k`.
        samples: the data.
        key: dotted key of the model.

    Raises:
        InputError: it is not less than the number of tokens.
    """
    classes, kept = samples.class_count, model.k or top_k
    if kept >= classes:
        raise InputError.at(
            f"{key}.k",
            f"is {kept}, the data has {classes:,} different tokens; an engine's answers are cut to fewer: lower it",
        )
    return kept


def ask_engine(spec: EngineSpec, samples: Samples) -> AskedEngine:
    """Ask an engine what it is, how it cuts texts, and for the answers to a few samples.

    A server that is down, or too slow, is not an error here: what it said of itself when it was asked last tells which
    of its answers the store has.

    Args:
        spec: what is known of it; `says` and `behaviour` are found here.
        samples: the data.

    Raises:
        InputError: its settings; it cannot be loaded; it has other tokens; it gives no usable answer.
    """
    own_E = _own_ids(samples)
    spec = replace(spec, own_E=own_E)
    engine = spec.engine()
    try:
        says = described(engine)
        teacher = _tried(spec, engine)
        behaviour = None if says is not None else _behaviour(teacher, samples)
        if behaviour is None:
            _probe(teacher, samples, 1)
        _check_tokens(spec, engine, samples)
    except (UnreachableError, TargetTimeoutError) as error:
        return AskedEngine(own_E, _said(spec), None, str(error))
    except TeacherError as error:
        raise InputError.at(spec.key, str(error)) from error
    if spec.model.is_server:
        _remember(spec, says or {})
    return AskedEngine(own_E, says or {}, behaviour)


def _own_ids(samples: Samples) -> np.ndarray | None:
    assert samples.vocabulary is not None, "cross_check allows engines for chunks of tokens alone"
    tokenizer = samples.vocabulary.tokenizer
    return tokenizer.own if isinstance(tokenizer, OccurringTokens) else None


def _tried(spec: EngineSpec, engine: Engine) -> EngineTeacher:
    """The engine as a teacher, if it has as many tokens as the data needs.

    Raises:
        InputError: it has fewer.
    """
    if engine.vocabulary < spec.vocabulary:
        raise InputError.at(
            spec.key,
            f"has {engine.vocabulary:,} tokens, the data's tokenizer {spec.vocabulary:,}: it has another vocabulary; use its "
            "own tokenizer as data.tokens.tokenizer, or compare spans of bytes (`raykd.spans`)",
        )
    return EngineTeacher(spec, engine)


def _probe(teacher: EngineTeacher, samples: Samples, count: int) -> codec.Arrays:
    rows = samples.splits["train"][:count]
    return teacher.score(samples, rows, np.full(len(rows), ORIGINAL_VIEW))


def _behaviour(teacher: EngineTeacher, samples: Samples) -> str:
    """Hash of the answers to a few samples, to the digits that other machines agree on."""
    said = codec.decode(_probe(teacher, samples, _PROBED)).values_NC.softmax(dim=1)
    return hashlib.sha256((np.round(said.double().numpy(), 3) + 0.0).tobytes()).hexdigest()[:32]


def _check_tokens(spec: EngineSpec, engine: Engine, samples: Samples) -> None:
    """It cuts texts as the data's tokenizer does; an engine that cannot be asked has to be vouched for."""
    assert samples.vocabulary is not None, "cross_check allows engines for chunks of tokens alone"
    if spec.model.same_tokenizer:
        return
    tokenizer = samples.vocabulary.tokenizer
    whole = tokenizer.whole if isinstance(tokenizer, OccurringTokens) else tokenizer
    chunks = samples.inputs[CHUNKS][samples.splits["train"][:_CUT]]
    texts: Sequence[str] = [
        tokenizer.text(one[0][: 1 + int(one[1].sum())].tolist()).decode(errors="replace")
        for one in chunks
    ]

    def cut(text: str) -> list[int]:
        found: list[int] = whole.ids(text.encode()).tolist()
        return found

    try:
        require_same_tokenizer(engine, cut, [*texts, *_TEXTS], key=spec.key)
    except (UnreachableError, TargetTimeoutError):
        raise
    except TeacherError as error:
        raise InputError.at(
            f"{spec.key}.same_tokenizer",
            f"the engine does not tell how it cuts texts ({error}); say true where its tokens are those of the data",
        ) from error


def _note(spec: EngineSpec) -> Path:
    """Where it is kept what a server says of itself."""
    own = {**spec.model.identity(), "k": None, "least": None, "same_tokenizer": False}
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:32]
    return home() / "engines" / f"{digest}.json"


def _remember(spec: EngineSpec, says: Mapping[str, Any]) -> None:
    path = _note(spec)
    if not path.is_file() or read_json(path).get("says") != says:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"path": spec.model.path, "model": spec.model.model, "says": dict(says)})


def _said(spec: EngineSpec) -> Mapping[str, Any]:
    """What it said of itself when it was asked last; nothing where it was never asked."""
    path = _note(spec)
    found: Mapping[str, Any] = read_json(path)["says"] if path.is_file() else {}
    return found
