"""What `raykd predict` reads of the files that people have: what training reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import raykd
from raykd.config.data import Preprocess
from raykd.config.models import BagModel, FactoryModel, MlpModel
from raykd.config.sources import CsvSource, ImagesSource, Source
from raykd.data.texts import encode_texts
from raykd.errors import InputError
from raykd.export.description import Description, Input
from raykd.export.weights_format import DESCRIPTION, WEIGHTS
from raykd.folders import write_json
from raykd.models import build_model
from raykd.models.encoding import fit_encoding
from raykd.models.network import Network
from raykd.models.preprocess import Preprocessing
from raykd.models.tokens import ByteTokens
from raykd.models.weights import save_weights
from raykd.pipeline.new_samples import read_new
from raykd.pipeline.prediction import _as_bytes


def about(
    *columns: str, source: Source | None = None, words: dict[str, tuple[str, ...]] | None = None
) -> Description:
    """A student of a table of these columns."""
    table = None
    if words is not None:
        known = {columns.index(name): every for name, every in words.items()}
        rows_ND = np.zeros((9, len(columns)), np.float32)
        for index, every in known.items():
            rows_ND[:, index] = np.arange(9) % len(every)
        table = fit_encoding(Preprocess(), rows_ND, known)
    return Description(
        task="classification",
        model=MlpModel(),
        preprocessing=Preprocessing(table=table),
        input=Input(
            name="inputs", shape=(len(columns) or 2,), columns=columns, words=tuple(words or ()), source=source
        ),
        classes=("a", "b"),
    )  # fmt: skip


def of_texts(length: int, source: Source | None = None) -> Description:
    """A student of texts."""
    return Description(
        task="classification",
        model=MlpModel(),
        preprocessing=Preprocessing(tokens=ByteTokens("bytes", 8, lower=False)),
        input=Input(name="text", shape=(length,), dtype="uint8", source=source),
        classes=("a", "b"),
    )


def test_a_csv_as_spreadsheets_write_it(tmp_path):
    numbers, posts = tmp_path / "numbers.csv", tmp_path / "posts.csv"
    numbers.write_text("id,a,b\nk1,1,2\nk2,3,4\n", encoding="utf-8-sig")
    posts.write_text("id,body\nk1,Grüße\n", encoding="utf-8-sig")
    found = read_new(about(), numbers)
    assert found.ids.tolist() == ["k1", "k2"]
    assert found.values.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    found = read_new(of_texts(16), posts)
    assert found.ids.tolist() == ["k1"]
    assert (found.values == encode_texts(["Grüße"], 16)).all()


def test_columns_are_taken_by_name(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("label,b,id,a\nx,2,007,1\ny,4,7,3\n")
    found = read_new(about("a", "b"), path)
    assert found.ids.tolist() == ["007", "7"]
    assert found.values.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(
        InputError, match="lacks the columns c; it has label, b, id, a, and the student takes a, c"
    ):
        read_new(about("a", "c"), path)


@pytest.mark.parametrize(
    ("name", "delimiter"),
    [("new.tsv", "\t"), ("new.csv", ";"), ("new.CSV", ","), ("new.txt", "|"), ("new.TSV", "\t")],
)
def test_files_that_training_takes(tmp_path, name, delimiter):
    """At 7d0af11: exit 2 for each, though training took them."""
    path = tmp_path / name
    path.write_text("\n".join(delimiter.join(row.split()) for row in ("a key b", "1 k1 2")))
    found = read_new(about("a", "b", source=CsvSource(path="", id="key")), path)
    assert (found.ids.tolist(), found.values.tolist()) == (["k1"], [[1.0, 2.0]])
    texts = of_texts(8, CsvSource(path="", text="b"))
    if path.suffix != ".txt":  # of texts one in each line
        assert read_new(texts, path).values.tolist() == encode_texts(["2"], 8).tolist()


def test_parquet_is_read_as_well(tmp_path):
    table = {"b": [2, 4], "a": [1.5, None], "city": ["Rome", "Oslo"], "id": ["x", "y"]}
    pq.write_table(pa.table(table), tmp_path / "new.parquet")
    found = read_new(about("a", "b", "city", words={"city": ("Oslo",)}), tmp_path / "new.parquet")
    assert found.ids.tolist() == ["x", "y"]
    assert np.array_equal(found.values, [[1.5, 2, -1], [np.nan, 4, 0]], equal_nan=True)


def test_the_texts_of_the_column_that_was_trained_on(tmp_path):
    """At 7d0af11 the column `text` was read, whatever the recipe named."""
    path = tmp_path / "new.csv"
    path.write_text("text,body\nwrong,right\n")
    trained = of_texts(8, CsvSource(path="", text="body"))
    assert read_new(trained, path).values.tolist() == encode_texts(["right"], 8).tolist()
    assert read_new(of_texts(8), path).values.tolist() == encode_texts(["wrong"], 8).tolist()
    path.write_text("id,whatever\n1,alone\n")
    assert read_new(trained, path).values.tolist() == encode_texts(["alone"], 8).tolist()
    path.write_text("text,other\n1,2\n")
    with pytest.raises(InputError, match="columns text, other; call that of the texts 'body'"):
        read_new(trained, path)


def test_a_cell_of_any_length(tmp_path):
    """At 7d0af11: exit 2, 'field larger than field limit (131072)'."""
    path = tmp_path / "new.csv"
    path.write_text(f"text\n{'x' * 200_000}\n")
    assert read_new(of_texts(8), path).values.tolist() == encode_texts(["x" * 8], 8).tolist()


def test_rows_that_are_no_samples_are_told_one_by_one(tmp_path):
    """At 7d0af11: exit 2 for the whole file, "could not convert string to float: ''"."""
    path = tmp_path / "new.csv"
    path.write_text("id,a,b\nk1,1,2\nk2,,4\nk3,x,6\nk4,7,8\n")
    found = read_new(about("a", "b"), path)
    assert found.ids.tolist() == ["k1", "k4"]
    assert found.left_out == (
        "row 2 (id k2): 'a' is empty, and no training sample had a gap",
        "row 3 (id k3): 'a' is 'x', which is no number",
    )
    filled = read_new(about("a", "b", words={}), path)
    assert filled.ids.tolist() == ["k1", "k2", "k4"]
    assert np.isnan(filled.values[1, 0])
    path.write_text("a,b\n,4\n")
    with pytest.raises(InputError, match=r"no row is left: row 1: 'a' is empty"):
        read_new(about("a", "b"), path)


def test_words_get_the_codes_of_training_and_booleans_are_numbers(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("member,city\ntrue,Oslo\nFALSE,Rome\n,\n")
    found = read_new(about("city", "member", words={"city": ("Bern", "Oslo")}), path)
    wanted = [[1, 1], [-1, 0], [np.nan, np.nan]]
    assert np.array_equal(found.values, wanted, equal_nan=True)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_text_in_each_line_whatever_breaks_it_holds(tmp_path, end):
    lines = ["one\u2028still one", "two\x0b\x0c\x85still two", "", "three"]
    path = tmp_path / "posts.txt"
    path.write_bytes((end.join(lines) + end).encode())
    found = read_new(of_texts(32), path)
    assert found.ids.tolist() == [0, 1, 2, 3]
    assert (found.values == encode_texts(lines, 32)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_bytes_of_any_type_are_bytes(dtype):
    values = np.array([[0, 128], [255, 1]], dtype)
    assert _as_bytes(values).dtype == np.uint8
    assert _as_bytes(values).tolist() == values.tolist()


def test_fractions_stay_and_what_is_neither_is_refused():
    values = np.array([[0.0, 0.5], [1.0, 0.25]], np.float32)
    assert _as_bytes(values) is values
    for wrong in (values * 200.5, values - 1, np.array([[256]]), np.array([[-1]])):
        with pytest.raises(InputError, match="whole numbers of 0 to 255, or fractions of 0 to 1"):
            _as_bytes(wrong)


def test_a_tensor_alone_is_the_only_input():
    """At 7d0af11: AttributeError, 'Tensor' object has no attribute 'items'."""
    network = Network(torch.nn.Linear(3, 2), Preprocessing(scale=2.0))
    inputs = torch.rand(4, 3)
    assert torch.equal(network(inputs), network({"inputs": inputs}))


def test_a_folder_of_images_as_training_reads_it(tmp_path):
    (tmp_path / "cat").mkdir()
    for name in ("a.png", "cat/b.png"):
        Image.fromarray(np.full((8, 8), 50, np.uint8)).save(tmp_path / name)
    student = about().model_copy(
        update={"input": Input(name="inputs", shape=(1, 8, 8), source=ImagesSource(path="", mode="L"))}
    )  # fmt: skip
    found = read_new(student, tmp_path)
    assert found.ids.tolist() == ["a.png", "cat/b.png"]
    assert (found.values.dtype, found.values.shape) == (np.uint8, (2, 1, 8, 8))
    assert read_new(student, tmp_path / "a.png").ids.tolist() == ["a.png"]


def saved(folder: Path, described: Description) -> Path:
    """A student's folder, with fresh weights."""
    folder.mkdir()
    shape = described.preprocessing.output_shape(described.input.shape)
    model = build_model(described.model, input_shape=shape, classes=2, key="model")
    save_weights(model, folder / WEIGHTS)
    write_json(folder / DESCRIPTION, described.to_json())
    return folder


def test_the_command_reads_what_training_reads(call, tmp_path):
    """At 7d0af11: exit 2 for each of these files ("needs .npz, .npy, .csv"; "field larger than field limit (131072)")."""
    numbers = saved(tmp_path / "numbers", about("a", "b"))
    wanted = None
    for name, text in {
        "new.csv": "id,a,b\nk1,1,2\n",
        "new.CSV": "id,a,b\nk1,1,2\n",
        "new.tsv": "b\tid\ta\n2\tk1\t1\n",
        "semicolons.csv": "id;a;b\nk1;1;2\n",
    }.items():
        (tmp_path / name).write_text(text)
        told = call("predict", numbers, tmp_path / name)
        assert (told.code, told.err) == (0, "")
        assert told.out.splitlines()[1].startswith("k1,")
        wanted = wanted or told.out
        assert told.out == wanted
    source = CsvSource(path="", text="body")
    texts = saved(tmp_path / "texts", of_texts(8, source).model_copy(update={"model": BagModel()}))
    outs = []
    for name, text in {"one.csv": "text,body\nno,yes\n", "other.csv": "body\nyes\n"}.items():
        (tmp_path / name).write_text(text)
        outs.append(call("predict", texts, tmp_path / name).out)
    assert outs[0] == outs[1] != ""
    (tmp_path / "long.csv").write_text(f"body\n{'x' * 200_000}\n")
    assert call("predict", texts, tmp_path / "long.csv").code == 0


def test_the_command_tells_rows_that_it_leaves_out(call, tmp_path):
    """At 7d0af11: exit 2, "could not convert string to float: ''", for the whole file."""
    student = saved(tmp_path / "student", about("a", "b"))
    (tmp_path / "new.csv").write_text("id,a,b\nk1,1,2\nk2,,4\nk3,x,6\n")
    told = call("predict", student, tmp_path / "new.csv")
    assert told.code == 0
    assert told.out.splitlines()[1].startswith("k1,")
    assert len(told.out.splitlines()) == 2
    assert told.err.splitlines() == [
        "left out  row 2 (id k2): 'a' is empty, and no training sample had a gap",
        "left out  row 3 (id k3): 'a' is 'x', which is no number",
    ]
    (tmp_path / "new.csv").write_text("id,a,b\nk2,,4\n")
    told = call("predict", student, tmp_path / "new.csv")
    assert (told.code, told.out) == (2, "")
    assert "error  DATA: " in told.err
    assert "no row is left: row 1 (id k2): 'a' is empty" in told.err


@pytest.mark.parametrize(
    ("name", "why"),
    [("no.npz", "no file"), ("nameless.npz", ""), ("empty", ""), ("objects.npz", "")],
)
def test_data_that_cannot_be_read_are_refused(call, tmp_path, name, why):
    student = saved(tmp_path / "student", about("a", "b"))
    np.savez(tmp_path / "nameless.npz", values=np.zeros((9, 3)))
    np.savez(tmp_path / "objects.npz", inputs=np.array([{}, None], dtype=object))
    (tmp_path / "empty").write_text("")
    told = call("predict", student, tmp_path / name)
    assert told.code == 2
    assert told.err.startswith("error  DATA: ")
    assert why in told.err


def test_a_loaded_student_takes_a_tensor(tmp_path):
    """At 7d0af11: AttributeError, 'Tensor' object has no attribute 'items'."""
    student = raykd.load_student(saved(tmp_path / "student", about("a", "b")))
    inputs = torch.rand(3, 2)
    assert torch.equal(student(inputs), student({"inputs": inputs}))


def test_16_bit_images_are_scaled_by_the_command(call, tmp_path):
    """At 7d0af11 they were clipped to 0, 200, 255, 255, 255, 255."""
    values, scaled = (0, 200, 300, 4095, 30000, 65535), (0, 1, 1, 16, 117, 255)
    (tmp_path / "photos").mkdir()
    for number, value in enumerate(values):
        Image.fromarray(np.full((8, 8), value, np.uint16)).save(
            tmp_path / "photos" / f"{number}.png"
        )
    described = about().model_copy(
        update={
            "task": "regression",
            "classes": ("value",),
            "model": FactoryModel(path="raykd_test_models:mean_pixel"),
            "input": Input(name="inputs", shape=(1, 8, 8), source=ImagesSource(path="", mode="L")),
        }
    )
    student = saved(tmp_path / "student", described)
    told = call("predict", student, tmp_path / "photos", "--model", "raykd_test_models:mean_pixel")
    assert told.code == 0, told.err
    found = [float(line.split(",")[1]) * 255 for line in told.out.splitlines()[1:]]
    assert found == pytest.approx(scaled, abs=1e-3)


def test_a_student_that_acts_reads_the_states_of_a_transitions_file(tmp_path):
    seen = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    path, ids = tmp_path / "states.npz", np.array(["a", "b", "c", "d", "e"])
    np.savez(path, observations=seen, actions=np.zeros(5, np.int64), episode=np.zeros(5, np.int64), ids=ids)  # fmt: skip
    found = read_new(about().model_copy(update={"task": "control"}), path)
    np.testing.assert_array_equal(found.values, seen)
    assert found.ids.tolist() == ids.tolist()
    with pytest.raises(InputError, match="no array 'inputs' in"):
        read_new(about(), path)
