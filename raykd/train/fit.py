"""What one fit is: a frozen description that travels to whoever trains it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from raykd.config.models import Model
from raykd.config.objective import Objective
from raykd.config.peers import Codistillation, Peers
from raykd.config.scales import Scaled
from raykd.config.training import Training
from raykd.data import Samples
from raykd.data.chunks import DOMAIN
from raykd.losses.heads import Head
from raykd.models import build_model
from raykd.models.causal import linear_head
from raykd.models.frozen import freeze
from raykd.models.network import Network
from raykd.models.preprocess import Preprocessing
from raykd.models.scales import TokenScale
from raykd.models.weights import apply_weights, fingerprint
from raykd.objective import DistillObjective, TeacherInfo
from raykd.objective.features import Shape
from raykd.objective.rule import OUTPUT
from raykd.seeding import derive
from raykd.tasks import find_task
from raykd.train.plan import Plan
from raykd.train.step import DistillModule

CODE_VERSION = 2
"""Raise it when a change to the loop changes the numbers."""
_EARLIER_VERSIONS = (1,)
"""Of which what is kept still serves: 1 differs by rounding alone, in steps that are settled. So does what was kept
before a fit's threads were part of its identity."""
PEERS = "/peers/"
"""In ids of fits: what follows is the number of a peer that was trained apart, or beside the student."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Fit:
    """One training of one model.

    Attributes:
        fit_id: `student/replica0`, `labels/replica3`, `teacher/wide`.
        stage: which stage of the run it belongs to.
        key: dotted key of the recipe that describes the model, for errors.
        model: the network.
        preprocessing: what it does to a sample first.
        weights: initial weights, or None for fresh ones.
        objective: what it is taught.
        teacher_infos: the teachers it listens to.
        student_shapes, teacher_shapes: shapes of the tapped features, and of what each teacher puts out.
        training: optimizer, schedule, epochs.
        plan: which rows each step trains on.
        seed: initialisation and dropout.
        labels: which labels it may see.
        freeze: module paths that stay as loaded.
        lr_factors: module path -> factor on the learning rate.
        data: fingerprint of the samples, labels and splits.
        teachers: name -> fingerprint of each teacher it listens to.
        facts: what the task's rule measured of the teachers on validation, by name.
        heads: teacher -> its last linear layer, of those whose feature terms ask it.
        scales: of teachers' tokens, those that terms are compared at.
        task: what it is trained for; None = what the samples are for.
        outputs: of the network; None = as many as the samples have classes.
        code: hash of the user's own code that the network is written in, or None.
        stop: after how many epochs it ends, its last weights being what is kept; None = after all, the best being so.
        snapshots: after which epochs its weights are kept, too; they change nothing of the fit.
        peers: how it learns together with others of its kind, which are trained in the same fit; None = alone.
        peer: of a fit whose peers are trained apart: which of them this piece is; None = all of them.
        together: fits of the same one see the same batches, so that live teachers are asked once for all of them; None = it is
            trained by itself. It decides nothing of the result.
        threads: of torch, which sums are split over: more of them change the last bits.
    """

    fit_id: str
    stage: Literal["teachers", "student", "search"]
    key: str
    model: Model
    preprocessing: Preprocessing
    weights: Mapping[str, Tensor] | None
    objective: Objective
    teacher_infos: tuple[TeacherInfo, ...]
    student_shapes: Mapping[str, Shape]
    teacher_shapes: Mapping[tuple[str, str], Shape]
    training: Training
    plan: Plan
    seed: int
    labels: Literal["budget", "all"]
    data: str
    freeze: tuple[str, ...] = ()
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    teachers: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)
    heads: Mapping[str, Head] = field(default_factory=dict)
    scales: Mapping[Scaled, TokenScale] = field(default_factory=dict)
    task: str | None = None
    outputs: int | None = None
    code: str | None = None
    stop: int | None = None
    snapshots: tuple[int, ...] = ()
    peers: Peers | None = None
    peer: int | None = None
    together: str | None = None
    threads: int = 1

    @property
    def epochs(self) -> int:
        """How many it has, early stopping left aside."""
        return self.training.epochs if self.stop is None else self.stop

    @property
    def kept(self) -> Literal["best", "last"]:
        """Which of its weights are kept."""
        return "best" if self.stop is None else "last"

    @property
    def steps(self) -> int:
        """Updates, early stopping left aside."""
        return self.epochs * self.plan.steps_per_epoch

    @property
    def exchanges(self) -> bool:
        """Whether its peers are trained apart, and exchange weights before they are done."""
        return isinstance(self.peers, Codistillation) and self.peers.exchange_every < self.steps

    @property
    def pieces(self) -> tuple[Fit, ...]:
        """What is trained by one worker after the other: the fit itself, or each of its peers where they are apart.

        Each peer has its own initialisation and its own order of the samples; the first has the fit's.
        """
        if not isinstance(self.peers, Codistillation) or self.peer is not None:
            return (self,)
        first = replace(self, peer=0)
        return (first, *(first._of_peer(peer) for peer in range(1, self.peers.count)))

    def _of_peer(self, peer: int) -> Fit:
        seed = derive(self.seed, "peer", peer)
        plan = replace(self.plan, seed=derive(seed, "order"))
        own = id_of_peer(self.fit_id, peer)
        return replace(self, fit_id=own, peer=peer, seed=seed, plan=plan)

    @property
    def identity(self) -> str:
        """Hash of all that decides the result; equal identities give equal weights."""
        return self.identities[0]

    @property
    def identities(self) -> tuple[str, ...]:
        """`identity`, and those under which earlier versions kept what serves as this fit today."""
        parts = self._parts()
        own = {} if self.threads == 1 else {"threads": self.threads}
        earlier = (*((CODE_VERSION,) if own else ()), *_EARLIER_VERSIONS)
        kept = (_hash({"version": version, **parts}) for version in earlier)
        return (_hash({"version": CODE_VERSION, **parts, **own}), *kept)

    def _parts(self) -> dict[str, Any]:
        return {
            "model": self.model.identity(),
            "preprocessing": self.preprocessing.describe(),
            "weights": None if self.weights is None else fingerprint(self.weights),
            "objective": self.objective.identity(),
            "voices": [_heard(teacher) for teacher in self.teacher_infos],
            "training": {
                name: value
                for name, value in self.training.identity().items()
                if name != "checkpoint_every_epochs" and (name, value) != ("select_on", "all")
            },
            "rows": self.plan.rows_digest,
            "plan": [
                *(self.plan.epoch_rows, self.plan.batch_size, self.plan.seed, self.plan.views),
                *(() if self.plan.order is None else (self.plan.order,)),
            ],
            "seed": self.seed,
            "labels": self.labels,
            "data": self.data,
            "freeze": self.freeze,
            "lr_factors": dict(self.lr_factors),
            "teachers": dict(self.teachers),
            "error_range": None,  # as it was written before facts had names
            **self.facts,
            **({} if self.outputs is None else {"outputs": self.outputs}),
            **({} if self.code is None else {"code": self.code}),
            **({} if self.stop is None else {"stop": self.stop}),
            **({} if not self.heads else {"heads": _of_heads(self.heads)}),
            **({} if self.peers is None else {"peers": self.peers.identity()}),
            **({} if not self.scales else {"scales": _of_scales(self.scales)}),
        }


def id_of_peer(fit_id: str, peer: int) -> str:
    """The id of one of the peers of a fit, given that of the fit or of any of them; the first has the fit's own."""
    whole = fit_id.split(PEERS)[0]
    return f"{whole}{PEERS}{peer}" if peer else whole


def _heard(teacher: TeacherInfo) -> tuple[Any, ...]:
    """What is known of a teacher; without what earlier versions did not know, where there is none."""
    *known, domains, stacked = astuple(teacher)
    more = (domains,) if stacked is None else (domains, stacked)
    return (*known, *(() if more == (None,) else more))


def _hash(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _of_heads(heads: Mapping[str, Head]) -> dict[str, str]:
    """Hash of each head: which layer of its teacher it is, the teacher's own fingerprint does not tell."""
    return {
        name: fingerprint(
            {"weight": head.weight} | ({} if head.bias is None else {"bias": head.bias})
        )
        for name, head in heads.items()
    }


def _of_scales(scales: Mapping[Scaled, TokenScale]) -> dict[str, str]:
    """Hash of each scale: which training samples it is of, the teacher's fingerprint does not tell."""
    return {":".join(asked): fingerprint(scale.tensors()) for asked, scale in scales.items()}


def build_network(fit: Fit, samples: Samples) -> Network:
    """The fit's network with its initial weights; draws them from the fit's seed."""
    torch.manual_seed(fit.seed)
    shape = fit.preprocessing.output_shape(samples.input_shape)
    outputs = fit.outputs or samples.class_count
    model = build_model(fit.model, input_shape=shape, classes=outputs, key=fit.key)
    if fit.weights is not None:
        apply_weights(model, fit.weights, key=fit.key)
    freeze(model, fit.freeze, key=f"{fit.key}.freeze")
    network = Network(model, fit.preprocessing, samples.scale)
    network.remembers = True
    return network


def build_module(fit: Fit, samples: Samples, beside: int = 0) -> DistillModule:
    """Network and objective, ready to train; of the student where `beside` is 0, else of a peer."""
    if beside:
        fit = replace(fit, seed=derive(fit.seed, "peer", beside))
    others = () if fit.peers is None else fit.peers.others(fit.peer or beside)
    if fit.peer is not None and not fit.exchanges:
        others = ()  # of whom it never hears
    network = build_network(fit, samples)
    rule = find_task(fit.task or samples.task).rule
    objective = DistillObjective(
        rule.with_facts(fit.objective, fit.facts),
        fit.teacher_infos,
        rule=rule,
        student_shapes={**fit.student_shapes, OUTPUT: (fit.outputs or samples.class_count,)},
        teacher_shapes=fit.teacher_shapes,
        class_weights_C=_class_weights(fit, samples),
        domain_weights_D=_domain_weights(fit, samples),
        scale=samples.scale,
        heads=fit.heads,
        peers=others,
        peer_share=None if fit.peers is None else fit.peers.share,
        scales=fit.scales,
    )
    taps = [tap for term in fit.objective.features for tap in term.student_taps]
    in_chunks = (
        rule.label_loss_in_chunks is not None
        and not fit.objective.labels.smoothing  # which looks at each token by itself
        and not fit.training.compile  # of the whole model
        and linear_head(network.model)
    )
    named = list(dict.fromkeys(taps))
    return DistillModule(
        network,
        objective,
        named,
        fit.training.precision,
        tokens=samples.class_count if in_chunks else None,
    )


def _domain_weights(fit: Fit, samples: Samples) -> Tensor | None:
    """Factors per domain [D], such that each counts alike over the training tokens and a token on average 1."""
    if fit.objective.mean != "domains":
        return None
    domain_N = samples.unit_labels(fit.plan.rows)[:, DOMAIN]
    counts = torch.bincount(torch.from_numpy(domain_N), minlength=len(samples.classes))
    there = int((counts > 0).sum())
    return torch.where(counts > 0, counts.sum() / (there * counts.clamp(min=1)), 0.0)


def _class_weights(fit: Fit, samples: Samples) -> Tensor | None:
    """Factors per class [C], mean 1 over the labelled samples when balanced."""
    given = fit.objective.labels.class_weights
    if given is None:
        return None
    if given != "balanced":
        return torch.tensor(given)
    labels = (samples.labels if fit.labels == "budget" else samples.all_labels)[fit.plan.rows]
    counts = torch.bincount(torch.from_numpy(labels[labels >= 0]), minlength=samples.class_count)
    return counts.sum() / (samples.class_count * counts.clamp(min=1))
