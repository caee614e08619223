"""Figures of the data: faces, their ages, and who is among them."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from PIL import Image

from agehelpers.plots import style


def _picture(face: Any) -> Image.Image:
    return Image.fromarray(face) if isinstance(face, np.ndarray) else Image.open(face).convert("RGB")


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of that size (inches) and its Axes [rows, columns], without ticks and frames."""
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def face_grid(faces: Sequence[Any], titles: Sequence[str], columns: int = 6) -> Figure:
    """Faces (uint8 arrays [H, W, 3] or picture files), each below its title."""
    rows = max(1, -(-len(faces) // columns))
    figure, axes = _panels(rows, columns, 1.45 * columns, 1.8 * rows)
    for ax, face, title in zip(axes.flat, faces, titles, strict=False):
        ax.imshow(face if isinstance(face, np.ndarray) else _picture(face))
        ax.set_title(title, fontsize=9)
    return figure


def saliency_grid(faces: Sequence[Any], maps: np.ndarray, titles: Sequence[str]) -> Figure:
    """Faces (as in `face_grid`) below their titles; below in grey under their maps [N, H, W], red older, blue younger.

    One scale, symmetric about 0, holds for all maps, so that strong and weak ones can be compared.
    """
    limit = float(np.abs(maps).max()) or 1.0
    figure, axes = _panels(2, len(faces), 1.45 * len(faces) + 0.9, 3.4)
    for (above, below), face, values, title in zip(axes.T, faces, maps, titles, strict=True):
        picture = _picture(face)
        above.imshow(picture)
        above.set_title(title, fontsize=9)
        below.imshow(picture.convert("L"), cmap="gray", vmin=0, vmax=255)
        overlay = below.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=below.images[0].get_extent(),
                               alpha=0.8 * np.minimum(1, 2 * np.abs(values) / limit))  # clear where the map is weak
    figure.colorbar(ScalarMappable(overlay.norm, overlay.cmap), ax=axes,
                    label="prediction older (+) or younger (\u2212)\n(years, a cell of the map)")
    return figure


def digits(shares: dict[str, pd.Series], ax: Axes | None = None) -> Axes:
    """Bars of `label_quality.terminal_digits` by name, side by side; a tenth each is the broken line."""
    ax = style.styled(ax)
    pd.DataFrame(shares).plot.bar(ax=ax, width=0.8, rot=0, grid=True, color=[style.QUIET, style.MAIN, style.SECOND])
    style.reference_lines(ax, [(0.1, "no heaps: a tenth each")])
    return style.finish(ax, percent="y", xlabel="last digit of the age, 23 to 62 years", ylabel="share of pictures")


def age_pyramid(labels: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Pictures of each age, one bar a year: the first gender to the left, the second to the right."""
    ax = style.styled(ax, 8.0, 5.0)
    for side, (name, colour) in zip((-1, 1), style.GENDER_COLOURS.items(), strict=True):
        counts = labels.loc[labels["gender"] == name, "age"].dropna().astype(int).value_counts()
        ax.barh(counts.index, side * counts, height=0.85, color=colour, label=f"{name} (n = {counts.sum():,})")
    ax.axvline(0, color="white", linewidth=1)
    ax.xaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
    return style.finish(ax, "upper right", xlabel="pictures", ylabel="age (years)", ylim=(0, None))


def ages_by(labels: pd.DataFrame, key: str, ax: Axes | None = None) -> Axes:
    """Ages by `key` ("gender" or "ethnicity") as violins, each subgroup's size in its name.

    The bar is the middle half, the dot the median.
    """
    colours = {"gender": style.GENDER_COLOURS, "ethnicity": style.ETHNICITY_COLOURS}[key]
    ages = {name: rows.to_numpy(float) for name in colours if len(rows := labels.loc[labels[key] == name, "age"])}
    ax = style.styled(ax, 8.0, 1.2 + 0.6 * len(ages))
    places = range(1, len(ages) + 1)
    bodies: Any = ax.violinplot(list(ages.values()), orientation="horizontal", widths=0.85, showextrema=False)["bodies"]
    low, median, high = np.array([np.quantile(values, [0.25, 0.5, 0.75]) for values in ages.values()]).T
    ax.hlines(places, low, high, color="white", linewidth=6)  # a rim, to be seen on dark violins too
    ax.hlines(places, low, high, color="0.3", linewidth=3)
    ax.plot(median, places, "o", color="white", markeredgecolor="0.3")
    for body, name in zip(bodies, ages, strict=True):
        body.set(facecolor=colours[name], alpha=0.75, edgecolor="0.3")
    ax.set_yticks(places, [f"{name}  (n = {len(values):,})" for name, values in ages.items()])
    return style.finish(ax, xlabel="age (years)", ylabel=key, xlim=(0, None), ylim=(len(ages) + 0.6, 0.4))


def counts_heat_map(counts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Heat map of a cross-tabulation of pictures, on a logarithmic scale so that small cells differ too."""
    size = (1.1 * counts.shape[1] + 2.4, 0.45 * counts.shape[0] + 1.4)
    return style.heat_map(counts, "pictures (log scale)", ax, size, annot=True, fmt=",d", cmap="Blues",
                          norm=LogNorm(vmin=max(1, counts.to_numpy().min())))
