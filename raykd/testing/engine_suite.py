"""What any engine is held to, a built-in one as well as one of your own: subclass, and run pytest.

    class TestMine(EngineSuite):
        text, ids = "größe 5", [4, 17, 9]  # how the model's own tokenizer cuts a text

        @pytest.fixture
        def engine(self):
            return build_engine("my_package.engines:Mine", path="wide.bin")

A small model will do; no Ray is needed.
"""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from raykd.errors import InputError, TeacherError
from raykd.teachers.engines import Engine, require_same_tokenizer, unit_offsets
from raykd.teachers.engines.protocol import Ragged, ragged
from raykd.top_k import log_prob_of, tempered
from raykd.types import TopK


class EngineSuite:
    """An engine scores and continues ids as the protocol says.

    Attributes:
        tolerance: how far log-probabilities may be apart that should be equal; servers compute in half precision,
            and in batches of whoever asks.
        seeded: a seed fixes what is drawn.
        text: one that its tokenizer cuts into `ids`; None where the engine has no tokenizer.
    """

    tolerance: ClassVar[float] = 1e-4
    seeded: ClassVar[bool] = True
    text: ClassVar[str | None] = None
    ids: ClassVar[list[int]] = []

    @pytest.fixture
    def engine(self) -> Engine:
        """The engine that is held to the protocol."""
        raise NotImplementedError("give the engine as the fixture `engine`")

    def rows(self, engine: Engine) -> list[list[int]]:
        """Rows of several lengths, an empty one and one of a single token among them."""
        generator = torch.Generator().manual_seed(0)
        lengths = (5, 0, 9, 1, 2, 40)
        return [
            torch.randint(0, engine.vocabulary, (length,), generator=generator).tolist()
            for length in lengths
        ]

    @pytest.fixture
    def asked(self, engine: Engine) -> Ragged:
        """These rows as ids and offsets."""
        return ragged(self.rows(engine))

    def test_a_unit_for_every_token_but_the_first(self, engine: Engine, asked: Ragged) -> None:
        """Empty rows and single tokens have none."""
        answer = engine.score(*asked)
        assert unit_offsets(asked[1]).tolist() == [0, 4, 4, 12, 12, 13, 52]
        assert answer.offsets is not None
        assert torch.equal(answer.offsets, unit_offsets(asked[1]))
        assert len(answer.ids_NK) == 52
        assert answer.valid_N.all()
        assert answer.classes == engine.vocabulary
        few: tuple[list[list[int]], ...] = ([], [[]], [[0]])
        for rows in few:
            nothing = engine.score(*ragged(rows))
            assert nothing.ids_NK.shape == (0, answer.ids_NK.shape[1])

    def test_probabilities_are_some(self, engine: Engine, asked: Ragged) -> None:
        """Each class once, the likeliest first, and with the others they sum to 1."""
        answer = engine.score(*asked)
        real_NK = answer.log_probs_NK > -torch.inf
        assert real_NK[:, 0].all()
        assert (answer.log_probs_NK <= 0).all()
        assert (answer.log_probs_NK[:, 1:] <= answer.log_probs_NK[:, :-1]).all()
        assert ((answer.ids_NK >= 0) & (answer.ids_NK < engine.vocabulary)).all()
        for ids, real in zip(answer.ids_NK, real_NK, strict=True):
            assert len(set(ids[real].tolist())) == int(real.sum())
        few = tempered(answer)
        total_N = few.log_probs_NK.exp().sum(1)
        if few.log_tail_N is not None:
            total_N += few.log_tail_N.exp()
        assert (total_N - 1).abs().max() < 1e-4

    def test_a_row_does_not_depend_on_the_others(self, engine: Engine, asked: Ragged) -> None:
        """Scored alone, and in another order, it is answered alike."""
        whole, own = engine.score(*asked), unit_offsets(asked[1])
        rows = self.rows(engine)
        for place, row in enumerate(rows):
            self.require_close(engine.score(*ragged([row])), whole, int(own[place]))
        self.require_close(engine.score(*ragged(rows[::-1])), engine.score(*ragged(rows[::-1])), 0)

    def test_nothing_looks_ahead(self, engine: Engine, asked: Ragged) -> None:
        """The first units of a row are those of its beginning."""
        rows = self.rows(engine)
        whole, own = engine.score(*asked), unit_offsets(asked[1])
        self.require_close(engine.score(*ragged([rows[2][:4]])), whole, int(own[2]))

    def require_close(self, some: TopK, whole: TopK, start: int) -> None:
        """An answer equals a part of another, up to the order of what is equally likely."""
        rows = slice(start, start + len(some.ids_NK))
        part = TopK(
            classes=whole.classes,
            ids_NK=whole.ids_NK[rows],
            log_probs_NK=whole.log_probs_NK[rows],
            tail=whole.tail and {t: one[rows] for t, one in whole.tail.items()},
            valid_N=whole.valid_N[rows],
        )
        torch.testing.assert_close(
            some.log_probs_NK, part.log_probs_NK, rtol=0, atol=self.tolerance
        )
        for place in range(some.ids_NK.shape[1]):
            one, other = (
                log_prob_of(tempered(answer), some.ids_NK[:, place]) for answer in (some, part)
            )
            sure = part.log_probs_NK[:, place] > part.log_probs_NK[:, -1] + self.tolerance
            torch.testing.assert_close(one[sure], other[sure], rtol=0, atol=self.tolerance)

    def test_continuations_are_ids_of_the_vocabulary(self, engine: Engine) -> None:
        """As many as asked for, none empty and none longer."""
        ids, offsets = engine.generate(torch.tensor([1, 0, 1]), 3, 6, 7)
        lengths = offsets.diff()
        assert len(lengths) == 3
        assert lengths.min() >= 1
        assert lengths.max() <= 6
        assert offsets[0] == 0
        assert offsets[-1] == len(ids)
        assert ((ids >= 0) & (ids < engine.vocabulary)).all()
        assert engine.score(ids, offsets).valid_N.all(), "what it says it can score"

    def test_a_seed_fixes_what_is_drawn(self, engine: Engine) -> None:
        """The same one the same, another one something else; PyTorch's own state is left alone."""
        prompt = torch.tensor([1, 0, 1])
        before = torch.random.get_rng_state()
        one, same, other = (engine.generate(prompt, 4, 12, seed) for seed in (1, 1, 2))
        assert torch.equal(before, torch.random.get_rng_state())
        if self.seeded:
            assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
        assert not (one[0].shape == other[0].shape and torch.equal(one[0], other[0]))

    @pytest.mark.parametrize("wrong", ["more", "negative"])
    def test_ids_of_another_vocabulary_are_refused(self, engine: Engine, wrong: str) -> None:
        """Before anything is asked, and with the vocabulary's size."""
        ids = torch.tensor([0, engine.vocabulary if wrong == "more" else -1, 1])
        with pytest.raises(TeacherError, match=f"ids 0 to {engine.vocabulary - 1}"):
            engine.score(ids, torch.tensor([0, 3]))
        with pytest.raises(TeacherError, match=f"ids 0 to {engine.vocabulary - 1}"):
            engine.generate(ids, 1, 2, 0)

    @pytest.mark.parametrize("offsets", [[0, 2], [1, 3], [0, 4], [0, 2, 1, 3], []])
    def test_offsets_that_cut_no_rows_are_refused(self, engine: Engine, offsets: list[int]) -> None:
        """They rise from 0 to the number of ids."""
        with pytest.raises(ValueError, match="offsets must rise from 0"):
            engine.score(torch.tensor([0, 1, 0]), torch.tensor(offsets, dtype=torch.int64))

    def test_what_cannot_be_continued_is_refused(self, engine: Engine) -> None:
        """An empty prompt, no continuation, none of any length."""
        for ids, n, max_new in (([], 1, 1), ([0], 0, 1), ([0], 1, 0)):
            with pytest.raises(ValueError, match="at least 1"):
                engine.generate(torch.tensor(ids, dtype=torch.int64), n, max_new, 0)

    def test_another_tokenizer_is_refused(self, engine: Engine) -> None:
        """It is known by how it cuts a text."""
        if self.text is None:
            with pytest.raises(TeacherError):
                engine.tokenize("a")
            return
        assert engine.tokenize(self.text) == self.ids
        require_same_tokenizer(engine, lambda _: self.ids, [self.text], key="engine")
        with pytest.raises(InputError, match="has another tokenizer"):
            require_same_tokenizer(engine, lambda _: [*self.ids, 0], [self.text], key="engine")
