"""What is known of every kind of model before its own settings."""

from __future__ import annotations

from typing import ClassVar, Literal

from raykd.config.base import Settings


class ModelSettings(Settings):
    """What is known of every kind of model; a kind says where it differs."""

    short_for: ClassVar[str] = ""
    """`type:value` is short for `{type: type, <this field>: value}`."""
    takes_texts: ClassVar[bool] = False
    """Whether inputs are the ids of a text's tokens."""
    takes_tokens: ClassVar[bool] = False
    """Whether inputs are sequences of tokens, and the answer is the token after each (`task: language`)."""
    may_take_texts: ClassVar[bool] = False
    """Whether inputs may be texts themselves, with `tokenizer: none`."""
    rows_apart: ClassVar[bool] = False
    """Whether what it says of a sample is known not to depend on the others of a batch."""
    made_of: ClassVar[Literal["weights", "content", "examples", "object", "engine"]] = "weights"
    """What is kept of it: weights, or, of what cannot be trained here, a file's content, an estimator's examples, an
    object of the user's process, or nothing of what lies behind an engine."""

    @property
    def has_own_weights(self) -> bool:
        """Whether it needs no others."""
        return self.made_of != "weights"

    @property
    def is_harmless(self) -> bool:
        """Whether it is built without running others' code, reading files or asking a hub."""
        return False
