"""What peers are taught, against published formulas in float64, and where published code differs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize

from raykd.losses import kl
from raykd.objective.peers import (
    codistillation,
    dml,
    kdcl,
    kdcl_best,
    kdcl_shares,
    kdcl_target,
    one,
)

HERE = Path(__file__).parent
EXPECTED = {k: v["value"] for k, v in json.loads((HERE / "peers.json").read_text()).items()}
with np.load(HERE / "peers.npz") as arrays:
    INPUTS = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
PEERS = torch.stack([INPUTS[f"peer{k}"] for k in (1, 2, 3)])
LABELS, GATE = INPUTS["y"], INPUTS["one_gate_logits"]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
VALUES = {
    "dml2_peer1": lambda peers: dml(peers[:2], LABELS)[0],
    "dml3_peer1_sum": lambda peers: dml(peers, LABELS, over="sum")[0],
    "codistillation_peer1_kl": lambda peers: codistillation(peers[0], peers[1:], LABELS),
    "one_total_T3_ramp1": lambda peers: one(peers, GATE.to(peers.dtype), LABELS),
}
ALL = {
    "dml": lambda peers, labels: dml(peers, labels).sum(0),
    "codistillation": lambda peers, labels: codistillation(peers[0], peers[1:], labels),
    "kdcl naive": lambda peers, labels: kdcl(peers, labels, how="naive").sum(0),
    "kdcl minlogit": lambda peers, labels: kdcl(peers, labels).sum(0),
    "kdcl linear": lambda peers, labels: kdcl(peers, labels, how="linear").sum(0),
    "kdcl general": lambda peers, labels: kdcl(
        peers, labels, how="general", shares_K=torch.tensor([0.2, 0.5, 0.3])
    ).sum(0),
    "one": lambda peers, labels: one(peers, GATE[: len(labels)].to(peers.dtype), labels),
}


@DTYPES
@pytest.mark.parametrize("key", VALUES)
def test_the_mean_is_the_published_value(key, dtype):
    found = VALUES[key](PEERS.to(dtype)).mean()
    assert float(found) == pytest.approx(EXPECTED[key], rel=TOLERANCE[dtype])


@DTYPES
def test_the_gradient_of_mutual_learning(dtype):
    for count, over, keys in ((2, "mean", ("dml2_peer1", "dml2_peer2")), (3, "sum", ("dml3_peer1_sum",))):  # fmt: skip
        peers = PEERS[:count].to(dtype).clone().requires_grad_()
        dml(peers, LABELS, over=over).mean(1).sum().backward()
        for own, key in zip(peers.grad, keys, strict=False):
            torch.testing.assert_close(
                own, INPUTS[f"grad_{key}"].to(dtype), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
            )


def test_divergences_of_three_peers_are_averaged_and_the_official_sum_is_asked_for():
    """Official code adds them up, and 1e-8 in places where nothing needs it: its value differs in the sixth digit."""
    label_loss = F.cross_entropy(PEERS[0], LABELS, reduction="none")
    averaged, added = (dml(PEERS, LABELS, over=over)[0] - label_loss for over in ("mean", "sum"))
    torch.testing.assert_close(added, 2 * averaged)
    exact = float(kl(PEERS[0], PEERS[1]).mean())
    assert exact == pytest.approx(EXPECTED["dml_code_kl_peer1"], abs=1e-5)
    assert exact != pytest.approx(EXPECTED["dml_code_kl_peer1"], abs=1e-6)


def test_one_peer_by_itself_is_plain_training():
    plain = F.cross_entropy(PEERS[0], LABELS, reduction="none")
    assert torch.equal(dml(PEERS[:1], LABELS)[0], plain)
    assert torch.equal(codistillation(PEERS[0], PEERS[:0], LABELS), plain)
    assert torch.equal(codistillation(PEERS[0], PEERS[1:], LABELS, weight=0.0), plain)


def test_codistillation_as_a_cross_entropy_has_the_same_gradient():
    found = []
    for entropy in (False, True):
        student = PEERS[0].clone().requires_grad_()
        loss = codistillation(student, PEERS[1:], LABELS, entropy=entropy)
        loss.sum().backward()
        found.append((loss.detach(), student.grad))
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-12)
    mean = PEERS[1:].softmax(-1).mean(0)
    own_entropy = -(mean * mean.log()).sum(1)
    torch.testing.assert_close(found[1][0] - found[0][0], own_entropy)
    as_written = F.cross_entropy(PEERS[0], LABELS, reduction="none") - (
        mean * PEERS[0].log_softmax(1)
    ).sum(1)
    torch.testing.assert_close(found[1][0], as_written)


def test_the_targets_of_kdcl():
    assert kdcl_best(PEERS, LABELS).tolist() == EXPECTED["kdcl_naive_teacher_index"]
    naive = kdcl_target(PEERS, LABELS, how="naive")
    torch.testing.assert_close(naive[0], PEERS[EXPECTED["kdcl_naive_teacher_index"][0], 0])
    torch.testing.assert_close(
        kdcl_target(PEERS, LABELS), INPUTS["kdcl_minlogit_target"], rtol=1e-9, atol=1e-12
    )


def test_the_linear_target_of_kdcl_has_the_least_cross_entropy_of_all_mixtures():
    found = F.cross_entropy(kdcl_target(PEERS, LABELS, how="linear"), LABELS, reduction="none")
    for unit, value in enumerate(found.tolist()):
        logits, label = PEERS[:, unit].numpy(), int(LABELS[unit])

        def cross_entropy(shares, logits=logits, label=label):
            mixed = shares @ logits
            return np.logaddexp.reduce(mixed) - mixed[label]

        best = minimize(cross_entropy, np.full(3, 1 / 3), bounds=[(0, 1)] * 3, method="SLSQP",
                        constraints={"type": "eq", "fun": lambda s: s.sum() - 1}, options={"ftol": 1e-13})  # fmt: skip
        assert value == pytest.approx(best.fun, abs=1e-9)


def test_the_shares_of_kdcl_follow_the_errors_on_validation():
    probs = PEERS.softmax(-1)
    shares = kdcl_shares(probs, LABELS)
    assert float(shares.sum()) == pytest.approx(1.0)
    errors = (probs - F.one_hot(LABELS, 17)).flatten(1)
    covariance = errors @ errors.T

    def spread(weights):
        return float(weights @ covariance @ weights)

    for step in ((0.01, -0.01, 0.0), (0.0, 0.01, -0.01), (-0.01, 0.0, 0.01)):
        assert spread(shares) < spread(shares + torch.tensor(step).double())
    alike = kdcl_shares(probs[:1].expand(3, -1, -1), LABELS)
    torch.testing.assert_close(alike, torch.full((3,), 1 / 3).double())


def test_a_unit_without_a_label_is_learnt_from_the_peers_where_these_need_none():
    unknown = torch.full_like(LABELS, -1)
    pull = kl(PEERS[0], PEERS[1])
    torch.testing.assert_close(dml(PEERS[:2], unknown)[0], pull)
    assert kdcl(PEERS, unknown).abs().max() == 0
    mean = torch.einsum("knc,nk->nc", PEERS, GATE.relu().softmax(-1))
    taught = sum(kl(own, mean, temperature=3.0) for own in PEERS)
    torch.testing.assert_close(one(PEERS, GATE, unknown), taught)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_right_and_what_teaches_has_none(name):
    labels = LABELS[:4].clone()
    labels[1] = -1
    peers = PEERS[:, :4].clone().requires_grad_()
    if name == "codistillation":
        ALL[name](peers, labels).sum().backward()
        assert peers.grad[1:].abs().max() == 0
        own = peers[0].detach().clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: codistillation(x, PEERS[1:, :4], labels), (own,))
        return
    loss = ALL[name](peers, labels)
    loss.sum().backward()
    assert peers.grad.isfinite().all()
    assert (peers.grad.flatten(1).abs().sum(1) > 1e-6).all()
    if name == "dml":
        index = 1
        alone = peers.detach()[index].clone().requires_grad_()
        others = [k for k in range(3) if k != index]
        taught = F.cross_entropy(alone, labels, ignore_index=-1, reduction="none")
        taught = taught + sum(kl(alone, PEERS[k, :4]) for k in others) / 2
        (gradient,) = torch.autograd.grad(taught.sum(), alone)
        torch.testing.assert_close(peers.grad[index], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 200.0])
@pytest.mark.parametrize("name", ALL)
def test_extreme_logits_stay_finite(name, value):
    sign = torch.randint(0, 2, (3, 6, 5), generator=torch.Generator().manual_seed(0)) * 2 - 1
    peers = (value * sign).float().requires_grad_()
    loss = ALL[name](peers, torch.tensor([0, 1, 2, 3, -1, 4]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert peers.grad.isfinite().all()


@pytest.mark.parametrize(
    "call",
    [partial(dml, PEERS[0], LABELS), partial(dml, PEERS, LABELS[:3]),
     partial(codistillation, PEERS[0], PEERS[1:], LABELS, weight=-1.0),
     partial(kdcl_target, PEERS, LABELS, how="best"), partial(kdcl_target, PEERS, LABELS, how="general"),
     partial(kdcl, PEERS, LABELS, temperature=0.0), partial(one, PEERS, GATE.T, LABELS)],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(call):
    with pytest.raises(ValueError, match=r"must|needs"):
        call()
