"""Teachers that are fitted on the text that students do not learn from."""

from __future__ import annotations

import numpy as np
import pytest

from raykd.config import load_config
from raykd.config.data import Data
from raykd.config.roles import Teacher
from raykd.data import Dataset, encode_texts
from raykd.data.samples import samples_of
from raykd.errors import InputError
from raykd.pipeline.teachers import examples
from raykd.pipeline.texts import teacher_rows
from raykd.types import CHUNKS

RECIPE = {
    "task": "language",
    "data": {"source": {"type": "corpora"}, "tokens": {"length": 16, "pool": 0.25}},
    "teachers": [{"name": "counts", "model": {"type": "ngram", "order": 3}, "labels": "rest"}],
    "student": {"model": {"type": "gru_lm", "width": 0.125}},
}


def samples():
    words = ("lorem ipsum dolor sit amet", "do re mi fa so la ti")
    texts = [f"{words[number % 2]} {number:03}" for number in range(80)]
    dataset = Dataset(
        {"text": encode_texts(texts, 40)},
        np.arange(80) % 2,
        splits={"validation": np.arange(40, 60), "test": np.arange(60, 80)},
        classes=("latin", "music"),
        task="language",
    )
    data = Data.model_validate(RECIPE["data"])
    return samples_of(dataset, data, seed=0, columns=())


def teacher(**given) -> Teacher:
    return Teacher.model_validate({**RECIPE["teachers"][0], **given})


def test_the_rest_is_what_students_do_not_see():
    found = samples()
    rest = teacher_rows(found, teacher())
    assert len(rest) > len(found.splits["train"]) > 0
    assert not np.isin(rest, found.splits["train"]).any()
    everything = np.union1d(rest, found.splits["train"])
    assert teacher_rows(found, teacher(labels="all")).tolist() == everything.tolist()
    music = teacher_rows(found, teacher(domains=["music"]))
    assert set(found.all_labels[music]) == {1}
    assert set(music) < set(rest)


def test_an_n_gram_of_the_rest_has_counted_it_and_nothing_else():
    found = samples()
    config = load_config(RECIPE)
    counts = examples(config, teacher(), None, found)["counts_1"].sum()
    rows = found.inputs[CHUNKS][teacher_rows(found, teacher())]
    first = (rows[:, 1] > 0).sum() + len(rows)
    assert int(counts) == first, "the predicted tokens, and the first one of each chunk"


def test_a_rest_without_a_pool_is_refused():
    recipe = {**RECIPE, "data": {"source": {"type": "corpora"}}}
    with pytest.raises(
        InputError,
        match=r"teachers.counts.labels: found rest, but there is none without `data.tokens",
    ):
        load_config(recipe)
    digits = {
        "data": {"source": {"type": "digits"}},
        "teachers": [{"name": "a", "model": "mlp", "fit": {}, "labels": "rest"}],
        "student": {"model": "mlp"},
    }
    with pytest.raises(InputError, match=r"teachers.a.labels: found rest"):
        load_config(digits)


def test_the_packaged_recipe_is_read_and_needs_no_domain_of_the_student():
    config = load_config("lm_domains")
    assert {one.labels for one in config.teachers} == {"rest"}
    assert {one.domains for one in config.teachers} == {("foldoc",), ("fortunes",), ("messages",)}
    assert config.objective.weighting.type == "bayesian"
