"""A student of an architecture of transformers is read by transformers itself."""

from __future__ import annotations

import json

import pytest
import torch

from raykd.config.models import HfModel
from raykd.errors import InputError
from raykd.export import FORMATS
from raykd.export.description import Description
from raykd.export.folder import check_output, listed
from raykd.export.parity import check_parity
from raykd.export.pretrained_format import FOLDER, is_pretrained
from raykd.export.student import Student
from raykd.export.writing import choose, refuse_unsuited
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.preprocess import ChunkTokens, Preprocessing

transformers = pytest.importorskip("transformers")
BYTES = 256


@pytest.fixture
def causal(tmp_path):
    """A language student of 256 bytes that began as a small GPT-2 with embeddings of more tokens."""
    config = transformers.GPT2Config(
        vocab_size=300,
        n_positions=32,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "began")
    spec = HfModel(name=str(tmp_path / "began"), task="causal")
    preprocessing = Preprocessing(
        chunks=ChunkTokens(length=12, size=BYTES, tokenizer="bytes", fingerprint="bytes")
    )
    model = build_model(
        spec, input_shape=preprocessing.output_shape((2, 12)), classes=BYTES, key="m"
    )
    for parameter in model.parameters():
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    about = {
        "task": "language",
        "model": spec,
        "preprocessing": preprocessing,
        "input": {"name": "text", "shape": [12], "dtype": "uint8"},
        "classes": [f"b{i}" for i in range(BYTES)],
    }
    return Student(Network(model, preprocessing, None).eval(), Description.model_validate(about))


def test_transformers_reads_what_was_written(causal, tmp_path):
    one = FORMATS["transformers"]
    one.write(causal, tmp_path)
    assert check_parity(causal, one.open(causal, tmp_path), "transformers") == {"logits": 0.0}
    assert all((tmp_path / file).is_file() for file in one.files)
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / FOLDER).eval()
    tokens = torch.randint(0, BYTES, (3, 12))
    with torch.no_grad():
        theirs = read(input_ids=tokens).logits[..., :BYTES]
        ours = causal.network.model(tokens)
    assert torch.equal(theirs, ours)


def test_a_file_of_other_weights_is_no_student(causal, tmp_path):
    one = FORMATS["transformers"]
    one.write(causal, tmp_path)
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / FOLDER)
    read.transformer.wte.weight.data.add_(1.0)
    read.save_pretrained(tmp_path / FOLDER)
    with pytest.raises(Exception, match="transformers"):
        check_parity(causal, one.open(causal, tmp_path), "transformers")


def test_other_students_are_not_written_so(make_student):
    student = make_student({"type": "mlp"})
    assert not is_pretrained(student.about)
    with pytest.raises(
        InputError, match=r"--format: found transformers, .* this one is mlp: leave it out"
    ):
        refuse_unsuited(["onnx", "transformers"], student.about)
    refuse_unsuited(["onnx", "torch"], student.about)
    assert "transformers" in choose(None)[0]


def test_an_export_with_a_folder_in_it_is_replaced_and_nothing_else(tmp_path):
    folder = tmp_path / "export"
    (folder / FOLDER).mkdir(parents=True)
    (folder / FOLDER / "config.json").write_text("{}")
    (folder / "export.json").write_text(json.dumps({"files": listed(folder)}))
    assert list(json.loads((folder / "export.json").read_text())["files"]) == [
        f"{FOLDER}/config.json"
    ]
    check_output(folder)
    (folder / FOLDER / "mine.txt").write_text("x")
    with pytest.raises(InputError, match=rf"{FOLDER}/mine\.txt"):
        check_output(folder)
