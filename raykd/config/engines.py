"""`model: {type: engine}`: a language model that is asked, behind an address or in its own process, and never loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field

from raykd.config.base import Count, ImportPath, Json, Positive
from raykd.config.model_settings import ModelSettings
from raykd.errors import Problem

PLACES = ("url", "key_from", "timeout_s", "tries", "requests")
"""Settings of where and how a server is asked, which decide no answer."""
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_KINDS = ("openai", "transformers")
_OF = {
    "openai": ("model", "least", *PLACES),
    "transformers": ("model", "dtype"),
}
"""Kind -> what it takes beside k; of one's own class it is `kwargs`."""


class EngineModel(ModelSettings):
    """Tokens: a language model that is asked for its k likeliest tokens, as a teacher with `task: language`.

    Its answers are kept with what all other tokens amount to. See raykd/teachers/README.md.
    """

    short_for = "path"
    takes_tokens: ClassVar[bool] = True
    made_of = "engine"
    type: Literal["engine"] = "engine"
    path: Literal["openai", "transformers"] | ImportPath
    """`openai`: a server of that protocol that deals in token ids (vLLM, Ray Serve LLM). `transformers`: a causal model
    in the teacher's own process. Or `module:Class` of your own, see `raykd.testing.engine_suite`."""
    model: str | None = None
    """openai: the name by which the server knows it. transformers: its folder (on every node), or a repository of the
    hub."""
    url: str | None = None
    """openai: root of the protocol, such as `http://host:8000/v1`."""
    k: Count | None = None
    """Tokens of each answer that are kept; null = `targets.top_k`. Servers have a limit (vLLM: `--max-logprobs`)."""
    least: Count | None = None
    """openai: so many log-probabilities are accepted where the server gives fewer than k; null = all k or an error."""
    key_from: str | None = None
    """openai: environment variable (on every node) with the server's key; the key itself stands in no file."""
    timeout_s: Positive = 120
    """openai: longest wait for one text's answer."""
    tries: Count = 4
    """openai: how often a server that is down or busy is asked."""
    requests: Count = 4
    """openai: texts that one process asks about at the same time."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """transformers: precision of its forward pass."""
    same_tokenizer: bool = False
    """Say true where an engine cannot be asked how it cuts a text, and its tokens are those of the data."""
    kwargs: dict[str, Json] = Field(default_factory=dict)
    """Arguments of your own class."""

    @property
    def has_own_weights(self) -> bool:
        """Wherever it runs."""
        return True

    @property
    def is_server(self) -> bool:
        """Whether it is asked over an address."""
        return self.path == "openai"

    def identity(self) -> dict[str, Any]:
        """Without what says where and how it is asked."""
        return {name: value for name, value in super().identity().items() if name not in PLACES}


def engine_problems(model: EngineModel, key: str) -> Iterator[Problem]:
    """What an engine lacks, or what its kind does not know.

    Args:
        model: its settings.
        key: their dotted key, `teachers.big.model`.
    """
    kind = model.path if model.path in _KINDS else "own"
    needed = {"openai": ("url", "model"), "transformers": ("model",)}.get(kind, ())
    for name in needed:
        if getattr(model, name) is None:
            yield Problem(f"{key}.{name}", f"is required for the engine {model.path}")
    known = _OF.get(kind, ("kwargs",))
    for name in ("model", "least", "dtype", "kwargs", *PLACES):
        if name not in known and getattr(model, name) != _default(name):
            yield Problem(
                f"{key}.{name}",
                f"means nothing for {'an engine of your own' if kind == 'own' else f'the engine {kind}'}, which takes "
                f"{', '.join(known)}, k and same_tokenizer; leave it out",
            )
    if model.url is not None:
        yield from _address(model.url, f"{key}.url")
    if model.key_from is not None and not _VARIABLE.fullmatch(model.key_from):
        yield Problem(
            f"{key}.key_from",
            "is no name of an environment variable; the key itself stands in no recipe: put it into a variable, such as "
            "OPENAI_API_KEY, and name that",
        )
    if model.least is not None and model.k is not None and model.least > model.k:
        yield Problem(f"{key}.least", f"found {model.least}, more than k, which is {model.k}")


def _address(url: str, key: str) -> Iterator[Problem]:
    """A plain address; what may be a password is not repeated."""
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query:
        yield Problem(
            key, "holds more than an address, such as credentials, which would be written into the run's folder; name an "
            "environment variable as key_from",
        )  # fmt: skip
    elif parts.scheme not in ("http", "https") or not parts.hostname:
        yield Problem(key, f"found {url!r}; an address is written http://host:port/v1")


def _default(name: str) -> Any:
    return EngineModel.model_fields[name].get_default(call_default_factory=True)


def without_places(written: Any) -> Any:
    """Plain values of a recipe without where and how its engines are asked: what a job may go on without."""
    if isinstance(written, Mapping):
        drop = PLACES if written.get("type") == "engine" else ()
        return {name: without_places(v) for name, v in written.items() if name not in drop}
    if isinstance(written, list | tuple):
        return [without_places(one) for one in written]
    return written
