"""`raykd export` on a finished run: what comes out, what is refused, what stays when it fails."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import raykd
from raykd.config import load_config
from raykd.export.writing import choose
from raykd.folders import read_json, write_json
from raykd.pipeline.preparation import prepare

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
needs_onnx = pytest.mark.skipif("onnx" in choose(None)[1], reason="raykd[export] is not installed")


@pytest.fixture(scope="module")
def exported(finished, call, tmp_path_factory):
    """An export in all formats that can be written here, and how it ended; nobody may change it."""
    folder = tmp_path_factory.mktemp("export") / "student"
    return folder, call("export", finished.path, "--output", folder)


@pytest.fixture(scope="module")
def test_split(finished):
    samples = prepare(load_config(finished.recipe)).samples
    rows = samples.splits["test"]
    (inputs,) = samples.batch(rows, -1).inputs.values()
    return inputs, samples.labels[rows]


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(finished.path, tmp_path / "copy")


def test_an_export_is_complete_and_says_what_it_holds(exported, finished):
    folder, ended = exported
    assert ended.code == 0, ended
    assert ended.out.splitlines()[-1] == f"export: {folder}"
    index = read_json(folder / "export.json")
    assert {path.name for path in folder.iterdir()} == {*index["files"], "export.json"}
    assert list(index["formats"]) == [one for one in choose(None)[0] if one != "transformers"]
    for name, one in index["formats"].items():
        assert f"| {name} " in ended.out
        assert one["bytes"] == sum(index["files"][file]["bytes"] for file in one["files"])
        assert f"{one['bytes']:,}" in ended.out
        assert max(one["parity"].values()) <= 1e-4
        assert set(one["latency_ms"]) == {"1", "64"}
        for time in one["latency_ms"].values():
            assert 0 < time["p50"] <= time["p95"]
    assert index["measured_on"]["threads"] == 1
    assert index["measured_on"]["processor"]
    card = (folder / "README.md").read_text()
    accuracy = read_json(finished.path / "summary.json")["student"]["test"]["accuracy"]
    assert f"| accuracy | {accuracy['values'][0]:.4g} | {accuracy['mean']:.4g} |" in card
    assert "| conv | cnn (width 0.25, depth 2" in card


def test_the_exported_student_is_the_one_of_the_run(exported, finished, call, folder):
    inputs = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        wanted = raykd.load_student(finished.path)({"inputs": inputs})
        assert torch.equal(raykd.load_student(exported[0])({"inputs": inputs}), wanted)
    np.save("new.npy", inputs.numpy())
    ended = call("predict", exported[0], "new.npy")
    assert ended.code == 0, ended
    assert ended.out == call("predict", finished.path, "new.npy").out


def right(logits, labels):
    return float((logits.argmax(axis=1) == labels).mean())


@needs_onnx
def test_onnx_reaches_the_accuracy_of_the_summary(exported, finished, test_split):
    import onnxruntime

    inputs, labels = test_split
    session = onnxruntime.InferenceSession(exported[0] / "model.onnx")
    logits, _ = session.run(None, {"inputs": inputs.numpy()})
    accuracy = read_json(finished.path / "summary.json")["student"]["test"]["accuracy"]
    assert right(logits, labels) == pytest.approx(accuracy["values"][0], abs=1e-6)


def test_torch_reaches_the_accuracy_of_the_summary(exported, finished, test_split):
    inputs, labels = test_split
    with torch.no_grad():
        logits, _ = torch.export.load(exported[0] / "model.pt2").module()(inputs)
    accuracy = read_json(finished.path / "summary.json")["student"]["test"]["accuracy"]
    assert right(logits.numpy(), labels) == pytest.approx(accuracy["values"][0], abs=1e-6)


@pytest.fixture(scope="module")
def in_8_bits(finished, call, tmp_path_factory):
    """An export with int8, and how it ended; nobody may change it."""
    folder = tmp_path_factory.mktemp("int8") / "student"
    return folder, call("export", finished.path, "--format", "safetensors", "--int8", "--output", folder)  # fmt: skip


@needs_onnx
def test_8_bits_lose_on_test_what_the_table_says(in_8_bits, finished, test_split):
    import onnxruntime

    folder, ended = in_8_bits
    assert ended.code == 0, ended
    index = read_json(folder / "export.json")
    assert list(index["formats"]) == ["safetensors", "onnx", "int8"]
    told, (inputs, labels) = index["int8"], test_split
    logits = {
        name: onnxruntime.InferenceSession(folder / file).run(None, {"inputs": inputs.numpy()})[0]
        for name, file in (("onnx", "model.onnx"), ("int8", "model.int8.onnx"))
    }
    for name, one in logits.items():
        assert told["numbers"][name]["accuracy"] == pytest.approx(right(one, labels), abs=1e-6)
    accuracy = read_json(finished.path / "summary.json")["student"]["test"]["accuracy"]
    assert told["numbers"]["onnx"]["accuracy"] == pytest.approx(accuracy["values"][0], abs=1e-6)
    same = (logits["onnx"].argmax(axis=1) == logits["int8"].argmax(axis=1)).mean()
    assert told["closeness"]["agreement_float"] == pytest.approx(same)
    assert same >= 0.97
    apart = np.abs(logits["onnx"] - logits["int8"]).max()
    assert 0 < told["largest_difference"]["logits"] == pytest.approx(apart, rel=1e-4)
    assert told["quantization"]["samples"] == 256
    assert told["quantization"]["operators"] == {"Gemm": 2}
    cells = f"| int8 | {told['numbers']['int8']['accuracy']:.4g} |"
    time = index["formats"]["int8"]["latency_ms"]["1"]
    for page in (ended.out, (folder / "README.md").read_text()):
        assert cells in " ".join(page.split())
        assert f"{time['p50']:.3g} ({time['p95']:.3g}, {time['p99']:.3g})" in page
        assert "2 Gemm, 100 % of the weights; ranges of inputs from 256 training samples" in page


@needs_onnx
def test_predictions_by_a_graph_are_those_of_the_student(in_8_bits, finished, call, folder):
    inputs = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    np.save("new.npy", inputs)
    exact = raykd.predict(finished.path, "new.npy").probabilities
    export = in_8_bits[0]
    found = {name: raykd.predict(export / name, "new.npy").probabilities
             for name in ("model.onnx", "model.int8.onnx")}  # fmt: skip
    np.testing.assert_allclose(found["model.onnx"], exact, atol=1e-5)
    assert 0 < np.abs(found["model.int8.onnx"] - exact).max() < 0.1
    ended = call("predict", export / "model.int8.onnx", "new.npy")
    assert ended.code == 0, ended
    assert len(ended.out.splitlines()) == 6
    copy = Path(shutil.copytree(export, "copy"))
    (copy / "model.int8.onnx").write_bytes(b"no")
    _alter("model.json", classes=list("abcdefghij"))(copy)
    alone = Path("alone.onnx")
    shutil.copy(export / "model.onnx", alone)
    for words, why in (
        ([copy / "model.int8.onnx"], "does not open model.int8.onnx"),
        ([copy / "model.onnx"], "is of another student"),
        ([copy / "other.onnx"], "no such file"),
        ([alone], "holds no student"),
        ([export / "model.onnx", "--model", "a:b"], "has its architecture inside"),
    ):
        ended = call("predict", words[0], "new.npy", *words[1:])
        assert ended.code == 2, ended
        assert why in ended.err


@needs_onnx
def test_8_bits_need_the_data_of_the_run(run, call):
    _alter("config.json", seed=1)(run)
    ended = call("export", run, "--int8")
    assert ended.code == 2, ended
    assert "its data has changed" in ended.err
    assert not (run / "export").exists()


def _loader(text: str) -> str:
    """The Python block with onnxruntime in a Markdown text."""
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", text, re.S) if "onnxruntime" in c]
    return code


@needs_onnx
@pytest.mark.parametrize("source", ["README", "card"])
def test_the_loader_that_is_shown_needs_neither_raykd_nor_torch(exported, source, tmp_path):
    folder = exported[0]
    page = (ROOT / "README.md") if source == "README" else folder / "README.md"
    code = _loader(page.read_text())
    lines = [line for line in code.splitlines() if line and not line.startswith("import")]
    assert len(lines) == 3
    place = tmp_path / "runs" / "first"
    shutil.copytree(folder, place / "export")
    samples = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    np.save(tmp_path / "samples.npy", samples)
    script = (
        "import sys\nfor name in ('raykd', 'torch', 'ray'): sys.modules[name] = None\n"
        f"import numpy as np\nsamples = np.load({str(tmp_path / 'samples.npy')!r})\n{code}\n"
        "print([names, logits.tolist(), probabilities.sum(axis=1).tolist()].__repr__())\n"
    )
    where = tmp_path if source == "README" else place / "export"
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=where, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    names, logits, sums = json.loads(ended.stdout.replace("'", '"'))
    assert names == list("0123456789")
    assert sums == pytest.approx([1] * 4)
    with torch.no_grad():
        wanted = raykd.load_student(folder)({"inputs": torch.from_numpy(samples)})
    torch.testing.assert_close(torch.tensor(logits), wanted, atol=1e-4, rtol=0)


def test_one_format_alone_and_a_second_export_in_its_place(finished, call, folder):
    first = call(
        "export", finished.path, "--format", "torch,safetensors", "--output", "out", "--quiet"
    )
    assert (first.code, first.out) == (0, f"{folder / 'out'}\n"), first
    assert (folder / "out" / "model.pt2").is_file()
    assert call("export", finished.path, "--format", "safetensors", "--output", "out").code == 0
    assert not (folder / "out" / "model.pt2").exists()
    assert [path.name for path in folder.iterdir()] == ["out"]


def test_the_default_place_is_in_the_run(run, call):
    ended = call("export", run, "--format", "safetensors", "--quiet")
    assert ended.out == f"{run / 'export'}\n", ended


def test_missing_packages_are_named_with_the_line_that_brings_them(
    finished, call, folder, monkeypatch
):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ended = call("export", finished.path, "--format", "onnx", "--output", "out")
    assert ended.code == 2
    assert "pip install 'raykd[export]'" in ended.err
    assert not (folder / "out").exists()
    ended = call("export", finished.path, "--output", "out")
    assert ended.code == 0, ended
    assert "left out: onnx needs " in ended.out
    assert "onnx" in read_json(folder / "out" / "export.json")["left_out"]


def _failed(run):
    write_json(run / "summary.json", {"schema": 1, "status": "failed", "error": "it diverged"})


def _alter(name, **change):
    def alter(run):
        write_json(run / name, {**read_json(run / name), **change})

    return alter


def _other_weights(run):
    from raykd.models.weights import load_weights, save_weights

    state = load_weights(run / "student" / "model.safetensors", key="k")
    save_weights({name: tensor + 1 for name, tensor in state.items()},
                 run / "student" / "model.safetensors")  # fmt: skip


def _notes_in_its_place(run):
    (run / "export").mkdir()
    (run / "export" / "notes.md").write_text("mine")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (shutil.rmtree, "no summary.json"),
        (_failed, "it diverged"),
        (lambda run: (run / "config.json").unlink(), "no finished run"),
        (lambda run: shutil.rmtree(run / "student"), "holds no student"),
        (lambda run: (run / "student" / "model.json").write_text("{"), "is damaged"),
        (_alter("student/model.json", teachers=["../../../etc/passwd"]), "teachers.0"),
        (_alter("student/model.json", teachers=["wide", "other"]), "of another run"),
        (_alter("student/model.json", model={"type": "mlp", "width": 9.0}), "of another run"),
        (_alter("student/model.json", model={"type": "factory", "path": "os:system"}), "of another run"),
        (_other_weights, "was changed since"),
        (lambda run: (run / "student" / "model.safetensors").write_bytes(b"no"), "damaged"),
        (_alter("config.json", seeds=0), "seeds"),
        (_notes_in_its_place, "notes.md"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_nothing_is_written(run, call, change, why):
    change(run)
    before = sorted(run.rglob("*"))
    ended = call("export", run, "--format", "safetensors")
    assert ended.code == 2, ended
    assert why in ended.err
    assert all(line.startswith("error  ") for line in ended.err.splitlines())
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--format", "onx"], "nearest: onnx"),
        (["--format", ","], "names none of"),
        (["--output", "."], "which would be lost"),
        (["--model", "no_module:make"], "no_module"),
    ],
)
def test_wrong_arguments_are_refused(finished, call, folder, words, why):
    (folder / "precious").write_text("")
    ended = call("export", finished.path, *words)
    assert ended.code == 2, ended
    assert why in ended.err


def test_the_students_own_folder_is_no_run(finished, call):
    assert call("export", finished.path / "student").code == 2


def test_a_failed_export_leaves_the_old_one(run, call, monkeypatch):
    assert call("export", run, "--format", "safetensors").code == 0
    before = {path: path.read_bytes() for path in (run / "export").iterdir()}
    from raykd.export import torch_format

    found = torch_format.run_module
    monkeypatch.setattr(
        torch_format, "run_module", lambda module: lambda x: [a + 1 for a in found(module)(x)]
    )
    from raykd.export import FORMATS

    assert FORMATS["torch"].open is torch_format.open_program
    ended = call("export", run, "--format", "safetensors,torch")
    assert ended.code == 1
    assert "differs from torch by up to 1" in ended.err
    assert {path: path.read_bytes() for path in (run / "export").iterdir()} == before
    assert not list(run.glob(".export*"))


def test_a_student_by_a_factory_needs_its_function(run, call, folder):
    (folder / "export_factory.py").write_text(
        "from raykd.config.models import MlpModel\nfrom raykd.models import build_model\n"
        "def make(width):\n    spec = MlpModel(width=width, depth=1)\n"
        "    return build_model(spec, input_shape=(1, 8, 8), classes=10, key='m')\n"
    )
    factory = {"type": "factory", "path": "export_factory:make", "kwargs": {"width": 0.25}}
    _alter("student/model.json", model=factory)(run)
    _alter("config.json", student={**read_json(run / "config.json")["student"], "model": factory})(
        run
    )
    ended = call("export", run, "--format", "torch,safetensors")
    assert ended.code == 2
    assert "not imported from an artefact" in ended.err
    assert "--model" in ended.err
    ended = call("export", run, "--format", "torch,safetensors", "--model", "export_factory:make")
    assert ended.code == 0, ended
    assert (run / "export" / "model.pt2").is_file()


def test_the_job_is_the_command(finished, tmp_path):
    words = [
        "jobs/export.py",
        str(finished.path),
        "--format",
        "onx",
        "--output",
        str(tmp_path / "x"),
    ]
    ended = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error  --format: found 'onx'")
