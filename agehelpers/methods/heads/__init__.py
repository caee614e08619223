"""Heads: from features of a picture to an age in years; what a head is, says `base`."""

import inspect

from agehelpers.config import Config
from agehelpers.methods.heads.base import Head, RegressionHead, check_outputs, median_age
from agehelpers.methods.heads.compare import CompareHead
from agehelpers.methods.heads.distributions import DistributionHead
from agehelpers.methods.heads.mean_variance import MeanVarianceHead
from agehelpers.methods.heads.ordinal import CoralHead, CornHead, OrdinalHead
from agehelpers.methods.heads.stagewise import StagewiseHead

HEADS: dict[str, type[Head]] = {
    "regression": RegressionHead, "distribution": DistributionHead, "mean_variance": MeanVarianceHead,
    "ordinal": OrdinalHead, "coral": CoralHead, "corn": CornHead, "stagewise": StagewiseHead, "compare": CompareHead}


def check_head(config: Config) -> type[Head]:
    """The class of the head that `config` names; ValueError for an unknown one."""
    if config.head not in HEADS:
        raise ValueError(f"head={config.head!r}: choose one of {', '.join(HEADS)}")
    return HEADS[config.head]


def build_head(config: Config, features: int) -> Head:
    """The head that `config` names, with the settings that its constructor names; ValueError for an unknown one."""
    kind = check_head(config)
    options = [name for name in inspect.signature(kind).parameters if name != "features"]
    return kind(features, **{name: getattr(config, name) for name in options})
