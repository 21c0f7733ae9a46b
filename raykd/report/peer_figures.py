"""The picture of networks that learnt from each other: how alike they became, epoch by epoch."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from raykd.report.folder import Curve, RunData, curve
from raykd.report.style import COLOURS, Picture, finish, panels, percent_ticks

_SHOWN = {"agreement": "two peers answer alike", "jsd_nats": "divergence of all peers (nats)"}


def diversity(run: RunData) -> Picture | None:
    """Agreement and Jensen-Shannon divergence of the peers over epochs; None of a run without peers."""
    found = {key: curve(run, "student", "peers", key) for key in _SHOWN}
    known = {key: one for key, one in found.items() if one is not None}
    if not known:
        return None
    figure, every = panels(10.0, 3.2, len(known))
    for axes, (key, one) in zip(every, known.items(), strict=True):
        _line(axes, one)
        axes.set_title(_SHOWN[key])
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if key == "agreement":
            percent_ticks(axes.yaxis)
        else:
            axes.set_ylim(bottom=0)
    return finish(
        figure,
        name="diversity",
        title="How alike the peers are",
        caption="On the training samples of each epoch, as the peers learnt from them; mean over replicas, bands span the lowest "
        "and the highest. Peers that have become the same network have nothing left to tell each other: then agreement goes "
        "to 100 % and the divergence to 0.",
    )


def _line(axes: Axes, one: Curve) -> None:
    tint = COLOURS["student"]
    mean_E = np.nanmean(one.values_RE, axis=0)
    axes.plot(
        one.epochs_E, mean_E, color=tint, linewidth=2.2, marker="o" if len(mean_E) < 3 else ""
    )
    if len(one.values_RE) > 1:
        low, high = np.nanmin(one.values_RE, axis=0), np.nanmax(one.values_RE, axis=0)
        axes.fill_between(one.epochs_E, low, high, color=tint, alpha=0.16, linewidth=0)
