"""Models of torchvision, timm and transformers: built offline, and errors that say what to do.

Where a package is not installed, its own tests are skipped; that its absence is told is tested with the other
extras.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import torch

from raykd.config import load_config
from raykd.config.data import Preprocess
from raykd.config.models import HfModel, TimmModel, TorchvisionModel
from raykd.data.texts import encode_texts
from raykd.errors import InputError
from raykd.models import build_model
from raykd.models.network import Network, first_tensor
from raykd.models.preprocess import preprocessing_for
from raykd.models.shapes import TokenShape
from raykd.models.taps import probe
from raykd.models.tokens import _loaded
from raykd.models.weights import save_weights
from raykd.models.zoo.hubs import from_hub
from raykd.pipeline.preparation import prepare

SPECS = [
    ("torchvision", TorchvisionModel(name="squeezenet1_1")),
    ("timm", TimmModel(name="resnet10t")),
    ("transformers", HfModel(name="some/model")),
]


def build(spec, classes=4, shape=(3, 32, 32), weights=None):
    return build_model(spec, input_shape=shape, classes=classes, key="model", weights=weights)


@pytest.fixture
def package():
    def package(name):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
        return pytest.importorskip(name)

    return package


def test_short_forms(tiny_recipe):
    for text, kind in (("torchvision:resnet18", TorchvisionModel), ("timm:vit_tiny", TimmModel)):
        tiny_recipe["student"]["model"] = text
        model = load_config(tiny_recipe).student.model
        assert isinstance(model, kind)
        assert model.name == text.partition(":")[2]


def test_a_teacher_without_weights_is_refused_before_anything_is_loaded(tiny_recipe):
    tiny_recipe["teachers"] = [{"name": "mine", "model": "timm:resnet10t"}]
    with pytest.raises(InputError, match=r"a timm without `fit` or `weights` would be untrained"):
        load_config(tiny_recipe)


@pytest.mark.parametrize(("name", "spec"), SPECS[:2])
def test_a_model_has_the_data_s_classes_and_takes_weights_of_a_file(package, name, spec, tmp_path):
    package(name)
    model = build(spec).eval()
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 4)
    save_weights(model, tmp_path / "model.safetensors")
    again = build(spec)
    again.load_state_dict(model.state_dict())
    with pytest.raises(InputError, match=r"model\.name: found '.*x'; nearest: "):
        build(spec.model_copy(update={"name": f"{spec.name}x"}))
    with pytest.raises(InputError, match=r"model\.kwargs: the library refuses them"):
        build(spec.model_copy(update={"kwargs": {"no_such_argument": 1}}))


def test_timm_takes_as_many_channels_as_the_samples_have(package):
    package("timm")
    model = build(SPECS[1][1], shape=(1, 32, 32)).eval()
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 4)


def unreachable(*args, **kwargs):
    raise OSError("Network is unreachable")


def test_a_hub_that_cannot_be_reached(package, monkeypatch):
    package("torchvision")
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setattr("torch.hub.os.path.exists", lambda path: False)
    with pytest.raises(
        InputError, match=r"model\.pretrained: .*unreachable.*local file as `weights`"
    ):
        build(SPECS[0][1].model_copy(update={"pretrained": "DEFAULT"}), classes=1000)


def test_weights_that_are_known_ask_no_hub(package, monkeypatch):
    """What an actor does: the driver had the weights, so that nothing is downloaded again."""
    package("torchvision")
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    spec = SPECS[0][1].model_copy(update={"pretrained": "DEFAULT"})
    weights = build(SPECS[0][1]).state_dict()
    assert build(spec, weights=weights)(torch.rand(2, 3, 64, 64)).shape == (2, 4)


def test_a_timm_hub_that_cannot_be_reached(package, monkeypatch):
    package("timm")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"model\.pretrained: .*local file as `weights`"):
        build(SPECS[1][1].model_copy(update={"pretrained": True}))


def test_a_folder_of_transformers(package, tmp_path):
    transformers = package("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4, num_channels=1, num_labels=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "vit")
    inputs = torch.rand(2, 1, 8, 8)
    found = build(HfModel(name=str(tmp_path / "vit"))).eval()(inputs)
    torch.testing.assert_close(first_tensor(found), model(inputs).logits)


def test_tokens_are_classified(package, tmp_path):
    transformers = package("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8, num_labels=3,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    spec = HfModel(name=str(tmp_path / "bert"), task="sequence_classification")
    found = build(spec, classes=3, shape=(8,)).eval()(torch.randint(0, 20, (2, 8)))
    assert first_tensor(found).shape == (2, 3)


@pytest.fixture
def bert(package, tmp_path):
    """A folder with a tiny classifier with random weights and its own tokenizer, whose padding is not 0."""
    transformers, tokenizers = package("transformers"), package("tokenizers")
    special = {
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
    }
    words = [*special.values(), "the", "cat", "dog", "and"]
    known = {word: place for place, word in enumerate(words)}
    cutter = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, special["unk_token"]))
    cutter.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    cutter.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=cutter, **special)
    made.save_pretrained(tmp_path / "bert")
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=2,
        intermediate_size=16, max_position_embeddings=12, pad_token_id=3,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


class Texts:
    """Samples as preprocessing sees them."""

    is_text, input_shape, vocabulary = True, (64,), None
    statistics = training_texts = None


def seen(path, **settings):
    tokenizer = {"type": "hf", "path": path, **settings}
    return preprocessing_for(
        Preprocess.model_validate({"tokenizer": tokenizer}), Texts(), key="student.preprocess"
    )


@torch.inference_mode()
def test_a_classifier_of_texts_has_its_own_tokenizer_and_does_not_look_at_padding(bert):
    transformers = pytest.importorskip("transformers")
    texts = ["the cat and the dog", "dog", "the bird"]
    shown = {"text": torch.from_numpy(encode_texts(texts, 64))}
    spec = HfModel(name=bert, task="sequence_classification")
    preprocessing = seen(bert, length=10)
    assert preprocessing(shown["text"])[1].tolist() == [2, 7, 3, 0, 0, 0, 0, 0, 0, 0], "ids + 1"
    shape = preprocessing.output_shape((64,))
    assert (shape, shape.vocabulary) == ((10,), 9)
    network = Network(build(spec, classes=2, shape=shape), preprocessing).eval()
    taps = ["bert.encoder.layer.0", "classifier"]
    assert probe(network, shown, taps, key="k") == {taps[0]: (10, 16), "classifier": (2,)}
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(bert).eval()
    cutter = transformers.AutoTokenizer.from_pretrained(bert)
    alone = [plain(**cutter(text, return_tensors="pt")).logits[0] for text in texts]
    torch.testing.assert_close(network(shown), torch.stack(alone))
    assert seen(bert, length=3)(shown["text"])[0].tolist() == [2, 5, 3], "cut, and still framed"


@torch.inference_mode()
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_an_encoder_gives_a_vector_of_the_tokens_that_are_there(bert, pooling):
    transformers = pytest.importorskip("transformers")
    texts = ["the cat and the dog", "dog", "the bird"]
    preprocessing = seen(bert, length=10)
    shape = preprocessing.output_shape((64,))
    spec = HfModel(name=bert, task="encoder", pooling=pooling)
    network = Network(build(spec, shape=shape), preprocessing).eval()
    found = network({"text": torch.from_numpy(encode_texts(texts, 64))})
    plain = transformers.AutoModel.from_pretrained(bert).eval()
    cutter = transformers.AutoTokenizer.from_pretrained(bert)
    states = [plain(**cutter(text, return_tensors="pt")).last_hidden_state[0] for text in texts]
    wanted = [state[0] if pooling == "first" else state.mean(dim=0) for state in states]
    torch.testing.assert_close(found, torch.stack(wanted))
    with pytest.raises(InputError, match=r"model\.task: is encoder, which takes texts"):
        build(spec)


def test_a_tokenizer_of_transformers_is_known_by_its_content(bert, tmp_path):
    first = seen(bert)
    moved = tmp_path / "moved"
    shutil.copytree(bert, moved)
    assert seen(str(moved)).describe() == first.describe()
    file = moved / "tokenizer.json"
    file.write_text(file.read_text().replace('"cat"', '"cow"'))
    assert seen(str(moved)).describe() != first.describe()
    file = Path(bert) / "tokenizer.json"
    file.write_text(file.read_text().replace('"cat"', '"cow"'))
    _loaded.cache_clear()
    with pytest.raises(
        InputError, match="does not hold the tokenizer that the model was made with"
    ):
        first(torch.from_numpy(encode_texts(["a"], 8)))


def test_tokenizers_of_transformers_that_do_not_fit(bert, tmp_path):
    with pytest.raises(InputError, match=r"tokenizer\.path: .*has no tokenizer\.json"):
        seen(str(tmp_path))
    with pytest.raises(InputError, match=r"has embeddings of 8 tokens, its tokenizer knows 11"):
        build(
            HfModel(name=bert, task="sequence_classification"),
            classes=2,
            shape=TokenShape(10, 12, "hf"),
        )
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.path: the tokenizer in .* cannot be loaded"):
        seen(str(tmp_path))


def test_a_missing_tokenizer_package_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        InputError, match=r"preprocess\.tokenizer: needs transformers, .*raykd\[hf\]"
    ):
        seen("nowhere")


def test_a_hub_of_transformers_that_cannot_be_reached(package, monkeypatch):
    package("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"model\.name: 'some/model' cannot be loaded .*path of a"):
        build(SPECS[2][1])


def test_a_timm_teacher_in_a_recipe(package, tiny_recipe, tmp_path):
    package("timm")
    model = {"type": "timm", "name": "resnet10t"}
    save_weights(build(TimmModel(name="resnet10t"), 10, (1, 8, 8)), tmp_path / "mine.safetensors")
    teacher = {"name": "mine", "model": model, "weights": str(tmp_path / "mine.safetensors")}
    teacher["preprocess"] = {"size": 32}
    prepared = prepare(load_config({**tiny_recipe, "teachers": [teacher]}))
    assert prepared.teachers["mine"].outputs == 10


@pytest.mark.soak
def test_a_torchvision_of_another_build_is_named_as_the_cause(tmp_path, monkeypatch):
    """transformers says "Could not import module 'BertModel'", and not why."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(
        InputError,
        match=r"k: 'nowhere/none' cannot be loaded: torchvision, .* does not fit torch 2",
    ):
        from_hub("nowhere/none", "encoder", key="k")
