"""What holds on a CPU holds on a GPU: each test is for both, and the second is skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raykd.targets.codec import decode
from raykd.targets.packing import Packing, as_kept, decode_features, encode_features
from raykd.targets.ragged import joined
from raykd.teachers import InProcess, TeacherModel

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
        ],
    ),
]
BATCH = 8


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)


@pytest.mark.parametrize("form", ["raw", "pooled", "int8"])
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 4), (5, 6, 3)])
def test_a_feature_is_packed_on_its_device_to_the_bits_of_the_cpu(device, form, shape):
    feature = 1e3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    feature[0] = 0
    feature.view(-1)[7] = 1e6  # more than float16 holds
    wanted = decode_features(encode_features({"tap": feature}, form))["tap"]
    there = feature.to(device)
    arrays = encode_features({"tap": there}, form)
    kept = as_kept(there, form)
    assert kept.device.type == device.type
    if form == "pooled" and device.type == "cuda":  # which adds in another order
        torch.testing.assert_close(kept.cpu(), wanted, rtol=2e-3, atol=1e-3)
    else:
        assert kept.cpu().equal(wanted)
    assert decode_features(arrays)["tap"].equal(kept.cpu())


def test_steps_that_overlap_give_the_bits_of_one_batch_after_the_other(device, samples, make_spec):
    packing = Packing(features="int8")
    teacher = TeacherModel(make_spec("cnn", taps=("blocks.0",), packing=packing), device)
    rows = samples.splits["train"][: 9 * BATCH - 3]
    views = np.arange(len(rows)) % 4
    whole = teacher.score(samples, rows, views)
    cut = range(0, len(rows), BATCH)
    alone = joined([teacher.score(samples, rows[i : i + BATCH], views[i : i + BATCH]) for i in cut])
    assert all(np.array_equal(whole[name], alone[name]) for name in alone)


def test_in_process_is_the_plain_scoring_function(device, samples, make_spec, heard):
    spec = make_spec("cnn", taps=("blocks.0",))
    rows = samples.splits["train"][:21]
    batch = samples.batch(rows, np.arange(21) % 4)
    source = InProcess({"wide": spec}, {"wide": device}, samples, heard)
    found = source.collect(source.submit(batch), 60)["wide"]
    assert found.features["blocks.0"].device.type == device.type
    plain = TeacherModel(spec, device).score(samples, rows, batch.view_B.numpy())
    wanted = decode(plain)
    assert found.values_NC.cpu().equal(wanted.values_NC)
    assert found.features["blocks.0"].cpu().equal(wanted.features["blocks.0"])
    on_cpu = decode(TeacherModel(spec).score(samples, rows, batch.view_B.numpy()))
    near = (found.values_NC.cpu().softmax(1) - on_cpu.values_NC.softmax(1)).abs().max()
    assert near < 1e-3
