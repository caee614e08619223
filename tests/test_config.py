"""Settings: unknown keys and wrong types are rejected, and the profile is chosen as documented."""

import dataclasses

import pytest
import torch

from agehelpers.config import PROFILES, Config, choose_profile, config_from_dict, load_config, parse_settings


def test_unknown_keys_are_rejected_with_a_suggestion():
    with pytest.raises(ValueError, match="unknown setting 'learning_rate'"):
        load_config("ci", {"learning_rate": 0.1})
    with pytest.raises(ValueError, match="did you mean 'weight_decay'"):
        load_config("ci", {"weight_deca": 0.1})
    with pytest.raises(ValueError, match="unknown profile 'cpu'.*laptop"):
        load_config("cpu")
    with pytest.raises(ValueError, match="profile is chosen by name"):
        load_config("ci", {"profile": "gpu"})


@pytest.mark.parametrize(("key", "text", "value"), [
    ("lr", "1e-3", 0.001), ("lr", 1, 1.0), ("epochs", "7", 7), ("flip", "false", False), ("flip", "True", True),
    ("weights", "none", None), ("weights", "IMAGENET1K_V1", "IMAGENET1K_V1"), ("cache_size", "80", 80),
    ("cache_size", None, None), ("backbone", "resnet34", "resnet34")])
def test_text_becomes_the_type_of_its_setting(key, text, value):
    found = getattr(load_config("laptop", {key: text}), key)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("key", "value", "message"), [
    ("epochs", "many", "expected int"), ("epochs", 1.5, "expected int"), ("epochs", True, "expected int"),
    ("lr", "fast", "expected float"), ("flip", "maybe", "expected bool"), ("flip", 1, "expected bool"),
    ("backbone", 5, "expected str"), ("lr", None, "expected float"), ("lr", "nan", "greater than 0"),
    ("lr", -1, "greater than 0"), ("epochs", 0, "greater than 0"), ("head", "softmax", "regression, distribution"),
    ("ema", "nan", "not be negative"), ("rotation", "nan", "not be negative"), ("cache_size", 0, "greater than 0"),
    ("momentum", 0, "nesterov=false"), ("ema", 1.5, "between 0 and 1"), ("rotation", -5, "not be negative")])
def test_wrong_types_and_values_are_rejected(key, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_config("laptop", {key: value})
    assert key in str(caught.value)


def test_a_config_is_frozen_and_survives_a_round_trip():
    for profile in PROFILES:
        config = load_config(profile, {"lr": 0.123})
        assert config_from_dict(dataclasses.asdict(config)) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1  # type: ignore[misc]


def test_the_reference_is_the_starting_point():
    reference = PROFILES["reference"]
    stated = {"backbone": "resnet50", "weights": "IMAGENET1K_V2", "head": "regression", "optimizer": "sgd",
              "lr": 0.001, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False, "ema": 0.0}
    assert {key: getattr(reference, key) for key in stated} == stated


def test_settings_from_the_command_line():
    assert parse_settings(["lr=0.1", "backbone=resnet34"]) == {"lr": "0.1", "backbone": "resnet34"}
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parse_settings(["lr"])


def test_the_choice_of_profile(monkeypatch, tmp_path):
    monkeypatch.delenv("AGEHELPERS_FACES", raising=False)
    monkeypatch.setattr("agehelpers.paths.ROOT", tmp_path)
    config, why = choose_profile()
    assert config.profile == "ci" and "no UTKFace" in why
    assert "its faces are drawn" in choose_profile("laptop")[1]
    folder = tmp_path / "data" / "UTKFace"
    folder.mkdir(parents=True)
    assert choose_profile()[0].profile == "ci"  # an empty folder is no UTKFace
    (folder / "25_0_0_20170101000000000.jpg").touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_profile()[0].profile == "laptop"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config, why = choose_profile()
    assert config.profile == "gpu" and "CUDA" in why
    assert config.faces_folder() == folder
    monkeypatch.setenv("AGEHELPERS_PROFILE", "reference")
    assert choose_profile()[0].profile == "reference"
    assert choose_profile("laptop")[0].profile == "laptop"
    monkeypatch.setenv("AGEHELPERS_SET", "epochs=1 lr=0.5")
    config, why = choose_profile(None, lr=0.25)
    assert (config.epochs, config.lr) == (1, 0.25) and "epochs=1, lr=0.25" in why
    monkeypatch.setenv("AGEHELPERS_FACES", str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError, match="nowhere is not a folder"):
        choose_profile("laptop")[0].faces_folder()


def test_the_cache_has_a_margin_but_no_more_than_utkface_has():
    assert load_config("laptop", {"image_size": 64}).pixels_size == 80
    assert load_config("laptop", {"image_size": 224}).pixels_size == 200
    assert load_config("laptop", {"image_size": 180}).pixels_size == 200
    assert load_config("laptop", {"image_size": 64, "cache_size": 200}).pixels_size == 200
    assert isinstance(PROFILES["ci"], Config)


def test_augmentation_grows_as_the_pictures_do():
    config = load_config("laptop", {"augment_from": 0.0, "rotation": 10.0, "erase": 0.4, "epochs": 9})
    assert [config.at(epoch).rotation for epoch in (0, 3, 8)] == pytest.approx([0, 40 / 9, 10])
    assert config.at(0).erase == 0 and config.at(0).flip and config.at(3).cache_size == config.pixels_size
    half = load_config("laptop", {"augment_from": 0.5, "scale": 0.1, "epochs": 9})
    assert half.at(0).scale == pytest.approx(0.05) and half.at(7).scale == pytest.approx(0.1)
    assert dataclasses.replace(load_config("ci").at(3), cache_size=None) == load_config("ci")  # nothing grows there


def test_settings_that_came_later_change_no_old_record():
    old = dataclasses.asdict(load_config("laptop", {"augment_from": 1.0}))
    del old["augment_from"]
    assert config_from_dict(old).augment_from == Config(profile="laptop").augment_from == 1.0


def test_pictures_grow_in_multiples_of_eight_over_three_quarters_of_the_epochs():
    def sizes(**settings):
        config = load_config("laptop", settings)
        return [config.at(epoch).image_size for epoch in range(config.epochs)]

    assert sizes(grow_from=32, image_size=64, epochs=16) == [32, 32, 40, 40, 40, 48, 48, 48, 56, 56, 56, 64, *[64] * 4]
    assert sizes(grow_from=None, image_size=50, epochs=2) == [50, 50]
    assert sizes(grow_from=48, image_size=100, epochs=16)[11:] == [96, 100, 100, 100, 100]
    assert sizes(grow_from=48, image_size=32, epochs=2) == [32, 32]  # nothing to grow
    assert sizes(grow_from=32, image_size=64, epochs=2)[-1] == 64  # the last epoch is always at the full size
    with pytest.raises(ValueError, match="must be a multiple of 8"):
        load_config("laptop", {"grow_from": 44})
