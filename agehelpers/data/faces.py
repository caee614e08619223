"""The faces of a configuration, ready to be fed: label table, split and pixels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from agehelpers import paths
from agehelpers.config import Config
from agehelpers.data.dataset import FaceDataset, on_device
from agehelpers.data.drawn import sample_faces
from agehelpers.data.labels import cached_labels, is_table, usable
from agehelpers.data.names import ATTRIBUTES
from agehelpers.data.pixels import load_pixels
from agehelpers.data.splits import make_split, split_hash
from agehelpers.devices import pick_device

PARTS = ("train", "validation", "calibration", "test")
SELECTION = ("train", "validation")  # all that a search for settings is given


@dataclass(frozen=True)
class Faces:
    """`table` has a row (name, part, labels, row of `pixels`) a picture; `split` is the hash of the whole split."""

    config: Config
    device: torch.device
    table: pd.DataFrame
    pixels: np.ndarray | torch.Tensor
    split: str

    def part(self, name: str) -> pd.DataFrame:
        """Rows of one of `PARTS`."""
        return self.table[self.table["part"] == name]

    def dataset(self, name: str) -> FaceDataset:
        """One part for a DataLoader; the training part is augmented, and its conflicting labels are settled.

        With auxiliary losses it has the attributes, their places in `ATTRIBUTES`, -1 where one is unknown.
        """
        rows, training = self.part(name), name == "train"
        if training:
            rows = settle_conflicts(rows, self.config.conflicts)
        codes = None
        if training and self.config.auxiliary:
            columns = [pd.Categorical(rows[key], values).codes for key, values in ATTRIBUTES.items()]
            codes = np.stack(columns, 1).astype(int)  # [N, A]
        return FaceDataset(self.pixels, rows["row"].to_numpy(), rows["age"].to_numpy(np.float32), self.config,
                           self.device, training, attributes=codes, names=rows["name"].to_numpy())


def faces_of(config: Config) -> Path:
    """Folder of the pictures of `config`, or the CSV that lists them; the drawn faces are made on first use."""
    if config.faces is not None:
        return Path(config.faces)
    if config.profile != "ci" and (found := paths.utkface_folder()) is not None:
        return found
    return sample_faces()


def faces_folder(config: Config) -> Path:
    """Folder from which the names in the label table of `config` start."""
    faces = faces_of(config)
    return faces.parent if is_table(faces) else faces


def settle_conflicts(rows: pd.DataFrame, how: str) -> pd.DataFrame:
    """Training rows whose copies (one `cluster`) carry other ages: kept, all at their median, or dropped.

    Examples
    --------
    >>> settle_conflicts(pd.DataFrame({"cluster": [1, 1, 2], "age": [20, 30, 40]}), "median")["age"].tolist()
    [25.0, 25.0, 40.0]
    """
    if how != "keep" and "person" in rows:
        raise ValueError(f"conflicts={how}: a cluster holds all pictures of a person, of whatever ages; use keep")
    ages = rows.groupby("cluster")["age"]
    if how == "median":
        return rows.assign(age=ages.transform("median"))
    return rows[ages.transform("nunique") == 1] if how == "drop" else rows


def labels_and_split(config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Usable rows of the label table of the faces of `config`, and their split."""
    labels = usable(cached_labels(faces_of(config)))
    return labels, make_split(labels, config.protocol, config.split_seed)


def prepare_faces(config: Config, parts: tuple[str, ...] = PARTS, pixels: np.ndarray | torch.Tensor | None = None
                  ) -> Faces:
    """Label table, split and decoded pixels of the faces of `config`; the pixels move to the GPU where it has room.

    `parts`: what the table may hold. A search for settings asks for `SELECTION`: its test rows are gone before anything
    is trained, so no choice can depend on them. `pixels`: those of the same faces and size, where they are there.
    """
    device = pick_device(config)
    labels, split = labels_and_split(config)
    if pixels is None:
        pixels = on_device(load_pixels(faces_folder(config), labels, config.pixels_size), device)
    table = labels.assign(row=np.arange(len(labels))).merge(split, on="name", validate="one_to_one")
    every, table = len(table), table[table["part"].isin(parts)]
    if config.limit:
        share = min(1.0, config.limit / every)
        table = pd.concat([rows.sample(min(len(rows), max(2, round(share * len(rows)))), random_state=config.split_seed)
                           for _, rows in table.groupby("part", sort=True)]).sort_index()
    return Faces(config, device, table, pixels, split_hash(split))
