"""The comparison of methods on equal footing: the same pictures, epochs and seeds, each at its own learning rate."""

from collections.abc import Callable
from typing import Any

from agehelpers.methods.table import METHODS, method_settings
from agehelpers.training.records import load_record
from tools.ablation import Table

LITE0 = {"backbone": "timm/tf_efficientnet_lite0", "weights": "imagenet-pip"}
# What all share, whatever their rows say: pictures, augmentation, length and loop.
BUDGET: dict[str, Any] = {
    "image_size": 72, "grow_from": 48, "cache_size": 90, "epochs": 5, "warmup": 0.15, "auxiliary": 0.0}
SHORT: dict[str, Any] = {"protocol": "selection", "epochs": 3}  # in which each rate is tried
FINE = {"optimizer": "adamw", "weight_decay": 0.05}
OURS: dict[str, Any] = {**LITE0, **FINE, "head": "distribution", "sigma": 2.0, "l1_weight": 0.1, "decode": "median"}
COMPARED = ("l1", "l2", "huber", "cross_entropy", "dldl", "dldl_v2", "sord", "mean_variance", "ordinal", "coral",
            "corn", "compare", "spatial_transformer", "ssrnet", "parts", "nested")
FACTORS = (1 / 3, 1, 3)  # of a row's own rate
FURTHER = {"base": (9,), "l1": (9,), "l2": (9,), "ssrnet": (9, 27)}  # where the largest of these was the best
FROM_SCRATCH = ("distribution", "plain", "resnet101", "efficientnet", "seresnet", "vit", "dex", "dexor")


def _settings(name: str) -> dict[str, Any]:
    """What the row `name` of METHODS changes of the base, which is ours."""
    row = OURS if name == "base" else method_settings(name)
    return {key: value for key, value in row.items() if key != "method"}


def _rate(name: str) -> float:
    return 0.001 if name == "base" else float(METHODS[name].settings["lr"])


def rates() -> Table:
    """Each compared method at three rates or more, one short training each; the base is ours at its own."""
    rows = {"base": {**OURS, "lr": _rate("base")}}
    for name in ("base", *COMPARED):
        for rate in (float(f"{_rate(name) * factor:.2g}") for factor in (*FACTORS, *FURTHER.get(name, ()))):
            if (name, rate) != ("base", _rate("base")):
                rows[f"{name}, lr {rate:g}"] = {**_settings(name), "lr": rate}
    return Table(rows, BUDGET | SHORT, seeds=(0,))


def best_rates() -> dict[str, float]:
    """The rate with the lowest validation error of each compared method, by the record `methods_rates`."""
    record = load_record("methods_rates")
    found: dict[str, tuple[float, float]] = {}
    for row in record.tables["runs"].to_dict("records"):
        name, tried = row["row"].partition(",")[0], (row["val_mae"], record.facts["rows"].get(row["row"], {}).get("lr"))
        if tried[1] and tried < found.get(name, (float("inf"), 0)):
            found[name] = tried
    if lost := sorted({"base", *COMPARED} - found.keys()):
        raise ValueError(f"methods_rates: every rate of {', '.join(lost)} diverged; lower it in METHODS")
    return {name: rate for name, (_, rate) in found.items()}


def heads() -> Table:
    """Each compared method at the best of its rates, with three seeds, judged on the test of `holdout`."""
    best = best_rates()
    rows = {name: {**_settings(name), "lr": best[name]} for name in ("base", *COMPARED)}
    return Table(rows, BUDGET | {"protocol": "holdout"}, seeds=(0, 1, 2), part="test")


def networks() -> Table:
    """Networks from random weights at 64 px, and Lite0 to Lite2 from ImageNet beside them; one seed, own rates."""
    scratch = {name: _settings(name) | {"weights": None} for name in FROM_SCRATCH}
    scratch["Lite0, from random weights"] = OURS | {"weights": None}
    scratch["resnet50"] = scratch["resnet101"] | {"backbone": "resnet50"}
    lites = {f"Lite{n}, from ImageNet": {"backbone": f"timm/tf_efficientnet_lite{n}"} for n in (1, 2)}
    return Table({"base": OURS, **scratch, **lites},
                 BUDGET | {"protocol": "holdout", "image_size": 64, "cache_size": 80, "epochs": 8}, (0,), "test")


TABLES: dict[str, Callable[[], Table]] = {"methods_rates": rates, "methods_heads": heads, "methods_networks": networks}
