"""Whether texts that the student writes itself are worth it: λ = 0 against others, at equal updates.

    RAYKD_HOME=.raykd python jobs/bench/on_policy.py --output on_policy.json

Students of the recipe `lm_domains`, smaller, with the same teachers, replicas in pairs, the same number of updates of the
same sizes. After training each student continues 200 fixed prompts of the test part, with the same draws for all. What is
compared is how many bits per byte the ensemble (the recipe's own mixture) needs for what a student wrote: the fewer, the
more it writes as the teachers would. A student that repeats itself is cheap to predict, too; that is why the part of grams
that it repeats stands beside it, and what it needs itself for test text, and what the ensemble needs for how the
texts really went on.

The loss is GKD's JSD; `--set objective.soft_targets.loss.type=kl` or `reverse_kl` takes another. All in one process, without Ray, by
what `raykd run` trains with. Cost: three minutes of one core.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the clone: `jobs` is not installed

from raykd.config import Config, load_config
from raykd.config.on_policy import OnPolicy
from raykd.data import Samples
from raykd.ensemble.sequences import bayesian_mixture
from raykd.evaluate.likelihood import BITS_PER_BYTE, likelihood_metrics, likelihood_sums
from raykd.evaluate.statistics import spread, t_interval
from raykd.folders import RunFolder
from raykd.models.generation import repetition
from raykd.models.network import Network
from raykd.models.weights import apply_weights
from raykd.objective import training_role
from raykd.pipeline.fits import known_weights, student_fit
from raykd.pipeline.preparation import Prepared, prepare
from raykd.pipeline.recipe_store import RecipeStore, open_store
from raykd.pipeline.teacher_validation import TeacherValidation, validate
from raykd.targets import StoredTargets, TargetSource, codec
from raykd.targets.entries import EntryKey, append
from raykd.targets.packing import Arrays
from raykd.targets.shards import write_shard
from raykd.targets.written import Texts
from raykd.tasks import find_task
from raykd.teachers import Spec
from raykd.teachers.model import Inputs, TeacherModel
from raykd.tracking import Event
from raykd.train import Fit, FolderReporter, World, train
from raykd.train.fit import build_network
from raykd.train.validation import validate as validated
from raykd.train.writing import written_texts
from raykd.types import CHUNKS

PROMPTS = 200
SMALLER = (
    "data.tokens.pool=0.04",
    "student.model.width=0.5",
    "train.epochs=10",
    "evaluate.compare=[]",
    "objective.soft_targets.loss.type=js",
    "objective.on_policy.from_epoch=5",
)
_DRAWS = 2026
"""Seed of the prompts that are held out and of their draws: the same for all students."""


@dataclass(frozen=True)
class InProcess:
    """`raykd.targets.source.Asking` without a fleet.

    Attributes:
        pool: answers for the samples of the data.
        models: the teachers.
        keys: teacher -> the key of its answers to training views.
        temperatures: teacher -> at which its logits are used.
    """

    pool: TargetSource
    models: Mapping[str, TeacherModel]
    keys: Mapping[str, EntryKey]
    temperatures: Mapping[str, float]

    def ask(self, name: str, inputs: Inputs) -> Inputs:  # noqa: ARG002 - one protocol
        """Nothing is done ahead."""
        return inputs

    def answer(self, name: str, pending: Inputs) -> Arrays | None:
        """The teacher's answer."""
        return self.models[name].score_inputs(pending, whole=False)


class Bench:
    """A recipe made ready, with its teachers and what they say.

    Args:
        config: the recipe.
        root: an empty folder.
        tell: is told how far it is.
    """

    def __init__(self, config: Config, root: Path, tell: Callable[[str], None]) -> None:
        self.root, self.tell = root, tell
        self.prepared: Prepared = prepare(config)
        specs = self.prepared.specs(known_weights(self.prepared))
        self.models = {n: TeacherModel(one) for n, one in specs.items() if isinstance(one, Spec)}
        self.store = RecipeStore(self.prepared, specs)
        for part in (part for several in self.store.missing(1) for part in several):
            self._score(part.teacher, part.rows, part.view, part.lacking)
        self.teachers: TeacherValidation = validate(
            self.prepared, {}, specs, self.store.open(), _silent
        )

    @property
    def samples(self) -> Samples:
        """The data."""
        return self.prepared.samples

    def _score(self, name: str, rows: np.ndarray, view: int, keys: Sequence[EntryKey]) -> None:
        arrays = self.models[name].score(self.samples, rows, np.full(len(rows), view))
        found = {"ids": self.samples.ids[rows], "hashes": self.samples.content_hash(rows)}
        for key in keys:
            folder = self.store.root / key.folder
            shard = write_shard(folder, view, {**found, **key.of(arrays)}, key.to_json())
            append(self.store.root, key, [shard])

    def fit(self, settings: OnPolicy | None, replica: int) -> Fit:
        """One replica of the student, with or without texts of its own."""
        objective = self.prepared.config.objective.model_copy(update={"on_policy": settings})
        config = self.prepared.config.model_copy(update={"objective": objective})
        role = training_role("student", objective, list(self.models), self.teachers.best_teacher)
        return student_fit(replace(self.prepared, config=config), self.teachers, role, replica)

    def trained(self, fit: Fit, name: str) -> tuple[Network, dict[str, Any]]:
        """A student after its last update, and the result of its fit."""
        temperatures = dict.fromkeys(self.models, 1.0)
        pool = StoredTargets(
            open_store(self.store.root, self.store.keys, self.samples, temperatures)
        )
        source: Any = pool
        if fit.objective.on_policy is not None:
            keys = {name: one.views for name, one in self.store.keys.items()}
            source = InProcess(pool, self.models, keys, temperatures)
        reporter = FolderReporter(RunFolder(self.root / name), _silent)
        result = train(fit, self.samples, source, reporter, World())
        network = build_network(fit, self.samples)
        weights = reporter.folder(fit.fit_id).read_weights("last")
        apply_weights(network.model, weights, key="student")
        return network.eval(), result

    def ensemble_bits(self, texts: Texts) -> float:
        """Bits per byte that the recipe's mixture of the teachers needs for what was written, all of it together."""
        tokens = texts.tokens.astype(np.int64)
        batch = texts.batch(np.arange(len(texts)), self.samples)
        token_N, bytes_N = batch.labels[:, 0], batch.labels[:, 1]
        said = [codec.decode(one.score_inputs({CHUNKS: tokens})) for one in self.models.values()]
        own_TN = torch.stack(
            [one.values_NC.log_softmax(1).gather(1, token_N[:, None])[:, 0] for one in said]
        )
        assert batch.unit_offsets is not None, "texts have units"
        forgetting = self.prepared.config.objective.weighting.knob("forgetting")
        weights_TN = bayesian_mixture(own_TN, batch.unit_offsets, forgetting=forgetting)
        mixed_N = (weights_TN.log() + own_TN).logsumexp(0)
        sums = likelihood_sums(mixed_N, torch.zeros(len(mixed_N), dtype=torch.bool), bytes_N)
        return likelihood_metrics(sums)[BITS_PER_BYTE]

    def written(self, network: Network, length: OnPolicy) -> Texts:
        """How a student goes on from the prompts that are held out."""
        rows = self.samples.splits["test"]
        return written_texts(
            network.model, self.samples, rows, length,
            seed=_DRAWS, count=PROMPTS, device=torch.device("cpu"),
        )  # fmt: skip

    def measured(self, network: Network, length: OnPolicy) -> dict[str, float]:
        """All numbers of one student."""
        texts = self.written(network, length)
        metrics = find_task(self.prepared.config.task).metrics
        test = validated(network, self.samples, self.samples.splits["test"], World(), metrics)
        return {
            "ensemble_bits": self.ensemble_bits(texts),
            "repetition": repetition(texts.tokens[:, 0], texts.tokens[:, 1] > 0),
            "test_bits": test[BITS_PER_BYTE],
        }

    def real(self, length: OnPolicy) -> dict[str, float]:
        """The same numbers of how the texts of the prompts really go on."""
        network = build_network(self.fit(None, 0), self.samples)
        written = self.written(network, length)
        chunks = self.samples.inputs[CHUNKS][written.rows]
        known = (written.tokens[:, 1] > 0) & (chunks[:, 1] > 0)
        texts = Texts(
            np.stack([chunks[:, 0], known], 1).astype(np.int32), written.rows, written.ids
        )
        return {
            "ensemble_bits": self.ensemble_bits(texts),
            "repetition": repetition(texts.tokens[:, 0], known),
        }


def _silent(*_: Event) -> None:
    pass


def compare(
    bench: Bench,
    arms: Mapping[str, OnPolicy | None],
    replicas: int,
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Every number of every arm by replica, and its differences from the first arm.

    Args:
        bench: recipe and teachers.
        arms: name -> what the student writes.
        replicas: of each arm, in pairs.
        keep: takes what is known after each replica.
    """
    length = next(one for one in arms.values() if one is not None)
    about: dict[str, Any] = {"prompts": PROMPTS, "real": bench.real(length)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for replica in range(replicas):
        for name, settings in arms.items():
            network, result = bench.trained(bench.fit(settings, replica), f"{name}-{replica}")
            assert about.setdefault("updates", result["steps"]) == result["steps"], "in all arms"
            scored = result.get("on_policy", {}).get("teacher_tokens", {})
            numbers = {**bench.measured(network, length), "teacher_tokens": sum(scored.values())}
            found[name].append(numbers)
            bench.tell(f"replica {replica}, {name}: {numbers}")
        keep({**about, **_summed(found)})
    return {**about, **_summed(found)}


def _summed(found: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Means of each arm, and paired differences from the first one."""
    (first, control), *others = found.items()
    return {
        "arms": {
            name: {key: spread([one[key] for one in every]) for key in every[0]}
            for name, every in ((first, control), *others)
        },
        "differences": {
            name: {key: _paired(every, control, key) for key in every[0]} for name, every in others
        },
    }


def _paired(
    one: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]], key: str
) -> dict[str, Any]:
    values = [a[key] - b[key] for a, b in zip(one, other, strict=True)]
    interval = t_interval(values) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "ci95": interval, "values": values}


def table(found: Mapping[str, Any]) -> str:
    """The numbers of all arms, for people."""
    lines = [
        f"{found['updates']} updates; {found['prompts']} prompts of test; a difference is from the first row, with its 95 % interval",
        "| arm | ensemble's bits per byte of what it wrote | difference | repeated grams | difference | bits per byte of test | "
        "difference | tokens scored on-policy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, arm in found["arms"].items():
        cells = [name]
        for key in ("ensemble_bits", "repetition", "test_bits"):
            difference = found["differences"].get(name, {}).get(key)
            cells += [f"{arm[key]['mean']:.4f}", "" if difference is None else _shown(difference)]
        lines.append(f"| {' | '.join([*cells, format(arm['teacher_tokens']['mean'], ',.0f')])} |")
    real = found["real"]
    lines.append(
        f"| how they really go on | {real['ensemble_bits']:.4f} | | {real['repetition']:.4f} | | | | |"
    )
    return "\n".join(lines)


def _shown(difference: Mapping[str, Any]) -> str:
    if difference["ci95"] is None:
        return f"{difference['mean']:+.4f}"
    low, high = difference["ci95"]
    return f"{difference['mean']:+.4f} ({low:+.4f} to {high:+.4f})"


def main(arguments: Sequence[str]) -> None:
    """Train, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="the numbers, as JSON")
    parser.add_argument("--replicas", type=int, default=5)
    parser.add_argument("--shares", default="0.5", help="λ of each arm beside 0, with commas")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of the recipe")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        own = [f"targets.store={root / 'store'}", "tracking.wandb.mode=disabled"]
        config = load_config("lm_domains", [*SMALLER, *own, *given.set])
        base = config.objective.on_policy or OnPolicy()
        arms: dict[str, OnPolicy | None] = {"λ = 0": None}
        for share in given.shares.split(","):
            arms[f"λ = {share}"] = base.model_copy(update={"share": float(share)})
        plain = config.objective.model_copy(update={"on_policy": None})
        bench = Bench(
            config.model_copy(update={"objective": plain}),
            root,
            lambda text: print(text, flush=True),
        )

        def keep(numbers: dict[str, Any]) -> None:
            if given.output is not None:
                given.output.write_text(json.dumps(numbers, indent=1) + "\n")

        print(table(compare(bench, arms, given.replicas, keep)))


if __name__ == "__main__":
    main(sys.argv[1:])
