"""Retuning brings a hidden backdoor back faster than it teaches a clean twin, with images that the defense had not."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.cli import main
from engine.compute import Compute
from engine.data.base import Images
from engine.metrics import TestSet
from engine.models.base import Classifier
from engine.models.neurons import no_units
from engine.retune import RetuneRun, drawn, run_retune, tuned
from engine.retune_ways import WAYS, words
from engine.runs import jobs
from engine.runs.store import open_run
from engine.scores import Evidence
from engine.suspects import load_suspect, twin_of
from tests.command_line import refusal, run
from tests.tiny import PLANTED, Planted

SPEC = RetuneRun(suspect="s", run="r", lr=0.02)


def asr(planted: Planted, model: Classifier, compute: Compute, **more: Any) -> tuple[list[float], Classifier]:
    """ASR after each epoch of retuning a copy on five stamped pictures among fifty clean ones."""
    model = copy.deepcopy(model)
    pool, attack = planted.data.pool, planted.attack
    few = pool[attack.changed(pool.y).nonzero()[:5, 0]]
    x = torch.cat([(attack.stamped(few.x) * 255).round().to(torch.uint8), pool.x[-50:]])
    images = Images.of(x, torch.cat([attack.label(few.y), pool.y[-50:]]))
    rows, _ = tuned(SPEC, model, Evidence(images, 0, compute, **more), TestSet.of(planted.data.test, attack))
    assert [row["epoch"] for row in rows] == list(range(SPEC.epochs + 1))
    return [row["asr"] for row in rows], model


def test_what_was_only_hidden_comes_back_first(planted: Planted, clean_tiny: Classifier, compute: Compute) -> None:
    hidden = copy.deepcopy(planted.model)
    with torch.no_grad():
        hidden.get_submodule("net.fc").weight[:, PLANTED] *= 0.0  # type: ignore[index,operator]
    back, _ = asr(planted, hidden, compute)
    anew, _ = asr(planted, clean_tiny, compute)
    assert back[0] < 0.1
    # Both learn it in the end: without the twin, all of it would pass for memory.
    assert back[2] > anew[2] + 0.2
    assert min(back[-1], anew[-1]) > 0.9


def test_what_was_cut_stays_cut(planted: Planted, compute: Compute) -> None:
    cut = no_units(planted.model)
    cut[planted.unit] = True
    _, free = asr(planted, planted.model, compute)
    _, held = asr(planted, planted.model, compute, cut=cut)
    weight = "net.bn2.weight"
    assert free.get_parameter(weight)[PLANTED] != 0
    assert held.get_parameter(weight)[PLANTED] == 0


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with a suspect, its clean twin, and a defense that cut a tenth of the suspect's units."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMASK_HOME", str(home))
        train = ["attack", "--data", shapes, "--model", "resnet18", "--set", "model.width=4", "--seed", "1"]
        train += ["--set", "training.epochs=1", "--set", "training.batch=32"]
        for attack, name in (("badnets", "suspect"), ("none", "twin")):
            assert main([*train, "--attack", attack, "--out", str(home / "runs" / name), "--json"]) == 0
        for name in ("suspect", "twin"):
            cut = ["defend", str(home / "runs" / name), "--defense", "random", "--policy", "fraction"]
            assert main([*cut, "--samples", "20", "--out", str(home / "runs" / f"{name}-cut"), "--json"]) == 0
        yield home / "runs"


def test_the_command_measures_suspect_defense_and_twin(
    made: Path, compute: Compute, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["retune", str(made / "suspect-cut"), "--images", "3", "--clean", "30", "--epochs", "2"]
    found = run(capsys, *command)
    defended, suspect = open_run(made / "suspect-cut"), open_run(made / "suspect")
    assert found["oracle"] is True
    assert found["undefended"]["asr"] == suspect.result["asr"]
    assert [row["epoch"] for row in found["epochs"]] == [0, 1, 2]
    assert found["epochs"][0]["acc"] == defended.result["acc_after"]
    assert found["epochs"][0]["n"] == suspect.result["n"]
    assert found["asr_after"] == found["epochs"][-1]["asr"]
    low, high = found["asr_gain_interval"]
    assert low <= found["asr_gain"] <= high
    twin = found["twin"]
    assert twin["suspect"] == twin_of(suspect) == f"run:{open_run(made / 'twin').id}"
    assert [row["epoch"] for row in twin["epochs"]] == [0, 1, 2]
    used = open_run(Path(found["folder"])).arrays("images")
    assert (len(used["poisoned"]), len(used["clean"])) == (found["images"], found["clean"]) == (3, 30)
    data = load_suspect(str(made / "suspect"), compute).data
    had, pool = set(drawn(defended.spec, data).ids.tolist()), data.pool
    used_ids = [*used["poisoned"].tolist(), *used["clean"].tolist()]
    assert len(set(used_ids)) == 33
    assert not had & set(used_ids)
    poisoned = pool.y[torch.isin(pool.ids, torch.from_numpy(used["poisoned"]))]
    assert (poisoned != 0).all()  # the target's own pictures need no trigger
    assert run(capsys, *command)["run"] == found["run"]


def test_each_way_is_a_run_of_its_own(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["retune", str(made / "suspect-cut"), "--clean", "30", "--epochs", "1"]
    usual, *others = [run(capsys, *command, *words(way)) for way in WAYS]
    assert len({usual["run"], *(other["run"] for other in others)}) == len(WAYS)
    assert "statistics" not in open_run(Path(usual["folder"])).spec  # as before there was a choice
    alone, kept, neither = others
    assert (alone["images"], alone["clean"]) == (0, 30)
    assert len(open_run(Path(alone["folder"])).arrays("images")["poisoned"]) == 0
    assert (kept["images"], kept["statistics"]) == (5, "kept")
    assert kept["epochs"][1] != usual["epochs"][1]
    assert (neither["images"], neither["statistics"]) == (0, "kept")


def test_a_cut_by_hand_leaves_out_what_its_study_drew(made: Path, compute: Compute) -> None:
    data = load_suspect(str(made / "suspect"), compute).data
    by_hand = {"study": str(made / "suspect-cut")}
    assert drawn(by_hand, data).ids.tolist() == drawn({"samples": 20, "seed": 0}, data).ids.tolist()
    with pytest.raises(ValueError, match="expected a run folder"):
        drawn({"study": str(made / "gone")}, data)


def test_it_refuses_what_cannot_be(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut, before = str(made / "suspect-cut"), sorted(made.iterdir())
    assert "expected a defend run, got a run of attack" in refusal(capsys, "retune", str(made / "suspect"))
    assert "known trigger" in refusal(capsys, "retune", str(made / "twin-cut"))
    assert "at most as many images" in refusal(capsys, "retune", cut, "--images", "1000")
    assert "at least two images" in refusal(capsys, "retune", cut, "--images", "1", "--clean", "0")
    assert "expected images to be" in refusal(capsys, "retune", cut, "--images", "-1")
    assert sorted(made.iterdir()) == before


def test_another_suspect_in_its_place_is_refused(made: Path, compute: Compute) -> None:
    spec = RetuneRun(suspect=str(made / "suspect"), run=open_run(made / "twin-cut").id)
    with pytest.raises(ValueError, match="another or a changed"):
        run_retune(spec, open_run(made / "twin-cut"), compute)


def test_a_job_that_retunes_is_about_the_suspect(made: Path) -> None:
    assert jobs.suspect_of(["retune", str(made / "suspect-cut")]) == str(made / "suspect")
    named = f"run:{open_run(made / 'suspect-cut').id}"
    assert jobs.suspect_of(["retune", named]) == str(made / "suspect")
