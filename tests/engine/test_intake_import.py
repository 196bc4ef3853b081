"""``inspect`` and ``import``: a stranger's file becomes a suspect, strictly by name, and every command accepts it."""

from __future__ import annotations

import json
import os
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from engine.attacks.badnets import BadNets
from engine.compute import Compute, generator
from engine.data.base import DataSet
from engine.intake.fit import choose_group, fits, load_into, normalised
from engine.intake.preprocess import KNOWN, stated
from engine.metrics import TestSet, answers
from engine.models import MODELS, build
from engine.models.base import Classifier
from engine.runs.store import open_run
from engine.suspects import load_suspect
from engine.train import Training, train
from tests import intake_corpus
from tests.command_line import refusal, run

ATTACK = BadNets(target=3, size=3, margin=1, rate=0.1)
WIDTH = 8
HALF = torch.tensor([0.5])


@pytest.fixture(scope="session")
def victim(tiny_data: DataSet, compute: Compute) -> Classifier:
    """A backdoored ResNet-20 behind (x - 0.5) / 0.5."""
    model = build("resnet20", classes=4, channels=1, mean=HALF, std=HALF, width=WIDTH, rng=generator(0, "init"))
    poisoned = ATTACK.poison(tiny_data.train, generator(0, "poison")).images
    train(model, poisoned, Training(epochs=5, lr=0.05, batch=32), generator(0, "order"), compute)
    return model.eval()


@pytest.fixture
def state(victim: Classifier) -> OrderedDict[str, Tensor]:
    return OrderedDict(
        (name, value.clone(memory_format=torch.contiguous_format)) for name, value in victim.net.state_dict().items()
    )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "home"))


def saved(path: Path, value: Any) -> str:
    torch.save(value, path)
    return str(path)


# Fits


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_is_recognised(name: str) -> None:
    fixed = MODELS[name].width is None
    net = build(name, classes=7, channels=3, width=None if fixed else 8).net
    shapes = {f"module.{key}": tuple(value.shape) for key, value in net.state_dict().items()}
    found = fits(shapes)
    assert [(f.model, f.classes, f.width) for f in found] == [(name, 7, None if fixed else 8)]
    del shapes[next(iter(shapes))]
    assert fits(shapes) == []


def test_the_other_spelling_of_resnet18_loads() -> None:
    net = build("resnet18", classes=4, channels=3, width=8, rng=generator(0, "init")).net
    theirs = {
        name.replace(".downsample.", ".shortcut.").replace("fc.", "linear."): value
        for name, value in net.state_dict().items()
    }
    (found,) = fits({name: tuple(value.shape) for name, value in theirs.items()})
    assert (found.model, found.renamed) == ("resnet18", True)
    other = build("resnet18", classes=4, channels=3, width=8, rng=generator(1, "init")).net
    load_into(other, theirs, "resnet18")
    assert all(value.equal(other.state_dict()[name]) for name, value in net.state_dict().items())


def test_a_network_of_the_same_length_but_other_names_is_refused(state: dict[str, Tensor]) -> None:
    """Loading by position would take it silently."""
    swapped = {name.replace("layer1.0.", "layer9.0."): value for name, value in state.items()}
    net = build("resnet20", classes=4, channels=1, width=WIDTH).net
    with pytest.raises(ValueError, match=r"by name, got no layer1.0.bn1.bias"):
        load_into(net, swapped, "resnet20")
    with pytest.raises(ValueError, match="got the unknown extra"):
        load_into(net, {**state, "extra": torch.ones(1)}, "resnet20")
    with pytest.raises(ValueError, match=r"expected linear.bias of shape \(4,\), got \(5,\)"):
        load_into(net, {**state, "linear.bias": torch.ones(5)}, "resnet20")
    with pytest.raises(ValueError, match="expected finite weights, got NaN or infinity in bn1.weight"):
        load_into(net, {**state, "bn1.weight": torch.full((WIDTH,), torch.nan)}, "resnet20")
    with pytest.raises(ValueError, match=r"expected bn1.weight of type torch.float32, got torch.int64"):
        load_into(net, {**state, "bn1.weight": torch.ones(WIDTH, dtype=torch.long)}, "resnet20")


def test_what_wrappers_leave_behind_is_undone(state: dict[str, Tensor]) -> None:
    pruned = {f"module.{name}": value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    weight = pruned.pop("module.linear.weight")
    mask = (torch.arange(weight.numel()) % 2).reshape(weight.shape).float()
    pruned |= {"module.linear.weight_orig": weight, "module.linear.weight_mask": mask}
    net = build("resnet20", classes=4, channels=1, width=WIDTH).net
    load_into(net, normalised(pruned), "resnet20")
    assert net.state_dict()["linear.weight"].equal(weight * mask)
    assert net.state_dict()["bn1.num_batches_tracked"] == 0


def test_which_table_is_the_model() -> None:
    weights = {"a.weight": (1,), "b.weight": (1,)}
    assert choose_group({"": weights, "optimizer": weights}) == ""
    assert choose_group({"optimizer": weights, "state_dict": weights}) == "state_dict"
    assert choose_group({"ema": weights}) == "ema"
    assert choose_group({"one": weights, "two": weights}, "two") == "two"
    with pytest.raises(ValueError, match="choose one with --weights"):
        choose_group({"one": weights, "two": weights})
    with pytest.raises(ValueError, match="got 'three'"):
        choose_group({"one": weights}, "three")
    with pytest.raises(ValueError, match="without any"):
        choose_group({})


def test_normalisations() -> None:
    assert stated("imagenet", 3).mean == (0.485, 0.456, 0.406)
    assert stated("0.5/0.25", 3).layer(3).std.flatten().tolist() == [0.25] * 3
    assert len({p.name for p in KNOWN}) == len(KNOWN)
    for text, line in {
        "nonsense": "expected preprocess to be one of auto, none",
        "0.5,0.5/1,1": "expected 3 means",
        "0.5/0": "positive deviations",
        "nan/1": "finite means",
        "0.5/1,1,1": "expected 3 means and as many deviations",
        "a/b": "expected preprocess to be one of",
    }.items():
        with pytest.raises(ValueError, match=line):
            stated(text, 3)


# Commands


FORMATS = ["plain", "wrapped", "safetensors", "defense_result", "half"]


def in_format(kind: str, state: OrderedDict[str, Tensor], folder: Path) -> str:
    if kind == "safetensors":
        safetensors.torch.save_file(state, folder / "model.safetensors")
        return str(folder / "model.safetensors")
    value: Any = state
    if kind == "wrapped":
        value = {"epoch": 3, "state_dict": OrderedDict((f"module.{k}", v) for k, v in state.items()), "bad_acc": 0.9}
    elif kind == "defense_result":
        value = {"model_name": "resnet20", "num_classes": 4, "model": state}
    elif kind == "half":
        value = {name: v.half() if v.is_floating_point() else v for name, v in state.items()}
    return saved(folder / "model.th", value)


@pytest.mark.parametrize("kind", FORMATS)
def test_import_measures_what_the_file_holds(
    kind: str,
    state: OrderedDict[str, Tensor],
    victim: Classifier,
    shapes: str,
    tiny_data: DataSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = in_format(kind, state, tmp_path)
    out = tmp_path / "run"
    arguments = ["import", file, "--data", shapes, "--attack", "badnets", "--target", "3", "--out", str(out)]
    found = run(capsys, *arguments)
    compute = Compute("cpu")
    expected = answers(victim, TestSet.of(tiny_data.test, ATTACK), compute)
    assert expected.asr is not None
    assert found["acc"] == pytest.approx(expected.acc.value, abs=0.01)
    assert found["asr"] == pytest.approx(expected.asr.value, abs=0.01)
    assert found["asr"] > 0.9
    assert found["n"] == {"acc": 400, "asr": 300, "ra": 300}
    assert found["preprocess"]["name"] == "half"
    assert found["preprocess"]["tried"][0]["acc"] >= found["preprocess"]["tried"][1]["acc"]
    assert found["model"] == {"name": "resnet20", "width": WIDTH}
    loaded = load_suspect(str(out), compute).model.net.state_dict()
    if kind != "half":
        assert all(value.equal(loaded[name]) for name, value in state.items())
    assert open_run(out).kind == "import"
    assert run(capsys, *arguments)["run"] == found["run"]


def test_every_command_accepts_an_imported_suspect(
    state: OrderedDict[str, Tensor], shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = saved(tmp_path / "m.pt", state), str(tmp_path / "run")
    run(capsys, "import", file, "--data", shapes, "--preprocess", "0.5/0.5", "--attack", "badnets", "--target", "3", "--out", out)  # fmt: skip  # noqa: E501
    assert "model.safetensors" in run(capsys, "verify", out)["verified"]
    cut = ["--samples", "16", "--policy", "fraction"]
    tac = ["defend", out, "--defense", "tac", "--trigger", "true", *cut, "--out", str(tmp_path / "defended")]
    defended = run(capsys, *tac)
    assert defended["oracle"] is True
    assert defended["asr_before"] > 0.9
    swept = run(capsys, "sweep", out, "--score", "random", "--points", "3", *cut, "--out", str(tmp_path / "swept"))
    assert swept["points"][0]["asr"] > 0.9
    for source in (out, str(tmp_path / "defended")):
        path = tmp_path / "export" / f"{Path(source).name}.safetensors"
        files = run(capsys, "export", source, "--out", str(path))["files"]
        assert {Path(f).name for f in files} == {path.name, path.with_suffix(".md").name, "resnet_cifar.py"}
    exported = safetensors.torch.load_file(tmp_path / "export" / "run.safetensors")
    assert all(value.equal(exported[name]) for name, value in state.items())


def test_import_without_a_trigger_has_no_asr(
    state: OrderedDict[str, Tensor], shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(capsys, "import", saved(tmp_path / "m.pt", state), "--data", shapes, "--out", str(tmp_path / "run"))
    assert found["asr"] is None
    assert found["ra"] is None
    assert found["file"]["verdict"] == "plain"


def test_import_with_the_picture_of_a_trigger(
    state: OrderedDict[str, Tensor], shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = np.zeros((12, 12, 4), np.uint8)
    board[8:11, 8:11, :3] = 255 * (np.indices((3, 3)).sum(0) % 2 == 0)[..., None]
    board[8:11, 8:11, 3] = 255
    Image.fromarray(board).save(tmp_path / "board.png")
    file = saved(tmp_path / "m.pt", state)
    common = ["import", file, "--data", shapes, "--preprocess", "half"]
    picture = run(
        capsys, *common, "--trigger", str(tmp_path / "board.png"), "--target", "3", "--out", str(tmp_path / "a")
    )
    known = run(capsys, *common, "--attack", "badnets", "--target", "3", "--out", str(tmp_path / "b"))
    assert picture["asr"] == known["asr"]
    assert "--target N" in refusal(capsys, *common, "--trigger", str(tmp_path / "board.png"))
    assert "a picture file for --trigger" in refusal(capsys, *common, "--trigger", "none.png", "--target", "3")
    assert "--attack or --trigger" in refusal(capsys, *common, "--target", "3")
    assert "a trigger of 12x12" in _wrong_size(capsys, common, tmp_path)


def _wrong_size(capsys: pytest.CaptureFixture[str], common: list[str], folder: Path) -> str:
    Image.new("RGB", (10, 10)).save(folder / "small.png")
    return refusal(capsys, *common, "--trigger", str(folder / "small.png"), "--target", "3")


def test_inspect_reports_and_exits_with_0(
    state: OrderedDict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(capsys, "inspect", saved(tmp_path / "m.pt", {"state_dict": state, "epoch": 3}))
    assert {"format", "verdict", "tensors", "content", "globals", "architectures"} <= found.keys()
    assert (found["format"], found["verdict"], found["weights"]) == ("torch-zip", "plain", "state_dict")
    assert found["tensors"][0] == {"name": "conv1.weight", "group": "state_dict", "shape": [8, 1, 3, 3], "dtype": "F32"}
    assert [row["name"] for row in found["architectures"]] == ["resnet20"]
    assert {"path": "epoch", "type": "int", "value": 3} in found["content"]
    hostile, _ = intake_corpus.cases()["beside weights os.system"]
    (tmp_path / "bad.pt").write_bytes(hostile)
    found = run(capsys, "inspect", str(tmp_path / "bad.pt"))
    assert found["verdict"] == "hostile"
    assert {"name": "os.system", "kind": "running"} in found["globals"]
    (tmp_path / "empty.pt").write_bytes(b"")
    assert run(capsys, "inspect", str(tmp_path / "empty.pt"))["verdict"] == "refused"
    assert "expected a file" in refusal(capsys, "inspect", str(tmp_path / "none.pt"))


def bad_files(state: OrderedDict[str, Tensor]) -> dict[str, tuple[Any, str]]:
    legacy = intake_corpus.cases()["legacy"][0]
    hostile = intake_corpus.cases()["beside weights os.system"][0]
    torch_script = intake_corpus.cases()["TorchScript: constants"][0]
    return {
        "hostile": (hostile, "asks to run os.system; nothing was run"),
        "legacy": (legacy, "sandbox of your own"),
        "TorchScript": (torch_script, "a TorchScript program"),
        "cut": (hostile[:300], "truncated"),
        "a whole model": (torch.nn.Sequential(torch.nn.Linear(2, 2)), "got a whole model saved as objects"),
        "no tensors": ({"a": 1}, "without any"),
        "no architecture": ({"a": torch.ones(2, 2), "b": torch.ones(2)}, "got none: choose one with"),
        "no finite weights": ({**state, "bn1.bias": torch.full((WIDTH,), torch.inf)}, "expected finite weights"),
    }


@pytest.mark.parametrize("case", bad_files(OrderedDict()))
def test_import_refuses_in_one_line_and_leaves_nothing(
    case: str, state: OrderedDict[str, Tensor], shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value, expected = bad_files(state)[case]
    file = tmp_path / "x.pt"
    if isinstance(value, bytes):
        file.write_bytes(value)
    else:
        torch.save(value, file)
    assert expected in refusal(capsys, "import", str(file), "--data", shapes, "--out", str(tmp_path / "run"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pt"]


def test_import_refuses_settings_that_do_not_fit(
    state: OrderedDict[str, Tensor], shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["import", saved(tmp_path / "m.pt", state), "--data", shapes, "--out", str(tmp_path / "run")]
    assert "of the architecture, by name, got" in refusal(capsys, *common, "--model", "cnn4")
    assert "of shape (16, 1, 3, 3), got (8, 1, 3, 3)" in refusal(capsys, *common, "--model", "resnet20", "--set", "model.width=16")  # fmt: skip  # noqa: E501
    assert "'resnet20'" in refusal(capsys, *common, "--model", "resnet21")
    assert "expected --model or --arch, got both" in refusal(capsys, *common, "--model", "cnn4", "--arch", "a.py:b")
    assert "expected preprocess to be one of" in refusal(capsys, *common, "--preprocess", "magic")
    assert "expected target between 0 and 3, got 4" in refusal(capsys, *common, "--attack", "badnets", "--target", "4")
    assert "expected data of 4 classes, as the checkpoint has, got 10" in refusal(capsys, *common[:2], "--data", "fashion-mnist")  # fmt: skip  # noqa: E501
    assert "expected one of the tables ''" in refusal(capsys, *common, "--weights", "ema")
    assert not (tmp_path / "run").exists()


# BackdoorBench


def attack_result(state: OrderedDict[str, Tensor], tiny_data: DataSet, folder: Path, split: str = "bd_test") -> Path:
    """An attack_result.pt as BackdoorBench writes it, and its triggered test images beside it."""
    chosen = ATTACK.changed(tiny_data.test.y).nonzero().squeeze(1)
    stamped = (ATTACK.trigger(tiny_data.test.x[chosen].float() / 255) * 255).round().to(torch.uint8)
    rows = {}
    for index, picture in zip(chosen.tolist(), stamped, strict=True):
        label = int(tiny_data.test.y[index])
        place = folder / split / str(label) / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[0].numpy()).save(place)
        path = f"./record/badnet_0_1/{split}/{label}/{index}.png"
        rows[np.int64(index)] = {"path": path, "other_info": [np.int64(3), label]}
    container = {"save_folder_path": "./record/badnet_0_1/bd_test", "data_dict": rows, "save_file_format": ".png"}
    result = {
        "model_name": "resnet20",
        "num_classes": 4,
        "model": state,
        "data_path": "./data/shapes",
        "img_size": (12, 12, 1),
        "clean_data": "shapes",
        "bd_train": None,
        "bd_test": {
            "bd_data_container": container,
            "getitem_all": True,
            "original_index_array": chosen.numpy(),
            "poison_indicator": np.ones(len(tiny_data.test)),
        },
    }
    torch.save(result, folder / "attack_result.pt")
    return folder / "attack_result.pt"


def test_an_attack_result_brings_its_triggered_images(
    state: OrderedDict[str, Tensor], shapes: str, tiny_data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "record"
    folder.mkdir()
    file = attack_result(state, tiny_data, folder)
    looked = run(capsys, "inspect", str(file))
    assert looked["backdoorbench"] == {
        "model_name": "resnet20",
        "num_classes": 4,
        "clean_data": "shapes",
        "attack": True,
        "images": 300,
    }
    assert looked["verdict"] == "plain"
    found = run(capsys, "import", str(file), "--data", shapes, "--out", str(tmp_path / "run"))
    known = run(capsys, "import", str(file), "--data", shapes, "--attack", "badnets", "--target", "3", "--out", str(tmp_path / "known"))  # fmt: skip  # noqa: E501
    # The stored images are rounded to 8 bits, which hardly matters here; the trigger's are 0 and 1.
    assert found["asr"] == pytest.approx(known["asr"], abs=0.01)
    assert found["n"] == known["n"]
    # Handed over without its images, it is a model like any other.
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(file, alone)
    bare = run(capsys, "import", str(alone / file.name), "--data", shapes, "--without-pictures", "--out", str(tmp_path / "bare"))  # fmt: skip  # noqa: E501
    assert (bare["acc"], bare["asr"]) == (found["acc"], None)
    # Without the rule that made the images there is no true trigger, but ASR is measured all the same.
    after = run(capsys, "defend", str(tmp_path / "run"), "--defense", "random", "--policy", "fraction", "--samples", "8", "--out", str(tmp_path / "d"))  # fmt: skip  # noqa: E501
    assert after["asr_before"] == found["asr"]
    assert "expected a suspect with a known trigger" in refusal(capsys, "defend", str(tmp_path / "run"), "--defense", "tac", "--trigger", "true")  # fmt: skip  # noqa: E501


def test_image_paths_stay_in_the_folder_of_the_file(
    state: OrderedDict[str, Tensor], shapes: str, tiny_data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "record"
    folder.mkdir()
    file = attack_result(state, tiny_data, folder)
    result = torch.load(file, weights_only=False)  # written above
    rows = result["bd_test"]["bd_data_container"]["data_dict"]
    first = next(iter(rows))
    good = rows[first]["path"]
    secret = tmp_path / "secret" / "1"
    secret.mkdir(parents=True)
    shutil.copy(folder / "bd_test" / "/".join(good.split("/")[-2:]), secret / "7.png")
    paths = {
        "../secret/1/7.png": "beside the checkpoint, got no 'secret/1/7.png'",
        f"{tmp_path}/secret/1/7.png": "beside the checkpoint, got no 'secret/1/7.png'",
        "x/../1/7.png": "expected image paths such as",
        "/etc/passwd": "expected image paths such as",
        "7.png": "expected image paths such as",
        "bd_test\\..\\7.png": "expected image paths such as",
        "bd_test/0/\n.png": "expected image paths such as",
        "bd_test/0/C:7.png": "expected image paths such as",
    }
    arguments = ["import", str(file), "--data", shapes, "--out", str(tmp_path / "run")]
    for path, expected in paths.items():
        rows[first]["path"] = path
        torch.save(result, file)
        assert expected in refusal(capsys, *arguments), path
    rows[first]["path"] = good
    torch.save(result, file)
    place = folder / "bd_test" / "/".join(good.split("/")[-2:])
    place.unlink()
    assert "beside the checkpoint, got no 'bd_test/" in refusal(capsys, *arguments)
    place.symlink_to(secret / "7.png")
    assert "a link out of it" in refusal(capsys, *arguments)
    place.unlink()
    place.write_bytes(b"no picture")
    assert "something else in" in refusal(capsys, *arguments)
    Image.new("L", (13, 12)).save(place)
    assert "expected pictures of 12x12x1, got 13x12" in refusal(capsys, *arguments)
    assert not (tmp_path / "run").exists()


# Architectures from the command line

SOURCE = """
import torch
from torch import nn


def small(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes),
    )


def broken():
    raise RuntimeError("no")


def number():
    return 3
"""


def test_an_architecture_given_on_the_command_line(
    shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets.py").write_text(SOURCE)
    scope: dict[str, Any] = {}
    exec(SOURCE, scope)
    net = scope["small"](4, 1)
    file, out = saved(tmp_path / "m.pt", net.state_dict()), str(tmp_path / "run")
    arch = ["--arch", f"{tmp_path / 'nets.py'}:small"]
    found = run(capsys, "import", file, "--data", shapes, *arch, "--preprocess", "none", "--out", out)
    assert found["model"]["name"] == "given"
    assert found["units"] == 4
    assert run(capsys, "verify", out)["kind"] == "import"
    defend = ["defend", out, "--defense", "random", "--policy", "fraction", "--samples", "8"]
    assert run(capsys, *defend, "--out", str(tmp_path / "d"))["units"] == 4
    run(capsys, "export", out, "--out", str(tmp_path / "e" / "m.safetensors"))
    assert "net = small(num_classes=4, in_channels=1)" in (tmp_path / "e" / "m.md").read_text()
    # Somebody else's run folder brings its file along, but no permission to run it.
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "another"))
    assert "given with import --arch on this machine" in refusal(capsys, *defend, "--out", str(tmp_path / "f"))


def test_impossible_architectures(
    shapes: str, state: OrderedDict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nets.py").write_text(SOURCE)
    common = ["import", saved(tmp_path / "m.pt", state), "--data", shapes, "--out", str(tmp_path / "run"), "--arch"]
    for text, expected in {
        "nets.py": "expected --arch file.py:function",
        "nets.py:": "expected --arch file.py:function",
        "none.py:f": "which is none",
        f"{tmp_path}/nets.py:missing": "expected a function missing",
        f"{tmp_path}/nets.py:broken": "got RuntimeError: no",
        f"{tmp_path}/nets.py:number": "expected number to return a torch module, got int",
        f"{tmp_path}/nets.py:small": "of the architecture, by name, got",
    }.items():
        assert expected in refusal(capsys, *common, text), text
    assert not (tmp_path / "run").exists()


# The models of other people

MANIFEST = "UNMASK_TEST_CHECKPOINTS"
SETS = {"cifar10": "UNMASK_TEST_CIFAR10", "gtsrb_roi": "UNMASK_TEST_GTSRB"}


@pytest.mark.parametrize("name", ["ibau_badnets_8_02", "ibau_gtsrbbadnets_8_02", "aka_resnet20-12fca82f"])
@pytest.mark.skipif(MANIFEST not in os.environ, reason=f"{MANIFEST} names no folder of checkpoints")
def test_published_figures_are_reproduced(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(os.environ[MANIFEST])
    row = next(r for r in json.loads((folder / "manifest.json").read_text()) if r["name"] == name)
    images = os.environ.get(SETS[row["dataset"]])
    if images is None:
        pytest.skip(f"{SETS[row['dataset']]} names no .npz")
    file = next(folder.glob(f"{name}.*"))
    if file.suffix == ".th":
        # Legacy: refused as it is, so it is converted as the refusal says.
        assert "sandbox of your own" in refusal(capsys, "import", str(file), "--data", images)
        file = Path(saved(tmp_path / "converted.pt", torch.load(file, weights_only=True, map_location="cpu")))
    trigger = []
    if row["target"] is not None:
        square = np.zeros((32, 32, 4), np.uint8)
        square[27:31, 27:31] = 255
        Image.fromarray(square).save(tmp_path / "square.png")
        trigger = ["--trigger", str(tmp_path / "square.png"), "--target", str(row["target"])]
    found = run(capsys, "import", str(file), "--data", images, *trigger, "--out", str(tmp_path / "run"))
    # bfloat16 changes the answer on a handful of images.
    assert found["acc"] == pytest.approx(row["clean_acc"], abs=0.002)
    assert found["n"]["acc"] == row["n_test"]
    if row["target"] is not None:
        assert found["asr"] == pytest.approx(row["asr"], abs=0.002)
        assert found["n"]["asr"] == row["asr_n"]
