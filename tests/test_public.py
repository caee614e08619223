"""The public interface: every name is there, and importing the package costs next to nothing."""

import subprocess
import sys

import pytest

import agehelpers

HEAVY = ("torch", "torchvision", "torchmetrics", "pandas", "numpy", "cv2", "PIL", "sklearn", "scipy", "matplotlib",
         "optuna", "pydantic")


@pytest.mark.parametrize("name", agehelpers.__all__)
def test_a_public_name_is_there_under_its_own_name(name):
    found = getattr(agehelpers, name)
    assert found is not None and getattr(found, "__name__", name) == name
    assert getattr(found, "__doc__", None) or isinstance(found, tuple | dict | str)


def test_names_are_listed_once():
    assert set(agehelpers.__all__) <= set(dir(agehelpers)) and len(set(agehelpers.__all__)) == len(agehelpers.__all__)
    assert agehelpers.__doc__ is not None and agehelpers.load_config("ci").profile == "ci"
    with pytest.raises(AttributeError, match="module 'agehelpers' has no attribute 'load_confg'"):
        agehelpers.load_confg  # noqa: B018
    with pytest.raises(ImportError, match="load_confg"):
        from agehelpers import load_confg  # noqa: F401


def imported(code: str) -> set[str]:
    """Which of `HEAVY` a new process has imported after `code`."""
    ask = f"import sys; {code}; print(*[name for name in {HEAVY} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
    return set(out.split())


def test_importing_the_package_imports_no_library():
    assert imported("import agehelpers; dir(agehelpers)") == set()


def test_a_name_imports_its_own_room_only():
    assert imported("from agehelpers import load_config") == {"pydantic"}
    assert not {"torch", "sklearn", "optuna"} & imported("from agehelpers import build_labels")


def test_the_command_line_asks_for_torch_only_where_it_computes():
    assert not {"torch", "pandas"} & imported("from agehelpers.__main__ import parser; parser().parse_args(['train'])")
