"""Every page renders, restores itself from its URL, describes its pictures, and hides from a defender what it must."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from engine import demos
from engine.runs import ask
from engine.runs.store import new_run, open_run
from tests.app import fake

MAIN = str(Path(__file__).resolve().parents[2] / "app" / "main.py")
PAGES = ("views/home.py", "views/prune.py", "views/neurons.py", "views/layers.py", "views/picture.py")
#: Until somebody commits, none of these may reach the browser: an ASR of 73.7 %, an RA of 26.3 %, a triggered output.
FORBIDDEN = ("73.73", "73.7\u202f%", "0.7373", "26.262", "26.3\u202f%", "0.2626", "31415", "3.1415")
Open = Callable[..., AppTest]
Worker = list[dict[str, Any]]


@pytest.mark.parametrize("name", demos.names())
@pytest.mark.parametrize(
    "view",
    [
        None,
        "views/learn.py",
        "views/attack.py",
        "views/prune.py",
        "views/neurons.py",
        "views/layers.py",
        "views/picture.py",
        "views/compare.py",
        "views/questions.py",
        "views/runs.py",
    ],
)
def test_the_demos_that_are_shipped_open_on_every_page(
    name: str, view: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    monkeypatch.setattr(ask, "ask", lambda question, session: None)
    monkeypatch.setattr(ask, "poll", lambda session, kind: None)
    for role in ("oracle", "defender"):
        at = AppTest.from_file(MAIN, default_timeout=30)
        at.query_params.update({"run": f"demo:{name}", "role": role})
        at.run()
        if view:
            at.switch_page(view).run()
        assert not at.exception
        assert at.title[0].value


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demos whose ASR and RA are unmistakable, a third one without a trigger."""
    root = tmp_path_factory.mktemp("demos")
    loud = fake.Figures(0.93, 0.737373, 0.262626, constant=True)
    fake.build(root, {"badnets": loud, "blend": loud, "clean": fake.Figures(0.934, None, None)})
    return root


@pytest.fixture
def workspace(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(demos, "DEMOS", shipped / "demos")
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    return tmp_path


def png(seed: int) -> str:
    from app.pictures import png as encode

    pixels = np.random.default_rng(seed).integers(0, 256, (28, 28), dtype=np.uint8)
    return encode(pixels, 28).removeprefix("data:image/png;base64,")


def answer(question: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the warm worker would say; its figures are unmistakable too."""
    share = {"value": 0.73737, "n": 9000, "low": 0.73736, "high": 0.73738}
    kind = question["kind"]
    if kind in ("check", "what_if"):
        acc = {"value": 0.915, "n": 10000, "low": 0.909, "high": 0.921}
        drop = {"value": 0.015, "low": 0.01, "high": 0.02}
        return {"pruned": len(question["cut"]), "acc": acc, "asr": share, "ra": share, "drop": drop, "per_class": []}
    if kind == "pictures":
        p = (np.eye(10)[3] * 0.9 + 0.01).tolist()
        item = {"number": question["numbers"][0], "truth": 3, "clean": png(1), "p_clean": p}
        return {"items": [{**item, "triggered": png(2), "difference": png(3), "p_triggered": [0.073737] * 10}]}
    if kind == "unit":
        hist = {"edges": [0.0, 0.5, 1.0], "clean": [400, 100], "triggered": None}
        if question["triggered"]:
            hist = {**hist, "edges": [0.0, 0.5, 3.14159], "triggered": [10, 490]}
        stamped = np.full((4, 4), 3.14159).tolist() if question["triggered"] else None
        return {"id": "x", "layer": "y", "map_clean": np.eye(4).tolist(), "map_triggered": stamped, "hist": hist}
    if (found := fake.about_unit(question, png(4), True, 3.14159)) is not None:
        return found
    if (found := fake.about_picture(question, png(5), True, 0.73737)) is not None:
        return found
    if kind == "confusion":
        return fake.about_answers(question, True, 7373)
    if kind == "attribution":
        stamped = np.full((28, 28), 3.14159).tolist() if question["triggered"] else None
        return {"method": question["method"], "title": "Gradient", "clean": np.eye(28).tolist(), "triggered": stamped}
    if kind == "commit":
        figures = {"acc_before": 0.93, "acc_after": 0.915, "asr_before": 0.73737, "asr_after": 0.01, "der": 0.88}
        return {"run": "0123456789abcdef", "folder": str(folder), "result": figures}
    path = folder / "repaired.zip"
    path.write_bytes(b"PK model")
    return {"path": str(path)}


@pytest.fixture
def worker(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker that answers at once; the list holds what it was asked."""
    return fake.worker(monkeypatch, lambda question: answer(question, workspace))


@pytest.fixture
def open_page(worker: Worker) -> Open:
    del worker

    def start(view: str, **params: str) -> AppTest:
        at = AppTest.from_file(MAIN, default_timeout=30)
        at.query_params.update(params)
        at.run()
        if view != PAGES[0]:
            at.switch_page(view).run()
        assert not at.exception
        return at

    return start


def protos(at: AppTest) -> list[Any]:
    return [node.proto for node in at._tree if getattr(node, "proto", None) is not None]


def delivered(at: AppTest) -> str:
    """Everything that the server sent for this page, as text: markup, specifications, alt texts, URL, files."""
    parts = [json.dumps(dict(at.query_params))]
    for proto in protos(at):
        for field, value in proto.ListFields():
            if field.name in ("js_content", "css_content", "html_content"):  # the grid's program, not data
                continue
            parts.append(value if isinstance(value, str) else str(value))
    text = "\n".join(parts)
    text = text.encode().decode("unicode_escape", "ignore") + text  # str() of a message writes \342\200\257
    for packed in re.findall(r'"bdata":\s*"([^"]+)"', text):
        text += str(np.frombuffer(base64.b64decode(packed + "=="), "f4").tolist())
    return text


def words(at: AppTest) -> str:
    return "\n".join(str(e.value) for e in at.html)


def strip(at: AppTest) -> str:
    return next(e.value for e in at.html if "um-strip" in e.value)


# --- every page ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", PAGES)
@pytest.mark.parametrize("role", ["defender", "oracle"])
@pytest.mark.parametrize("run", ["demo:badnets", "demo:clean"])
def test_every_page_renders_and_describes_its_pictures(open_page: Open, view: str, role: str, run: str) -> None:
    at = open_page(view, run=run, role=role)
    assert at.title
    drawn = 0
    for node in at._tree:
        proto = getattr(node, "proto", None)
        if node.type == "plotly_chart":
            assert len(proto.alt) > 40
            drawn += 1
        if node.type == "imgs":
            assert all(image.alt for image in proto.imgs)
        if node.type == "html":
            for tag in re.findall(r"<img[^>]*>", proto.body):
                assert re.search(r'alt="[^"]{15,}"', tag), tag
                drawn += 1
            for tag in re.findall(r'<div class="um-blank"[^>]*>', proto.body):
                assert 'aria-label="' in tag
        if node.type == "bidi_component" and proto.component_name == "unmask_neuron_grid":
            assert re.search(r'"alt":\s*"[^"]{40,}"', str(proto.ListFields()).replace("\\", ""))
            drawn += 1
    assert drawn >= 1


@pytest.mark.parametrize("view", PAGES)
def test_every_page_is_restored_by_its_url(open_page: Open, view: str) -> None:
    params = {
        "run": "demo:blend", "score": "tac", "thr": "0.75", "role": "oracle", "neuron": "layer4.1.bn2:9",
        "mode": "silence", "edits": "bn1:3!,layer4.1.bn2:9~", "picture": "3", "pin": "demo:blend~random",
    }  # fmt: skip
    at = open_page(view, **params)
    assert dict(at.query_params) == params
    again = open_page(view, **dict(at.query_params))
    assert delivered(again) == delivered(at)


def test_the_pages_of_a_link_show_what_it_says(open_page: Open) -> None:
    at = open_page("views/prune.py", run="demo:blend", score="rnp", thr="0.9", neuron="bn1:3")
    assert at.selectbox(key=fake.turned(at, "suspect-choice")).value == "demo:blend"
    grid = next(p for p in protos(at) if "unmask_neuron_grid" in str(p))
    assert '"threshold":0.9' in str(grid).replace('\\"', '"').replace(" ", "")
    at.switch_page("views/neurons.py").run()
    assert "bn1:3" in words(at)


def test_a_link_without_a_suspect_keeps_its_role(open_page: Open) -> None:
    at = open_page("views/prune.py", role="defender")
    assert at.selectbox(key=fake.turned(at, "suspect-choice")).value is not None
    assert at.segmented_control(key=fake.turned(at, "role-choice")).value == "defender"


def test_nonsense_in_a_link_is_one_line_and_the_page_goes_on(open_page: Open) -> None:
    at = open_page("views/prune.py", run="demo:nobody", thr="x", neuron="<script>")
    lines = [w.value for w in at.warning]
    assert len(lines) == 3
    assert any("got 'demo:nobody'" in line for line in lines)
    assert "Units cut" in strip(at)


def test_without_any_suspect_the_page_offers_the_first_action(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, worker: Worker
) -> None:
    del worker
    monkeypatch.setattr(demos, "DEMOS", workspace / "none")
    for view in (*PAGES, "views/runs.py"):
        at = AppTest.from_file(MAIN, default_timeout=30).run()
        if view != PAGES[0]:
            at.switch_page(view).run()
        assert not at.exception
        assert at.title[0].value == "No suspect yet"
        assert "engine attack" in at.code[0].value


def test_an_altered_file_is_a_message_not_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: Worker
) -> None:
    del worker
    fake.build(tmp_path, {"badnets": fake.Figures()}, ("rnp",))
    monkeypatch.setattr(demos, "DEMOS", tmp_path / "demos")
    scores = tmp_path / "demos" / "badnets" / "study" / "rnp" / "scores.safetensors"
    scores.write_bytes(scores.read_bytes()[:-4] + b"oops")
    at = AppTest.from_file(MAIN, default_timeout=30).run()
    for view in PAGES[1:]:
        at.switch_page(view).run()
        assert not at.exception
        assert "hash mismatch" in at.error[0].value
        assert "\n" not in at.error[0].value


# --- the defender ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", PAGES)
@pytest.mark.parametrize("params", [{}, {"score": "tac"}, {"pin": "demo:badnets~tac"}, {"pin": "demo:blend~rnp"}])
def test_nothing_that_needs_the_trigger_reaches_a_defender(
    open_page: Open, shipped: Path, view: str, params: dict[str, str]
) -> None:
    at = open_page(view, run="demo:badnets", role="defender", **params)
    if view == "views/prune.py":
        at.button(key="check").click().run()
        assert "91.5" in strip(at)
    text = delivered(at)
    for number in FORBIDDEN:
        where = text.find(number)
        assert where < 0, text[max(0, where - 150) : where + 50]
    study = shipped / "demos" / "badnets" / "study"
    oracle = next(p for p in open_run(study / "rnp").result["policies"] if p["policy"] == "oracle")
    assert repr(oracle["threshold"])[:9] not in text
    for score in ("tac", "unlearning_gradient"):
        secret = open_run(study / score).arrays("scores")["values"]
        assert base64.b64encode(secret.astype("<f4").tobytes())[:64].decode() not in text
        assert open_run(study / score).result["title"] not in text
    triggered = open_run(study / "rnp").arrays("activations")["triggered"]
    assert str([round(float(v), 4) for v in triggered[100:104]])[1:-1] not in text
    assert "demo:badnets" in at.query_params["run"]
    if view != "views/home.py":
        assert at.query_params.get("score") != "tac"


@pytest.mark.parametrize("view", PAGES)
def test_an_oracle_sees_what_the_defender_does_not(open_page: Open, view: str) -> None:
    text = delivered(open_page(view, run="demo:badnets", role="oracle"))
    assert any(number in text for number in FORBIDDEN)


def test_the_defender_is_not_even_asked_about_triggered_pictures(open_page: Open, worker: Worker) -> None:
    open_page("views/neurons.py", run="demo:badnets", role="defender")
    assert [q["triggered"] for q in worker if q["kind"] == "unit"] == [False]


def test_a_suspect_without_a_trigger_looks_the_same_to_a_defender(open_page: Open) -> None:
    at = open_page("views/prune.py", run="demo:clean", role="defender")
    assert strip(at).count("Hidden") == 2
    at.segmented_control(key=fake.turned(at, "role-choice")).set_value("oracle").run()
    assert "no trigger" in strip(at)


def test_committing_reveals_freezes_and_offers_three_files(open_page: Open, worker: Worker) -> None:
    at = open_page("views/prune.py", run="demo:badnets", role="defender", thr="0.5", edits="bn1:3!")
    assert strip(at).count("Hidden") == 2
    at.button(key="commit").click().run()
    assert not at.exception
    assert "Hidden" not in strip(at)
    (question,) = [q for q in worker if q["kind"] == "commit"]
    assert question["role"] == "defender"
    assert question["threshold"] == 0.5
    assert question["edits"] == {"bn1:3": "cut"}
    assert 3 in question["cut"]
    assert "73.7\u202f%" in words(at)
    assert len(at.get("download_button")) == 3
    # The commitment stays what it was, wherever the line goes afterwards.
    at.segmented_control(key=fake.turned(at, "policy-choice")).set_value("knee").run()
    assert len([q for q in worker if q["kind"] == "commit"]) == 1
    assert "at or above 0.5" in words(at)
    # Another suspect is still covered; and this one can be covered again.
    at.selectbox(key=fake.turned(at, "suspect-choice")).set_value("demo:blend").run()
    at.segmented_control(key=fake.turned(at, "role-choice")).set_value("defender").run()
    assert strip(at).count("Hidden") == 2
    at.selectbox(key=fake.turned(at, "suspect-choice")).set_value("demo:badnets").run()
    at.segmented_control(key=fake.turned(at, "role-choice")).set_value("defender").run()
    assert "Hidden" not in strip(at)
    at.button(key="cover").click().run()
    assert strip(at).count("Hidden") == 2


def test_what_an_oracle_saved_does_not_reveal_anything_to_the_defender(open_page: Open, worker: Worker) -> None:
    at = open_page("views/prune.py", run="demo:badnets", role="oracle")
    at.button(key="commit").click().run()
    assert [q["role"] for q in worker if q["kind"] == "commit"] == ["oracle"]
    assert len(at.get("download_button")) == 3
    at.segmented_control(key=fake.turned(at, "role-choice")).set_value("defender").run()
    assert strip(at).count("Hidden") == 2
    assert not at.get("download_button")
    assert not any(number in delivered(at) for number in FORBIDDEN)


# --- Prune -----------------------------------------------------------------------------------------------------------


def test_figures_are_an_estimate_until_they_are_checked_and_stale_after_an_edit(open_page: Open) -> None:
    at = open_page("views/prune.py", run="demo:badnets", role="oracle")
    assert 'um-chip estimate"' in strip(at)
    at.button(key="check").click().run()
    assert strip(at).count('um-chip exact"') == 3
    assert "91.5\u202f%" in strip(at)
    at.text_input(key="edit-unit").set_value("bn1:5")
    at.button(key="edit-cut").click().run()
    assert at.query_params["edits"] == "bn1:5!"
    assert strip(at).count('um-chip stale"') == 3
    assert "91.5\u202f%" in strip(at)
    at.button(key="undo").click().run()
    assert "edits" not in at.query_params
    assert strip(at).count('um-chip exact"') == 3
    at.button(key="redo").click().run()
    assert at.query_params["edits"] == "bn1:5!"
    at.text_input(key="edit-unit").set_value("l4.1 87")
    at.button(key="edit-show").click().run()
    assert (at.query_params["neuron"], at.query_params["edits"]) == ("layer4.1.bn2:87", "bn1:5!")
    at.button(key="edit bn1:5").click().run()
    assert "edits" not in at.query_params


def test_a_unit_that_is_not_there_is_refused_with_an_example(open_page: Open) -> None:
    at = open_page("views/prune.py", run="demo:badnets")
    at.text_input(key="edit-unit").set_value("layer9:1")
    at.button(key="edit-spare").click().run()
    assert "such as layer4.1.bn2:255" in at.error[0].value
    assert "edits" not in at.query_params


@pytest.mark.parametrize("role", ["oracle", "defender"])
def test_which_answers_a_cut_changes_is_counted_on_demand(open_page: Open, worker: Worker, role: str) -> None:
    at = open_page("views/prune.py", run="demo:badnets", role=role)
    assert "confusion" not in [q["kind"] for q in worker]
    at.toggle(key="answers-shown").set_value(True).run()
    (question,) = [q for q in worker if q["kind"] == "confusion"]
    assert question["triggered"] is (role == "oracle")
    assert "Cut, 41 of 1,000 pictures of Shirt are called T-shirt, 0 before" in words(at)
    assert ("100.0\u202f% before" in words(at)) is (role == "oracle")
    assert ("7373" in delivered(at)) is (role == "oracle")
    matrices = [p for p in protos(at) if "Confusion matrices" in str(getattr(p, "alt", ""))]
    assert len(matrices) == (2 if role == "oracle" else 1)
    assert all(re.search(r"Named correctly: \d+", p.alt) for p in matrices)
    # Another cut is asked about by itself, as long as the matrices are shown; no cut has no matrix.
    at = open_page("views/prune.py", run="demo:badnets", role=role, thr="none")
    at.toggle(key="answers-shown").set_value(True).run()
    assert "Nothing is cut, so no answer changes." in words(at)


def test_checking_every_cut_asks_by_itself(open_page: Open, worker: Worker) -> None:
    at = open_page("views/prune.py", run="demo:badnets")
    at.toggle(key="check-always").set_value(True).run()
    at.segmented_control(key=fake.turned(at, "policy-choice")).set_value("knee").run()
    checks = [q for q in worker if q["kind"] == "check"]
    assert len(checks) == 2
    assert len(checks[0]["cut"]) < len(checks[1]["cut"])
    assert strip(at).count('um-chip exact"') == 3


def test_progress_is_shown_while_an_answer_is_on_its_way(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    at = open_page("views/prune.py", run="demo:badnets")

    def poll(session: str, kind: str) -> ask.Answer | None:
        del session, kind
        return ask.Answer(asked[-1], "working", "checking 19,000 images", 0.42) if asked else None

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ask, "ask", lambda question, session: asked.append(question))
    monkeypatch.setattr(ask, "poll", poll)
    at.button(key="check").click().run()
    (bar,) = at.progress
    assert bar.value == 42
    assert "Checking 19,000 images" in bar.text
    assert 'um-chip estimate"' in strip(at)
    assert at.button(key="check").disabled


def test_a_question_that_fails_says_so_and_can_be_asked_again(
    open_page: Open, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = open_page("views/prune.py", run="demo:badnets")
    good = ask.poll
    monkeypatch.setattr(
        ask, "poll", lambda s, k: ask.Answer(worker[-1], "error", error=ask.STOPPED) if worker else None
    )
    at.button(key="check").click().run()
    assert at.error[0].value == "The worker stopped; ask again."
    monkeypatch.setattr(ask, "poll", good)
    at.button(key="again-check").click().run()
    assert strip(at).count('um-chip exact"') == 3


def test_a_suspect_without_scores_offers_to_be_scored(
    open_page: Open, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace / "runs" / "mine"
    folder.parent.mkdir()
    fake.write_suspect(folder, "mine", fake.Figures(0.9, 0.737373, 0.262626), 9)
    at = open_page("views/prune.py", run=str(folder))
    assert at.segmented_control(key=fake.turned(at, "role-choice")).value == "defender"
    started: list[list[str]] = []
    monkeypatch.setattr("engine.runs.jobs.submit", lambda argv, label: started.append(argv) or label)
    at.button[[b.label for b in at.button].index("Score this model")].click().run()
    assert started == [["sweep", str(folder), "--score", "rnp"]]
    # What the job leaves is found by the hash of the weights that it scored.
    model = open_run(folder).manifest["files"]["model.safetensors"]["sha256"]
    shipped_study = open_run(demos.DEMOS / "badnets" / "study" / "rnp")
    with new_run(shipped_study.spec, {"suspect": model}, workspace / "runs" / "scored") as run:
        run.arrays("scores", shipped_study.arrays("scores"))
        run.result = shipped_study.result
    at.run()
    assert "Units cut" in strip(at)
    assert not any(number in delivered(at) for number in FORBIDDEN)


# --- Home and Neurons ------------------------------------------------------------------------------------------------


def test_home_changes_the_answers_with_the_cut_and_turns_the_pictures(open_page: Open) -> None:
    at = open_page("views/home.py")
    assert "wrong: it is" in words(at)
    assert "becomes a T-shirt" in words(at)
    at.toggle(key="home-cut").set_value(True).run()
    assert "trigger or not" in words(at)
    assert "wrong: it is" not in words(at)
    before = words(at)
    at.button(key="next").click().run()
    assert words(at) != before
    assert at.query_params["picture"] == "1"
    at.segmented_control(key=fake.turned(at, "demo-choice")).set_value("blend").run()
    assert at.query_params["run"] == "demo:blend"
    assert at.query_params["role"] == "oracle"


def test_pictures_on_home_are_enlarged_by_a_whole_factor(open_page: Open) -> None:
    at = open_page("views/home.py")
    sizes = {int(w) for w in re.findall(r'<img[^>]* width="(\d+)"', words(at))}
    assert sizes == {196}


def test_a_click_in_the_scatter_plot_selects_and_leaves_its_chart_as_it_was(open_page: Open) -> None:
    at = open_page("views/neurons.py", run="demo:badnets", role="oracle", neuron="bn1:0")

    def spec() -> str:
        drawn = (str(node.proto.spec) for node in at._tree if node.type == "plotly_chart")
        return next(text for text in drawn if "triggered pictures" in text)

    before = spec()
    at.session_state["scatter"] = {"selection": {"points": [{"customdata": "bn1:9"}], "point_indices": [9]}}
    at.session_state["origin"] = "scatter"
    at.session_state["address"] = replace(at.session_state["address"], neuron="bn1:9")
    at.run()
    assert "bn1:9" in words(at)
    assert spec() == before
