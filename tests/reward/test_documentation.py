"""What the documents say of rewards is what there is."""

from pathlib import Path
from typing import get_args

from reward.models import AnyReward
from reward.spec import ScoreRequest

DOCUMENT = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()


def test_every_kind_is_documented_and_nothing_else_is():
    kinds = {reward.model_fields["type"].default for reward in get_args(get_args(AnyReward)[0])}
    table = DOCUMENT.split("## Kinds")[1].split("\n\nIn R³")[0]
    assert {
        line.split("`")[1] for line in table.splitlines() if line.startswith("| `") and "`type`" not in line
    } == kinds


def test_every_option_of_a_request_is_documented():
    assert [
        name for name in ScoreRequest.model_fields if f"`{name}" not in DOCUMENT and f'"{name}"' not in DOCUMENT
    ] == []
