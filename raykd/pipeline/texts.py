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
    found: np.ndarray = rows[np.isin(samples.all_labels[rows], domain_numbers(samples, teacher))]
    if not len(found):
        where = f"teachers.{teacher.name}.domains"
        raise InputError.at(
            where, "no training text is of these; set labels: all, or raise data.tokens.pool"
        )
    return found


def domain_numbers(samples: Samples, teacher: Teacher) -> list[int]:
    """The numbers of a teacher's domains; none where it is for no domain in particular.

    Raises:
        InputError: a domain that the data does not have.
    """
    given = teacher.domains or ()
    for domain in given:
        if domain not in samples.classes:
            near = nearest(domain, samples.classes)
            raise InputError.at(
                f"teachers.{teacher.name}.domains",
                f"found {domain!r}; the data has {', '.join(samples.classes)}{near}",
            )
    return [samples.classes.index(domain) for domain in given]
