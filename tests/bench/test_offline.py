"""The benchmark's own path: one cell run for real, its line, and that nothing finished is run twice."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bench import report
from bench.cells import CELLS, QUICK, Side, unavailable
from bench.offline import main
from bench.workload import USUAL

CELL = "dpo-lora-short-best"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def run(out):
    """`--quick` over one cell, into the same folder each time."""
    import contextlib
    import io

    def once(*more: str) -> dict:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(["--json", "--quick", "--cells", CELL, "--out", str(out), *more]) == 0
        [line] = printed.getvalue().splitlines()
        return json.loads(line)

    return once


@pytest.fixture(scope="module")
def line(run):
    return run()


@pytest.mark.deepspeed
def test_the_line_says_what_was_compared_and_that_no_target_was_checked(line):
    assert line["quick"]
    assert "not the targets" in line["checks"]
    assert line["versions"]["trl"] == "1.16.0"
    assert line["failed"] == line["skipped"] == {}
    cell = line["cells"][CELL]
    for side in ("ours", "other"):
        assert cell[side]["pairs_per_second"] > 0
        assert cell[side]["peak_mb"] > cell[side]["before_training_mb"] > 100
        assert cell[side]["reference_seconds"] > 0  # TRL's best settings compute it beforehand, as ours always does
        assert 0 < cell[side]["share_of_floor"] < 1.5
    assert cell["ratio"] == pytest.approx(cell["ours"]["pairs_per_second"] / cell["other"]["pairs_per_second"])
    assert cell["memory_ratio"] == pytest.approx(cell["ours"]["peak_mb"] / cell["other"]["peak_mb"])


@pytest.mark.deepspeed
def test_both_sides_lose_the_same_at_equal_steps(line, out):
    assert line["cells"][CELL]["loss_difference"]["relative"] < 1e-4
    ours, other = (json.loads((out / CELL / f"{name}-0.json").read_text())["losses"] for name in ("ours", "other"))
    assert ours == pytest.approx(other, rel=1e-4)
    assert len(ours) == 3
    assert ours[0] == pytest.approx(0.693147, abs=1e-6)
    assert abs(ours[2] - ours[0]) > 1e-3


@pytest.mark.deepspeed
def test_a_finished_measurement_is_not_run_again(line, run, out):
    files = sorted((out / CELL).glob("*-0.json"))
    assert len(files) == 2
    before = [file.stat().st_mtime_ns for file in files]
    again = run()
    assert [file.stat().st_mtime_ns for file in files] == before
    assert again["cells"] == line["cells"]


@pytest.mark.deepspeed
def test_a_folder_with_results_of_other_settings_is_refused(line, out):
    with pytest.raises(SystemExit, match="other settings"):
        main(["--quick", "--alternations", "2", "--cells", CELL, "--out", str(out)])


def test_an_unknown_cell_is_refused_by_name(tmp_path):
    with pytest.raises(SystemExit, match="no cell is called 'dpo'"):
        main(["--quick", "--cells", "dpo", "--out", str(tmp_path)])


def test_a_cell_whose_method_is_not_there_says_so():
    cell = replace(CELLS[0], ours=Side("ours", "telepathy"))
    assert unavailable(cell) == "there is no method telepathy"


def test_cells_have_names_of_their_own_and_the_quick_ones_exist():
    names = [cell.name for cell in CELLS]
    assert len(set(names)) == len(names)
    assert set(QUICK) <= set(names)


def test_figures_are_medians_and_count_the_reference_pass_once():
    cell = next(cell for cell in CELLS if cell.name == "dpo-lora-short-defaults")
    ours = [_result(8.0, 4.0, 500), _result(12.0, 4.0, 700)]
    other = [_result(48.0, 0.0, 2000), _result(96.0, 0.0, 2000)]
    line = report.figures(cell, USUAL, {"ours": ours, "other": other}, gemm=1e12)
    assert line["ours"]["pairs_per_second"] == (48 / 12 + 48 / 16) / 2
    assert line["ratios"] == [4.0, 6.0]
    assert line["ratio"] == 5.0
    assert line["memory_ratio"] == 0.3
    assert line["loss_difference"] == {"absolute": 0.0, "relative": 0.0}
    assert line["ours"]["share_of_floor"] == pytest.approx(3.5 * line["floor_gflops_per_pair"] / 1e3)


def _result(train: float, reference: float, peak: float) -> dict:
    return {
        "train_seconds": train,
        "reference_seconds": reference,
        "losses": [0.7, 0.5],
        "peak_mb": peak,
        "before_mb": 300.0,
    }
