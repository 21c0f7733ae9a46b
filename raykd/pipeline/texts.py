"""Which text a teacher may see, and the counts of an n-gram model of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raykd.config.explanations import nearest
from raykd.config.models import NgramModel
from raykd.config.roles import Teacher
from raykd.data import Samples
from raykd.data.chunking import REST
from raykd.errors import InputError
from raykd.models.zoo.ngram import ngram_examples
from raykd.types import CHUNKS


def counted_text(teacher: Teacher, spec: NgramModel, samples: Samples) -> dict[str, Tensor]:
    """The counts of an n-gram model of the text that it may see."""
    assert samples.vocabulary is not None, "cross_check allows it for chunks of tokens alone"
    key = f"teachers.{teacher.name}.model.order"
    tokens_B2L = torch.from_numpy(samples.inputs[CHUNKS][teacher_rows(samples, teacher)])
    there_BL = tokens_B2L[:, 1] > 0
    end_B = torch.where(there_BL, torch.arange(1, tokens_B2L.shape[2] + 1), 0).amax(dim=1)
    try:
        return ngram_examples(spec, tokens_B2L[:, 0], end_B, vocabulary=samples.vocabulary.size)
    except ValueError as error:
        raise InputError.at(key, str(error)) from None


def teacher_rows(samples: Samples, teacher: Teacher) -> np.ndarray:
    """The samples whose labels a teacher is fitted on, sorted int64 rows.

    Raises:
        InputError: a domain that the data does not have, or of which there is no text.
    """
    rest = samples.splits.get(REST, np.empty(0, np.int64))
    rows = rest if teacher.labels == "rest" else samples.labelled_rows("train", teacher.labels)
    if teacher.domains is None:
        return rows
    numbers = domain_numbers(samples, teacher)
    assert samples.domains is not None, "`domain_numbers` has looked"
    found: np.ndarray = rows[np.isin(samples.domains.number_N[rows], numbers)]
    if not len(found):
        do = "set labels: all, or raise data.tokens.pool" if samples.is_tokens else "name others"
        raise InputError.at(
            f"teachers.{teacher.name}.domains", f"no training sample is of these; {do}"
        )
    return found


def domain_numbers(samples: Samples, teacher: Teacher) -> list[int]:
    """The numbers of a teacher's domains; none where it is for no domain in particular.

    Raises:
        InputError: a domain that the data does not have.
    """
    known = () if samples.domains is None else samples.domains.names
    for domain in teacher.domains or ():
        if domain not in known:
            has = (
                f"the data has {', '.join(known)}"
                if known
                else "of the data's samples nobody knows where they are from: its file needs an array `simulator`"
            )
            raise InputError.at(
                f"teachers.{teacher.name}.domains",
                f"found {domain!r}; {has}{nearest(domain, known)}",
            )
    return [known.index(domain) for domain in teacher.domains or ()]
