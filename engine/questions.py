"""What the warm worker can answer. Each kind of question is one generator of :class:`~engine.runs.ask.Answer`.

A generator yields between batches, always with the model as it was loaded: the worker may turn to another question
there, or never come back. An estimate from the first images comes before the exact answer.
"""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from engine.compute import Compute, generator
from engine.data.base import Images, draw
from engine.demos import locate
from engine.explain.activations import mean_outputs
from engine.explain.encode import png
from engine.explain.examples import examples, suspect_of
from engine.explain.feature_maps import unit_maps, unit_means
from engine.intake import uploads
from engine.lab import Bench, Choices, Preview
from engine.metrics import Share, TestSet, confusion, paired_interval
from engine.models.masking import Mode, apply_cut, masked
from engine.models.neurons import units
from engine.pruning.fold import Fold
from engine.runs.ask import Answer
from engine.runs.store import MANIFEST, open_run
from engine.spec import Spec
from engine.suspects import Suspect, load_repaired, load_suspect

#: Images of a first and of a second estimate, images between two stops, images that unit statistics are taken over.
GLANCE, FIRST, SLICE, DEFENSE = 64, 1000, 500, 500
#: Of a first estimate where many ask at once: its interval is wider, and says so.
GLANCE_IN_CROWD = 24
#: Suspects kept, bytes kept, checks remembered per suspect, finished and begun.
SUSPECTS, BYTES, CHECKS = 2, 3_000_000_000, 128
#: Bytes of what the first half of a suspect's layers says of test images, at most.
FOLDS = 1_000_000_000
BINS, PICTURES = 30, 256

Load = Callable[[str, Compute], Suspect]


class _Question(Spec):
    kind: str
    suspect: str


class Check(_Question):
    cut: tuple[int, ...]
    mode: Mode = "scale"


class Pictures(Check):
    numbers: tuple[int, ...]


class Stranger(Check):
    """``picture`` is what :func:`engine.intake.uploads.picture` wrote. ``triggered`` False: the trigger is not used."""

    picture: str
    triggered: bool = True


class Unit(_Question):
    """``triggered`` False: the trigger is not used, so nothing in the answer, its bins included, tells of it."""

    unit: int
    number: int
    triggered: bool = True
    cut: tuple[int, ...] = ()
    mode: Mode = "scale"


class Activations(_Question):
    pass


class Commit(Check):
    threshold: float | None = None
    score: str = ""
    study: str = ""
    edits: dict[str, Any] = {}
    role: Literal["defender", "oracle"]


class Confusion(Check):
    """What the suspect and its repaired self answer: that of a ``defend`` run, or the suspect with ``cut``."""

    cut: tuple[int, ...] = ()
    run: str | None = None
    triggered: bool = True


class Export(Spec):
    kind: str
    run: str


class Examples(Spec):
    """Pictures for a report of a finished run."""

    kind: str
    run: str


@dataclass
class _Begun:
    """How far a check has come. Whoever asks the same goes on from there, so a class that asks the same asks once."""

    pieces: list[tuple[str, int, int]]
    correct: Tensor
    said: Tensor
    at: int = 0
    value: dict[str, Any] | None = None


@dataclass
class _Warm:
    """A suspect with what stays resident beside it; ``correct`` is -1 where the uncut model was not asked yet."""

    suspect: Suspect
    fingerprint: str
    test: TestSet
    defense: Images
    correct: Tensor
    triggered_defense: Tensor | None
    checks: OrderedDict[tuple[tuple[int, ...], str], dict[str, Any]] = field(default_factory=OrderedDict)
    begun: OrderedDict[tuple[tuple[int, ...], str], _Begun] = field(default_factory=OrderedDict)
    means: dict[str, Tensor] = field(default_factory=dict)
    said: dict[str, Tensor] = field(default_factory=dict)
    folds: dict[tuple[str, int, int], Fold] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def cut(self, chosen: tuple[int, ...]) -> Tensor:
        n = len(units(self.suspect.model))
        wrong = [unit for unit in chosen if not 0 <= unit < n]
        if wrong:
            raise ValueError(f"expected units between 0 and {n - 1}, got {wrong[0]}")
        cut = torch.zeros(n, dtype=torch.bool)
        cut[list(chosen)] = True
        return cut

    def picture(self, number: int) -> Tensor:
        """A test image (1, C, H, W), float in [0, 1]."""
        if not 0 <= number < len(self.test.clean):
            raise ValueError(f"expected a test image between 0 and {len(self.test.clean) - 1}, got {number}")
        return self.test.clean.x[number : number + 1].float() / 255

    @property
    def size(self) -> int:
        from engine.unit_questions import extra_bytes

        data = self.suspect.data
        kept = [*self.suspect.model.state_dict().values(), data.test.x, data.pool.x, self.test.triggered]
        kept += [self.defense.x, self.triggered_defense, *self.means.values()]
        return self.folded + extra_bytes(self.extra) + sum(t.nbytes for t in kept if t is not None)

    @property
    def folded(self) -> int:
        return sum(fold.nbytes for fold in self.folds.values())


class Questions:
    """Answers questions about suspects, of which it keeps the last two."""

    def __init__(self, load: Load = load_suspect, compute: Compute | None = None) -> None:
        self._load = load
        self._compute = compute or Compute()
        self._warm: OrderedDict[str, _Warm] = OrderedDict()
        self._bench = Bench(self._compute)
        self._threads = torch.get_num_threads()
        self._glance = GLANCE

    def crowded(self, yes: bool) -> None:
        """While many wait, compute with one thread, which gives the same bits, and first figures from fewer images."""
        self._glance = GLANCE_IN_CROWD if yes else GLANCE
        threads = 1 if yes else self._threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    def answer(self, question: dict[str, Any]) -> Iterator[Answer]:
        """The states of one question, the last one final.

        Raises:
            ValueError: in one line, for a question that makes no sense, also from later steps.
        """
        ways: dict[str, tuple[type[Spec], Callable[[Any], Iterator[Answer]]]] = {
            "check": (Check, self._check),
            "pictures": (Pictures, self._pictures),
            "stranger": (Stranger, self._stranger),
            "unit": (Unit, self._unit),
            "activations": (Activations, self._activations),
            "commit": (Commit, self._commit),
            "confusion": (Confusion, self._confusion),
            "export": (Export, self._export),
            "examples": (Examples, self._examples),
            "choices": (Choices, self._choices),
            "preview": (Preview, self._preview),
        }
        from engine import layer_questions, unit_questions

        inside = {**unit_questions.WAYS, **layer_questions.WAYS}
        kind = str(question.get("kind"))
        if kind not in ways and kind not in inside:
            raise ValueError(f"expected kind to be one of {', '.join((*ways, *inside))}, got {kind!r}")
        form, way = ways[kind] if kind in ways else (inside[kind][0], partial(self._inside, inside[kind][1]))
        for answer in way(form.build(question)):
            yield replace(answer, question=question)

    def _inside(self, way: Callable[[_Warm, Any, Compute], Iterator[Answer]], question: Any) -> Iterator[Answer]:
        yield _working("loading the suspect")
        warm = self._open(question.suspect)
        yield from way(warm, question, self._compute)

    def _check(self, question: Check) -> Iterator[Answer]:
        yield _working("loading the suspect")
        warm = self._open(question.suspect)
        test, model = warm.test, warm.suspect.model
        cut = warm.cut(question.cut)
        key = (tuple(cut.nonzero().flatten().tolist()), question.mode)
        if key in warm.checks:
            warm.checks.move_to_end(key)
            yield _exact(warm.checks[key])
            return
        begun = warm.begun.pop(key, None)
        if begun is None:
            stamped = 0 if test.triggered is None else len(test.triggered)
            correct = torch.zeros(len(test.clean), dtype=torch.bool)
            pieces = list(_pieces(len(correct), stamped, (warm.correct < 0).tolist(), self._glance))
            begun = _Begun(pieces, correct, torch.full((stamped,), -1))
        warm.begun[key] = begun
        while len(warm.begun) > CHECKS:
            warm.begun.popitem(last=False)
        total = _images(begun.pieces)
        if begun.value is not None:  # what somebody else's question, or an earlier one, has found of the same cut
            yield _working_on(begun.value, _images(begun.pieces[: begun.at]), total)
        while begun.at < len(begun.pieces):
            part, first, last = begun.pieces[begun.at]
            if part == "estimate":
                begun.value = _outcome(warm, cut, begun.correct[:last], begun.said[:last])
            elif part == "uncut":
                x, y = test.clean.x[first:last], test.clean.y[first:last]
                warm.correct[first:last] = (self._compute.logits(model, x).argmax(1) == y).to(torch.int8)
            else:
                images = test.clean.x if part == "clean" else test.triggered
                assert images is not None
                with masked(model, cut, question.mode):
                    answers = self._logits(warm, cut, part, first, last, images).argmax(1)
                if part == "clean":
                    begun.correct[first:last] = answers == test.clean.y[first:last]
                else:
                    begun.said[first:last] = answers
            begun.at += 1
            yield _working_on(begun.value, _images(begun.pieces[: begun.at]), total)
        if key not in warm.checks:
            warm.checks[key] = _outcome(warm, cut, begun.correct, begun.said)
        warm.begun.pop(key, None)
        while len(warm.checks) > CHECKS:
            warm.checks.popitem(last=False)
        yield _exact(warm.checks[key])

    def _logits(self, warm: _Warm, cut: Tensor, part: str, first: int, last: int, images: Tensor) -> Tensor:
        """Of the model as it is cut now. Cuts in its second half share what the first half says of the images."""
        layers = units(warm.suspect.model).layers
        half = layers[len(layers) // 2].offset
        fold = warm.folds.get((part, first, last))
        if bool(cut[:half].any()) or (fold is None and warm.folded > FOLDS):
            return self._compute.logits(warm.suspect.model, images[first:last])
        if fold is None:
            fold = warm.folds[part, first, last] = Fold(warm.suspect.model, half, images[first:last], self._compute)
        return fold.logits()

    def _pictures(self, question: Pictures) -> Iterator[Answer]:
        if len(question.numbers) > PICTURES:
            raise ValueError(f"expected at most {PICTURES} pictures, got {len(question.numbers)}")
        yield _working("loading the suspect")
        warm = self._open(question.suspect)
        cut, attack = warm.cut(question.cut), warm.suspect.attack
        if not question.numbers:
            yield _exact({"items": []})
            return
        clean = torch.cat([warm.picture(number) for number in question.numbers])
        triggered = None if attack is None else attack.trigger(clean)
        with masked(warm.suspect.model, cut, question.mode):
            p_clean = self._compute.logits(warm.suspect.model, clean).softmax(1)
            p_triggered = None if triggered is None else self._compute.logits(warm.suspect.model, triggered).softmax(1)
        items = []
        for k, number in enumerate(question.numbers):
            item: dict[str, Any] = {
                "number": number,
                "truth": int(warm.test.clean.y[number]),
                "clean": png(clean[k]),
                "triggered": None,
                "difference": None,
                "p_clean": _floats(p_clean[k]),
                "p_triggered": None,
            }
            if triggered is not None and p_triggered is not None:
                item["triggered"] = png(triggered[k])
                item["difference"] = png(0.5 + 10 * (triggered[k] - clean[k]))
                item["p_triggered"] = _floats(p_triggered[k])
            items.append(item)
        yield _exact({"items": items})

    def _stranger(self, question: Stranger) -> Iterator[Answer]:
        """What is said of a picture of one's own, before and after a cut; the latter None if nothing is cut."""
        yield _working("loading the suspect")
        warm = self._open(question.suspect)
        model, cut = warm.suspect.model, warm.cut(question.cut)
        attack = warm.suspect.attack if question.triggered else None
        clean = torch.from_numpy(uploads.fitted(question.picture, warm.suspect.data.shape))[None].float() / 255
        found: dict[str, Any] = {}
        for name, x in (("clean", clean), ("triggered", None if attack is None else attack.trigger(clean))):
            found |= {name: None, f"p_{name}": None, f"p_{name}_cut": None}
            if x is None:
                continue
            found[name] = png(x[0])
            found[f"p_{name}"] = _floats(self._compute.logits(model, x).softmax(1)[0])
            if cut.any():
                with masked(model, cut, question.mode):
                    found[f"p_{name}_cut"] = _floats(self._compute.logits(model, x).softmax(1)[0])
        yield _exact(found)

    def _unit(self, question: Unit) -> Iterator[Answer]:
        yield _working("loading the suspect")
        warm = self._open(question.suspect)
        model, cut = warm.suspect.model, warm.cut(question.cut)
        found = units(model)
        layer, clean = found.layer_of(question.unit), warm.picture(question.number)
        attack = warm.suspect.attack if question.triggered else None
        with masked(model, cut, question.mode):
            at_clean = unit_maps(model, question.unit, clean, self._compute)[0]
            at_triggered = None
            if attack is not None:
                at_triggered = unit_maps(model, question.unit, attack.trigger(clean), self._compute)[0]
        means: dict[str, Tensor] = {}
        if not cut.any():
            yield from self._measure(warm, attack is not None)
        stamped = None if attack is None else warm.triggered_defense
        for name, x in (("clean", warm.defense.x), ("triggered", stamped)):
            if x is not None and not cut.any():
                means[name] = warm.means[name][:, question.unit]
            elif x is not None:
                yield _working(f"the unit's output on {len(x)} defense images")
                with masked(model, cut, question.mode):
                    means[name] = unit_means(model, question.unit, x, self._compute)
        yield _exact(
            {
                "id": found.id(question.unit),
                "layer": layer.name,
                "map_clean": _floats(at_clean),
                "map_triggered": None if at_triggered is None else _floats(at_triggered),
                "hist": histogram(means["clean"], means.get("triggered")),
            }
        )

    def _activations(self, question: Activations) -> Iterator[Answer]:
        yield _working("loading the suspect")
        warm = self._open(question.suspect)
        yield from self._measure(warm, True)
        triggered = warm.means.get("triggered")
        yield _exact(
            {
                "clean": _floats(warm.means["clean"].mean(0)),
                "triggered": None if triggered is None else _floats(triggered.mean(0)),
            }
        )

    def _measure(self, warm: _Warm, triggered: bool) -> Iterator[Answer]:
        """Mean outputs of all units on the defense images, once for a suspect: then no unit has to wait for its own."""
        for name, x in (("clean", warm.defense.x), ("triggered", warm.triggered_defense if triggered else None)):
            if x is None or name in warm.means:
                continue
            rows = []
            for part in x.split(SLICE // 2):
                yield _working(f"unit outputs on {name} defense images")
                rows.append(mean_outputs(warm.suspect.model, part, self._compute))
            warm.means[name] = torch.cat(rows)

    def _commit(self, question: Commit) -> Iterator[Answer]:
        from engine.defend import commit_cut

        yield _working("loading the suspect")
        warm = self._open(question.suspect)
        warm.cut(question.cut)
        yield _working("measuring the repaired model on the whole test set")
        run = commit_cut(
            warm.suspect,
            sorted(set(question.cut)),
            question.mode,
            self._compute,
            threshold=question.threshold,
            score=question.score,
            study=question.study,
            edits=question.edits,
            role=question.role,
        )
        yield _exact({"run": run.id, "folder": str(run.folder), "result": run.result})

    def _confusion(self, question: Confusion) -> Iterator[Answer]:
        yield _working("loading the suspect")
        warm = self._open(question.suspect)
        if question.run is None:
            after = copy.deepcopy(warm.suspect.model)
            apply_cut(after, warm.cut(question.cut), question.mode)
        else:
            after = load_repaired(open_run(locate(question.run)), warm.suspect)
        test = warm.test
        parts = {"clean": (test.clean.x, test.clean.y)}
        if question.triggered and test.triggered is not None and test.truth is not None:
            parts["triggered"] = (test.triggered, test.truth)
        total = 2 * sum(len(x) for x, _ in parts.values())
        done, classes = 0, len(warm.suspect.data.classes)
        found: dict[str, Any] = {}
        for name, (x, truth) in parts.items():
            found[name] = {}
            for when, model in (("before", warm.suspect.model), ("after", after)):
                said = warm.said.get(name) if when == "before" else None
                if said is None:
                    slices = []
                    for first in range(0, len(x), SLICE):
                        yield _working(f"asking about {name} images, {when} the repair", (done + first) / total)
                        slices.append(self._compute.logits(model, x[first : first + SLICE]).argmax(1))
                    said = torch.cat(slices)
                if when == "before":
                    warm.said[name] = said
                found[name][when] = confusion(truth, said, classes).tolist()
                done += len(x)
        yield _exact({"classes": list(warm.suspect.data.classes), **found})

    def _export(self, question: Export) -> Iterator[Answer]:
        from engine.export import export_zip

        yield _working("packing the repaired model")
        yield _exact({"path": str(export_zip(locate(question.run)))})

    def _examples(self, question: Examples) -> Iterator[Answer]:
        yield _working("loading the suspect")
        run = open_run(locate(question.run))
        warm = self._open(suspect_of(run))
        yield _working("asking about some pictures")
        yield _exact({"items": examples(run, warm.suspect, self._compute)})

    def _choices(self, question: Choices) -> Iterator[Answer]:
        yield _exact(self._bench.choices(question))

    def _preview(self, question: Preview) -> Iterator[Answer]:
        yield _exact(self._bench.preview(question))

    def _open(self, name: str) -> _Warm:
        """A suspect, from memory if its files are what they were."""
        folder = locate(name)
        key, now = str(folder.resolve()), _fingerprint(folder)
        warm = self._warm.pop(key, None)
        if warm is None or warm.fingerprint != now:
            while len(self._warm) >= SUSPECTS:
                self._warm.popitem(last=False)
            warm = self._load_warm(name, now)
        self._warm[key] = warm
        # One that is too large for any cache serves its question and goes.
        while sum(one.size for one in self._warm.values()) > BYTES:
            self._warm.popitem(last=False)
        return warm

    def _load_warm(self, name: str, fingerprint: str) -> _Warm:
        suspect = self._load(name, self._compute)
        data, attack = suspect.data, suspect.attack
        pool = data.pool
        defense = draw(pool, min(DEFENSE, len(pool)), generator(0, "defense images"))
        stamped = None if attack is None else attack.stamped(defense.x)
        correct = torch.full((len(data.test),), -1, dtype=torch.int8)
        run = suspect.run
        if run.has("answers.safetensors") and run.result.get("precision") == self._compute.precision:
            known = torch.from_numpy(run.arrays("answers")["correct"].astype(np.int8))
            correct = known if len(known) == len(correct) else correct
        chosen = suspect.stamped if suspect.stamped and suspect.stamped.measures == "targets" else None
        return _Warm(suspect, fingerprint, chosen or TestSet.of(data.test, attack), defense, correct, stamped)


def _fingerprint(folder: Path) -> str:
    """Changes when a suspect's record or weights do; the hashes themselves are checked on loading."""
    try:
        weights = (folder / "model.safetensors").stat()
        manifest = (folder / MANIFEST).read_bytes()
    except OSError:
        return ""
    return f"{hashlib.sha256(manifest).hexdigest()} {weights.st_mtime_ns} {weights.st_size}"


def _pieces(clean: int, triggered: int, unknown: list[bool], glance: int = GLANCE) -> Iterator[tuple[str, int, int]]:
    """What to run in which order: a few images of both kinds, an estimate, some more, another one, then the others.

    ``unknown`` says of which clean images the uncut model's answer is not known yet; it is asked along the way.
    """
    done, whole = 0, max(clean, triggered)
    for upto in (min(glance, FIRST, whole), min(FIRST, whole), whole):
        for kind, n in (("clean", clean), ("triggered", triggered)):
            for first in range(done, min(upto, n), SLICE):
                last = min(first + SLICE, upto, n)
                yield kind, first, last
                if kind == "clean" and any(unknown[first:last]):
                    yield "uncut", first, last
        if done < upto < whole:
            yield "estimate", 0, upto
        done = upto


def _images(pieces: list[tuple[str, int, int]]) -> int:
    """How many images some pieces run."""
    return sum(last - first for part, first, last in pieces if part != "estimate")


def _outcome(warm: _Warm, cut: Tensor, correct: Tensor, said: Tensor) -> dict[str, Any]:
    """The figures of a cut from the first len(correct) clean and the first len(said) triggered images."""
    test, truth = warm.test, warm.test.clean.y[: len(correct)]
    before = warm.correct[: len(correct)].bool()
    low, high = paired_interval(before, correct)
    shares: dict[str, Any] = {"asr": None, "ra": None}
    if test.wanted is not None and test.truth is not None:
        hit = Share.of(said == test.wanted[: len(said)])
        if test.measures == "targets":
            shares["success"] = asdict(hit)
        else:
            shares = {"asr": asdict(hit), "ra": asdict(Share.of(said == test.truth[: len(said)]))}
    per_class = []
    for c in range(len(warm.suspect.data.classes)):
        of_class = correct[truth == c]
        per_class.append(float(of_class.float().mean()) if len(of_class) else None)
    return {
        "pruned": int(cut.sum()),
        "acc": asdict(Share.of(correct)),
        **shares,
        "drop": {"value": float(before.float().mean() - correct.float().mean()), "low": low, "high": high},
        "per_class": per_class,
    }


def _working(what: str, share: float | None = None) -> Answer:
    return Answer({}, "working", what, share)


def _working_on(estimate: dict[str, Any] | None, done: int, total: int) -> Answer:
    what = f"checking {total:,} images" if estimate is None else "checking all images"
    return Answer({}, "working" if estimate is None else "estimate", what, done / total, estimate)


def _exact(value: dict[str, Any]) -> Answer:
    return Answer({}, "exact", "", 1.0, value)


def _floats(values: Tensor) -> Any:
    """Nested lists of numbers that JSON can hold, six digits behind the point."""
    finite = torch.nan_to_num(values.detach().double().cpu())
    return np.round(finite.numpy(), 6).tolist()


def histogram(clean: Tensor, triggered: Tensor | None, bins: int = BINS) -> dict[str, Any]:
    """Counts of both in common bins: ``edges`` (bins + 1), ``clean`` and ``triggered`` (bins) or None."""
    parts = [np.nan_to_num(part.double().numpy()) for part in (clean, triggered) if part is not None]
    everything = np.concatenate(parts)
    edges = np.histogram_bin_edges(everything, bins)
    counts = [np.histogram(part, edges)[0].tolist() for part in parts]
    return {
        "edges": np.round(edges, 9).tolist(),
        "clean": counts[0],
        "triggered": counts[1] if triggered is not None else None,
    }
