"""Gaps and words of a table: what scikit-learn's transformers do, in torch."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import StandardScaler

from raykd.config.data import Categories, Data, Impute, Preprocess, Splits, Views
from raykd.config.sources import FactorySource
from raykd.data import Dataset
from raykd.data.samples import samples_of
from raykd.errors import InputError
from raykd.export.description import Description
from raykd.models.encoding import encoder_of, fit_encoding, imputer_of
from raykd.models.preprocess import preprocessing_for

CITY, MEMBER, CODE = 1, 3, 5
WORDS = {
    CITY: ("Rome", "Bern", "Zug", "Oslo", "Cork"),
    MEMBER: ("no", "yes"),
    CODE: tuple(f"w{number}" for number in range(80)),
}
NUMBERS = [0, 2, 4]
COLUMNS = ("age", "city", "fare", "member", "row", "code")


def table(seed: int = 0, rows: int = 300) -> np.ndarray:
    """Numbers, and codes of words, of which the first are frequent; a tenth of the cells are gaps."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, 6)).astype(np.float32)
    for column, words in WORDS.items():
        chance = 0.1 if column == CODE else 0.4
        values[:, column] = np.minimum(random.geometric(chance, rows), len(words)) - 1
    values[random.random(values.shape) < 0.1] = np.nan
    values[:, 4] = np.arange(rows)
    return values


def as_texts(values: np.ndarray) -> np.ndarray:
    """The columns of words as scikit-learn would be given them: texts, NaN for a gap."""
    columns = []
    for column, words in WORDS.items():
        known = {float(code): word for code, word in enumerate(words)}
        columns.append(
            [np.nan if np.isnan(v) else known.get(v, "never seen") for v in values[:, column]]
        )
    return np.array(columns, object).T


@pytest.mark.parametrize(
    "impute",
    [
        Impute(),
        Impute(type="mean", indicator=False),
        Impute(type="constant", value=3.0),
        Impute(type="most_frequent"),
    ],
    ids=lambda one: one.type,
)
@pytest.mark.parametrize(
    "categories",
    [Categories(), Categories(most=4), Categories(most=1), Categories(type="ordinal")],
    ids=lambda one: f"{one.type} {getattr(one, 'most', '')}",
)
def test_torch_does_what_scikit_learn_does_with_the_words_themselves(impute, categories):
    train, new = table(), table(1)
    new[:40, CODE], new[40:60, CITY], new[60:80, 4], new[80:90, CODE] = 79, -1, np.nan, 200
    encoding = fit_encoding(Preprocess(impute=impute, categories=categories), train, WORDS)
    reference = ColumnTransformer(
        [("numbers", imputer_of(impute), [0, 1, 2]), ("words", encoder_of(categories), [3, 4, 5])],
        sparse_threshold=0,
    )

    def shown(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[:, NUMBERS].astype(object), as_texts(values)], axis=1)

    reference.fit(shown(train))
    for values in (train, new):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # words that are new
            wanted = reference.transform(shown(values)).astype(np.float64)
        found = encoding(torch.from_numpy(values)).numpy()
        assert found.shape == (len(values), encoding.width)
        assert encoding.width == len(encoding.is_amount)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_nothing_is_filled_and_words_are_left_out_where_a_recipe_says_so():
    values = table()
    encoding = fit_encoding(Preprocess(impute=None, categories=None), values, WORDS)
    found = encoding(torch.from_numpy(values)).numpy()
    assert np.array_equal(found, values[:, NUMBERS], equal_nan=True)


def samples(values: np.ndarray | None = None, **views: object) -> object:
    """Samples of `table()`."""
    values = table() if values is None else values
    dataset = Dataset(
        inputs=values,
        labels=np.arange(len(values)) % 2,
        features=COLUMNS,
        words={COLUMNS[column]: words for column, words in WORDS.items()},
    )
    data = Data(
        source=FactorySource(path="unused:unused"),
        splits=Splits(validation=30, test=30),
        views=Views.model_validate(views),
    )
    return samples_of(dataset, data, seed=0)


def test_numbers_are_normalised_after_they_are_filled_and_columns_of_zeros_and_ones_are_not():
    made = samples()
    preprocessing = preprocessing_for(Preprocess(), made, key="student.preprocess")
    train = made.inputs["inputs"][made.splits["train"]]
    filled = imputer_of(Impute(indicator=False)).fit_transform(train[:, NUMBERS])
    wanted = StandardScaler().fit_transform(filled)
    found = preprocessing(torch.from_numpy(train)).numpy()
    np.testing.assert_allclose(found[:, :3], wanted, atol=1e-5)
    assert set(np.unique(found[:, 3:])) == {0.0, 1.0}
    assert preprocessing.output_shape((6,)) == found.shape[1:]


def test_it_is_part_of_the_fingerprint_and_of_a_description():
    made = samples()
    every = {
        name: preprocessing_for(Preprocess(**given), made, key="x")
        for name, given in {
            "default": {},
            "mean": {"impute": Impute(type="mean")},
            "ordinal": {"categories": Categories(type="ordinal")},
        }.items()
    }
    other = table()
    other[:, CITY] = np.where(other[:, CITY] == 0, 1, other[:, CITY])
    every["other data"] = preprocessing_for(Preprocess(), samples(other), key="x")
    described = {json.dumps(one.describe(), sort_keys=True) for one in every.values()}
    assert len(described) == len(every)
    told = {
        "schema": 1,
        "task": "classification",
        "model": {"type": "mlp"},
        "input": {"name": "inputs", "shape": [6]},
        "classes": ["a", "b"],
    }
    for one in every.values():
        about = Description.model_validate({**told, "preprocessing": one})
        read = Description.model_validate(json.loads(json.dumps(about.to_json())))
        assert read.preprocessing == one
    wrong = json.loads(json.dumps(about.to_json()))
    wrong["preprocessing"]["table"]["fill"] = [1.0]
    with pytest.raises(ValueError, match="every column of numbers needs one number"):
        Description.model_validate(wrong)


def test_a_table_without_gaps_and_words_is_as_it_always_was():
    values = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    dataset = Dataset(inputs=values, labels=np.arange(300) % 2)
    made = samples_of(dataset, Data(source=FactorySource(path="a:b")), seed=0)
    plain = preprocessing_for(Preprocess(), made, key="x")
    assert plain.table is None
    assert "table" not in plain.describe()
    asked = preprocessing_for(Preprocess(impute=Impute(type="mean")), made, key="x")
    assert asked.table is not None, "what new data are to be filled with may be said"
    rows = torch.from_numpy(values)
    torch.testing.assert_close(asked(rows), plain(rows))


def test_what_does_not_go_with_tables_is_refused():
    for step in ("noise", "mixup"):
        with pytest.raises(InputError, match=rf"policy\.0: {step} needs numbers; .*\(city, member"):
            samples(policy=[{"type": step}])
    images = Dataset(inputs=np.zeros((90, 1, 4, 4), np.float32), labels=np.arange(90) % 2)
    made = samples_of(images, Data(source=FactorySource(path="a:b")), seed=0)
    with pytest.raises(InputError, match=r"x\.impute: is for tables; a sample here is \[1, 4, 4\]"):
        preprocessing_for(Preprocess(impute=None), made, key="x")
    only = replace(samples(), words=dict.fromkeys(COLUMNS, WORDS[CITY]))
    with pytest.raises(InputError, match=r"x\.categories: is null, but all columns are of words"):
        preprocessing_for(Preprocess(categories=None), only, key="x")
