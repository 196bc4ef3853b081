"""The list of the open questions: every row is a command that is understood, and it goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from engine import cli, demos
from engine.attacks import ATTACKS
from engine.defend import DefendRun, build
from engine.models import MODELS
from engine.runs.store import Run
from engine.scores.base import Score
from tests.benchmarks import questions
from tests.benchmarks.questions import QUESTIONS, Key, Variant, wanted

EVERY = [(name, row) for name, rows in QUESTIONS.items() for row in rows]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(questions, "TABLE", tmp_path / "results" / "questions.json")
    return tmp_path / "results" / "questions.json"


def rows_of(table: Path) -> dict[Key, dict[str, object]]:
    rows = json.loads(table.read_text())["rows"]
    return {(row["question"], row["group"], row["label"]): row for row in rows}


@pytest.mark.parametrize(("name", "variant"), EVERY, ids=[f"{n}, {v.group}, {v.label}" for n, v in EVERY])
def test_every_row_is_a_command(name: str, variant: Variant) -> None:
    args = cli.parser().parse_args(["defend", "demo:badnets", *variant.words, "--seed", "0"])
    spec = DefendRun.build(cli.scoring_values(args, args.defense, 2400))
    score, repair = build(spec)
    needs = {need for part in (score, repair) if part is not None for need in type(part).needs}
    assert ("trigger" in needs) == (spec.trigger == "true")
    if isinstance(score, Score) and score.unlearns:
        assert spec.start == "suspect"
    assert variant.suspect in questions.MODELS or variant.suspect in demos.names()


@pytest.mark.parametrize("name", questions.MODELS)
def test_every_model_that_is_missing_can_be_trained(name: str) -> None:
    args = cli.parser().parse_args(["attack", *questions.MODELS[name]])
    assert args.attack in ATTACKS
    assert args.model in MODELS
    spec = cli.attack_run(args)
    assert spec.training.epochs == 3
    assert spec.model.width == (32 if args.model == "resnet18" else None)


def test_a_row_is_written_as_it_is_measured_and_not_measured_again(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Key] = []
    of, held = demos.open_suspect("demo:badnets").id, ""

    def measure(key: Key, variant: Variant) -> dict[str, object]:
        asked.append(key)
        if len(asked) == 3:
            raise KeyboardInterrupt
        done = {"state": "done", "of": of, "acc_drop": 0.01, "acc_after": 0.9, "pruned": 3, "seconds": 1.0}
        done |= {"holds": held or questions.holds(variant, 2400), "units": 2400}
        return {**questions.blank(key, variant), **done, "oracle": False}

    monkeypatch.setattr(questions, "measure", measure)
    monkeypatch.setattr("sys.argv", ["questions", "asymmetry"])
    with pytest.raises(KeyboardInterrupt):
        questions.main()
    found = rows_of(table)
    assert list(found) == list(wanted())
    assert [row["state"] for row in found.values()].count("done") == 2
    questions.main()
    assert asked == [*list(wanted(["asymmetry"]))[:3], *list(wanted(["asymmetry"]))[2:]]
    assert [row["state"] for row in rows_of(table).values()].count("done") == 4
    # A model that is another one now has to be measured again, and so has a preset that holds something else.
    of, held = "another", ""
    monkeypatch.setattr("sys.argv", ["questions", "asymmetry", "--again"])
    questions.main()
    assert not any(row["state"] == "done" for row in questions.read().values())
    of, held = demos.open_suspect("demo:badnets").id, "other settings"
    questions.main()
    assert not any(row["state"] == "done" for row in questions.read().values())
    monkeypatch.setattr("sys.argv", ["questions", "cats"])
    with pytest.raises(SystemExit):
        questions.main()
    assert "expected questions among asymmetry, samples" in capsys.readouterr().err


def test_a_row_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*words: str) -> dict[str, object]:
        raise ValueError("expected something else, got this")

    monkeypatch.setattr(questions, "_engine", refuses)
    (key, variant), *_ = wanted(["few"]).items()
    found = questions.measure(key, variant)
    assert (found["state"], found["reason"]) == ("failed", "expected something else, got this")
    assert found["command"] == "python -m engine defend demo:badnets --defense rnp --per-class 2 --seed 0"


def test_a_retuned_row_has_nothing_of_the_repair_that_no_longer_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    last = {"acc": 0.918, "asr": 0.999, "ra": 0.001, "intervals": {"asr": [0.998, 1.0]}, "n": {"asr": 9000}}
    told = {"epochs": [{"acc": 0.912}, last], "run": "ab", "seconds": 60.0, "acc_before": 0.912, "acc_after": 0.918}
    monkeypatch.setattr(questions, "_engine", lambda *words: told)
    run = SimpleNamespace(id="cd", result={"acc_before": 0.926, "der": 0.98})
    found = questions.retuned(cast(Run, run))
    assert (found["asr_after"], found["intervals_after"], found["n_after"]) == (0.999, last["intervals"], last["n"])
    assert found["acc_drop"] == pytest.approx(0.008)
    assert "acc_before" not in found
    assert found["oracle"] is True
    assert [found[name] for name in ("acc_drop_interval", "der", "der_interval")] == [None] * 3
