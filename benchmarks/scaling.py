"""How fast several processes train together: the same epochs by one process on all cores, and by one process a core.

    python benchmarks/scaling.py [--repeat 3]     # leave the machine alone meanwhile; needs UTKFace

Writes benchmarks/records/scaling and the table in docs/gpu.md. Drawn faces, or a folder of faces in AGEHELPERS_FACES.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from agehelpers import paths
from agehelpers.devices import hardware
from tools.readme import with_block

HERE = Path(__file__).resolve().parent
CORES = os.cpu_count() or 1
LAYOUTS = {f"1 process, {CORES} threads": (1, CORES), f"{CORES} processes, 1 thread each": (CORES, 1),
           "1 process, 1 thread": (1, 1)}
SETTINGS = {"backbone": "timm/tf_efficientnet_lite0", "weights": "none", "auxiliary": 0, "image_size": 72,
            "grow_from": "none", "epochs": 2, "limit": 3000, "batch_size": 64, "evaluate_every": 2}


def seconds(processes: int, threads: int) -> float:
    """Time of the second epoch, in which everything is warm; its validation (and checkpoint) included."""
    with tempfile.TemporaryDirectory() as runs:
        environment = os.environ | {"AGEHELPERS_RUNS": runs, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
        subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m",
                        "agehelpers", "train", "--profile", "laptop", "--set",
                        *(f"{key}={value}" for key, value in SETTINGS.items())], env=environment, check=True,
                       stdout=subprocess.DEVNULL)
        return float(pd.read_csv(next(Path(runs).glob("*/history.csv")))["seconds"].iloc[1])


def block(table: pd.DataFrame) -> str:
    """The table of medians, the first row's time against each."""
    middle = table.groupby("layout", sort=False)["seconds"].agg(["median", "min", "max"])
    lines = ["| layout | seconds an epoch (3,000 pictures, lowest to highest) | as fast as one process on all cores |",
             "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {row['median']:.1f} ({row['min']:.1f} to {row['max']:.1f}) | "
                                f"{middle['median'].iloc[0] / row['median']:.2f} times |"
                                for name, row in middle.iterrows())])


def main() -> None:
    parser = argparse.ArgumentParser("scaling", description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    rows = [{"layout": name, "seconds": round(seconds(*layout), 2)} for _ in range(options.repeat)
            for name, layout in LAYOUTS.items()]
    table, record = pd.DataFrame(rows), HERE / "records" / "scaling"
    paths.write_atomically(record / "results.csv", table.to_csv(index=False))
    facts = {"settings": SETTINGS, "hardware": hardware(), "versions": paths.versions()}
    paths.write_json(record / "config.json", facts)
    page = HERE.parent / "docs" / "gpu.md"
    paths.write_atomically(page, with_block(page.read_text(), block(table), "<!-- scaling: begin -->",
                                            "<!-- scaling: end -->"))


if __name__ == "__main__":
    main()
