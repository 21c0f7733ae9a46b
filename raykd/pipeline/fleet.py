"""A recipe's teachers on Ray, to be asked directly: `raykd.teachers.Fleet`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from raykd.config import Config
from raykd.data.steps import as_shown
from raykd.data.texts import encode_texts
from raykd.errors import InputError, Problem, refuse
from raykd.pipeline.fits import known_weights
from raykd.pipeline.given import Recipe, given_recipe
from raykd.pipeline.loading import Listen
from raykd.pipeline.placement import make_placement
from raykd.pipeline.preparation import prepare
from raykd.runtime import connect, put
from raykd.teachers.pool import ActorFleet
from raykd.tracking import Event
from raykd.types import TeacherOutputs


class Fleet:
    """The actors of a recipe's teachers, started by the call; `close` or the end of a `with` ends them.

    Failures are handled as in a run: `cluster.teachers` says how long to wait for an answer, how often an actor is
    started again, and whether a lost teacher stops or answers validly for no row.

    Args:
        config: the recipe; its data and teachers may be objects of this process; teachers with `fit` were fitted by a
            run of it before.
        address: of a Ray cluster; None = the one at hand, or a local one until `close`.
        listen: hears of failures and of decoding.

    Attributes:
        config: the recipe, with what it leaves to data and models filled in: temperature, what labels do, optimizers.
        samples: the recipe's data, whose rows are asked about.
        teachers: names of the teachers, in the recipe's order.

    Raises:
        InputError: the recipe does not fit its data and models, a teacher is not fitted yet, or the cluster lacks
            what is asked for.
        TeacherError: a teacher cannot be started.
    """

    def __init__(
        self, config: Recipe, *, address: str | None = None, listen: Listen | None = None
    ) -> None:
        with given_recipe(config) as recipe:
            self._start(recipe, address, listen)

    def _start(self, config: Config, address: str | None, listen: Listen | None) -> None:
        prepared = prepare(config, address=address, listen=listen)
        self.config, self.samples = prepared.config, prepared.samples
        self.teachers = tuple(prepared.teachers)
        weights = known_weights(prepared)
        if missing := [name for name in prepared.teachers if name not in weights]:
            raise InputError(
                [Problem(f"teachers.{name}.fit", "is not fitted yet; `raykd teachers RECIPE` does it")
                 for name in missing]
            )  # fmt: skip
        refuse(
            Problem(f"teachers.{name}.model", one.engine.unreachable)
            for name, one in prepared.teachers.items()
            if one.engine is not None and one.engine.unreachable is not None
        )
        with ExitStack() as stack:
            resources = stack.enter_context(connect(address))
            self._actors = stack.enter_context(
                ActorFleet(
                    prepared.specs(weights),
                    make_placement(config, resources).teachers,
                    put(self.samples),
                    config.cluster.teachers,
                    listen or _ignore,
                )
            )
            self._close: Callable[[], None] = stack.pop_all().close

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors, and the cluster if it was started for them."""
        self._close()

    def score(self, rows: np.ndarray, view: int | np.ndarray) -> TeacherOutputs:
        """What every teacher says of samples of the recipe.

        Args:
            rows: int64 [B], of `samples`.
            view: number of the view of all, or one for each [B]; −1 is the untransformed sample.

        Returns:
            teacher -> its answer in float32: logits [B, C] over the data's classes (values [B, 1], label logits
            [B, K], embeddings [B, D]), which rows are valid, tapped features.

        Raises:
            TeacherError: a teacher is lost and the policy is to stop, or all are.
        """
        return self._actors.score(np.asarray(rows, np.int64), view)

    def score_inputs(self, inputs: Any) -> TeacherOutputs:
        """What every teacher says of samples of no data set; see `score`.

        Args:
            inputs: array or tensor [B, ...] in source space (before any teacher's preprocessing) as the recipe's
                samples are: uint8 is 0..255, texts are strings or what `raykd.data.encode_texts` makes of them; or
                name -> array.

        Raises:
            ValueError: other names or shapes than those of the recipe's samples, none, or NaN.
            TeacherError: as `score`, or a teacher has recorded outputs and no model.
        """
        known = self.samples.inputs
        given = dict(inputs) if isinstance(inputs, Mapping) else {next(iter(known)): inputs}
        if given.keys() != known.keys():
            raise ValueError(f"found inputs {', '.join(given)}; needs {', '.join(known)}")
        arrays = {name: self._array(value) for name, value in given.items()}
        for name, array in arrays.items():
            sides = known[name].shape[1:]
            if array.shape[1:] != sides or not len(array):
                raise ValueError(
                    f"{name}: found {list(array.shape)}; needs [B, {str(list(sides))[1:]}"
                )
            wrong = np.isinf(array) if self.samples.has_gaps_or_words else ~np.isfinite(array)
            if array.dtype.kind not in "uif" or wrong.any():
                raise ValueError(f"{name}: found {array.dtype} or NaN; needs finite numbers")
        return self._actors.score_inputs(as_shown(arrays))

    def _array(self, values: Any) -> np.ndarray:
        if self.samples.is_text and isinstance(values[0], str):
            return encode_texts(values, *self.samples.input_shape)
        return np.asarray(values)


def _ignore(event: Event) -> None:
    """Nobody listens."""
