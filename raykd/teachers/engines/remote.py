"""Any server of OpenAI's protocol that takes token ids, such as vLLM or Ray Serve LLM.

Of that protocol only a part deals in ids: `/completions` with a prompt of ids, vLLM's `prompt_logprobs` (by id) and
`return_token_ids`, and its `/tokenize`. A server that lacks one of them is refused where it is needed: the log-probabilities that the
original protocol echoes are by text, and text cannot be cut into the same tokens again.

Shape suffixes: L length, N units, K classes kept.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from raykd.errors import InputError, TargetTimeoutError, TeacherError, UnreachableError
from raykd.teachers.engines.protocol import (
    Ragged,
    ragged,
    require_ids,
    require_prompt,
    rows_of,
    unit_offsets,
)
from raykd.top_k import from_log_probs
from raykd.types import TopK

_BUSY = (429, 502, 503, 504)
_WAIT_S = 0.2
_SHOWN = 300
_ROUNDING = 0.02
_OWN = ("id", "root", "parent", "max_model_len")
"""Of an entry of `/models`, what tells of the model; `created` is when the server was started."""
_WHOLE = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Nothing is cut off: unless told so, servers follow the `generation_config.json` that the model brings."""


@dataclass(frozen=True)
class OpenAiEngine:
    """Scores and continues by asking a server; it is first asked when an answer is needed.

    Its answers are log-probabilities at temperature 1, so that they can be used at temperature 1 alone.

    Attributes:
        url: of the protocol's root, such as `http://host:8000/v1`.
        model: the name that the server knows it by.
        vocabulary: V; the protocol does not tell it.
        k: K, log-probabilities asked for at each token; servers have a limit (vLLM: 20, `--max-logprobs`).
        least: so many are accepted where the server gives fewer, padded to K; None = all K or none.
        timeout_s: for one request.
        tries: of one request, while the server is down or busy.
        requests: asked at the same time.
        key_from: name of the environment variable that holds the server's key.
        key: dotted key of the recipe, for errors.

    Raises:
        InputError: a setting is out of range, or the variable is not set.
    """

    url: str
    model: str
    vocabulary: int
    k: int = 20
    least: int | None = None
    timeout_s: float = 120.0
    tries: int = 4
    requests: int = 4
    key_from: str | None = None
    key: str = "engine"

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError.at(
                f"{self.key}.url", f"found {self.url!r}; an address begins with http:// or https://"
            )
        if not 1 <= (self.least or self.k) <= self.k <= self.vocabulary:
            raise InputError.at(
                f"{self.key}.k",
                f"found k {self.k} and least {self.least} of a vocabulary of {self.vocabulary}; "
                "1 <= least <= k <= vocabulary is allowed",
            )
        if min(self.timeout_s, self.tries, self.requests) <= 0:
            raise InputError.at(
                self.key,
                f"found timeout_s {self.timeout_s}, tries {self.tries}, requests {self.requests}; all are above 0",
            )
        if self.key_from is not None and self.key_from not in os.environ:
            raise InputError.at(
                f"{self.key}.key_from",
                f"the environment has no variable {self.key_from}; set it on every node",
            )

    def score(self, ids: Tensor, offsets: Tensor) -> TopK:
        """See `Engine`; one request for each row.

        Raises:
            TargetTimeoutError: the server is slower than `timeout_s`.
            TeacherError: ids out of range; the server is down, has no `prompt_logprobs`, or gives fewer of them
                than asked for, or what are none.
        """
        require_ids(ids, self.vocabulary, engine=self.url)
        rows = [row.tolist() for row in rows_of(ids, offsets) if len(row) > 1]
        with ThreadPoolExecutor(self.requests) as threads:
            found = [entry for row in threads.map(self._scored, rows) for entry in row]
        ids_NK = torch.tensor([kept for kept, _ in found], dtype=torch.int64)
        log_probs_NK = torch.tensor([values for _, values in found], dtype=torch.float32)
        shape = (len(found), self.k)
        answer = from_log_probs(log_probs_NK.view(shape), ids_NK.view(shape), self.vocabulary)
        return replace(answer, offsets=unit_offsets(offsets))

    def _scored(self, row: Sequence[int]) -> list[tuple[list[int], list[float]]]:
        """Ids and log-probabilities of K classes at each token of a row but the first."""
        choice = self._completion(
            {"prompt": row, "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": self.k}
        )[0]
        told = choice.get("prompt_logprobs")
        if not isinstance(told, list):
            raise TeacherError(
                f"engine {self.url} gives no prompt_logprobs, so that it can continue texts and cannot score them; use "
                "a server that does (vLLM, Ray Serve LLM), or the engine transformers"
            )
        if len(told) != len(row):
            raise TeacherError(
                f"engine {self.url} answered for {len(told)} tokens, asked for {len(row)}: it has cut the prompt or "
                "added to it"
            )
        return [self._entry(told[place], row[place], place) for place in range(1, len(row))]

    def _entry(self, told: Any, token: int, place: int) -> tuple[list[int], list[float]]:
        """The K likeliest of one position, padded; servers add the token that is there if it is none of them."""
        try:
            pairs = [(int(one), _number(value)) for one, value in told.items()]
        except (AttributeError, TypeError, ValueError, KeyError):
            raise self._malformed(f"prompt_logprobs at token {place}: {told!r}") from None
        wrong = [
            one for one, value in pairs if not 0 <= one < self.vocabulary or not value <= _ROUNDING
        ]
        pairs.sort(key=lambda pair: (-pair[1], pair[0]))
        del pairs[self.k :]
        if (
            wrong
            or token not in map(int, told)
            or sum(math.exp(v) for _, v in pairs) > 1 + _ROUNDING
        ):
            raise TeacherError(
                f"engine {self.url} answered at token {place} what are no log-probabilities of {self.vocabulary} "
                f"classes with the token {token} among them ({str(told)[:_SHOWN]}): it has another vocabulary, or "
                "does not score the ids that it was given"
            )
        if len(pairs) < (self.least or self.k):
            raise TeacherError(
                f"engine {self.url} gave {len(pairs)} log-probabilities at token {place}, asked for {self.k}; start the "
                f"server with a larger limit (vLLM: --max-logprobs {self.k}), lower {self.key}.k, or set "
                f"{self.key}.least to accept fewer"
            )
        missing = self.k - len(pairs)
        kept = [one for one, _ in pairs] + [pairs[0][0]] * missing
        return kept, [min(value, 0.0) for _, value in pairs] + [-math.inf] * missing

    def generate(self, ids: Tensor, n: int, max_new: int, seed: int) -> Ragged:
        """See `Engine`; how far a seed fixes what is drawn is the server's promise.

        Raises:
            TargetTimeoutError: the server is slower than `timeout_s`.
            TeacherError: ids out of range; the server is down, or does not give the ids that it drew.
        """
        require_prompt(ids, n, max_new)
        require_ids(ids, self.vocabulary, engine=self.url)
        asked = {"prompt": ids.tolist(), "n": n, "max_tokens": max_new, "seed": seed,
                 "return_token_ids": True, **_WHOLE}  # fmt: skip
        rows = [choice.get("token_ids") or [] for choice in self._completion(asked)]
        if not all(rows):
            raise TeacherError(
                f"engine {self.url} does not give the ids that it drew (return_token_ids): its text would be cut into "
                "other tokens; use a server that does (vLLM from 0.10.2 on), or the engine transformers"
            )
        if len(rows) != n or max(map(len, rows)) > max_new:
            raise self._malformed(
                f"{len(rows)} continuations of up to {max(map(len, rows))} tokens"
            )
        found = ragged(rows)
        require_ids(found[0], self.vocabulary, engine=self.url)
        return found

    def tokenize(self, text: str) -> list[int]:
        """See `Engine`; by the server's `/tokenize`, which lies beside `/v1`.

        Raises:
            TeacherError: the server has none.
        """
        root = self.url.rstrip("/").removesuffix("/v1")
        found = self._asked(
            f"{root}/tokenize", {"model": self.model, "prompt": text, "add_special_tokens": False}
        ).get("tokens")
        if not isinstance(found, list):
            raise self._malformed("no tokens")
        return [int(one) for one in found]

    def describe(self) -> Mapping[str, Any]:
        """See `raykd.teachers.engines.described`; what the server's list of models (`/models`) says of this one.

        Nothing where it has no such list. When it was started, and where, is left out.

        Raises:
            UnreachableError: the server is down.
            TargetTimeoutError: the server is slower than `timeout_s`.
        """
        try:
            listed = self._asked(f"{self.url.rstrip('/')}/models").get("data")
        except (UnreachableError, TargetTimeoutError):
            raise
        except TeacherError:
            return {}
        entries = [one for one in listed or () if isinstance(one, Mapping)]
        own = next((one for one in entries if one.get("id") == self.model), {})
        return {name: own[name] for name in _OWN if own.get(name) is not None}

    def _completion(self, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        found = self._asked(f"{self.url.rstrip('/')}/completions", {"model": self.model, **asked})
        choices = found.get("choices")
        if (
            not isinstance(choices, list)
            or not choices
            or not all(isinstance(c, dict) for c in choices)
        ):
            raise self._malformed(str(found))
        return sorted(choices, key=lambda choice: choice.get("index", 0))

    def _asked(self, url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The server's answer (without a body to GET); asked again while it is down or busy."""
        headers = {"Content-Type": "application/json"}
        if self.key_from is not None:
            headers["Authorization"] = f"Bearer {os.environ[self.key_from]}"
        request = urllib.request.Request(  # noqa: S310 - http and https alone, see __init__
            url, None if body is None else json.dumps(body).encode(), headers
        )
        why = ""
        for turn in range(self.tries):
            time.sleep(0 if turn == 0 else _WAIT_S * 2**turn)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:  # noqa: S310
                    return self._read(answer.read())
            except urllib.error.HTTPError as error:
                said = error.read().decode(errors="replace")[:_SHOWN]
                if error.code not in _BUSY:
                    raise TeacherError(
                        f"engine {url} refused what it was asked: {error.code} {said}; {self._advice(said)}"
                    ) from None
                why = f"{error.code} {said}"
            except TimeoutError as error:
                raise self._slow(url) from error
            except urllib.error.URLError as error:
                if isinstance(error.reason, TimeoutError):
                    raise self._slow(url) from error
                why = str(error.reason)
            except (http.client.HTTPException, ConnectionError) as error:
                why = f"{type(error).__name__} {error}"
        raise UnreachableError(
            f"engine {url} does not answer, asked {self.tries} times ({why}); start the server, or correct {self.key}.url"
        )

    def _advice(self, said: str) -> str:
        if "logprob" in said.lower():
            return f"start the server with --max-logprobs {self.k}, or lower {self.key}.k"
        return f"look at {self.key}.url and {self.key}.model, and at the server's own log"

    def _slow(self, url: str) -> TargetTimeoutError:
        return TargetTimeoutError(
            f"engine {url} had no answer within {self.timeout_s:g} s; raise {self.key}.timeout_s, or give it more time "
            f"for each by a lower {self.key}.requests"
        )

    def _malformed(self, what: str) -> TeacherError:
        return TeacherError(
            f"engine {self.url} answered what the protocol does not know: {what[:_SHOWN]}"
        )

    def _read(self, text: bytes) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except ValueError:
            raise self._malformed(text[:_SHOWN].decode(errors="replace")) from None
        if not isinstance(found, dict):
            raise self._malformed(str(found))
        return found


def _number(value: Any) -> float:
    """VLLM gives an object for each id, others the number itself."""
    return float(value["logprob"] if isinstance(value, Mapping) else value)
