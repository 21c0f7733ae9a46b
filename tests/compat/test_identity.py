"""A new optional key leaves finished work alone: identities have it only where it is not at its default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from raykd.config import load_config
from raykd.config.base import Settings
from raykd.config.engines import PLACES, EngineModel
from raykd.config.load import recipe_names
from raykd.config.models import CnnModel
from raykd.config.root import Config

RECORDED = json.loads((Path(__file__).parent / "settings_of_7d0af11.json").read_text())


class Newer(CnnModel):
    added_later: ClassVar[frozenset[str]] = frozenset({"squeeze"})
    squeeze: int = 0
    """A key that came later."""


class Holder(Settings):
    model: CnnModel
    """The network."""
    rest: tuple[CnnModel, ...] = ()
    """More of them."""


def test_a_later_key_counts_only_where_it_is_set():
    plain = CnnModel(width=0.5)
    assert Newer(width=0.5).identity() == plain.identity()
    assert Newer(width=0.5, squeeze=2).identity() == {**plain.identity(), "squeeze": 2}
    inside = Holder(model=Newer(width=0.5), rest=(Newer(width=0.5),)).identity()
    assert inside == Holder(model=plain, rest=(plain,)).identity()


@pytest.mark.parametrize("recipe", recipe_names())
def test_today_s_identities_are_the_whole_settings(recipe):
    config = load_config(recipe)
    models = [config.student.model, *(teacher.model for teacher in config.teachers)]
    for part in (config.objective, config.train, *models, *config.data.views.policy):
        written = part.model_dump(mode="json")  # 1 and 1.0 are equal, and hash differently
        assert json.dumps(part.identity()) == json.dumps(_as_before(part, written))


def _as_before(part: Settings, written: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that came later and say nothing, and without where a server is."""
    fields = type(part).model_fields
    silent = {n for n in part.added_later if getattr(part, n) == fields[n].default}
    silent |= {*PLACES} if isinstance(part, EngineModel) else set()
    kept = {n: v for n, v in written.items() if n not in silent}
    return {name: _inside(getattr(part, name, None), value) for name, value in kept.items()}


def _inside(own, value):
    """The same of a part within, or of each of several."""
    if isinstance(own, Settings):
        return _as_before(own, value)
    if isinstance(own, tuple) and own and all(isinstance(one, Settings) for one in own):
        return [_as_before(*pair) for pair in zip(own, value, strict=True)]
    return value


def classes_of(kind: type[Settings]) -> list[type[Settings]]:
    return [kind, *(inner for sub in kind.__subclasses__() for inner in classes_of(sub))]


def test_keys_that_came_after_7d0af11_are_declared():
    """Else finished fits, kept teachers and stored targets would be made again."""
    Config.model_rebuild()
    compared = 0
    own = [kind for kind in classes_of(Settings) if kind.__module__.startswith("raykd.")]
    for kind in dict.fromkeys(own):
        if not RECORDED.get(kind.__name__):
            continue
        compared += 1
        names = {field.alias or name for name, field in kind.model_fields.items()}
        added = names - set(RECORDED[kind.__name__])
        assert added <= kind.added_later, (
            f"{kind.__name__} has the new keys {', '.join(sorted(added))}: add them to its `added_later`"
        )
    assert compared > 70
