"""`data:` how samples are split, which keep their label, how they are viewed."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from raykd.config.base import (
    Count,
    Folds,
    ImportPath,
    License,
    Natural,
    NonNegative,
    PartOrCount,
    Positive,
    Real,
    Settings,
    Unit,
)
from raykd.config.sources import Source
from raykd.config.transfer import Transfer


class HashedTokenizer(Settings):
    """Words, and runs of words, by their hash: nothing is fitted, no word is unknown, a few share an id."""

    type: Literal["hashed"] = "hashed"
    size: Count = 16384
    """Different ids."""
    length: Count = 256
    """Ids of a text that are kept, from its beginning."""
    ngrams: Literal[1, 2, 3] = 1
    """Longest run of words that gets an id: 2 = words and pairs of neighbours."""
    lower: bool = True
    """Without capitals."""


class WordTokenizer(Settings):
    """The most frequent words of the training texts; all others are one word, the unknown one."""

    type: Literal["words"] = "words"
    size: Count = 16384
    """Most words that are known."""
    length: Count = 256
    """Words of a text that are kept, from its beginning."""
    lower: bool = True
    """Without capitals."""


class ByteTokenizer(Settings):
    """Every byte of the text in UTF-8; for short texts, and for languages that leave no spaces."""

    type: Literal["bytes"] = "bytes"
    length: Count = 1024
    """Bytes of a text that are kept, from its beginning."""
    lower: bool = False
    """Without capitals."""


class HfTokenizer(Settings):
    """A tokenizer of transformers; needs the extra `hf`."""

    type: Literal["hf"] = "hf"
    path: str
    """Folder (on every node) with `tokenizer.json` or the files of its kind; mostly that of the model."""
    length: Count = 256
    """Tokens of a text that are kept, from its beginning, those that frame it included."""


class NoTokenizer(Settings):
    """None: a teacher that asks for texts, such as a pipeline of scikit-learn, is given the texts themselves."""

    type: Literal["none"] = "none"


def _tokenizer(value: Any) -> Any:
    """`none` is short for `{type: none}`."""
    return {"type": value} if isinstance(value, str) else value


Tokenizer = Annotated[
    HashedTokenizer | WordTokenizer | ByteTokenizer | HfTokenizer | NoTokenizer,
    Field(discriminator="type"),
    BeforeValidator(_tokenizer),
]


class PadCrop(Settings):
    """Pad with zeros and crop back at a random offset (the CIFAR augmentation)."""

    type: Literal["pad_crop"] = "pad_crop"
    padding: Count = 4
    """Pixels added on every side."""


class Shift(Settings):
    """Move by whole pixels; what comes in from outside is zero."""

    type: Literal["shift"] = "shift"
    pixels: Count = 1
    """Largest shift in each direction, in pixels."""


class Flip(Settings):
    """Mirror left and right."""

    type: Literal["flip"] = "flip"
    probability: Unit = 0.5
    """Chance of mirroring."""


class Rotate(Settings):
    """Rotate about the centre, bilinear, zeros outside."""

    type: Literal["rotate"] = "rotate"
    degrees: Positive = 10.0
    """Largest angle to either side, in degrees."""


class Noise(Settings):
    """Add Gaussian noise."""

    type: Literal["noise"] = "noise"
    std: Positive = 0.05
    """Standard deviation, in units of the source (images are in [0, 1])."""


class Cutout(Settings):
    """Set one square to zero (DeVries & Taylor 2017)."""

    type: Literal["cutout"] = "cutout"
    size: Count = 8
    """Side of the square, in pixels."""


class RandomResizedCrop(Settings):
    """Cut out a random box and resize it (Szegedy et al. 2015), bilinear and antialiased."""

    type: Literal["random_resized_crop"] = "random_resized_crop"
    scale: tuple[Unit, Unit] = (0.08, 1.0)
    """Least and largest part of the image's area."""
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    """Least and largest width over height."""
    size: Count | None = None
    """Side of the square that comes out, in pixels; null = as large as the sample."""

    @model_validator(mode="after")
    def _rises(self) -> RandomResizedCrop:
        for name, (least, most) in {"scale": self.scale, "ratio": self.ratio}.items():
            if not 0 < least <= most:
                raise ValueError(f"{name} [{least:g}, {most:g}] needs 0 < least <= largest")
        return self


class ColorJitter(Settings):
    """Change brightness, contrast, saturation and hue at random, in this order."""

    type: Literal["color_jitter"] = "color_jitter"
    brightness: NonNegative = 0.4
    """Factor between 1 - this (0 at least) and 1 + this."""
    contrast: NonNegative = 0.4
    """The same, about the image's mean grey."""
    saturation: NonNegative = 0.4
    """The same, about each pixel's grey; of images of three channels, red, green, blue."""
    hue: Annotated[Unit, Field(le=0.5)] = 0.1
    """Turn by up to this part of the colour circle to either side; of images of three channels."""
    probability: Unit = 1.0
    """Chance of changing an image."""


class RandAugment(Settings):
    """Some of 14 operations one after the other (Cubuk et al. 2020), those of torchvision; needs the extra `vision`."""

    type: Literal["rand_augment"] = "rand_augment"
    operations: Count = 2
    """How many; each is drawn anew."""
    magnitude: Annotated[Natural, Field(le=30)] = 9
    """How strong they are, of 30."""


class DropWords(Settings):
    """Texts: blank out words, each on its own; a word is what ASCII white space surrounds."""

    type: Literal["drop_words"] = "drop_words"
    probability: Unit = 0.1
    """Chance of each word."""


class Mixup(Settings):
    """Blend with a partner sample (Zhang et al. 2018); partner and share depend on (seed, id, view)."""

    type: Literal["mixup"] = "mixup"
    alpha: Positive = 0.2
    """Beta(alpha, alpha) gives the share."""
    probability: Unit = 1.0
    """Chance of blending a sample."""


class Cutmix(Settings):
    """Paste a box of a partner sample (Yun et al. 2019)."""

    type: Literal["cutmix"] = "cutmix"
    alpha: Positive = 1.0
    """Beta(alpha, alpha) gives the share."""
    probability: Unit = 1.0
    """Chance of pasting into a sample."""


class FactoryView(Settings):
    """Your own view: a function `(inputs, generator) -> inputs` of one sample."""

    type: Literal["factory"] = "factory"
    path: ImportPath
    """`module:function`."""


ViewStep = Annotated[
    PadCrop
    | Shift
    | Flip
    | Rotate
    | RandomResizedCrop
    | ColorJitter
    | RandAugment
    | Noise
    | Cutout
    | DropWords
    | Mixup
    | Cutmix
    | FactoryView,
    Field(discriminator="type"),
]


class Views(Settings):
    """Augmented versions of the training samples; teachers and student see the same one."""

    added_later: ClassVar[frozenset[str]] = frozenset({"visible"})

    count: Count | None = 1
    """Views per sample: epoch e shows view e mod count. null: a new view in each epoch."""
    policy: tuple[ViewStep, ...] = ()
    """Steps applied in this order; none = the untransformed sample."""
    visible: Unit = 0.25
    """`task: detection`: boxes move with their image and are cut at its border. A box of which a view shows less than
    this part of the area is nothing to be found there, and its rest counts neither as right nor as wrong; a file of found
    boxes says nothing of it."""


class SplitBy(Settings):
    """Split by what is known of the samples, not by chance alone."""

    type: Literal["column", "group", "time"]
    """column: it says train, validation or test; what it never says is drawn. group: samples of one value stay
    together, in a seeded order. time: the newest are test, those before them validation, the oldest train."""
    column: str
    """Column of the source, or of its table of labels."""


class Fold(Settings):
    """One part of several, all drawn at once: each labelled sample is in one of them."""

    index: Natural
    """Which one, from 0."""
    of: Folds
    """How many there are."""


class Splits(Settings):
    """Stratified, seeded splits. Ignored for the parts that the source brings itself."""

    validation: PartOrCount = 0.15
    """Samples to choose by: early stopping, best epoch, ranking; a fixed half of them fits temperatures (`train.select_on`)."""
    test: PartOrCount = 0.2
    """Samples scored once, at the end."""
    by: SplitBy | None = None
    """null: stratified by label. Else parts are at least as large as asked, in whole groups."""
    fold: Fold | None = None
    """Test is this part (`test` is left aside), validation is cut from the others. `folds` sets it."""


class BadSamples(Settings):
    """Samples that cannot be decoded; training samples that kill a teacher, make it raise, or make it answer NaN."""

    policy: Literal["skip", "stop"] = "skip"
    """skip: left out by all, or, found by halving the batch, for that teacher. stop: the run stops."""
    max_fraction: Unit = 0.001
    """More than this part of all samples stops the run, for each teacher."""


class BytesTokens(Settings):
    """Every byte of a text in UTF-8 is a token: 256 of them, the same for every model."""

    type: Literal["bytes"] = "bytes"


class BpeTokens(Settings):
    """Byte-level BPE of the library `tokenizers`: pieces of words, and every byte. Needs the extra `hf`."""

    added_later: ClassVar[frozenset[str]] = frozenset({"occurring"})

    type: Literal["bpe"] = "bpe"
    path: str | None = None
    """A `tokenizer.json` (as of GPT-2 and SmolLM2), or its folder; null = fitted on the training texts."""
    size: Annotated[Count, Field(ge=257, le=1_000_000)] = 1024
    """Different tokens of one that is fitted here; the first 256 are the bytes."""
    occurring: bool = False
    """With `path`: only the tokens that occur in the texts of the recipe, and single bytes, are tokens here, so that a
    small student has few of them; in new texts another one is spelt in bytes. Which tokens test has is known then, and
    not how often. A teacher that is an engine gets its own ids, and what it says of all others counts as rest."""


class Tokens(Settings):
    """With `task: language`: how texts become chunks of tokens, the samples of a language model."""

    tokenizer: Annotated[
        BytesTokens | BpeTokens, Field(discriminator="type"), BeforeValidator(_tokenizer)
    ] = BytesTokens()
    """What a token is; the same for students and teachers."""
    length: Annotated[int, Field(ge=2, le=1_000_000)] = 128
    """Tokens of a chunk, at most. A document is cut into chunks; no chunk reaches over a document's end."""
    prompt: str | None = None
    """Column of the source with the number of bytes at the beginning of each text that are given: what follows is
    predicted from them, they themselves are not. null = all is predicted."""
    pool: PartOrCount | None = None
    """Documents of the training part that students learn from, stratified by domain; teachers with `labels: all` are
    fitted on all of them. null = all."""


class Data(Settings):
    """Samples, splits, label budget and views."""

    added_later: ClassVar[frozenset[str]] = frozenset({"tokens", "transfer"})

    source: Source
    """Where the samples come from."""
    splits: Splits = Splits()
    """Sizes of the validation and test parts."""
    classes: tuple[str, ...] | str | None = None
    """Class names in label order, or a file with one a line (or a .json list); null takes the source's own. Where
    labels are texts, these and no others are the classes, in this order."""
    license: License | None = None
    """Of the samples, for the student's model card, such as cc-by-4.0; null = not stated."""
    labels: PartOrCount | None = None
    """How many training samples keep their label (stratified); null keeps all. 0: nothing is learnt from labels;
    those of validation still choose by."""
    tokens: Tokens | None = None
    """With `task: language`: how texts become chunks of tokens; null takes bytes, in chunks of 128."""
    transfer: Transfer | None = None
    """Samples without labels beside the training samples, or in their place: made of them, or of another source."""
    views: Views = Views()
    """Deterministic augmented views."""
    bad_samples: BadSamples = BadSamples()
    """Samples that break a decoder or a teacher."""
    cache: str | None = None
    """Folder of the decoded samples of `parquet`, `csv`, `images`, `webdataset` and `hf`; null = $RAYKD_HOME/decoded,
    else .raykd/decoded. Fast local disk on one machine; on several nodes one that all see."""


class Impute(Settings):
    """What stands in the gaps of a table's columns of numbers: scikit-learn's SimpleImputer."""

    type: Literal["median", "mean", "most_frequent", "constant"] = "median"
    """Of the column's training values; constant: the same number in every column."""
    value: Real = 0.0
    """Of `constant`: the number."""
    indicator: bool = True
    """Add a column of 0 and 1 for each column that has gaps in the training samples: was this cell empty?"""

    @model_validator(mode="after")
    def _has_value_if_constant(self) -> Impute:
        if self.value and self.type != "constant":
            raise ValueError(f"value {self.value:g} is for `type: constant`; found {self.type}")
        return self


class Categories(Settings):
    """How a table's columns of words become numbers: scikit-learn's OneHotEncoder or OrdinalEncoder."""

    type: Literal["one_hot", "ordinal"] = "one_hot"
    """one_hot: a column of 0 and 1 for each category of the training samples; an empty cell is one of its own.
    ordinal: the category's number, in alphabetical order from 0; -1 of a new one, -2 of an empty cell."""
    most: Count = 32
    """Of `one_hot`: columns that a column of words becomes at most; its rarest categories, and any new one, share one."""


class Preprocess(Settings):
    """What a model does to a sample in source space before its first layer."""

    added_later: ClassVar[frozenset[str]] = frozenset({"impute", "categories"})

    size: Count | None = None
    """Resize to size × size pixels (bilinear, antialiased); null keeps the source's size."""
    crop: Count | None = None
    """Crop the central crop × crop pixels before resizing."""
    channels: Literal[1, 3] | None = None
    """Repeat one channel to three, or average three to one; null keeps the source's."""
    normalize: Literal["auto", "none"] | tuple[tuple[float, ...], tuple[float, ...]] = "auto"
    """[means, stds] per channel; auto takes them from the training samples."""
    scale: NonNegative = 1.0
    """Multiply inputs by this before normalising, e.g. 255 for models that expect 0..255."""
    impute: Impute | None = Impute()
    """Tables: what stands in empty cells of columns of numbers, fitted on the training samples; null leaves them NaN,
    for models that take it."""
    categories: Categories | None = Categories()
    """Tables: how columns of words become numbers, fitted on the training samples; null leaves these columns out."""
    tokenizer: Tokenizer | None = None
    """Of texts, which know none of the other settings: how they become ids; null = `hashed`. `none`, for a
    teacher: it is given the texts."""
