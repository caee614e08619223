"""The importable predictor: every kind of input, every kind of trouble a row of its own."""

import threading

import numpy as np
import pytest
from PIL import ExifTags, Image

from agehelpers.data.decoder import PictureError
from agehelpers.photos import reader
from agehelpers.photos.align import Aligner, save_aligner
from agehelpers.photos.estimator import Estimator
from agehelpers.photos.find import Found
from agehelpers.photos.placement import VIEWS, Placement, cut
from agehelpers.training.checkpoints import load_checkpoint, save_checkpoint

PLACES = [Placement(70 + 60j, 40 + 0j), Placement(200 + 90j, 50j), Placement(20 + 20j, 12 + 0j)]


def finder(photo: np.ndarray) -> list[Found]:
    """Three faces, of which one is too small; none in a dark photo."""
    return [Found(place, 1.0) for place in PLACES] if photo.mean() > 20 else []


@pytest.fixture
def estimator(trained, tmp_path):
    """One whose aligner leaves a box as it is."""
    save_checkpoint(tmp_path / "best.safetensors", *load_checkpoint(trained / "best.safetensors"))
    save_aligner(tmp_path / "aligner.safetensors", Aligner(), {})
    return Estimator(tmp_path / "best.safetensors", finder)


@pytest.fixture
def photo(faces):
    """Two drawn faces, one on its side, and a grey background."""
    crops = [np.asarray(Image.open(file).convert("RGB").resize((200, 200)))
             for file in sorted(faces.glob("*_20170105*.jpg.chip.jpg"))[:2]]
    scene = np.full((160, 260, 3), 120, np.uint8)
    scene[20:100, 30:110] = cut(crops[0], Placement(100 + 100j, 100 + 0j), 80)
    scene[40:140, 150:250] = np.rot90(cut(crops[1], Placement(100 + 100j, 100 + 0j), 100), -1)
    return scene


def test_a_row_a_face(estimator, photo):
    table = estimator(photo)
    assert table["photo"].tolist() == ["photo 0"] * 3 and table["face"].tolist() == [0, 1, 2]
    assert table[["x", "y", "side", "turn"]].to_numpy().tolist() == [[70, 60, 80, 0], [200, 90, 100, 90],
                                                                     [20, 20, 24, 0]]
    assert table["reason"].tolist() == ["", "", "a face of 24 pixels is too small"]
    assert table["prediction"].notna().tolist() == [True, True, False]
    seen = table.dropna(subset="prediction")
    assert (seen["lower_90"] <= seen["prediction"]).all() and (seen["prediction"] <= seen["upper_90"]).all()
    upright = estimator(np.rot90(photo[40:140, 150:250]).copy(), cropped=True)
    assert upright["prediction"].item() == pytest.approx(table["prediction"][1], abs=0.5)  # turned, and back


def test_what_is_unlike_the_training_pictures_is_flagged(estimator, photo):
    crops = [cut(photo, place) for place in PLACES[:2]]
    spread = estimator.ages(crops)["spread"]
    estimator.intervals = {**estimator.intervals, "usual": {"age": [0.0, 100.0], "spread": [spread.mean()] * 2}}
    flagged = estimator.ages(crops)["unlike"]
    assert flagged.tolist() == (spread > spread.mean()).tolist() and flagged.sum() == 1
    table = estimator([photo, np.zeros((50, 60, 3), np.uint8)])
    assert table["unlike"].isna().tolist() == [False, False, True, True]  # neither too small a face nor none has one
    estimator.intervals = {key: value for key, value in estimator.intervals.items() if key != "usual"}
    assert "unlike" not in estimator(photo)  # an older checkpoint


def test_every_kind_of_photo_is_taken(estimator, photo, tmp_path):
    image = Image.fromarray(photo)
    image.save(tmp_path / "a.png")
    expected = estimator(photo)["prediction"].tolist()
    grey = np.asarray(image.convert("L"))
    assert estimator(grey)["prediction"].tolist() == pytest.approx(
        estimator(Image.fromarray(grey))["prediction"].tolist(), nan_ok=True)
    several = estimator([tmp_path / "a.png", str(tmp_path / "a.png"), image, photo])
    assert several["photo"].unique().tolist() == [str(tmp_path / "a.png"), "photo 2", "photo 3"]
    for number in range(4):
        assert several["prediction"].iloc[3 * number:3 * number + 3].tolist() == pytest.approx(expected, nan_ok=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # lies on its side; to be turned by 90 degrees
    Image.fromarray(np.rot90(photo).copy()).save(tmp_path / "turned.png", exif=exif)
    assert estimator(tmp_path / "turned.png")["prediction"].tolist() == pytest.approx(expected, nan_ok=True)


def test_trouble_is_a_row_with_a_reason_and_the_rest_goes_on(estimator, photo, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    found = estimator([tmp_path / "text.jpg", np.zeros((50, 60, 3), np.uint8), tmp_path / "none.jpg",
                       np.zeros((5, 5), float), photo])
    reasons = found["reason"].tolist()
    assert "text.jpg: not a picture" in reasons[0] and reasons[1] == "no face found" and "no such" in reasons[2]
    assert "not uint8 [H, W, 3]" in reasons[3] and reasons[4] == ""
    assert found["prediction"].isna().tolist() == [True] * 4 + [False, False, True]
    Image.fromarray(photo).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    with Image.open(tmp_path / "cut.jpg") as broken:
        assert "damaged" in estimator(broken)["reason"].item()
    nothing = estimator(np.zeros((50, 60, 3), np.uint8))
    assert nothing["reason"].tolist() == ["no face found"] and nothing["prediction"].isna().all()
    assert list(nothing) == list(estimator(photo))  # the same columns, whatever is found
    with pytest.raises(PictureError, match="float64"):
        estimator.read(np.zeros((5, 5)))


def test_batches_and_threads_change_no_prediction(estimator, photo, monkeypatch):
    crops = [cut(photo, place) for place in PLACES[:2]] * 5
    whole = estimator.ages(crops)
    monkeypatch.setattr(reader, "AT_ONCE", 3)
    parts = estimator.ages(crops)
    assert np.allclose(whole["prediction"], parts["prediction"], atol=1e-3)
    results: list[list[float]] = []
    threads = [threading.Thread(target=lambda: results.append(estimator(photo)["prediction"].tolist()))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        assert result == pytest.approx(results[0], nan_ok=True)


def test_a_face_in_a_photo_has_the_mean_age_of_five_views(estimator, photo, monkeypatch):
    monkeypatch.setattr(estimator, "years", lambda images: {
        "prediction": 50 + 10 * images[:, ::2].mean((1, 2, 3)), "spread": np.ones(len(images))})
    found, views = estimator(photo), [cut(photo, PLACES[0].then(view)) for view in VIEWS]
    apart = estimator.ages(views)["prediction"]
    assert apart.nunique() > 2 and found["prediction"][0] == pytest.approx(apart.mean(), abs=0.1)
    assert estimator.ages(views, 5)["prediction"].tolist() == found["prediction"].tolist()[:1]
    assert found["prediction"][0] != apart[0] and VIEWS[0] == Placement(0j, 1 + 0j)
    assert {view.centre for view in VIEWS} == {-view.centre for view in VIEWS}


def test_without_an_aligner_crops_are_read_and_photos_are_not(trained, photo):
    plain = Estimator(trained / "best.safetensors", finder)
    crop = cut(photo, PLACES[0])
    assert plain(crop, cropped=True)["prediction"].notna().all()
    with pytest.raises(FileNotFoundError, match=r"aligner\.safetensors: no aligner.* --aligner"):
        plain(photo)


def test_what_is_no_crop_is_a_row_with_a_reason(estimator, photo):
    found = estimator([photo, np.full((90, 90, 3), 120, np.uint8), cut(photo, PLACES[0])], cropped=True)
    assert ["square" in found["reason"][0], "blank" in found["reason"][1], found["reason"][2]] == [True, True, ""]


@pytest.mark.parametrize("score, shift, scale, kept", [
    (0.0, 0.0, 1.0, True), (0.0, 0.2, 1.0, False), (0.0, 0.0, 1.1, False), (0.9, 0.2, 1.0, True)])
def test_a_doubtful_square_counts_only_where_the_aligner_comes_to_rest(estimator, photo, monkeypatch, score, shift,
                                                                       scale, kept):
    monkeypatch.setattr(estimator, "find", lambda picture: [Found(PLACES[0], score)])
    placement = np.array([[[shift, 0.0], [scale, 0.0]]])  # each look moves the crop by the same, or enlarges it
    monkeypatch.setattr(estimator, "look", lambda views: placement)
    assert len(estimator.places(photo)) == kept
    assert estimator(photo)["reason"].eq("no face found").any() != kept
