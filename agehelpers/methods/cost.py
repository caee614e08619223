"""What a method costs: its parameters and multiply-adds, counted without computing anything."""

import dataclasses

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from agehelpers.config import Config, load_config
from agehelpers.methods.model import AgeEstimationModel
from agehelpers.methods.table import METHODS, method_settings


def cost(config: Config) -> dict[str, int]:
    """Parameters of the model, and multiply-adds of one picture of `config`'s image_size (torch's own counter).

    Only matrix products and convolutions count, as usual. Built of tensors without content, so that the largest network
    takes no memory and no weights are fetched.
    """
    with torch.device("meta"), torch.no_grad():
        model = AgeEstimationModel(dataclasses.replace(config, grow_from=None), load_weights=False).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, config.image_size, config.image_size))
    return {"parameters": sum(p.numel() for p in model.parameters()), "multiply_adds": counter.get_total_flops() // 2}


def overview(image_size: int = 64) -> pd.DataFrame:
    """A row a method: method, cited (as the table of related works has it), source, network, head, `cost`."""
    rows = []
    for name, method in METHODS.items():
        config = load_config("laptop", {"image_size": image_size, "grow_from": None}, method_settings(name))
        front = f"{config.front} + " if config.front else ""
        rows.append({"method": name, "cited": method.cited, "source": method.source,
                     "network": front + method.backbone, "head": method.head, **cost(config)})
    return pd.DataFrame(rows)
