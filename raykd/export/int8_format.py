"""ONNX with weights of 8 bits: `model.int8.onnx`, made of `model.onnx` by onnxruntime.

A real number r is stored as an integer q with r = scale · (q − zero_point) (Jacob et al. 2018, Eq. 1). Weights are
symmetric (zero_point 0) with a scale for each output channel; inputs of these operators are unsigned and asymmetric.
Static: the scales of inputs are fixed beforehand from the ranges that they have on training samples, and stand in the
graph as pairs of QuantizeLinear and DequantizeLinear (QDQ). Dynamic: each call takes them from its own inputs.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raykd.disks import write_whole
from raykd.errors import ExportError
from raykd.export.onnx_format import GRAPH, graph_inputs, open_session, run_session
from raykd.export.student import Runner, Student

INT8_GRAPH = "model.int8.onnx"
STATIC = ("Conv", "Gather", "Gemm", "MatMul")
"""Operators whose weights are quantized statically."""
DYNAMIC = ("Gather", "Gemm", "LSTM", "MatMul")
"""Those whose weights are quantized where a graph has an LSTM, which onnxruntime only quantizes dynamically."""
_PASSING = ("MaxPool", "Relu")
"""Operators without weights that work on integers where their input is one."""
_IN_FLOAT = ("Gemm", "MatMul")
"""Operators whose outputs stay float32, as the graph's own outputs do: they need no range."""
_LEAST_SHARE = 0.5
_BATCH = 32
_ABOUT = "quantization"
Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Quantization:
    """What was made of a graph.

    Attributes:
        method: `static` or `dynamic`.
        operators: operator -> how many of its nodes compute with integer weights.
        weights: share of the numbers in weights that are stored in 8 bits.
        left: operators whose weights stay float32.
        samples: training samples that the ranges of inputs are from; 0 where they are dynamic.
    """

    method: Literal["static", "dynamic"]
    operators: Mapping[str, int]
    weights: float
    left: tuple[str, ...]
    samples: int


def write_int8(student: Student, folder: Path) -> None:
    """Write `model.int8.onnx` beside `model.onnx`, which lies there: the same inputs, outputs and metadata.

    Raises:
        ExportError: most weights belong to operators that onnxruntime cannot quantize.
    """
    import onnx

    assert student.calibration is not None, "who exports int8 gives training samples"
    whole = onnx.load(folder / GRAPH)
    inputs = student.calibration
    batches = [
        graph_inputs(student.about, inputs[start : start + _BATCH])
        for start in range(0, len(inputs), _BATCH)
    ]
    made, how = quantized(whole, batches)
    about = {one.key: one.value for one in whole.metadata_props}
    about[_ABOUT] = json.dumps(asdict(how))
    onnx.helper.set_model_props(made, about)
    made.producer_name, made.producer_version = whole.producer_name, whole.producer_version
    write_whole(folder / INT8_GRAPH, [made.SerializeToString(deterministic=True)], durable=False)


def open_int8(student: Student, folder: Path) -> Runner:
    """The written graph in onnxruntime, on one thread of the CPU."""
    return run_session(open_session(folder / INT8_GRAPH), student.about)


def read_quantization(file: Path) -> Quantization:
    """What a written graph says of how it was made."""
    import onnx

    about = {one.key: one.value for one in onnx.load(file).metadata_props}
    found = json.loads(about[_ABOUT])
    return Quantization(**{**found, "left": tuple(found["left"])})


def quantized(graph: Any, batches: Sequence[Feed]) -> tuple[Any, Quantization]:
    """A graph with the weights of its large operators in 8 bits.

    Statically, where onnxruntime quantizes the operators that hold them so; dynamically, where one of them is an LSTM.
    Weights have 7 of the 8 bits: processors without VNNI add two products of 8 bits in 16, and would saturate.

    Args:
        graph: a `ModelProto` of float32; stays as it is.
        batches: inputs like the data's, from which ranges are taken.

    Returns:
        The new graph, the same bytes for the same graph and batches; and what was done.

    Raises:
        ExportError: less than half of the weights can be quantized; names the operators that hold the others.
    """
    with tempfile.TemporaryDirectory(prefix="raykd-int8-") as place:
        prepared = _prepared(graph, Path(place))
        held = _weights_of(prepared)
        is_dynamic = any(node.op_type == "LSTM" for node, _ in held)
        allowed = DYNAMIC if is_dynamic else STATIC
        inside = [(node, count) for node, count in held if node.op_type in allowed]
        left = sorted({node.op_type for node, _ in held} - set(allowed))
        share = sum(count for _, count in inside) / max(1, sum(count for _, count in held))
        if not inside or share < _LEAST_SHARE:
            raise ExportError(_why_not(held, allowed, share))
        target = Path(place) / INT8_GRAPH
        if is_dynamic:
            _quantize_dynamically(Path(place) / GRAPH, target)
        else:
            passing = [node for node in prepared.graph.node if node.op_type in _PASSING]
            names = [node.name for node in [*(node for node, _ in inside), *passing]]
            _quantize_statically(Path(place) / GRAPH, target, names, batches)
        import onnx

        made = onnx.load(target)
    counts = Counter(node.op_type for node, _ in inside)
    return made, Quantization(
        method="dynamic" if is_dynamic else "static",
        operators=dict(sorted(counts.items())),
        weights=share,
        left=tuple(left),
        samples=0 if is_dynamic else sum(len(next(iter(one.values()))) for one in batches),
    )


def _prepared(graph: Any, place: Path) -> Any:
    """Constants and batch norms folded, shapes inferred, and every node named."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # It is given a file, since onnxruntime 1.31 loses the constants of a graph in memory.
    file = place / GRAPH
    onnx.save(graph, file)
    quant_pre_process(file, file, skip_symbolic_shape=True)
    made = onnx.load(file)
    # Shapes are inferred again: where a Gemm becomes a MatMul, its weights change theirs.
    del made.graph.value_info[:]
    for number, node in enumerate(made.graph.node):
        node.name = f"node_{number}_{node.op_type}"
    onnx.save(made, file)
    return made


def _weights_of(graph: Any) -> list[tuple[Any, int]]:
    """Nodes that have matrices of float32 among their constants, and how many numbers these have.

    A matrix of one row or column is one where the operator takes weights; elsewhere it is a bias or a factor.
    """
    import onnx

    shapes = {
        one.name: tuple(one.dims)
        for one in graph.graph.initializer
        if one.data_type == onnx.TensorProto.FLOAT
    }
    found = []
    for node in graph.graph.node:
        least = 0 if node.op_type in (*STATIC, *DYNAMIC) else 1
        inputs = [shapes[name] for name in node.input if len(shapes.get(name, ())) > 1]
        count = sum(math.prod(one) for one in inputs if sum(side > 1 for side in one) > least)
        found += [(node, count)] if count else []
    return found


def _why_not(held: Iterable[tuple[Any, int]], allowed: Sequence[str], share: float) -> str:
    total: Counter[str] = Counter()
    for node, count in held:
        total[node.op_type] += count
    outside = [f"{name} ({n:,} weights)" for name, n in total.most_common() if name not in allowed]
    what = f"int8: onnxruntime cannot quantize {', '.join(outside)}"
    if not total:
        what = "int8: the graph has no weights to quantize"
    return (
        f"{what}: {100 * share:.0f} % of the weights would have 8 bits, at least {100 * _LEAST_SHARE:.0f} % must; allowed "
        f"are weights of {', '.join(sorted({*STATIC, *DYNAMIC}))}; export without --int8"
    )


class _Batches:
    """What onnxruntime reads calibration inputs from."""

    def __init__(self, batches: Iterable[Feed]) -> None:
        self._left: Iterator[Feed] = iter(batches)

    def get_next(self) -> Feed | None:
        """The next batch; None after the last one."""
        return next(self._left, None)


def _quantize_statically(
    source: Path, target: Path, names: Sequence[str], batches: Sequence[Feed]
) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        source,
        target,
        _Batches(batches),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=[*STATIC, *_PASSING],
        nodes_to_quantize=list(names),
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"OpTypesToExcludeOutputQuantization": list(_IN_FLOAT)},
    )


def _quantize_dynamically(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=list(DYNAMIC),
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )
