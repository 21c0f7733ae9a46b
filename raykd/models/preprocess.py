"""What a model does to a sample in source space before its first layer.

Shapes: B batch, C channels, H/W height and width, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from raykd.config.data import NoTokenizer, Preprocess
from raykd.errors import InputError, Problem, refuse
from raykd.models.encoding import FITTED_ROWS, TableEncoding, fit_encoding
from raykd.models.shapes import TokenShape
from raykd.models.tokens import AnyTokens, PlainTexts, describe_tokens, resolve_tokens, token_ids

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
CONSTANT = 1e-6
_NO_STATISTICS: Statistics = ((), ())


@dataclass(frozen=True)
class ChunkTokens:
    """The tokens that a language model is made for.

    Attributes:
        length: of a chunk, at most.
        size: how many tokens there are.
        tokenizer: its name: what made them.
        fingerprint: of the tokenizer: another one's ids mean other tokens.
        content: all that the tokenizer is made from; empty where its name says all.
    """

    length: int
    size: int
    tokenizer: str
    fingerprint: str
    content: str = ""


@dataclass(frozen=True)
class Preprocessing:
    """Crop, resize, channels, scale, normalise, in this order; of texts the ids of their tokens; each row on its own.

    A table's gaps are filled and its words encoded before all else.

    A row's result does not depend on the batch it is in, bit for bit. The default changes nothing.

    Attributes:
        crop: side of the central crop, in pixels; None keeps all.
        size: side after resizing (bilinear, antialiased), in pixels; None keeps the size.
        channels: 3 repeats one channel, 1 averages three; None keeps them.
        scale: multiplies the inputs before they are normalised.
        mean: one number per channel (the first dimension of a sample), or one for all; None = 0.
        std: likewise, positive; None = 1.
        tokens: of texts, which know none of the others.
        table: of tables with gaps or words.
        chunks: of chunks of tokens, which know none of the others.
    """

    crop: int | None = None
    size: int | None = None
    channels: int | None = None
    scale: float = 1.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    tokens: AnyTokens | None = None
    table: TableEncoding | None = None
    chunks: ChunkTokens | None = None

    @property
    def changes_nothing(self) -> bool:
        """Whether inputs come back as they are, their dtype included."""
        return self == Preprocessing()

    def __call__(self, x: Tensor, *, remember: bool = False) -> Tensor:
        """Preprocess a batch.

        Args:
            x: [B, C, H, W], [B, D] or, without crop, size and channels, [B, ...]; any real dtype. Texts are
                uint8 [B, L].
            remember: keep the ids of texts for the next time.

        Returns:
            float32 [B, *output_shape], of texts int64; `x` itself where there is nothing to do.
        """
        if self.tokens is not None:
            return token_ids(self.tokens, x, remember=remember)
        if self.changes_nothing or self.chunks is not None:
            return x
        if self.table is not None:
            x = self.table(x)
        # One memory layout, so that the resizing kernel does not depend on how a batch was made.
        out = self._resize(self._crop(x.to(torch.float32))).contiguous()
        if self.channels is not None and self.channels != out.shape[1]:
            out = (
                out.mean(dim=1, keepdim=True)
                if self.channels == 1
                else out.repeat(1, self.channels, 1, 1)
            )
        if self.scale != 1.0:
            out = out * self.scale
        if self.mean is not None:
            out = out - _per_channel(self.mean, out)
        if self.std is not None:
            out = out / _per_channel(self.std, out)
        return out

    def _crop(self, x: Tensor) -> Tensor:
        if self.crop is None:
            return x
        top, left = (x.shape[-2] - self.crop) // 2, (x.shape[-1] - self.crop) // 2
        return x[..., top : top + self.crop, left : left + self.crop]

    def _resize(self, x: Tensor) -> Tensor:
        if self.size is None or tuple(x.shape[-2:]) == (self.size, self.size):
            return x
        return F.interpolate(
            x.contiguous(), size=(self.size, self.size), mode="bilinear", antialias=True
        )

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a preprocessed sample of `input_shape`, both without the batch."""
        if self.tokens is not None:
            return TokenShape(self.tokens.length, self.tokens.size + 1, self.tokens.type)
        if self.chunks is not None:
            return TokenShape(self.chunks.length, self.chunks.size, "tokens")
        if self.table is not None:
            return (self.table.width,)
        side = self.size or self.crop
        if side is None and self.channels is None:
            return input_shape
        channels, height, width = input_shape
        return (self.channels or channels, side or height, side or width)

    def describe(self) -> dict[str, Any]:
        """All of it as JSON, for fingerprints and cards."""
        described = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in ("tokens", "table", "chunks")
        }
        if self.chunks is not None:
            known = asdict(self.chunks)
            del known["content"]  # which may be megabytes; the fingerprint is of it
            described["chunks"] = known
        if self.table is not None:
            described["table"] = asdict(self.table)
        if self.tokens is not None:
            described["tokens"] = describe_tokens(self.tokens)
        return described


IDENTITY = Preprocessing()


def _per_channel(values: tuple[float, ...], x: Tensor) -> Tensor:
    column = torch.tensor(values, dtype=torch.float32, device=x.device)
    return column.view(-1, *([1] * (x.dim() - 2)))


class Tokens(Protocol):
    """What is asked of the tokens of chunks; `raykd.data.chunks.Vocabulary` is one."""

    @property
    def length(self) -> int:
        """Of a chunk, at most."""
        ...

    @property
    def size(self) -> int:
        """How many different ones there are."""
        ...

    @property
    def name(self) -> str:
        """Of the tokenizer."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the tokenizer."""
        ...

    @property
    def content(self) -> str:
        """All that the tokenizer is made from."""
        ...


class Source(Protocol):
    """What is asked of samples; `raykd.data.Samples` is one."""

    @property
    def is_text(self) -> bool:
        """Whether samples are texts."""
        ...

    @property
    def vocabulary(self) -> Tokens | None:
        """Of chunks of tokens what these are."""
        ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample of the single input."""
        ...

    @property
    def view_shape(self) -> tuple[int, ...]:
        """Shape of a view of one."""
        ...

    def statistics(self) -> Statistics:
        """Means and deviations of the training samples."""
        ...

    def training_texts(self) -> Iterator[str]:
        """The texts of the training part."""
        ...

    @property
    def is_table(self) -> bool:
        """Whether samples are vectors of floats, in which NaN is a gap."""
        ...

    @property
    def has_gaps_or_words(self) -> bool:
        """Whether samples are rows of a table that each model has to make numbers of."""
        ...

    @property
    def word_columns(self) -> Mapping[int, tuple[str, ...]]:
        """Of a table the columns of words, and what their codes stand for."""
        ...

    def training_rows(self, most: int) -> np.ndarray:
        """Training samples of the single input, at most so many, evenly spaced over all of them."""
        ...


def preprocessing_for(settings: Preprocess, samples: Source, *, key: str) -> Preprocessing:
    """Preprocessing with everything that the samples decide.

    Args:
        settings: `preprocess:` of a model.
        samples: what it will see.
        key: dotted key of the settings (`student.preprocess`), for errors.

    Raises:
        InputError: as `resolve`; settings of numbers for texts, or the other way round; no such tokenizer.
    """
    if samples.vocabulary is not None:
        given = (
            name
            for name, field in Preprocess.model_fields.items()
            if getattr(settings, name) != field.default
        )
        refuse(
            Problem(
                f"{key}.{name}", "the samples are chunks of tokens, made by data.tokens: remove it"
            )
            for name in given
        )
        known = samples.vocabulary
        return Preprocessing(
            chunks=ChunkTokens(
                known.length, known.size, known.name, known.fingerprint, known.content
            )
        )
    if not samples.is_text:
        if settings.tokenizer is not None:
            found = f"is for texts; a sample here is {list(samples.input_shape)}"
            raise InputError.at(f"{key}.tokenizer", f"{found}: remove it")
        refuse(_table_problems(settings, samples, key))
        if samples.has_gaps_or_words or _changed(settings):
            return _of_table(settings, samples, key)
        # They read every training sample: only where they are needed.
        statistics = samples.statistics() if settings.normalize == "auto" else _NO_STATISTICS
        resolved = resolve(settings, statistics, input_shape=samples.input_shape, key=key)
        _check_views(resolved, samples, key)
        return resolved
    refuse(
        Problem(f"{key}.{name}", "is for numbers; the samples are texts: remove it")
        for name, field in Preprocess.model_fields.items()
        if name != "tokenizer" and getattr(settings, name) not in (field.default, "none")
    )
    if isinstance(settings.tokenizer, NoTokenizer):
        return Preprocessing(tokens=PlainTexts("none", *samples.input_shape))
    tokens = resolve_tokens(settings.tokenizer, samples.training_texts, key=f"{key}.tokenizer")
    return Preprocessing(tokens=tokens)


def _check_views(preprocessing: Preprocessing, samples: Source, key: str) -> None:
    """A model takes samples and views of them alike, of whatever sizes these are."""
    own, views = samples.input_shape, samples.view_shape
    same = preprocessing.output_shape(own) == preprocessing.output_shape(views)
    if own != views and not (same and (preprocessing.crop or 0) <= min(views[1:])):
        raise InputError.at(
            f"{key}.size",
            f"views are {views[1]}×{views[2]} pixels (data.views.policy), samples {own[1]}×{own[2]}: set size, or crop to "
            f"at most {min(*own[1:], *views[1:])}, so that the model takes both, or leave the step's own size out",
        )


def _table_problems(settings: Preprocess, samples: Source, key: str) -> Iterator[Problem]:
    """Settings of tables for what is none."""
    for name in ("impute", "categories"):
        if not samples.is_table and name in _changed(settings):
            found = f"is for tables; a sample here is {list(samples.input_shape)}: remove it"
            yield Problem(f"{key}.{name}", found)


def _changed(settings: Preprocess) -> list[str]:
    """Settings of tables that are not at their default."""
    fields = Preprocess.model_fields
    return [n for n in ("impute", "categories") if getattr(settings, n) != fields[n].default]


def _of_table(settings: Preprocess, samples: Source, key: str) -> Preprocessing:
    values_ND = samples.training_rows(FITTED_ROWS)
    encoding = fit_encoding(settings, values_ND, samples.word_columns)
    if not encoding.width:
        raise InputError.at(
            f"{key}.categories", "is null, but all columns are of words: nothing is left; remove it"
        )
    statistics = _amounts(encoding, values_ND)
    shape = (encoding.width,)
    return replace(resolve(settings, statistics, input_shape=shape, key=key), table=encoding)


def _amounts(encoding: TableEncoding, values_ND: np.ndarray) -> Statistics:
    """Means and deviations of the amounts among the columns of the result; 0 and 1 of all others."""
    amount_M = np.array(encoding.is_amount)
    means_M, stds_M = np.zeros(len(amount_M)), np.ones(len(amount_M))
    if not amount_M.any():
        return tuple(means_M.tolist()), tuple(stds_M.tolist())
    ordinals = tuple(one for one in encoding.words if one.type == "ordinal")
    amounts = TableEncoding(encoding.numbers, encoding.fill, (), ordinals)
    values = np.ma.masked_invalid(amounts(torch.from_numpy(values_ND)).numpy().astype(np.float64))
    means_M[amount_M] = values.mean(axis=0).filled(0.0)
    spread = values.std(axis=0).filled(1.0)
    stds_M[amount_M] = np.where(spread > 0, spread, 1.0)
    return tuple(means_M.tolist()), tuple(stds_M.tolist())


def resolve(
    settings: Preprocess,
    statistics: Statistics,
    *,
    input_shape: tuple[int, ...],
    key: str,
) -> Preprocessing:
    """Preprocessing with concrete numbers.

    `normalize: auto` takes the data's statistics, times `scale`. One channel repeated keeps its
    statistics; of three channels averaged, mean and standard deviation are averaged (exact where the
    channels rise and fall together, an upper bound of the deviation otherwise). A channel that is
    constant in the data (deviation below 10⁻⁶ of its mean) is only centred: its deviation is taken as 1
    in source units, since dividing by almost nothing would blow up the first sample that differs.

    Args:
        settings: `preprocess:` of a model.
        statistics: (means, deviations) of the training samples, per source channel (the first dimension
            of a sample) or one for all.
        input_shape: of one sample in source space, without the batch.
        key: dotted key of the settings (`student.preprocess`), for errors.

    Raises:
        InputError: crop, size or channels on something that is no image; a crop larger than the image;
            channels that cannot be converted; means and deviations that do not fit, or are not positive.
    """
    refuse(_geometry_problems(settings, input_shape, key))
    source = input_shape[0]
    target = settings.channels or source
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    if settings.normalize == "auto":
        _check_statistics(statistics, (1, source), f"{key}.normalize", "the data")
        mean, std = _adapted(statistics, source, target, settings.scale)
    elif settings.normalize != "none":
        lengths = (target,) if len(input_shape) == 3 else (1, target)
        _check_statistics(settings.normalize, lengths, f"{key}.normalize", "normalize")
        if min(settings.normalize[1]) <= 0:
            raise InputError.at(f"{key}.normalize", "every standard deviation must be above 0")
        mean, std = settings.normalize
    return Preprocessing(
        crop=settings.crop,
        size=settings.size,
        channels=settings.channels if target != source else None,
        scale=settings.scale,
        mean=mean,
        std=std,
    )


def _geometry_problems(
    settings: Preprocess, input_shape: tuple[int, ...], key: str
) -> Iterator[Problem]:
    if settings.scale == 0:
        yield Problem(f"{key}.scale", "is 0, which erases the inputs; use 1 to keep them")
    if len(input_shape) != 3:
        for name in ("crop", "size", "channels"):
            if getattr(settings, name) is not None:
                grey = " (grey images [H, W]: add a channel axis)" if len(input_shape) == 2 else ""
                found = f"is for images [C, H, W]; a sample here is {list(input_shape)}{grey}"
                yield Problem(f"{key}.{name}", found)
        return
    channels, height, width = input_shape
    if settings.crop is not None and settings.crop > min(height, width):
        found = f"is {settings.crop}, larger than the images of {height}×{width} pixels"
        yield Problem(f"{key}.crop", found)
    if settings.channels not in (None, channels) and channels not in (1, 3):
        found = f"cannot make {settings.channels} of {channels} channels; only 1 to 3 and 3 to 1"
        yield Problem(f"{key}.channels", found)


def _check_statistics(
    statistics: Statistics, lengths: tuple[int, ...], key: str, owner: str
) -> None:
    found = (len(statistics[0]), len(statistics[1]))
    if found[0] != found[1] or found[0] not in lengths:
        needed = " or ".join(str(length) for length in dict.fromkeys(lengths))
        raise InputError.at(
            key,
            f"{owner} has {found[0]} means and {found[1]} standard deviations; "
            f"{needed} of each needed, one per channel",
        )
    if not all(math.isfinite(value) for values in statistics for value in values):
        raise InputError.at(key, f"{owner} has means or deviations that are not finite")


def _adapted(
    statistics: Statistics, source: int, target: int, scale: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The data's statistics for `target` channels, after scaling; constant channels get deviation 1."""
    means, stds = statistics
    if target < source:
        means, stds = ((sum(values) / len(values),) for values in (means, stds))
    elif target > source:
        means, stds = means * target, stds * target
    pairs = zip(means, stds, strict=True)
    floored = (1.0 if std <= CONSTANT * abs(mean) else std for mean, std in pairs)
    return tuple(mean * scale for mean in means), tuple(std * scale for std in floored)
