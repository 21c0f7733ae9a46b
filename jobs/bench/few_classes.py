"""What answers over a large vocabulary cost: to encode, to read, and as a loss of the student's hidden states.

Shapes: N units, V classes, K classes kept, D features.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from jobs.bench.measuring import Row, Sizes, against, in_turns, paired, rotated, row_of
from raykd.losses.head import head_loss
from raykd.losses.sparse import kl
from raykd.targets.codec import decode, decode_few, encode
from raykd.targets.packing import Packing
from raykd.top_k import from_logits

_KEPT = 64
_FEATURES = 128
_HEAD = 50_000
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def few(sizes: Sizes) -> list[Row]:
    """Encoding of 2 × `units` rows of a vocabulary on one core; loss and gradient of `tokens` units, in processes of their own."""
    kept = min(_KEPT, sizes.vocabulary // 2)
    packing = Packing(top_k=kept, temperatures=(1.0,))
    rows = 2 * sizes.units
    logits_NV = 3 * torch.randn(rows, sizes.vocabulary, generator=torch.Generator().manual_seed(0))
    arrays = encode(logits_NV, {}, "logits", packing)
    reference = "as all classes"
    table = in_turns(
        {
            reference: lambda: decode(arrays),
            f"as the {kept} kept": lambda: decode_few(arrays),
            f"encode {rows} x {sizes.vocabulary}": lambda: encode(logits_NV, {}, "logits", packing),
        },
        sizes.repeats,
    )
    against(table, reference)
    table[1]["bar"], table[2]["bar"] = "<= 5 ms", "<= 400 ms"
    return table + _losses(sizes)


def _losses(sizes: Sizes) -> list[Row]:
    found: dict[str, list[tuple[float, float]]] = {"in chunks": [], "all logits": []}
    for repeat in range(sizes.repeats):
        for name in rotated(list(found), repeat):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                measured = process.submit(_loss, sizes, name == "in chunks").result()
            found[name].append(measured)
    times, peaks = (
        {name: [one[place] for one in values] for name, values in found.items()} for place in (0, 1)
    )
    whole = sizes.tokens * min(_HEAD, sizes.vocabulary) * 4 / 1e6
    return [
        paired("loss and gradient, in chunks / all logits", times["in chunks"], times["all logits"],
               bar="<= 1.4"),
        *({**row_of(f"peak memory of it, {name}", "MB", peak),
           "bar": f"the logits are {whole:.0f} MB"} for name, peak in peaks.items()),
    ]  # fmt: skip


def _loss(sizes: Sizes, in_chunks: bool) -> tuple[float, float]:
    """Seconds and peak memory (MB above what is held before) of one loss with its gradients, in this process."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    classes = min(_HEAD, sizes.vocabulary)
    kept = min(_KEPT, classes // 2)
    hidden_ND = torch.randn(sizes.tokens, _FEATURES, generator=generator).requires_grad_()
    head_VD = (0.1 * torch.randn(classes, _FEATURES, generator=generator)).requires_grad_()
    first_N1 = torch.randint(0, classes - kept, (sizes.tokens, 1), generator=generator)
    kept_NK = 3 * torch.randn(sizes.tokens, kept, generator=generator)
    tails = {1.0: torch.zeros(sizes.tokens)}
    teacher = from_logits(kept_NK, first_N1 + torch.arange(kept), tails, classes)
    took_s = more_mb = 0.0
    for _ in range(2):  # the first warms up
        before_mb = memory_mb(reset=True)
        start_s = time.perf_counter()
        if in_chunks:
            loss_N = head_loss(hidden_ND, head_VD, teacher)
        else:
            loss_N = kl(hidden_ND @ head_VD.t(), teacher)
        loss_N.mean().backward()
        took_s = time.perf_counter() - start_s
        more_mb = memory_mb() - before_mb
        hidden_ND.grad = head_VD.grad = None
        del loss_N
    return took_s, more_mb


def memory_mb(*, reset: bool = False) -> float:
    """The most memory that this process has held; after a reset what it holds."""
    if reset:
        _RESET.write_text("5")
    (kilobytes,) = re.findall(r"VmHWM:\s*(\d+) kB", _STATUS.read_text(encoding="utf-8"))
    return int(kilobytes) / 1000
