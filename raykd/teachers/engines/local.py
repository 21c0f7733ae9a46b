"""A causal model of transformers in this process.

Shape suffixes: B rows, L length, V vocabulary, K classes kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from raykd.errors import InputError, NonFiniteError, TeacherError
from raykd.importing import load_package
from raykd.models.names import nearest
from raykd.models.weights import fingerprint
from raykd.models.zoo.hubs import from_hub
from raykd.teachers.engines.protocol import (
    Ragged,
    ragged,
    require_ids,
    require_prompt,
    rows_of,
    unit_offsets,
)
from raykd.top_k import take
from raykd.types import TopK, on_units

_HF = "raykd[hf]"
_STEP = 32
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TransformersEngine:
    """Scores and continues with `AutoModelForCausalLM`.

    Rows are scored `batch_size` at a time in shapes that follow from their own lengths alone (the next multiple
    of 32, filled behind their end), so that an answer has the same bits whatever else was asked for.
    """

    def __init__(
        self,
        model: str,
        *,
        k: int = 64,
        mass: float | None = None,
        temperatures: Sequence[float] = (),
        device: str = "cpu",
        dtype: str = "float32",
        batch_size: int = 4,
        key: str = "engine",
    ) -> None:
        """A model that is loaded from a folder, or from the hub.

        Args:
            model: folder with config.json and weights, or a name on the hub; code that it brings is never run.
            k: classes kept of each answer.
            mass: of them only as few as have this probability, see `raykd.top_k.take`.
            temperatures: at which answers will be used, beside 1.
            device: where it runs.
            dtype: float32, bfloat16 or float16.
            batch_size: rows of one forward pass.
            key: dotted key of the recipe, for errors.

        Raises:
            InputError: transformers is not installed, the model cannot be loaded, or a setting is out of range.
        """
        if dtype not in _DTYPES:
            known = tuple(_DTYPES)
            raise InputError.at(
                f"{key}.dtype",
                f"knows no {dtype!r}{nearest(dtype, known)}; there are {', '.join(known)}",
            )
        if k < 1 or batch_size < 1:
            raise InputError.at(
                key, f"found k {k} and batch_size {batch_size}; both are at least 1"
            )
        loaded = from_hub(model, "causal", key=f"{key}.model", dtype=_DTYPES[dtype])
        self._transformers = load_package("transformers", install=_HF, key=key)
        self.name, self._source = model, str(loaded.config.name_or_path or model)
        self._take = partial(take, size=k, mass=mass, temperatures=tuple(temperatures))
        self._batch_size = batch_size
        self._device = torch.device(device)
        self._model: Any = loaded.to(self._device).eval().requires_grad_(False)
        self._tokenizer: Any = None

    @property
    def vocabulary(self) -> int:
        """Rows of the model's last layer."""
        return int(self._model.config.get_text_config().vocab_size)

    def describe(self) -> Mapping[str, Any]:
        """See `raykd.teachers.engines.described`: its weights, and what decides its answers beside them."""
        return {"weights": fingerprint(self._model.state_dict()), "dtype": str(self._model.dtype)}

    @torch.inference_mode()
    def score(self, ids: Tensor, offsets: Tensor) -> TopK:
        """See `Engine`. Answers lie on the processor.

        Raises:
            TeacherError: ids out of range, rows longer than the model allows, or answers that are no numbers.
        """
        require_ids(ids, self.vocabulary, engine=self.name)
        rows = rows_of(ids, offsets)
        self._require_short(max(map(len, rows), default=0))
        of_no_unit = self._take(torch.zeros(0, self.vocabulary))
        found: dict[int, TopK] = {}
        by_length: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            if len(row) > 1:
                by_length.setdefault(-(-len(row) // _STEP) * _STEP, []).append(place)
        for length, places in sorted(by_length.items()):
            for start in range(0, len(places), self._batch_size):
                some = places[start : start + self._batch_size]
                found.update(zip(some, self._scored([rows[p] for p in some], length), strict=True))
        whole = joined([of_no_unit, *(found[place] for place in sorted(found))])
        return replace(whole, offsets=unit_offsets(offsets))

    def _scored(self, rows: Sequence[Tensor], length: int) -> list[TopK]:
        limit = self._most()
        ids_BL = torch.zeros(self._batch_size, min(length, limit or length), dtype=torch.int64)
        mask_BL = torch.zeros_like(ids_BL)
        mask_BL[:, 0] = 1  # rows that only fill the shape attend to something
        for place, row in enumerate(rows):
            ids_BL[place, : len(row)], mask_BL[place, : len(row)] = row, 1
        logits_BLV = self._model(
            input_ids=ids_BL.to(self._device),
            attention_mask=mask_BL.to(self._device),
            use_cache=False,
        ).logits
        answers = []
        for row, logits_LV in zip(rows, logits_BLV, strict=False):
            own = logits_LV[: len(row) - 1]
            if not bool(own.isfinite().all()):
                raise NonFiniteError(f"engine {self.name} answered NaN or infinity")
            answers.append(on_units(self._take(own), Tensor.cpu))
        return answers

    @torch.inference_mode()
    def generate(self, ids: Tensor, n: int, max_new: int, seed: int) -> Ragged:
        """See `Engine`; PyTorch's own random numbers are left as they were.

        Raises:
            TeacherError: ids out of range, or a prompt that leaves no room.
        """
        require_prompt(ids, n, max_new)
        require_ids(ids, self.vocabulary, engine=self.name)
        self._require_short(len(ids) + max_new)
        ends = self._model.generation_config.eos_token_id
        ends = set() if ends is None else set(ends if isinstance(ends, list) else [ends])
        settings = self._transformers.GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=max_new,
            eos_token_id=sorted(ends) or None, pad_token_id=min(ends, default=0),
        )  # fmt: skip
        prompt_BL = ids.to(self._device).expand(n, -1)
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            whole_BL = self._model.generate(
                input_ids=prompt_BL,
                attention_mask=torch.ones_like(prompt_BL),
                generation_config=settings,
            )
        return ragged([_ended(row, ends) for row in whole_BL[:, len(ids) :].tolist()])

    def tokenize(self, text: str) -> list[int]:
        """See `Engine`.

        Raises:
            TeacherError: the folder has no tokenizer.
        """
        try:
            if self._tokenizer is None:
                self._tokenizer = self._transformers.AutoTokenizer.from_pretrained(
                    self._source, trust_remote_code=False
                )
            ids = list(map(int, self._tokenizer(text, add_special_tokens=False)["input_ids"]))
        except Exception as error:
            raise self._no_tokenizer(_short(error)) from error
        if text.strip() and not ids:  # transformers makes one without any words where there is none
            raise self._no_tokenizer(f"{text[:20]!r} is cut into nothing")
        return ids

    def _no_tokenizer(self, why: str) -> TeacherError:
        return TeacherError(
            f"engine {self.name} has no tokenizer that can be loaded ({why}); put tokenizer.json beside its config.json"
        )

    def _most(self) -> int | None:
        found = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        return None if found is None else int(found)

    def _require_short(self, length: int) -> None:
        limit = self._most()
        if limit is not None and length > limit:
            raise TeacherError(
                f"engine {self.name} takes at most {limit} tokens in a row, found {length}; cut the texts shorter"
            )


def _ended(row: Sequence[int], ends: set[int]) -> list[int]:
    """Up to the first token that ends a text, itself included."""
    last = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
    return list(row[: last + 1])


def joined(parts: Sequence[TopK]) -> TopK:
    """Answers after each other; all of the same K, V and temperatures."""
    first = parts[0]
    tail = None
    if first.tail is not None:
        tail = {t: torch.cat([(part.tail or {})[t] for part in parts]) for t in first.tail}
    return TopK(
        classes=first.classes,
        ids_NK=torch.cat([part.ids_NK for part in parts]),
        log_probs_NK=torch.cat([part.log_probs_NK for part in parts]),
        tail=tail,
        valid_N=torch.cat([part.valid_N for part in parts]),
    )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
