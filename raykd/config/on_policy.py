"""`objective.on_policy:` texts that the student writes itself, for the teachers to judge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from raykd.config.base import Count, Natural, Positive, Settings, Unit
from raykd.config.data import Tokens
from raykd.config.schedules import ever_active
from raykd.errors import Problem

if TYPE_CHECKING:
    from raykd.config.root import Config

_KEY = "objective.on_policy"
_PART = 4
"""A prompt is this part of a chunk where a recipe says nothing."""
_LEAST_LENGTH = 2


class OnPolicy(Settings):
    """A part of each batch are texts that the student has written itself (GKD, Agarwal et al. 2024, Algorithm 1).

    At the beginning of each round the student, as it is then, continues prompts of the training part; the teachers score
    what it wrote, once, and the batches of the round are drawn from that. The number of updates stays the same. What the
    student wrote is no label: only the soft targets learn from it.
    """

    share: Unit = 0.5
    """λ: the part of each batch that the student has written; 0 is the same as null."""
    every: Count = 1
    """Epochs of a round: the student writes anew so often, and what it wrote is shown again until then."""
    from_epoch: Natural = 0
    """Epochs before the first round, in which all texts are the pool's: what an untrained student writes teaches little."""
    sequences: Count | None = None
    """Texts of a round; null = as many as one epoch shows, λ of the training chunks."""
    prompt: Count | None = None
    """Tokens at the beginning of a training chunk that the student goes on from, or those that the source gives as its
    prompt, if they are more; null = a quarter of `data.tokens.length`."""
    tokens: Count | None = None
    """Tokens that it writes; null = up to `data.tokens.length`."""
    temperature: Positive = 1.0
    """At which it draws them; no token is cut off."""

    def prompt_of(self, length: int) -> int:
        """Tokens of a prompt where chunks have so many."""
        return self.prompt or max(1, length // _PART)

    def written_of(self, length: int) -> int:
        """Tokens of a prompt and of what is written after it, where chunks have so many."""
        room = length if self.tokens is None else self.prompt_of(length) + self.tokens
        return min(length, room)

    def of_batch(self, size: int) -> int:
        """How many of the texts of a batch the student has written."""
        return int(self.share * size + 0.5)

    def of_epoch(self, samples: int, batch_size: int) -> int:
        """How many texts of its own an epoch of so many samples shows."""
        whole, rest = divmod(samples, batch_size)
        return whole * self.of_batch(batch_size) + self.of_batch(rest)

    def round_of(self, epoch: int) -> int | None:
        """The round that an epoch is of; None before the first one."""
        return None if epoch < self.from_epoch else (epoch - self.from_epoch) // self.every

    def begins(self, number: int) -> int:
        """The first epoch of a round."""
        return self.from_epoch + number * self.every

    def rounds(self, epochs: int) -> int:
        """Rounds of a training of so many epochs."""
        return max(0, -(-(epochs - self.from_epoch) // self.every))


def _none_of_nothing(given: OnPolicy | None) -> OnPolicy | None:
    return None if given is None or given.share == 0 else given


MaybeOnPolicy = Annotated[OnPolicy | None, AfterValidator(_none_of_nothing)]
"""λ = 0 is the recipe without it: the same settings, the same identity, the same bits."""


def on_policy_problems(config: Config, *, chunks: bool) -> Iterator[Problem]:
    """What leaves nothing to be written, nobody to judge it, or nothing that learns from it.

    Args:
        config: the recipe.
        chunks: whether the task's samples are chunks of tokens.
    """
    settings = config.objective.on_policy
    if settings is None:
        searched = () if config.search is None else config.search.parameters
        for key in (key for key in searched if key.startswith(_KEY)):
            yield Problem(
                f"search.parameters.{key}",
                f"is searched, but the recipe has no {_KEY}, so that no teacher stays beside the students; give it a "
                "share above 0 there (0 may be one of the values that are searched)",
            )
        return
    if not chunks:
        yield Problem(
            _KEY,
            f"found with `task: {config.task}`, whose samples have no beginning to go on from; it is for `task: language`: "
            "leave it out",
        )
        return
    soft = config.objective.soft_targets
    if soft is None or not ever_active(soft.strength):
        yield Problem(
            _KEY,
            "only soft targets learn from what the student writes, and there are none (objective.soft_targets); give them a "
            f"weight, or leave {_KEY} out",
        )
    yield from _lengths(config, settings)
    yield from _places(config)


def _lengths(config: Config, settings: OnPolicy) -> Iterator[Problem]:
    length = (config.data.tokens or Tokens()).length
    if length <= max(_LEAST_LENGTH, settings.prompt_of(length)):
        yield Problem(
            f"{_KEY}.prompt",
            f"is {settings.prompt_of(length)} tokens of data.tokens.length={length}, which leaves none to be written; lower "
            "the one or raise the other",
        )
    if settings.from_epoch >= config.train.epochs > 0:
        yield Problem(
            f"{_KEY}.from_epoch",
            f"found {settings.from_epoch}, but train.epochs is {config.train.epochs}: the student would write nothing; "
            f"lower it, or leave {_KEY} out",
        )
    if settings.of_batch(config.train.batch_size) == 0:
        yield Problem(
            f"{_KEY}.share",
            f"found {settings.share:g} of batches of {config.train.batch_size}: less than half a text; raise it or "
            "train.batch_size",
        )


def _places(config: Config) -> Iterator[Problem]:
    """Where it cannot be done."""
    if config.cluster.student.most > 1:
        yield Problem(
            "cluster.student.workers",
            f"found {config.cluster.student.most}; with {_KEY} one worker writes and learns: set it to 1 (fits may be "
            "trained side by side, with parallel_fits)",
        )
    if config.targets.mode == "write_through":
        yield Problem(
            "targets.mode",
            f"found write_through; with {_KEY} the teachers stay beside every student, not the first alone: use stored or "
            "live",
        )
