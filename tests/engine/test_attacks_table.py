"""The table of attacks: which rows it has, and how a row on other data than the shipped is made."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import cli
from engine.attacks import ATTACKS
from engine.data import load
from engine.demos import open_suspect
from engine.runs.store import sha256_of
from tests.benchmarks import attacks
from tests.benchmarks.attacks import HOME, Key
from tests.benchmarks.grounds import Ground, prepared

TINY = Ground(
    "Noise, CNN", ("cnn4", "model.width=4", "training.epochs=1", "training.batch=8"), ("badnets", "blend"), 12, "slow"
)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(attacks, "TABLE", tmp_path / "attacks.json")
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "home"))
    return tmp_path / "attacks.json"


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Colour noise of two classes, 16 x 16, as an .npz of one's own."""
    rng = np.random.default_rng(0)
    arrays = {
        f"x_{part}": rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8) for part, n in (("train", 60), ("test", 20))
    }
    arrays |= {f"y_{part}": np.arange(len(arrays[f"x_{part}"])) % 2 for part in ("train", "test")}
    np.savez(tmp_path / "noise.npz", class_names=np.array(["odd", "even"]), allow_pickle=False, **arrays)
    return tmp_path / "noise.npz"


def test_every_attack_has_a_row_and_the_twelve_have_three() -> None:
    wanted = attacks.wanted()
    assert {key.attack for key in wanted if (key.on, key.seed) == (HOME, 0)} == set(ATTACKS)
    for seed in attacks.SEEDS:
        assert set(attacks.TWELVE) <= {key.attack for key in wanted if (key.on, key.seed) == (HOME, seed)}
    assert {key.attack for key in wanted if key.on == "cifar10"} == set(ATTACKS)
    assert [key.attack for key in wanted if key.on == "imagenette"] == ["trojan"]
    assert len(wanted) == len(set(wanted))


def test_rows_of_the_shipped_data_need_not_name_it_and_pending_ones_say_why(table: Path) -> None:
    old = {"attack": "blend", "seed": 0, "state": "done", "acc": 0.9, "met": True, "reason": None}
    table.write_text(json.dumps({"rows": [old, {"attack": "sig", "seed": 0, "state": "pending"}]}))
    attacks.write(attacks.read())
    rows = attacks.read()
    assert rows[Key("blend", 0)] == {**old, "on": HOME}
    assert rows[Key("sig", 0)] == {"attack": "sig", "seed": 0, "on": HOME, "state": "pending"}
    assert "GPU" in rows[Key("blend", 0, "cifar10")]["reason"]
    assert list(rows) == attacks.wanted()


def test_a_reason_that_is_found_later_comes_into_the_row(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table.write_text(json.dumps({"rows": [{"attack": "blend", "seed": 0, "state": "done", "met": False}]}))
    attacks.write(attacks.read())
    assert attacks.read()[Key("blend", 0)]["reason"] == "not yet looked into"
    monkeypatch.setitem(attacks.REASONS, Key("blend", 0), "too few epochs")
    attacks.write(attacks.read())
    assert attacks.read()[Key("blend", 0)]["reason"] == "too few epochs"


def test_scaled_pictures_are_divided_like_the_unscaled(table: Path, noise: Path) -> None:
    plain, small = load(str(noise)), load(prepared("noise", 12, noise))
    assert small.shape == (3, 12, 12)
    assert small.classes == plain.classes
    for part in ("train", "pool", "test"):
        ours, theirs = getattr(small, part), getattr(plain, part)
        assert ours.ids.tolist() == theirs.ids.tolist()
        assert ours.y.tolist() == theirs.y.tolist()
        # Of one picture, at another size: its mean colours stay.
        means = [images.x.float().mean((2, 3)) for images in (ours, theirs)]
        assert float((means[0] - means[1]).abs().max()) < 12
    assert prepared("noise", None, noise) == str(noise)
    assert prepared("cifar10", None, None) == "cifar10"


def test_a_row_on_other_data_is_made_beside_its_own_twin(
    table: Path, noise: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(attacks.GROUNDS, "noise", TINY)
    monkeypatch.setattr(sys, "argv", ["attacks", "blend", "--on", "noise", "--file", str(noise)])
    attacks.main()
    found: dict[str, Any] = attacks.read()[Key("blend", 0, "noise")]
    assert (found["state"], found["n"]["acc"], found["n"]["asr"], found["trained_on"]) == ("done", 20, 10, 54)
    assert found["acc_lost"] == pytest.approx(found["twin"]["acc"] - found["acc"])
    assert found["clean_acc"] == found["twin"]["acc"]
    assert found["intervals"]["acc"][0] < found["acc"] < found["intervals"]["acc"][1]
    assert (found["spec"]["model"], found["spec"]["training"]["batch"]) == ({"name": "cnn4", "width": 4}, 8)
    # What the data are, but not where they lie.
    scaled = Path(prepared("noise", TINY.side, noise))
    assert found["spec"]["data"] == {"name": "noise", "side": 12, "sha256": sha256_of(scaled)}
    assert str(noise.parent) not in attacks.TABLE.read_text()
    assert attacks.read()[Key("badnets", 0, "noise")]["reason"] == "slow"
    assert "noise blend" in capsys.readouterr().out
    assert "| Noise, CNN | Blend | " in attacks.markdown_elsewhere(attacks.read())
    assert "Noise" not in attacks.markdown(attacks.read())


def test_the_shipped_models_train_as_long_as_their_attack_needs() -> None:
    for name in attacks.TWELVE:
        words = ["attack", "--data", HOME, "--model", "resnet18", "--preset", "demo", "--attack", name]
        spec = cli.attack_run(cli.parser().parse_args(words))
        assert spec.training.epochs == (ATTACKS[name].presets["small"].epochs or 3)
        shipped = open_suspect(f"demo:{name}").spec
        asked = spec.model_dump(mode="json")
        assert {k: asked[k] for k in ("attack", "training")} == {k: shipped[k] for k in ("attack", "training")}
