"""The download, with a stand-in for Kaggle's client."""

import sys
import types
from pathlib import Path

import pytest

from agehelpers.data import download as module
from agehelpers.data.download import download


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """A client that "fetches" five files; returns the folder it answers."""
    cache = tmp_path / "cache"
    (cache / "UTKFace").mkdir(parents=True)
    (cache / "crop_part1").mkdir()
    for number in range(5):
        (cache / "UTKFace" / f"{number}_0_0_20170109142408075.jpg.chip.jpg").write_bytes(b"face")
    client = types.ModuleType("kagglehub")
    client.asked = []
    client.dataset_download = lambda handle: client.asked.append(handle) or str(cache)
    monkeypatch.setitem(sys.modules, "kagglehub", client)
    monkeypatch.setattr(module, "PUBLISHED", 5)
    return client


def test_the_faces_alone_arrive_with_the_licence(kaggle, tmp_path, capsys):
    target = tmp_path / "data" / "UTKFace"
    assert download(target) == target
    assert kaggle.asked == ["jangedoo/utkface-new"]
    assert len(list(target.iterdir())) == 5 and [p.name for p in target.parent.iterdir()] == ["UTKFace"]
    assert "5 pictures. UTKFace is for non-commercial research only" in capsys.readouterr().out


def test_an_empty_folder_is_filled_but_nothing_is_overwritten(kaggle, tmp_path):
    target = tmp_path / "UTKFace"
    target.mkdir()
    download(target)
    kaggle.asked.clear()
    with pytest.raises(FileExistsError, match=r"UTKFace already exists and is not empty"):
        download(target)
    assert not kaggle.asked  # said before anything is fetched


def test_without_network_the_way_by_hand_is_explained(kaggle, tmp_path):
    def offline(handle):
        raise RuntimeError("Name or service not known")

    kaggle.dataset_download = offline
    with pytest.raises(OSError) as error:
        download(tmp_path / "UTKFace")
    for words in ("RuntimeError: Name or service not known", "https://www.kaggle.com/datasets/jangedoo/utkface-new",
                  "archive.zip", str(tmp_path / "UTKFace")):
        assert words in str(error.value)
    assert not (tmp_path / "UTKFace").exists()


def test_without_the_client_the_way_is_explained(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(OSError, match=r"pip install kagglehub(.|\n)*By hand: open https://www\.kaggle\.com"):
        download(tmp_path / "UTKFace")


def test_an_incomplete_download_is_not_taken(kaggle, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PUBLISHED", 6)
    with pytest.raises(OSError, match=r"holds 5 pictures, not 6; remove it to try again"):
        download(tmp_path / "UTKFace")
    assert not (tmp_path / "UTKFace").exists()


def test_a_copy_that_fails_leaves_nothing(kaggle, tmp_path, monkeypatch):
    def full(source: Path, target: Path):
        target.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copytree", full)
    with pytest.raises(OSError, match="No space left"):
        download(tmp_path / "data" / "UTKFace")
    assert list((tmp_path / "data").iterdir()) == []
