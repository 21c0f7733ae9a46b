"""Hostile files: none runs code, none names code that is imported, none leads out of its folder or fills the memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import xxhash

from jobs.faults.hostile import KEY, PLACES, shards, student
from jobs.faults.scenario import Found
from raykd.cli import main
from raykd.config.models import FactoryModel
from raykd.errors import RaykdError
from raykd.export.weights_format import DESCRIPTION, WEIGHTS
from raykd.folders import read_json, write_json
from raykd.models.weights import load_weights
from raykd.pipeline import load_student
from raykd.targets.maintenance import verify_store
from raykd.targets.remote import Remote
from raykd.targets.shards import check_shard, map_shard
from raykd.targets.store import Entry
from raykd.testing.payloads import archives, calls, pickles

_LATE_S = 5.0
_HUGE = 1 << 62
_MOST_BYTES = 512 * 2**20
_DEEP = b"[" * 100_000


def pickled_code(folder: Path, quick: bool) -> Found:  # noqa: ARG001 (seconds in any case)
    """Four ways to run a command from a pickle, in every form and every place that raykd reads."""
    control, canary = folder / "control", folder / "canary"
    armed = sum(_goes_off(call, control) for call in calls(control).values())
    payloads = {**pickles(canary), **archives(canary)}
    tried, unheard = 0, []
    for number, (place, read) in enumerate(PLACES.items()):
        for count, (name, content) in enumerate(payloads.items()):
            tried += 1
            if not _refused(partial(read, folder / f"{number}-{count}", content)):
                unheard.append(f"{name} as {place}")
    time.sleep(1.0)  # a command that was started needs a while
    ran = canary.exists()
    said = f"{tried} files ({len(payloads)} payloads in {len(PLACES)} places): "
    said += (
        f"{'SOME' if ran else '0'} executed, {tried - len(unheard)} refused with an error of ours"
    )
    said += f" (not: {unheard[0]})" if unheard else ""
    return Found(
        f"{said}; {armed} of 4 run where they are unpickled", armed == 4 and not ran and not unheard
    )


def _goes_off(call: object, canary: Path) -> bool:
    """Whether a payload does what it is made for, where it is unpickled."""
    canary.unlink(missing_ok=True)
    pickle.loads(pickle.dumps(call))  # noqa: S301 (our own)
    until = time.monotonic() + _LATE_S
    while not canary.exists() and time.monotonic() < until:
        time.sleep(0.01)
    return canary.exists()


def _refused(action: Callable[[], object]) -> bool:
    """Whether an error says so that raykd raises on purpose."""
    try:
        action()
    except RaykdError:
        return True
    except Exception:  # noqa: BLE001 (any other one is what is looked for)
        return False
    return False


def named_code(folder: Path, quick: bool) -> Found:  # noqa: ARG001 (seconds in any case)
    """Artefacts that name a function of a module, which leaves a canary when it is imported."""
    canary, module = folder / "canary", "raykd_canary_module"
    (folder / f"{module}.py").write_text(
        f"open({str(canary)!r}, 'w').close()\ndef make(**_):\n    return None\n", encoding="utf-8"
    )
    path = f"{module}:make"
    with _importable(folder):
        found = {
            name: _refused(partial(act, folder / f"artefact{n}", path))
            for n, (name, act) in enumerate(_NAMING.items())
        }
        imported = module in sys.modules or canary.exists()
        __import__(module)
    armed = canary.exists()
    accepted = [name for name, refused in found.items() if not refused]
    said = f"{sum(found.values())} of {len(found)} artefacts refused, {'SOME' if imported else '0'} imported"
    said += f" (taken: {', '.join(accepted)})" if accepted else ""
    return Found(said, armed and not imported and not accepted)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The folder is the working directory and on the path, as a user's is."""
    before = Path.cwd()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        os.chdir(before)


def _factory_student(folder: Path, path: str) -> Path:
    own = student(folder)
    description = read_json(own / DESCRIPTION)
    description["model"] = FactoryModel(path=path).model_dump(mode="json")
    write_json(own / DESCRIPTION, description)
    return own


def _load(folder: Path, path: str) -> None:
    load_student(_factory_student(folder, path))


def _export(folder: Path, path: str) -> None:
    _of_code(main(["export", str(_factory_student(folder, path)), "--quiet"]))


def _predict(folder: Path, path: str) -> None:
    samples = folder / "x.csv"
    own = _factory_student(folder / "student", path)
    samples.write_text("a,b,c,d\n1,2,3,4\n", encoding="utf-8")
    _of_code(main(["predict", str(own), str(samples)]))


def _in_manifest(folder: Path, path: str) -> None:
    shards(folder)
    manifest = read_json(folder / KEY.folder / "manifest.json")
    manifest["key"]["path"] = path
    write_json(folder / KEY.folder / "manifest.json", manifest)
    Entry(folder, KEY)


def _in_codec(folder: Path, path: str) -> None:
    shards(folder)
    manifest = read_json(folder / KEY.folder / "manifest.json")
    manifest["key"]["codec"] = path
    write_json(folder / KEY.folder / "manifest.json", manifest)
    Entry(folder, KEY)


def _of_code(code: int) -> None:
    if code == 2:
        raise RaykdError("the command line refused it")


_NAMING: dict[str, Callable[[Path, str], None]] = {
    "load_student": _load,
    "raykd export": _export,
    "raykd predict": _predict,
    "a manifest's key": _in_manifest,
    "a manifest's codec": _in_codec,
}


def paths_and_sizes(folder: Path, quick: bool) -> Found:  # noqa: ARG001 (seconds in any case)
    """Names that lead elsewhere, headers that promise more than there is, archives that blow up."""
    outside = folder / "outside.safetensors"
    cases = {**_paths(folder, outside), **_headers(folder), **_bombs(folder)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    accepted = [name for name, act in cases.items() if not _refused(act)]
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    said = f"{len(cases) - len(accepted)} of {len(cases)} refused"
    said += f" (taken: {', '.join(accepted)})" if accepted else ""
    said += f"; the process grew by {grown / 2**20:.0f} MiB at most"
    return Found(said, not accepted and grown < _MOST_BYTES)


def _paths(folder: Path, outside: Path) -> dict[str, Callable[[], object]]:
    """A valid shard lies outside of the store; names that would reach it."""
    made = folder / "made"
    first, _ = shards(made)
    outside.write_bytes((made / KEY.folder / first.file).read_bytes())
    prefix = first.file[:11]
    names = [str(outside), f"../../{outside.name}", f"../{first.file}", f"{prefix}/../../{outside.name}",
             "..", ".", "", f"{prefix}\\..\\x.safetensors", f"a/{first.file}"]  # fmt: skip
    cases: dict[str, Callable[[], object]] = {}
    for number, name in enumerate(names):
        root = folder / f"path{number}"

        def listed(root: Path = root, name: str = name) -> None:
            shards(root)
            path = root / KEY.folder / "manifest.json"
            manifest = read_json(path)
            manifest["shards"][0]["file"] = name
            write_json(path, manifest)
            assert verify_store(root).problems, "`raykd targets verify` sees it too"
            entry = Entry(root, KEY)
            entry.arrays(entry.shards[0])

        def in_bucket(root: Path = root, name: str = name) -> None:
            bucket = root / "bucket" / KEY.folder
            bucket.mkdir(parents=True)
            shard = {**first.to_json(), "file": name}
            record = {"schema": 2, "key": KEY.to_json(), "shard": shard}
            (bucket / f"{first.file}.json").write_text(json.dumps(record), encoding="utf-8")
            Remote(f"file://{root / 'bucket'}", root / "mirror").pull([KEY])

        cases[f"manifest: {name!r}"] = listed
        cases[f"record: {name!r}"] = in_bucket
    return cases


def _headers(folder: Path) -> dict[str, Callable[[], object]]:
    """Safetensors whose headers lie, as shards with a checksum that fits, as weights and as a student's."""
    entry = {"dtype": "F16", "shape": [4, _HUGE], "data_offsets": [0, 8 * _HUGE]}
    lies = {
        "header of 2^62 bytes": _HUGE.to_bytes(8, "little") + b"{}",
        "header of 100 MB that is not there": (10**8).to_bytes(8, "little") + b"{}",
        "shape of 2^64 numbers": _framed({"ids": entry, "hashes": entry, "values": entry}),
        "data beyond the end": _framed(
            {"w": {**entry, "shape": [4], "data_offsets": [9999, 10007]}}
        ),
        "negative offset": _framed({"w": {**entry, "shape": [4], "data_offsets": [-8, 0]}}),
        "no JSON": (4).to_bytes(8, "little") + b"\xff\xff\xff\xff",
        "nested 100,000 deep": _raw(_DEEP),
        "nothing": b"",
    }
    cases: dict[str, Callable[[], object]] = {}
    for number, (name, content) in enumerate(lies.items()):
        root = folder / f"header{number}"

        def as_shard(root: Path = root, content: bytes = content) -> None:
            first, _ = shards(root)
            (root / KEY.folder / first.file).write_bytes(content)
            shard = type(first)(first.file, 0, 4, xxhash.xxh3_128_hexdigest(content))
            assert check_shard(root / KEY.folder, shard) is None, "its checksum fits"
            map_shard(root / KEY.folder, shard, KEY.to_json())

        def as_weights(root: Path = root, content: bytes = content) -> None:
            root.mkdir(parents=True, exist_ok=True)
            (root / "w.safetensors").write_bytes(content)
            load_weights(root / "w.safetensors", key="teachers.one.weights")

        def as_student(root: Path = root, content: bytes = content) -> None:
            own = student(root / "student")
            (own / WEIGHTS).write_bytes(content)
            load_student(own)

        cases |= {
            f"{name}, shard": as_shard,
            f"{name}, weights": as_weights,
            f"{name}, student": as_student,
        }
    for place in (
        "a student's description",
        "a manifest of the target store",
        "a record of a bucket",
    ):
        cases[f"nested 100,000 deep, {place}"] = partial(
            PLACES[place], folder / place.replace(" ", "-"), _DEEP
        )
    return cases


def _framed(header: object) -> bytes:
    return _raw(json.dumps(header).encode())


def _raw(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def _bombs(folder: Path) -> dict[str, Callable[[], object]]:
    """Archives of a MB that hold 1 GB of zeros: as data, as samples, as weights."""
    buffer = io.BytesIO()
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1073741824), }"
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("inputs.npy", "w", force_zip64=True) as file:
            file.write(header.ljust(127) + b"\n")
            for _ in range(1024):
                file.write(bytes(2**20))
    content = buffer.getvalue()
    cases: dict[str, Callable[[], object]] = {}
    for place in ("data.npz", "samples to predict.npz", "weights.pt"):
        cases[f"bomb as {place}"] = partial(PLACES[place], folder / place, content)
    return cases
