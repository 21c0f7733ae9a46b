"""Teachers of other libraries that recipes of the tests name as `raykd_foreign_models:function`."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn
from torch.utils.data import TensorDataset


def flat(images):
    return images.reshape(len(images), -1)


def fitted(classes=tuple(range(10)), estimator=None):
    """An estimator on pixels 0 to 1 of some digits, in the order given."""
    data = load_digits()
    rows = np.isin(data.target, classes)
    places = {label: place for place, label in enumerate(classes)}
    labels = np.array([places[label] for label in data.target[rows]])
    if estimator is None:
        estimator = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1)
    return estimator.fit(data.data[rows] / 16, labels)


def forest(trees=20, seed=0):
    """Probabilities of a random forest, whose classes are those of the data."""
    model = fitted(estimator=RandomForestClassifier(trees, random_state=seed, n_jobs=1))
    return lambda images: model.predict_proba(flat(images))


def estimator():
    """What the user forgot to take the method of."""
    return fitted()


def words():
    return lambda images: np.array(["three"] * len(images))


def top_class(offset=0):
    model = fitted()
    return lambda images: model.predict(flat(images)) + offset


def log_probabilities():
    """Some are −∞."""

    def answer(images):
        probabilities = fitted_once.predict_proba(flat(images))
        with np.errstate(divide="ignore"):
            return np.log(np.where(probabilities < 1e-9, 0, probabilities))

    fitted_once = fitted()
    return answer


class Regression(nn.Module):
    """Logits of a fitted linear discriminant."""

    def __init__(self, classes):
        super().__init__()
        model = fitted(tuple(classes))
        self.linear = nn.Linear(64, len(classes))
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(model.coef_))
            self.linear.bias.copy_(torch.from_numpy(model.intercept_))

    def forward(self, images):
        return self.linear(images.flatten(1))


def blank():
    """The same before it is fitted."""
    module = Regression(range(10))
    nn.init.zeros_(module.linear.weight)
    return module


def regression(classes=tuple(range(10))):
    """A teacher whose class i is the digit classes[i]."""
    return Regression(classes)


NAMES = ("food", "space", "sport")


def topics(count=90):
    """Short texts of three topics, and the topic's number."""
    words = (("bread", "soup", "oven"), ("orbit", "moon", "comet"), ("goal", "team", "ball"))
    rng = np.random.default_rng(0)
    labels = np.arange(count) % len(words)
    return [" ".join(rng.choice((*words[label], "the"), 8)).title() for label in labels], labels


def tfidf():
    """A pipeline of texts that is to be fitted."""
    return make_pipeline(TfidfVectorizer(), LogisticRegression())


def fitted_tfidf():
    """What a fitted one says of texts."""
    return tfidf().fit(*topics()).predict_proba


class Listener(nn.Module):
    """A module that takes a list of texts."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, texts):
        assert isinstance(texts[0], str)
        seen = [
            ["soup" in one.lower(), "moon" in one.lower(), "team" in one.lower()] for one in texts
        ]
        return self.scale * torch.tensor(seen, dtype=torch.float32)


def picky():
    """A function that two samples do not upset, and more do."""

    def answer(images):
        if len(images) > 2:
            raise AttributeError("no such pixel")
        return np.zeros((len(images), 10))

    return answer


def pairs():
    """Digits as a torch data set of (image, label)."""
    data = load_digits()
    return TensorDataset(torch.tensor(data.images[:, None] / 16).float(), torch.tensor(data.target))


def table():
    """A table, which only Python can give."""
    import pyarrow as pa

    return pa.table({"a": [1.0, 2.0]})
