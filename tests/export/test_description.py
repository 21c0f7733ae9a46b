"""A description is data: what no student can be is refused before anything is built."""

from __future__ import annotations

import json

import pytest

from raykd.errors import InputError
from raykd.export.description import read_description


@pytest.fixture
def written(make_student, tmp_path):
    def write(change):
        about = make_student({"type": "mlp"}, task="regression", outputs=1).about.to_json()
        change(about)
        file = tmp_path / "model.json"
        file.write_text(json.dumps(about))
        return file

    return write


def test_a_description_is_read_as_it_was_written(written, make_student):
    about = make_student({"type": "mlp"}, task="regression", outputs=1).about
    assert read_description(written(lambda about: None)) == about


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda about: about.update(schema=2), "schema"),
        (lambda about: about.update(task="poetry"), "task"),
        (lambda about: about.update(teachers=["../../etc/passwd"]), "teachers.0"),
        (lambda about: about.update(classes=[]), "classes"),
        (lambda about: about.update(classes=[{}]), "classes.0"),
        (lambda about: about["input"].update(shape=[0, 8, 8]), "input.shape.0"),
        (lambda about: about["input"].update(shape=[]), "input.shape"),
        (lambda about: about["input"].update(dtype="object"), "input.dtype"),
        (lambda about: about["preprocessing"].update(evil=1), "unknown: evil"),
        (lambda about: about["preprocessing"].update(std=[0.0]), "above 0"),
        (lambda about: about["preprocessing"].update(mean=[float("nan")]), "finite"),
        (lambda about: about["scale"].update(std=-1.0), "above 0"),
        (lambda about: about["scale"].update(mean=float("inf")), "finite"),
        (lambda about: about.update(hook="os:system"), "hook"),
    ],
)
def test_what_no_student_can_be_is_refused(written, change, named):
    with pytest.raises(InputError, match=r"model\.json: is damaged") as caught:
        read_description(written(change))
    assert named in str(caught.value)
