"""Settings: unknown keys and wrong types are rejected, and the profile is chosen as documented."""

import dataclasses

import pytest
import torch

from agehelpers import paths
from agehelpers.config import (
    PROFILES,
    Config,
    choose_profile,
    config_from_dict,
    differing_settings,
    load_config,
    parse_settings,
    settings_of,
)
from agehelpers.data.faces import faces_folder


def test_unknown_keys_are_rejected_with_a_suggestion():
    with pytest.raises(ValueError, match="unknown setting 'learning_rate'"):
        load_config("ci", {"learning_rate": 0.1})
    with pytest.raises(ValueError, match="did you mean 'weight_decay'"):
        load_config("ci", {"weight_deca": 0.1})
    with pytest.raises(ValueError, match="unknown profile 'cpu'.*laptop"):
        load_config("cpu")
    with pytest.raises(ValueError, match="profile cannot be overridden: it is chosen by name"):
        load_config("ci", {"profile": "gpu"})


@pytest.mark.parametrize(("key", "text", "value"), [
    ("lr", "1e-3", 0.001), ("lr", 1, 1.0), ("epochs", "7", 7), ("flip", "false", False), ("flip", "True", True),
    ("weights", "none", None), ("weights", "IMAGENET1K_V1", "IMAGENET1K_V1"), ("cache_size", "80", 80),
    ("cache_size", None, None), ("backbone", "resnet34", "resnet34"), ("shift", 1, 1.0)])
def test_text_becomes_the_type_of_its_setting(key, text, value):
    found = getattr(load_config("laptop", {key: text}), key)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("key", "value", "message"), [
    ("epochs", "many", "valid integer"), ("epochs", 1.5, "valid integer"), ("epochs", True, "a truth value"),
    ("lr", "fast", "valid number"), ("flip", "maybe", "valid boolean"), ("flip", 7, "valid boolean"),
    ("backbone", 5, "valid string"), ("lr", None, "valid number"), ("lr", "nan", "finite number"),
    ("lr", -1, "greater than 0"), ("epochs", 0, "greater than 0"), ("optimizer", "lion", "'sgd' or 'adamw'"),
    ("ema", "nan", "finite number"), ("rotation", "nan", "finite number"),
    ("cache_size", 0, "greater than 0"), ("cache_size", True, "a truth value"),
    ("momentum", 0, "nesterov=false"), ("ema", 1.5, "less than or equal to 1"),
    ("rotation", -5, "greater than or equal to 0"), ("grow_from", 44, "multiple of 8"), ("lr", "inf", "finite number"),
    ("warmup", 1, "less than 1")])
def test_wrong_types_and_values_are_rejected(key, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_config("scratch", {key: value})
    assert key in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_is_frozen_flat_and_survives_a_round_trip():
    for profile in PROFILES:
        config = load_config(profile, {"lr": 0.123})
        assert config_from_dict(dataclasses.asdict(config)) == config
    assert dataclasses.replace(config, rotation=3).rotation == 3
    with pytest.raises(ValueError, match="rotation"):
        dataclasses.replace(config, rotation=-3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1  # type: ignore[misc]
    assert not any(isinstance(value, dict) for value in dataclasses.asdict(config).values())


def test_every_setting_says_what_it_means():
    fields = Config.__pydantic_fields__  # type: ignore[attr-defined]
    assert [name for name, field in fields.items() if not field.description] == ["profile"]
    assert [name for name, field in fields.items() if field.is_required()] == ["profile"]


def test_the_reference_is_the_starting_point():
    reference = PROFILES["reference"]
    stated = {"backbone": "resnet50", "weights": "IMAGENET1K_V2", "head": "regression", "optimizer": "sgd",
              "lr": 0.001, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False, "ema": 0.0}
    assert {key: getattr(reference, key) for key in stated} == stated


def test_settings_from_the_command_line():
    assert parse_settings(["lr=0.1", "backbone=resnet34"]) == {"lr": "0.1", "backbone": "resnet34"}
    for wrong in ("lr", "=1"):
        with pytest.raises(ValueError, match="KEY=VALUE"):
            parse_settings([wrong])


def test_a_method_changes_the_profile_and_overrides_change_both():
    method = {"method": "mine", "head": "regression", "lr": 0.02}
    config = load_config("laptop", {"lr": 0.5}, method)
    assert (config.method, config.head, config.lr, config.epochs) == ("mine", "regression", 0.5, 9)
    assert choose_profile("laptop", method, epochs=3)[0] == load_config("laptop", {"epochs": 3}, method)


def test_the_choice_of_profile(monkeypatch, tmp_path):
    monkeypatch.setenv("AGEHELPERS_DATA", str(tmp_path))
    config, why = choose_profile()
    assert config.profile == "ci" and "no UTKFace" in why
    assert "its faces are drawn" in choose_profile("laptop")[1] and "drawn" not in choose_profile("ci")[1]
    assert "drawn" not in choose_profile("laptop", faces="/mine")[1]
    folder = tmp_path / "UTKFace"
    folder.mkdir(parents=True)
    assert choose_profile()[0].profile == "ci"  # an empty folder is no UTKFace
    (folder / "25_0_0_20170101000000000.jpg").touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_profile()[0].profile == "laptop"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config, why = choose_profile()
    assert config.profile == "gpu" and "CUDA" in why
    assert faces_folder(config) == paths.utkface_folder() == folder
    monkeypatch.setenv("AGEHELPERS_PROFILE", "reference")
    assert choose_profile()[0].profile == "reference"
    assert choose_profile("laptop")[0].profile == "laptop"
    monkeypatch.setenv("AGEHELPERS_SET", "epochs=1 lr=0.5")
    config, why = choose_profile(None, lr=0.25)
    assert (config.epochs, config.lr) == (1, 0.25) and "epochs=1, lr=0.25" in why
    monkeypatch.setenv("AGEHELPERS_FACES", str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError, match="nowhere is not a folder"):
        faces_folder(choose_profile("laptop")[0])


def test_the_cache_has_a_margin_but_no_more_than_utkface_has():
    assert load_config("laptop", {"image_size": 64}).pixels_size == 80
    assert load_config("laptop", {"image_size": 224}).pixels_size == 200
    assert load_config("laptop", {"image_size": 180}).pixels_size == 200
    assert load_config("laptop", {"image_size": 64, "cache_size": 200}).pixels_size == 200


def test_augmentation_grows_as_the_pictures_do():
    config = load_config("laptop", {"augment_from": 0.0, "rotation": 10.0, "erase": 0.4, "epochs": 9})
    assert [config.at(epoch).rotation for epoch in (0, 3, 8)] == pytest.approx([0, 40 / 9, 10])
    assert config.at(0).erase == 0 and config.at(0).flip and config.at(3).cache_size == config.pixels_size
    half = load_config("laptop", {"augment_from": 0.5, "scale": 0.1, "epochs": 9})
    assert half.at(0).scale == pytest.approx(0.05) and half.at(7).scale == pytest.approx(0.1)
    assert dataclasses.replace(load_config("ci").at(3), cache_size=None) == load_config("ci")  # nothing grows there


def test_pictures_grow_in_multiples_of_eight_over_three_quarters_of_the_epochs():
    def sizes(**settings):
        config = load_config("laptop", settings)
        return [config.at(epoch).image_size for epoch in range(config.epochs)]

    assert sizes(grow_from=32, image_size=64, epochs=16) == [32, 32, 40, 40, 40, 48, 48, 48, 56, 56, 56, 64, *[64] * 4]
    assert sizes(grow_from=None, image_size=50, epochs=2) == [50, 50]
    assert sizes(grow_from=48, image_size=100, epochs=16)[11:] == [96, 100, 100, 100, 100]
    assert sizes(grow_from=48, image_size=32, epochs=2) == [32, 32]  # nothing to grow
    assert sizes(grow_from=32, image_size=64, epochs=2)[-1] == 64  # the last epoch is always at the full size


# A setting that is added later must not break what is there. `newer` is Config with one more; tests of checkpoints and
# runs are beside those of the trainer and of runs.

def test_a_new_setting_at_its_default_changes_no_digest_and_no_comparison(newer):
    config = load_config("laptop", {"lr": 0.3})
    values = {key: value for key, value in dataclasses.asdict(config).items() if key != "label_noise"}
    old = Config(**values)
    assert config.label_noise == 0.0 and type(config) is newer is not type(old)
    assert settings_of(config) == settings_of(old)
    assert "label_noise" not in settings_of(config)
    assert settings_of(dataclasses.replace(config, label_noise=1.0))["label_noise"] == 1.0


def test_what_was_written_before_a_setting_came_is_read_with_its_default(newer):
    for old in PROFILES.values():
        read = config_from_dict(dataclasses.asdict(old))
        assert type(read) is newer and read.label_noise == 0.0 and settings_of(read) == settings_of(old)


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(Config) if field.name != "profile"])
def test_a_missing_key_is_the_default_of_config_not_of_the_profile(key):
    values = dataclasses.asdict(PROFILES["laptop"])
    del values[key]
    fields = Config.__pydantic_fields__  # type: ignore[attr-defined]
    assert getattr(config_from_dict(values), key) == fields[key].default


def test_what_this_version_does_not_know_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown setting 'label_noise'"):
        config_from_dict({**dataclasses.asdict(PROFILES["laptop"]), "label_noise": 0.5})
    with pytest.raises(ValueError, match="settings without a profile"):
        config_from_dict({"lr": 0.1})
    assert config_from_dict({"profile": "phone", "lr": 0.1}) == Config(profile="phone", lr=0.1)  # a preset of one's own


def test_only_what_differs_from_the_defaults_counts():
    assert settings_of(Config(profile="laptop")) == {"profile": "laptop"}
    assert settings_of(Config(profile="laptop", epochs=10, lr=0.15, momentum=0.8)) == {
        "profile": "laptop", "momentum": 0.8}


OTHER = {str: "other", int: 7, float: 0.5, type(None): 8}
CHOSEN = {"optimizer": "adamw", "schedule": "constant", "device": "cuda", "precision": "fp32", "conflicts": "drop",
          "decode": "mean", "faces": "elsewhere", "weights": "IMAGENET1K_V1", "front": "parts",
          "label_shape": "laplace", "regression_loss": "huber", "start_from": "packaged"}


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(Config)
                                 if field.name not in ("profile", "method")])
def test_every_setting_but_the_name_of_a_method_makes_another_run(key):
    config = Config(profile="mine")
    now = getattr(config, key)
    other = CHOSEN.get(key, not now if isinstance(now, bool) else OTHER[type(now)])
    changed = dataclasses.replace(config, **{key: other})
    assert settings_of(changed) == settings_of(config) | {key: other}
    assert differing_settings(changed, config) == [key]
    assert settings_of(dataclasses.replace(config, method="l1")) == settings_of(config)


def test_a_method_is_chosen_by_its_row_and_named(monkeypatch):
    for given in (lambda: load_config("ci", {"method": "l1"}), lambda: choose_profile("ci", method="l1")):
        with pytest.raises(ValueError, match="method cannot be overridden: use --method"):
            given()
    monkeypatch.setenv("AGEHELPERS_SET", "method=l1")
    with pytest.raises(ValueError, match="method cannot be overridden"):
        choose_profile("ci")
    monkeypatch.setenv("AGEHELPERS_SET", "epochs=3")
    config, why = choose_profile("ci", {"method": "l1", "head": "regression", "epochs": 2})
    assert (config.method, config.head, config.epochs) == ("l1", "regression", 3)
    assert "method=l1, epochs=3" in why


def test_named_faces_choose_a_profile_for_real_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr("agehelpers.paths.utkface_folder", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config, why = choose_profile(faces=str(tmp_path))
    assert config.profile == "laptop" and "a folder of faces was named" in why and "drawn" not in why
