"""The command line end to end on a small suspect: keys, refusals, and that nothing half-written stays."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from engine.cli import main
from engine.paths import ROOT
from engine.runs import jobs
from engine.runs.checkpoints import Keep
from engine.runs.store import open_run
from tests.command_line import refusal, run

TRAIN = ["--set", "training.epochs=4", "--set", "training.lr=0.05", "--set", "training.batch=32"]


@pytest.fixture(scope="session")
def suspect(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "suspect"
    attack = ["attack", "--data", shapes, "--model", "resnet18", "--set", "model.width=4", "--attack", "badnets"]
    assert main([*attack, *TRAIN, "--set", "target=3", "--seed", "1", "--out", str(out), "--json"]) == 0
    return out


def test_attack_reports_the_agreed_keys(suspect: Path) -> None:
    result = open_run(suspect).result
    assert {"acc", "asr", "ra", "clean_acc", "poisoned"} <= result.keys()
    assert result["asr"] > 0.9
    assert result["n"]["asr"] < result["n"]["acc"]


def test_same_command_again_returns_the_same_run(
    suspect: Path, shapes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    attack = ["attack", "--data", shapes, "--model", "resnet18", "--set", "model.width=4", "--attack", "badnets"]
    again = run(capsys, *attack, *TRAIN, "--set", "target=3", "--seed", "1", "--out", str(suspect))
    assert again["run"] == open_run(suspect).id
    line = refusal(capsys, *attack, *TRAIN, "--set", "target=3", "--seed", "2", "--out", str(suspect))
    assert "expected" in line
    assert "same specification" in line


def test_defend(suspect: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "defended"
    settings = ["--set", "unlearn_lr=0.01", "--set", "batch=16", "--set", "mask_passes=3"]
    found = run(capsys, "defend", str(suspect), "--defense", "rnp", "--samples", "40", *settings, "--out", str(out))
    keys = (
        "run defense oracle threshold native pruned units acc_before asr_before ra_before acc_after asr_after ra_after"
    )
    assert set(f"{keys} der seconds".split()) <= found.keys()
    assert found["oracle"] is False
    assert found["units"] == 300
    assert open_run(out).verify()


def test_the_true_trigger_and_oracle_policy_are_marked(
    suspect: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["defend", str(suspect), "--samples", "40", "--policy"]
    graded = [*common, "fraction", "--defense", "tac", "--trigger", "true"]
    assert run(capsys, *graded, "--out", str(tmp_path / "a"))["oracle"] is True
    chosen = [*common, "oracle", "--defense", "random"]
    assert run(capsys, *chosen, "--out", str(tmp_path / "b"))["oracle"] is True
    honest = [*common, "fraction", "--defense", "random"]
    assert run(capsys, *honest, "--out", str(tmp_path / "c"))["oracle"] is False


def test_fixed_threshold_is_used_as_given(suspect: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixed = ["defend", str(suspect), "--defense", "random", "--policy", "fixed"]
    found = run(capsys, *fixed, "--threshold", "0.9", "--samples", "10", "--out", str(tmp_path / "d"))
    values = open_run(tmp_path / "d").arrays("scores")["values"]
    assert found["threshold"] == 0.9
    assert found["pruned"] == int((values >= np.float32(0.9)).sum())
    assert "expected --threshold" in refusal(capsys, *fixed, "--samples", "10")


def test_sweep(suspect: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--points", "6", "--samples", "40", "--policy", "knee", "--out", str(tmp_path / "s")]
    found = run(capsys, "sweep", str(suspect), "--score", "activation", *options)
    assert {"score", "oracle", "units", "seconds", "points", "chosen"} <= found.keys()
    assert found["points"][0]["pruned"] == 0
    assert {"threshold", "pruned", "acc", "asr", "ra"} <= found["points"][0].keys()
    pruned = [point["pruned"] for point in found["points"]]
    assert pruned == sorted(pruned)
    assert found["chosen"]["oracle"] is False


def test_export_loads_in_plain_torch(suspect: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "d"
    run(
        capsys,
        "defend",
        str(suspect),
        "--defense",
        "random",
        "--policy",
        "fraction",
        "--samples",
        "8",
        "--out",
        str(out),
    )
    path = tmp_path / "export" / "model.safetensors"
    found = run(capsys, "export", str(out), "--format", "safetensors", "--out", str(path))
    assert {Path(file).name for file in found["files"]} == {"model.safetensors", "model.md", "resnet.py"}
    # The card's own lines, run in the folder of the export, where no engine can be found.
    card = path.with_suffix(".md").read_text()
    assert "Measure it again after any tuning" in card
    code = card.split("```python\n")[1].split("```")[0]
    images = torch.rand(4, 1, 12, 12)
    safetensors.torch.save_file({"x": images}, tmp_path / "export" / "images.safetensors")
    code += "\nprint(predict(safetensors.torch.load_file('images.safetensors')['x']).tolist())\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, '.')\n{code}"],
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    from engine.compute import Compute
    from engine.suspects import load_suspect, load_weights

    model = load_suspect(str(suspect), Compute("cpu")).model
    load_weights(model, open_run(out).path("repaired.safetensors"))
    assert json.loads(done.stdout) == Compute("cpu", exact=True).logits(model, images).argmax(1).tolist()
    assert "nothing was overwritten" in refusal(
        capsys, "export", str(out), "--format", "safetensors", "--out", str(path)
    )


@pytest.mark.parametrize(
    "what", ["attacks", "defenses", "scores", "repairs", "detectors", "models", "datasets", "demos"]
)
def test_list(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(capsys, "list", what)
    assert isinstance(rows, list)
    assert rows
    assert all(row["name"] for row in rows)


REFUSED = {
    "unknown command": (["nonsense"], "invalid choice"),
    "unknown list": (["list", "cats"], "expected WHAT to be one of"),
    "unknown attack": (["attack", "--data", "fashion-mnist", "--model", "resnet18", "--attack", "badnet"], "'badnets'"),
    "unknown data": (["attack", "--data", "cats", "--model", "resnet18", "--attack", "badnets"], "'cats'"),
    "unknown model": (["attack", "--data", "fashion-mnist", "--model", "vit", "--attack", "badnets"], "'vit'"),
    "impossible rate": (
        ["attack", "--data", "fashion-mnist", "--model", "resnet18", "--attack", "badnets", "--set", "rate=3"],
        "expected rate to be less than or equal to 1, got '3'",
    ),
    "unknown setting": (
        ["attack", "--data", "fashion-mnist", "--model", "resnet18", "--attack", "badnets", "--set", "colour=red"],
        "unknown setting 'colour'",
    ),
    "no value": (
        ["attack", "--data", "fashion-mnist", "--model", "resnet18", "--attack", "badnets", "--set", "rate"],
        "expected --set key=value",
    ),
    "target outside": (
        ["attack", "--data", "fashion-mnist", "--model", "resnet18", "--attack", "badnets", "--set", "target=10"],
        "expected target between 0 and 9, got 10",
    ),
    "unknown demo": (["defend", "demo:nonsense", "--defense", "rnp"], "'nonsense'"),
    "no folder": (["verify", "/no/such/folder"], "no folder"),
    "missing option": (["defend", "demo:badnets"], "--defense"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, expected = REFUSED[case]
    if arguments[0] in ("attack", "defend"):
        arguments = [*arguments, "--out", str(tmp_path / "out")]
    assert expected in refusal(capsys, *arguments)
    assert not (tmp_path / "out").exists()


def test_impossible_defense_requests(suspect: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    too_many = refusal(capsys, "defend", str(suspect), "--defense", "rnp", "--samples", "100000", *out)
    assert "expected between 1 and" in too_many
    assert "100,000" in too_many
    assert "expected a trigger" in refusal(capsys, "defend", str(suspect), "--defense", "tac", "--samples", "40", *out)
    assert "preset" in refusal(capsys, "defend", str(suspect), "--defense", "rnp", "--preset", "huge", *out)
    rnp = ["defend", str(suspect), "--defense", "rnp", "--samples", "40"]
    assert "tolerance" in refusal(capsys, *rnp, "--tolerance", "-1", *out)
    assert not (tmp_path / "out").exists()


def test_altered_run_folders_are_refused(suspect: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(suspect, copy)
    assert run(capsys, "verify", str(copy))["kind"] == "attack"

    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for command in (["verify", str(copy)], ["defend", str(copy), "--defense", "random"]):
        assert "hash mismatch" in refusal(capsys, *command)
    weights.unlink()
    assert "incomplete" in refusal(capsys, "verify", str(copy))
    (copy / "manifest.json").write_text("[1, 2]")
    assert "manifest" in refusal(capsys, "verify", str(copy))


def test_checkpoints_of_another_shape_or_format(suspect: Path, tmp_path: Path) -> None:
    from engine.compute import Compute
    from engine.suspects import load_suspect, load_weights

    model = load_suspect(str(suspect), Compute("cpu")).model
    state = {k: v.clone(memory_format=torch.contiguous_format) for k, v in model.state_dict().items()}
    path = tmp_path / "model.safetensors"

    safetensors.torch.save_file({**state, "net.fc.bias": torch.zeros(7)}, path)
    with pytest.raises(ValueError, match=r"expected net.fc.bias of shape \(4,\), got \(7,\)"):
        load_weights(model, path)
    safetensors.torch.save_file({k: v for k, v in state.items() if k != "net.fc.bias"}, path)
    with pytest.raises(ValueError, match="got no net.fc.bias"):
        load_weights(model, path)
    safetensors.torch.save_file({**state, "net.fc.bias": torch.full((4,), torch.nan)}, path)
    with pytest.raises(ValueError, match="expected finite weights"):
        load_weights(model, path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="expected a readable safetensors checkpoint"):
        load_weights(model, path)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="pickles can run code"):
        load_weights(model, tmp_path / "model.pt")
    (tmp_path / "model.pt").rename(path)
    with pytest.raises(ValueError, match="pickles can run code"):
        load_weights(model, path)


def test_process_exit_codes_and_streams() -> None:
    command = [sys.executable, "-m", "engine"]
    good = subprocess.run(
        [*command, "list", "attacks", "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert good.returncode == 0
    assert [row["name"] for row in json.loads(good.stdout)][:3] == ["badnets", "blend", "sig"]
    bad = subprocess.run([*command, "list", "cats", "--json"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.count("\n") == 1


def test_the_queue_from_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, suspect: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    monkeypatch.setattr(jobs, "wake", lambda: None)
    assert run(capsys, "runs") == []
    shutil.copytree(suspect, tmp_path / "runs" / "mine")
    job = jobs.submit(["sweep", "demo:badnets", "--score", "random"], label="A curve")
    rows = {row["name"]: row for row in run(capsys, "runs")}
    assert (rows["mine"]["kind"], rows["mine"]["state"], rows["mine"]["run"]) == (
        "attack",
        "done",
        open_run(suspect).id,
    )
    assert (rows[job.id]["title"], rows[job.id]["state"], rows[job.id]["error"]) == ("A curve", "queued", None)
    assert run(capsys, "cancel", job.id) == {"run": job.id, "state": "cancelled"}
    assert run(capsys, "resume", str(job.folder)) == {"run": str(job.folder), "state": "queued"}
    assert run(capsys, "reindex") == {"runs": 1, "jobs": 1}
    assert main(["runs"]) == 0
    assert f"{job.id:<24} queued    A curve" in capsys.readouterr().out
    assert "expected a job, got 'nobody'" in refusal(capsys, "cancel", "nobody")
    assert "which is queued" in refusal(capsys, "resume", job.id)


def test_a_command_that_was_killed_goes_on_where_it_was(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shapes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")
    command = ["attack", "--data", shapes, "--model", "resnet18", "--attack", "none", "--set", "model.width=4"]
    command += ["--set", "training.epochs=1", "--set", "training.batch=200", "--out", str(tmp_path / "run")]
    write = Keep.write

    def dies(self: Keep, name: str, arrays: Any, state: Any) -> None:
        write(self, name, arrays, state)
        if name == "train":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Keep, "write", dies)
        with pytest.raises(Killed):
            main(command)
    assert (tmp_path / "run" / "checkpoint" / "train.safetensors").exists()
    assert run(capsys, *command)["acc"] is not None
    assert not (tmp_path / "run" / "checkpoint").exists()
