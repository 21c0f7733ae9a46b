"""`raykd check` on ready teachers: classes in another order are found, and the map that it names mends them."""

from __future__ import annotations

import json
import re

import pytest
import yaml

ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
HALF = [8, 1, 3, 9, 5]


@pytest.fixture
def check(folder, tiny_recipe, call):
    def check(own, label_map=None, **given):
        model = {"type": "factory", "path": "raykd_foreign_models:regression",
                 "kwargs": {"classes": own}}  # fmt: skip
        teacher = {"name": "mine", "model": model, "preprocess": {"normalize": "none"}}
        tree = {**tiny_recipe, "teachers": [{**teacher, "label_map": label_map, **given}]}
        (folder / "mine.yaml").write_text(yaml.safe_dump(tree))
        return call("check", "mine.yaml")

    return check


def proposed(ended):
    assert ended.code == 2, ended
    assert "error  teachers.mine: " in ended.err
    assert "look permuted" in ended.err
    before, after = re.search(r"\((\d+)% -> (\d+)% with this map\)", ended.err).groups()
    assert int(before) < 30
    assert int(after) > 85
    return json.loads(re.search(r"label_map=(\[.*?\])", ended.err)[1])


def reached(ended):
    assert ended.code == 0, ended
    (row,) = [
        line for line in ended.out.splitlines() if re.search(r"\bmine\b", line) and "%" in line
    ]
    return float(re.search(r"([\d.]+) ?%", row)[1])


def test_permuted_classes_are_found_and_mended(check):
    found = proposed(check(ORDER))
    assert found == ORDER
    assert reached(check(ORDER, found)) > 85


def test_a_wrong_map_is_replaced_null_entries_stay(check):
    wrong = [0, 1, 2, 3, 4, 5, 6, 7, 8, None]
    found = proposed(check([*ORDER[:9], 7], wrong))
    assert found[9] is None
    assert reached(check([*ORDER[:9], 7], found)) > 85


def test_a_teacher_of_half_of_the_classes_is_judged_by_those(check):
    assert reached(check(HALF, HALF)) > 85
    assert proposed(check(HALF, sorted(HALF))) == HALF
