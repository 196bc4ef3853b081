"""Projections: principal components to the digit, a t-SNE with the properties of one, and places before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.compute import Compute
from engine.explain.feature_maps import mean_map, unit_maps
from engine.explain.latent import features, layer_named, nearest, pca
from engine.explain.tsne import affinities, conditional, tsne
from engine.models.masking import masked
from engine.models.neurons import no_units, units
from engine.project import Pictures, look, placed, unit_numbers
from engine.questions import Questions
from engine.runs.checkpoints import Keep
from engine.runs.store import open_run
from tests.command_line import refusal, run
from tests.engine.test_ask import states, suspect_like, value
from tests.tiny import PLANTED, Planted


@pytest.fixture(scope="module")
def asker(planted: Planted, compute: Compute) -> Questions:
    return Questions(lambda name, _compute: suspect_like(planted, name), compute)


def clouds(apart: float = 8.0) -> torch.Tensor:
    """Three clouds of twenty points in ten dimensions."""
    rng = torch.Generator().manual_seed(0)
    centres = apart * torch.eye(10)[:3].repeat_interleave(20, 0)
    return centres + torch.randn(60, 10, generator=rng)


# --- principal components --------------------------------------------------------------------------------------------


def test_the_plane_is_the_one_of_a_known_cloud() -> None:
    x = torch.tensor([[3.0, 4.0, 0.0], [-3.0, -4.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]) + 7
    found = pca(x)
    assert torch.allclose(found.axes, torch.tensor([[0.6, 0.0], [0.8, 0.0], [0.0, 1.0]], dtype=torch.float64))
    assert found.shares.tolist() == pytest.approx([50 / 52, 2 / 52])
    assert torch.allclose(found.project(x)[0], torch.tensor([5.0, 0.0], dtype=torch.float64), atol=1e-6)
    # Mirrored features give the mirrored picture, not one with the signs of chance.
    assert torch.allclose(pca(14 - x).axes, found.axes)
    flat = pca(torch.ones(5, 3))
    assert flat.axes.abs().sum() == 0
    with pytest.raises(ValueError, match="at least two pictures"):
        pca(torch.ones(1, 3))


def test_features_are_what_the_last_layer_reads_or_a_layer_averaged(planted: Planted, compute: Compute) -> None:
    x, model = planted.data.test.x[:30], planted.model
    last, said = features(model, x, compute, batch=7)
    fc: Any = model.net.fc
    with torch.no_grad():
        assert torch.equal(fc(last.clone()).argmax(1), said)
    assert torch.equal(said, compute.logits(model, x).argmax(1))
    pooled, _ = features(model, x, compute, "bn2")
    assert torch.allclose(pooled[:, 3], unit_maps(model, 8 + 3, x, compute).mean((1, 2)), atol=1e-5)
    with pytest.raises(ValueError, match="such as 'bn2', got 'bn9'"):
        features(model, x, compute, "bn9")


def test_a_mean_map_is_the_mean_of_the_units_maps(planted: Planted, compute: Compute) -> None:
    x, layer = planted.data.test.x[:20], layer_named(planted.model, "bn1")
    each = torch.stack([unit_maps(planted.model, k, x, compute).mean(0) for k in range(8)])
    assert torch.allclose(mean_map(planted.model, layer, x, compute), each.mean(0), atol=1e-5)


# --- t-SNE -----------------------------------------------------------------------------------------------------------


def test_every_row_has_the_wanted_perplexity() -> None:
    x = clouds()
    rows = conditional(x, 12.0)
    entropy = -(rows * rows.clamp_min(1e-300).log()).sum(1)
    assert torch.allclose(entropy.exp(), torch.full((60,), 12.0, dtype=torch.float64), rtol=1e-6)
    p = affinities(x, 12.0)
    assert torch.equal(p, p.T)
    assert float(p.sum()) == pytest.approx(1.0)
    assert p.diagonal().abs().sum() == 0
    with pytest.raises(ValueError, match="a perplexity from 1 to 20 for 60 points, got 30"):
        affinities(x, 30.0)


def test_clouds_stay_apart_and_the_loss_falls(compute: Compute) -> None:
    x, told = clouds(), []
    y, loss = tsne(x, 10.0, compute, 300, lambda *_, **figures: told.append(figures["loss"]))
    late = [figure for figure in told if figure is not None][16:]
    assert late == sorted(late, reverse=True)
    assert loss <= late[-1] < told[1]
    truth = torch.arange(3).repeat_interleave(20)
    assert torch.equal(nearest(y, y, truth), truth)
    # The nearest neighbour of every point on the map is of its own cloud.
    away = torch.cdist(y, y).fill_diagonal_(torch.inf)
    assert torch.equal(truth[away.argmin(1)], truth)
    again, _ = tsne(x, 10.0, compute, 300)
    assert torch.equal(again, y)


def test_a_tsne_goes_on_where_it_was_stopped(compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CHECKPOINT_SECONDS", "0")
    x = clouds()
    whole, _ = tsne(x, 10.0, compute, 60)

    def stop(_what: str, share: float, **_figures: float | None) -> None:
        if share >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tsne(x, 10.0, compute, 60, stop, Keep(tmp_path, "run"))
    seen: list[float] = []
    rest, _ = tsne(x, 10.0, compute, 60, lambda _what, share, **_: seen.append(share), Keep(tmp_path, "run"))
    assert min(seen) >= 0.5
    assert torch.equal(rest, whole)


# --- before and after ------------------------------------------------------------------------------------------------


def test_triggered_pictures_leave_the_target_when_its_unit_is_cut(planted: Planted, compute: Compute) -> None:
    model, attack = planted.model, planted.attack
    pictures = Pictures.of(planted.data.pool, attack)
    assert pictures.triggered_truth is not None
    assert (pictures.triggered_truth != attack.target).all()
    cut = no_units(model)
    cut[planted.unit] = True
    before = look(model, pictures, compute, None)
    with masked(model, cut):
        after = look(model, pictures, compute, None)
    arrays, told = placed(before, after, pictures)
    assert (arrays["before_triggered_said"] == attack.target).float().mean() > 0.9
    assert (arrays["after_triggered_said"] == arrays["triggered_truth"]).float().mean() > 0.7
    assert told["own_after_triggered"] > told["own_before_triggered"]
    assert told["own_after_clean"] > 0.9
    # One plane for both: places of the cut network are its own features on the uncut one's axes.
    basis = pca(before["clean"][0])
    assert torch.allclose(arrays["after_triggered"], basis.project(after["triggered"][0]).float())
    assert {len(arrays["before_clean"]), len(arrays["truth"])} == {len(planted.data.pool)}


def test_the_question_is_answered_as_the_functions_do(asker: Questions, planted: Planted, compute: Compute) -> None:
    found = value(asker, kind="latent", cut=[planted.unit])
    pictures = Pictures.of(planted.data.pool, planted.attack)
    assert len(found["before_clean"]) == len(planted.data.pool)
    assert pictures.triggered is not None
    assert len(found["after_triggered"]) == len(found["triggered_truth"]) == len(pictures.triggered)
    assert found["own_after_triggered"] > found["own_before_triggered"]
    assert found["pruned"] == 1
    pooled = value(asker, kind="latent", layer="bn1")
    assert [key for key in pooled if key.startswith("after")] == []
    assert pooled["shares"] != found["shares"]


def test_without_the_trigger_nothing_of_it_is_in_an_answer(asker: Questions) -> None:
    hidden = value(asker, kind="latent", cut=[3], triggered=False)
    assert not [key for key in hidden if "triggered" in key]
    maps = value(asker, kind="layer", layer="bn2", cut=[3], triggered=False)
    assert maps["map_triggered"] is maps["map_triggered_cut"] is None
    told = value(asker, kind="layer", layer="bn2", triggered=True)
    assert maps["map_clean"] != told["map_clean"], "a defender's mean is over all classes, the target's too"


def test_the_trigger_shows_in_the_mean_map_until_its_unit_is_cut(asker: Questions, planted: Planted) -> None:
    found = value(asker, kind="layer", layer="bn2", cut=[planted.unit])
    maps = {key: np.array(part) for key, part in found.items() if key.startswith("map")}
    gaps = [np.abs(maps[f"map_triggered{end}"] - maps[f"map_clean{end}"]).max() for end in ("", "_cut")]
    assert maps["map_clean"].shape == (12, 12)
    assert gaps[1] < gaps[0]
    assert found["pruned"] == 1
    for kind in ("layer", "unlearned_layer", "latent"):
        with pytest.raises(ValueError, match="expected a layer of this network"):
            states(asker, kind=kind, layer="bn7")


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_leaves_a_run_and_finds_it_again(
    suspect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    little = ["project", suspect, "--samples", "12", "--steps", "20", "--perplexity", "3"]
    made = run(capsys, *little, "--cut", "5-9,bn1:1", "--trigger", "true")
    assert (made["method"], made["oracle"], made["pruned"], made["pictures"]) == ("tsne", True, 6, 12)
    assert 0 <= made["own_after_clean"] <= 1
    found = open_run(Path(made["folder"]))
    assert found.spec["cut"] == [1, 5, 6, 7, 8, 9]
    arrays = found.arrays("projection")
    assert arrays["after_triggered"].shape == (made["triggered"], 2)
    assert run(capsys, *little, "--cut", "1,5-9", "--trigger", "true")["run"] == made["run"]
    blind = run(capsys, *little, "--method", "pca", "--layer", "layer1.0.bn1")
    assert not blind["oracle"]
    assert not [key for key in open_run(Path(blind["folder"])).arrays("projection") if "triggered" in key]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--cut", "400"], "expected units between 0 and 299, got 400"),
        (["--cut", "nonsense"], "expected a unit id"),
        (["--layer", "bn9"], "expected a layer of this network"),
        (["--perplexity", "20"], "expected a perplexity from 1 to 4 for 12 points, got 20"),
        (["--samples", "1"], "expected samples to be greater than or equal to 2, got 1"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    suspect: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], line: str
) -> None:
    assert line in refusal(capsys, "project", suspect, "--samples", "12", *options, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_units_by_number_run_and_id(planted: Planted) -> None:
    found = units(planted.model)
    assert unit_numbers(f" 3, 5-7,bn2:{PLANTED},6", found) == (3, 5, 6, 7, planted.unit)
    assert unit_numbers("", found) == ()
