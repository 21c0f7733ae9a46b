"""Weights of the feature terms that are learnt with the student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from raykd.objective.terms import Term


class UncertaintyWeighting(nn.Module):
    """½·e^(−s_f)·L_f + ½·s_f of each feature term f, with a trained s_f, its log-variance; from s_f = 0.

    Kendall, Gal and Cipolla 2018 (arXiv:1705.07115), Sec. 3.2, with the factor ½ of terms that are like a regression. At
    s_f = log L_f, where s_f goes, the student's gradient is that of ½·log L_f: terms of any scale pull alike. As
    parameters of one dimension they get no weight decay.

    Args:
        terms: how many there are.
    """

    def __init__(self, terms: int) -> None:
        super().__init__()
        self.log_variance_F = nn.Parameter(torch.zeros(terms))

    def forward(self, terms: Mapping[str, Term]) -> dict[str, Term]:
        """The terms, in their order, each weighted by its own variance for every unit; their own weights stay."""
        return {
            name: replace(term, loss_N=0.5 * torch.exp(-s) * term.loss_N + 0.5 * s)
            for (name, term), s in zip(terms.items(), self.log_variance_F, strict=True)
        }
