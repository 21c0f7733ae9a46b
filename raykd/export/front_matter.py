"""What Hugging Face reads of a model card: the YAML in front of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from raykd.config import Config
from raykd.config.models import HfModel, Model, TimmModel
from raykd.export.description import Description
from raykd.export.task import Inputs
from raykd.tasks import find_task

_REPOSITORY = re.compile(r"^\w[\w.-]*(/\w[\w.-]*)?$")
_LICENSES = re.compile(
    r"^(apache-2\.0|mit|isc|zlib|unlicense|mpl-2\.0|bsd(-[23]-clause)?|(a|l)?gpl-[23](\.[01])?|cc0-1\.0"
    r"|cc-by(-nc|-nd|-sa|-nc-nd|-nc-sa)?-[234]\.[05]|odc-by|odbl|openrail|llama[234.]*|gemma|other)$"
)
"""Identifiers that the hub knows, those in use for models and data."""
_TIMM_HUB = ("hf-hub", "hf_hub")
_DATA_SETS = {"fashion_mnist": "zalando-datasets/fashion_mnist", "mnist": "ylecun/mnist"}
"""Sources that the hub has too -> their names there; the others are called by their type."""


def front_matter(
    name: str,
    about: Description,
    config: Config,
    numbers: Mapping[str, Any] | None,
    formats: Iterable[str],
) -> str:
    """The block with its dashes.

    Args:
        name: of the run.
        about: the student's description.
        config: the resolved recipe.
        numbers: metric -> spread over replicas on test; None where test has no labels.
        formats: that were written.
    """
    tag = pipeline_tag(about)
    bases = base_models([config.student.model, *(teacher.model for teacher in config.teachers)])
    data_set = _data_set(config)
    head = {
        **_license(config.student.license),
        "library_name": "raykd",
        **({} if tag is None else {"pipeline_tag": tag}),
        "tags": ["knowledge-distillation", "raykd", *(one for one in formats if one == "onnx")],
        "datasets": [data_set],
        "metrics": [find_task(about.task).metrics.metric],
        **({"base_model": bases} if bases else {}),
        "model-index": [{"name": name, "results": [_results(about, tag, data_set, numbers)]}]
        if numbers
        else [],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def pipeline_tag(about: Description) -> str | None:
    """Hugging Face's name of the task on such inputs; None where it has none."""
    kind: Inputs | None = "text"
    if about.preprocessing.tokens is None:
        kinds: dict[int, Inputs] = {1: "tabular", 3: "image"}
        kind = kinds.get(len(about.input.shape))
    return find_task(about.task).export.hub_tag(kind)


def base_models(models: Iterable[Model | None]) -> list[str]:
    """Repositories of the hub that some models come from, each once."""
    found = (_repository(model) for model in models)
    return list(dict.fromkeys(name for name in found if name is not None))


def _repository(model: Model | None) -> str | None:
    """None where the weights are a file's, or fresh, or the name does not say which they are."""
    if isinstance(model, HfModel):
        is_local = Path(model.name).expanduser().exists()
        return model.name if _REPOSITORY.match(model.name) and not is_local else None
    if isinstance(model, TimmModel) and model.pretrained:
        hub, _, name = model.name.rpartition(":")
        if hub in _TIMM_HUB:
            return name
        return f"timm/{name}" if not hub and "." in name else None
    return None


def _license(text: str | None) -> dict[str, str]:
    """As the hub has it: an identifier that it knows, or `other` with a name."""
    if text is None:
        return {"license": "unknown"}
    if _LICENSES.match(text.lower()):
        return {"license": text.lower()}
    return {"license": "other", "license_name": text}


def _data_set(config: Config) -> str:
    source = config.data.source.type
    return _DATA_SETS.get(source, source)


def _results(
    about: Description, tag: str | None, data_set: str, numbers: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "task": {"type": tag or "other", "name": about.task},
        "dataset": {"type": data_set, "name": data_set, "split": "test"},
        "metrics": [
            {"type": key, "name": f"{key}, this replica", "value": number["values"][0]}
            for key, number in numbers.items()
            if number["values"][0] is not None and key != "temperature"  # which measures nothing
        ],
    }
