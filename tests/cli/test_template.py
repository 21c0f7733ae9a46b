"""What `raykd init` writes explains every setting, validates, and means the recipe it came from."""

from __future__ import annotations

import re

import pytest

from raykd.cli.recipes import recipe_template
from raykd.config import load_config
from raykd.config.load import recipe_names

_COMMENTED = re.compile(r"^(\s*)# (.*)$", re.MULTILINE)


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("uncommented", [False, True])
def test_it_means_the_recipe(folder, name, uncommented):
    config = load_config(name)
    text = recipe_template(config, name)
    if uncommented:
        text = _COMMENTED.sub(r"\1\2", text)
    (folder / "new.yaml").write_text(text)
    assert load_config("new.yaml") == config


def test_features_nulls_and_empty_settings(recipe, folder):
    config = load_config(
        recipe,
        ["objective.features=[{loss: {type: hint}, teacher: wide, student_tap: fc, teacher_tap: fc}]",
         "teachers.wide.fit.early_stopping={}", "teachers.conv.fit={}", "train.clip_norm=1e-5",
         "objective.soft_targets.temperature=2", "data.classes=null"],
    )  # fmt: skip
    text = recipe_template(config, "recipe")
    (folder / "new.yaml").write_text(text)
    assert load_config("new.yaml") == config
    (folder / "new.yaml").write_text(_COMMENTED.sub(r"\1\2", text))
    assert load_config("new.yaml") == config


def test_every_setting_of_the_recipe_is_explained_once(recipe):
    text = recipe_template(load_config(recipe), "recipe")
    assert text.count("Unique; used in keys, tables and files.") == 1
    assert text.count("Multiplies `objective.soft_targets.temperature`") == 1
    assert "E.g. {patience_epochs: 10}" in text
    assert "Or: " in text
    assert max(len(line) for line in text.splitlines()) <= 110


def test_init_writes_and_never_overwrites(folder, call):
    ended = call("init", "--recipe", "digits", "sub/mine.yaml")
    assert ended.code == 0
    written = (folder / "sub" / "mine.yaml").read_text()
    assert call("config", "validate", "sub/mine.yaml").code == 0
    again = call("init", "sub/mine.yaml")
    assert again.code == 2
    assert again.err.startswith("error  FILE: ")
    assert (folder / "sub" / "mine.yaml").read_text() == written
    assert call("init", "--recipe", "digit").code == 2
    assert not (folder / "recipe.yaml").exists()
