"""What the demo uploads and what it keeps back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from examples.demo import answers, inputs
from examples.demo.__main__ import parsed
from trainers.data.lines import BadLine
from trainers.objectives import DPO, SparsePO


def file_of(count: int, folder: Path) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"p{i}", "chosen": "yes", "rejected": "no"}) for i in range(count)))
    return path


def test_the_grammars_pairs_are_split_into_training_and_held_out(tmp_path):
    material = inputs.of_the_grammar(tmp_path / "model", "dpo")
    assert (len(material.lines), len(material.held_out)) == (512, 24)
    asked = {
        json.loads(line)["input"]["messages"][0]["content"] + json.loads(line)["preferred_output"][0]["content"]
        for line in material.lines
    }
    kept = {answers.text(pair.prompt) + answers.text(pair.chosen) for pair in material.held_out}
    assert not asked & kept
    assert list(tmp_path.iterdir()) == []


def test_a_tenth_of_the_users_pairs_is_held_out_and_not_uploaded(tmp_path):
    material = inputs.of_the_user(tmp_path, file_of(40, tmp_path))
    assert [pair.prompt for pair in material.held_out] == ["p9", "p19", "p29", "p39"]
    assert len(material.lines) == 36
    assert not any('"p19"' in line for line in material.lines)


def test_a_file_of_few_pairs_serves_for_both(tmp_path):
    material = inputs.of_the_user(tmp_path, file_of(5, tmp_path))
    assert (len(material.held_out), len(material.lines)) == (5, 5)


def test_a_bad_line_is_named(tmp_path):
    path = file_of(3, tmp_path)
    path.write_text(path.read_text() + '\n{"prompt": "x"}')
    with pytest.raises(BadLine, match="line 4"):
        inputs.of_the_user(tmp_path, path)


@pytest.mark.parametrize(("method", "objective"), [("dpo", DPO), ("sparsepo", SparsePO)])
def test_the_demos_settings_are_hyperparameters_of_the_method(method, objective):
    chosen = objective(**inputs.SETTINGS[method])
    assert chosen.beta == inputs.SETTINGS[method]["beta"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--model", "."], "belong together"),
        (["--model", "absent", "--pairs", "absent"], "absent does not exist"),
        (["--home", "."], "takes a new folder"),
        (["--method", "magic"], "invalid choice"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused_with_a_sentence(argv, said, capsys):
    with pytest.raises(SystemExit) as refused:
        parsed(argv)
    assert refused.value.code == 2
    assert said in re.sub(r"\s+", " ", capsys.readouterr().err)
