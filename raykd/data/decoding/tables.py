"""Parquet files and Arrow streams: samples that are rows of tables.

Shapes: B samples of a block, D numbers of a sample.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from raykd.config.sources import HfSource, ObjectSource, ParquetSource
from raykd.data.dataset import PARTS
from raykd.data.decoding.columns import (
    Block,
    Choice,
    Known,
    Survey,
    as_texts,
    check_categories,
    choose,
    is_text,
    survey,
)
from raykd.data.decoding.images import image_layout
from raykd.data.decoding.layout import (
    KEY,
    File,
    Groups,
    Index,
    Layout,
    Required,
    columns_of,
    group_parts,
    ids_of,
    list_files,
)
from raykd.data.decoding.rows import HELD, Table, encoded_of, open_table, read_column, read_groups
from raykd.errors import InputError, Problem, refuse
from raykd.objects import held

_INPUTS = "data.source.inputs"
_TEXT = "data.source.text"
_ID = "data.source.id"
_SOURCE = "data.source"
_REPOSITORY = re.compile(r"^\w[\w.-]*/\w[\w.-]*$")
_BLOCK_ROWS = 2**16
_STATE, _DICT = "state.json", "dataset_dict.json"


def index_parquet(source: ParquetSource, required: Required, known: Known = None) -> Index:
    """Every row of some Parquet files.

    Args:
        source: the files.
        required: columns that they have to have beside the inputs.
        known: as of `index_csv`.

    Raises:
        InputError: a file is damaged, or lacks a column, or a column cannot be an input.
    """
    return _index(source, required, list_files(source.path, ("parquet",)), known)


def index_rows(source: ObjectSource, required: Required, known: Known = None) -> Index:
    """Every row of a table that this process holds; see `index_parquet`.

    Raises:
        InputError: it is not held here, or lacks a column, or a column cannot be an input.
    """
    rows = held(source.fingerprint, source.describes, key=_SOURCE).value
    file = File("rows", f"{HELD}{source.fingerprint}", rows.table.nbytes, 0)
    return replace(_index(source, required, [file], known), splits=rows.splits)


def index_hf(source: HfSource, required: Required) -> Index:
    """Every row of a saved data set, with its splits and the names of its classes.

    Raises:
        InputError: as `index_parquet`; a folder that is neither.
    """
    if isinstance(source.path, str):
        _check_folder(source.path)
    files = _saved_files(source.path)
    found = _index(source, required, files or list_files(source.path, ("parquet",)))
    names = [_part_of(file.name) for file in found.files]
    if None in names:
        return found
    tables = [open_table(file) for file in found.files]
    splits = [part for part, one in zip(names, tables, strict=True) for _ in range(sum(one.groups))]
    return replace(found, splits=pa.array(splits))


def _check_folder(path: str) -> None:
    """A name of the hub is refused with what to do: nothing is downloaded here."""
    if _REPOSITORY.match(path) and not Path(path).exists():
        raise InputError.at(
            KEY, f"there is no folder {path} (in {Path.cwd()}), and no hub is asked: bring it once with `hf "
            f"download {path} --repo-type dataset --local-dir FOLDER`, and give that folder"
        )  # fmt: skip


def _saved_files(path: str | Sequence[str]) -> tuple[File, ...]:
    """The streams that `save_to_disk` wrote; none where there are none."""
    if not isinstance(path, str):
        return ()
    root = Path(path).expanduser()
    try:
        folders = [root]
        if (root / _DICT).is_file():
            folders = [root / name for name in json.loads((root / _DICT).read_text())["splits"]]
        paths = [
            folder / one["filename"]
            for folder in folders
            if (folder / _STATE).is_file()
            for one in json.loads((folder / _STATE).read_text())["_data_files"]
        ]
        stats = [path.stat() for path in paths]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError.at(
            KEY, f"{root} is no whole saved data set: {error!r}; save it again"
        ) from error
    return tuple(
        File(path.relative_to(root).as_posix(), str(path.absolute()), one.st_size, one.st_mtime_ns)
        for path, one in zip(paths, stats, strict=True)
    )


def _part_of(name: str) -> str | None:
    """The split that a file's name or folder says, if it is one."""
    words = [name.split("/")[-1].partition("-")[0].partition(".")[0], *name.split("/")[:-1]]
    return next((part for part in words if part in PARTS), None)


def _index(
    source: ParquetSource | HfSource | ObjectSource,
    required: Required,
    files: Sequence[File],
    known: Known = None,
) -> Index:
    asked = dict(required) | ({} if source.id is None else {source.id: _ID})
    tables = [open_table(file) for file in files]
    inputs, unused = _columns(source, tables, asked)
    key = _INPUTS if source.text is None else _TEXT
    named = {} if source.text is None and source.inputs is None else dict.fromkeys(inputs, key)
    _check(tables, {**named, **asked})
    check_categories(source.categories, inputs, asked)
    names = dict.fromkeys([*required, *([source.id] if source.id is not None else [])])
    columns = {name: _together([read_column(one, name) for one in tables]) for name in names}
    counts = [(one.file.name, sum(one.groups)) for one in tables]
    ids = ids_of(None if source.id is None else columns[source.id], counts, written=False)
    if source.text is None and all(
        _is_cell(kind) for name in inputs for kind in _kinds(tables, name)
    ):
        choice = _choice(source, tables, inputs, named=bool(named), known=known)
        inputs, unused = choice.names, {**unused, **choice.unused}
        if not inputs:
            raise _none_fit(tables[0], unused)
        layout = Layout("numbers", (len(inputs),), "<f4", words=choice.words)
    else:
        layout = _layout(source, tables, inputs)
    groups = {one.file.path: one.groups for one in tables}
    return Index(
        ids.texts,
        tuple(files),
        layout,
        group_parts(groups, inputs, layout),
        {name: columns[name] for name in required},
        _class_names(tables[0].schema, required),
        unused=unused,
        numbers=ids.numbers,
    )


def _columns(
    source: ParquetSource | HfSource | ObjectSource,
    tables: Sequence[Table],
    asked: Mapping[str, str],
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The columns that inputs are made of, as far as their types tell, and those that are left out -> why."""
    if source.text is not None:
        return (source.text,), {}
    if source.inputs is not None:
        return columns_of(source.inputs), {}
    every = dict.fromkeys(name for one in tables for name in one.kinds)
    free = {name: _kinds(tables, name) for name in every if name.strip() and name not in asked}
    unused = {
        name: f"has {', '.join(map(str, kinds))}, which is neither numbers nor words"
        for name, kinds in free.items()
        if not all(map(_is_cell, kinds))
    }
    found = tuple(name for name in free if name not in unused)
    if not found:
        raise _none_fit(tables[0], unused)
    return found, unused


def _none_fit(table: Table, unused: Mapping[str, str]) -> InputError:
    why = "; ".join(f"{name!r} {why}" for name, why in unused.items()) or "it has no other column"
    return InputError.at(
        _INPUTS, f"{table.file.path} has no column of numbers or words beside label and id: {why}; name the column of "
        "images, lists or tensors here, or that of texts in data.source.text"
    )  # fmt: skip


def _kinds(tables: Sequence[Table], name: str) -> list[Any]:
    """The types that a column has, each once."""
    kinds = [one.kinds[name] for one in tables if name in one.kinds]
    return list({str(kind): kind for kind in kinds}.values())


def _choice(
    source: ParquetSource | HfSource | ObjectSource,
    tables: Sequence[Table],
    names: tuple[str, ...],
    *,
    named: bool,
    known: Known,
) -> Choice:
    """What each column is taken for; only columns that may hold words are read."""
    if known is not None:
        return Choice(names, tuple(known), {})
    kinds = {name: [k for k in _kinds(tables, name) if not pa.types.is_null(k)] for name in names}
    of_words = (name for name in names if kinds[name] and all(map(_is_words, kinds[name])))
    texts = dict.fromkeys([*of_words, *source.categories])
    read = [n for n in names if n in texts or any(map(_is_words, kinds[n]))]
    found = survey(_blocks(tables, read), read, names if named else (), texts)
    numbers = {
        name: Survey(0, filled=bool(kind), numbers=bool(kind)) for name, kind in kinds.items()
    }
    return choose({**numbers, **found}, source.categories, named=named, key=_INPUTS)


def _blocks(tables: Sequence[Table], names: Sequence[str]) -> Iterator[Block]:
    """All rows of all files, as texts, without the columns that a file lacks."""
    for one in tables:
        there = tuple(name for name in names if name in one.kinds)
        first = 1
        for columns in read_groups(Groups(one.file.path, 0, len(one.groups), there), _BLOCK_ROWS):
            if there:
                cells = {n: as_texts(column) for n, column in zip(there, columns, strict=True)}
                yield one.file.name, first, cells
                first += len(columns[0])


def _check(tables: Sequence[Table], asked: Mapping[str, str]) -> None:
    """Every file has every column, of one type in all; of inputs that are cells any."""
    problems = []
    for name, key in asked.items():
        lacking = [one for one in tables if name not in one.kinds]
        if lacking:
            path, there = lacking[0].file.path, ", ".join(lacking[0].kinds)
            problems.append(Problem(key, f"{path} has no column {name!r}; it has {there}"))
        else:
            kinds = {str(one.kinds[name]): one.file.path for one in tables}
            cells = key == _INPUTS and all(map(_is_cell, _kinds(tables, name)))
            differ = len(kinds) > 1 and not cells
            if differ and (key == _INPUTS or _clash(tables, name, key)):
                found = "; ".join(f"{kind} in {path}" for kind, path in list(kinds.items())[:2])
                problems.append(Problem(key, f"{name!r} is {found}; make it one type"))
    if not problems and not sum(sum(one.groups) for one in tables):
        problems.append(Problem(KEY, f"{tables[0].file.path} has no row; add samples"))
    refuse(problems)


def _clash(tables: Sequence[Table], name: str, key: str) -> bool:
    """Whether a column's types have no common one; ids are texts at last, whatever they are."""
    if key == _ID:
        return False
    try:
        pa.unify_schemas(
            [pa.schema([pa.field(name, one.schema.field(name).type)]) for one in tables],
            promote_options="permissive",
        )
    except pa.ArrowException:
        return True
    return False


def _together(parts: Sequence[Any]) -> Any:
    """A column of all files, of their common type; of texts where they have none."""
    try:
        tables = [pa.table({"": part}) for part in parts]
        return pa.concat_tables(tables, promote_options="permissive").column(0).combine_chunks()
    except pa.ArrowException:
        return pa.concat_arrays([part.cast(pa.string()) for part in parts])


def _class_names(schema: Any, required: Required) -> dict[str, tuple[str, ...]]:
    """Of the columns that Hugging Face wrote down as class labels."""
    about = (schema.metadata or {}).get(b"huggingface")
    if about is None:
        return {}
    features = json.loads(about).get("info", {}).get("features", {})
    labels = {name: features.get(name) for name in required}
    return {
        name: tuple(one["names"])
        for name, one in labels.items()
        if isinstance(one, dict) and one.get("_type") == "ClassLabel"
    }


def _layout(
    source: ParquetSource | HfSource | ObjectSource,
    tables: Sequence[Table],
    inputs: tuple[str, ...],
) -> Layout:
    kinds = [tables[0].schema.field(name).type for name in inputs]
    if source.text is not None:
        if not is_text(kinds[0]):
            raise InputError.at(_TEXT, f"{source.text!r} has {kinds[0]}; needs texts")
        return Layout("text", (source.length,), "|u1")
    if len(kinds) > 1 or _is_foreign(tables[0].schema.field(inputs[0])):
        raise _unfit(inputs, kinds)
    (kind,) = kinds
    if isinstance(kind, pa.FixedShapeTensorType):
        return Layout(
            "numbers", tuple(kind.shape), "|u1" if kind.value_type == pa.uint8() else "<f4"
        )
    if _is_encoded(kind):
        return image_layout(source, _values(tables, inputs))
    if _is_list(kind) and _is_number(kind.value_type):
        first = next((one for one in _values(tables, inputs) if one), None)
        if first is not None:
            return Layout("numbers", (len(first),), "<f4")
    raise _unfit(inputs, kinds)


def _values(tables: Sequence[Table], inputs: tuple[str, ...]) -> Iterator[Any]:
    for one in tables:
        for batch in read_groups(Groups(one.file.path, 0, len(one.groups), inputs), 1):
            yield encoded_of(batch[0])[0]


def _is_number(kind: Any) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def _is_words(kind: Any) -> bool:
    return is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _is_cell(kind: Any) -> bool:
    """Whether a column of this type is one of numbers or words."""
    plain = _is_number(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    return plain or _is_words(kind)


def _is_list(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_encoded(kind: Any) -> bool:
    """Bytes, or what Hugging Face makes of an image: {bytes, path}."""
    if not pa.types.is_struct(kind):
        return _is_binary(kind)
    return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)


def _is_foreign(field: Any) -> bool:
    """Whether it has a type of somebody else, which looks different once that is imported."""
    name = (field.metadata or {}).get(b"ARROW:extension:name")
    extension = isinstance(field.type, pa.BaseExtensionType)
    return (extension or name is not None) and not isinstance(field.type, pa.FixedShapeTensorType)


def _unfit(inputs: Sequence[str], kinds: Sequence[Any]) -> InputError:
    found = ", ".join(f"{name} ({kind})" for name, kind in zip(inputs, kinds, strict=True))
    return InputError.at(
        _INPUTS, f"found {found}; allowed are one column of encoded images (bytes, or {{bytes, path}}), of "
        "lists of numbers or of fixed_shape_tensor, or any number of columns of numbers and words; a text goes into `text`"
    )  # fmt: skip
