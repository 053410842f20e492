"""The list of targets fits a screen, and a wrong name is refused before anything is done."""

from __future__ import annotations

import importlib.util
import re

import pytest

from support.command import make
from support.documents import ROOT

BENCHMARKS = {"": "bench", "cluster": "bench.race", "audit": "bench.audit", "scale": "bench.scale", "crd": "bench.crd"}


def test_the_list_of_targets_fits_a_screen_with_the_prompt_below_it() -> None:
    shown = make("help").stdout.splitlines()
    assert len(shown) <= 23
    assert [line for line in shown if len(line) > 80] == []
    assert make().stdout.splitlines() == shown


def test_every_target_is_listed_with_what_it_does() -> None:
    targets = re.findall(r"^([a-z0-9-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    listed = re.findall(r"^make ([a-z0-9-]+) +[A-Z]", make("help").stdout, re.M)
    assert sorted(listed) == sorted(set(targets) - {"help"})


@pytest.mark.parametrize(("name", "module"), BENCHMARKS.items())
def test_every_benchmark_is_run_by_its_name(name: str, module: str) -> None:
    shown = make("-n", "bench", *([f"NAME={name}"] if name else [])).stdout
    assert shown.splitlines()[-1].endswith(f"python -m {module}")
    assert importlib.util.find_spec(module) is not None


def test_the_variable_that_some_systems_have_is_no_benchmark() -> None:
    assert make("-n", "bench", environ={"NAME": "my-machine"}).stdout.endswith("python -m bench\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("bench", "NAME=speed"), "NAME is cluster, audit, scale or crd, not speed."),
        (("manifests", "CONTROLLER=both"), "CONTROLLER is composite or decorator, not both."),
        (("install", "CONTROLLER=both"), "CONTROLLER is composite or decorator, not both."),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_done(arguments: tuple[str, ...], sentence: str) -> None:
    done = make(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
