"""What the warm worker can answer. Each kind of question is one generator of :class:`~engine.runs.ask.Answer`.

A generator yields between batches, always with the model as it was loaded: the worker may turn to another question
there, or never come back. An estimate from the first images comes before the exact answer.
"""

from __future__ import annotations

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
from engine.models.masking import Mode, masked
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
#: Suspects kept, bytes kept, cuts per suspect of which the answers are remembered.
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
    """What the suspect and its repaired self answer: that of a ``defend`` run, or the suspect with ``cut``.

    ``triggered`` False: triggered pictures are not even asked about.
    """

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
class _Asked:
    """What the suspect with a cut has said so far, int16 by picture and -1 where it was not asked yet.

    Whoever asks about the same cut goes on from there: a class that asks the same asks once, and so do figures and
    confusion matrices. ``value``: the best figures there are, ``exact`` if they are of all pictures.
    """

    said: dict[str, Tensor]
    value: dict[str, Any] | None = None
    exact: bool = False


@dataclass
class _Warm:
    """A suspect with what stays resident beside it; ``correct`` is -1 where the uncut model was not asked yet."""

    suspect: Suspect
    fingerprint: str
    test: TestSet
    defense: Images
    correct: Tensor
    triggered_defense: Tensor | None
    asked: OrderedDict[tuple[tuple[int, ...], str], _Asked] = field(default_factory=OrderedDict)
    means: dict[str, Tensor] = field(default_factory=dict)
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

    def answers(self, cut: Tensor, mode: Mode) -> _Asked:
        """What is known of the answers under a cut (U,) bool."""
        key = (tuple(cut.nonzero().flatten().tolist()), mode if cut.any() else "scale")
        found = self.asked.pop(key, None)
        self.asked[key] = found = found or _Asked(self.unasked())
        while len(self.asked) > CHECKS:
            self.asked.popitem(last=False)
        return found

    def unasked(self) -> dict[str, Tensor]:
        stamped = 0 if self.test.triggered is None else len(self.test.triggered)
        return {
            part: torch.full((n,), -1, dtype=torch.int16) for part, n in (("clean", len(self.test.clean)),
                                                                           ("triggered", stamped))
        }  # fmt: skip

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
            "what_if": (Check, self._check),
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
        more, kind = _more_ways(), str(question.get("kind"))
        if kind not in ways and kind not in more:
            raise ValueError(f"expected kind to be one of {', '.join((*ways, *more))}, got {kind!r}")
        form, way = ways[kind] if kind in ways else (more[kind][0], partial(self._inside, more[kind][1]))
        for answer in way(form.build(question)):
            yield replace(answer, question=question)

    def _inside(self, way: Callable[[_Warm, Any, Compute], Iterator[Answer]], question: Any) -> Iterator[Answer]:
        yield _working("loading the suspect")
        warm = self._open(question.suspect)
        yield from way(warm, question, self._compute)

    def _check(self, question: Check) -> Iterator[Answer]:
        yield _working("loading the suspect")
        warm = self._open(question.suspect)
        test, cut = warm.test, warm.cut(question.cut)
        asked = warm.answers(cut, question.mode)
        pieces = _pieces(asked.said, (warm.correct < 0).tolist(), self._glance)
        total = _images(pieces)
        if asked.value is not None and not asked.exact:  # what somebody else's question has found of the same cut
            yield _working_on(asked.value, 0, total)
        for at, (part, first, last) in enumerate(pieces, start=1):
            if asked.exact:
                break
            if part == "estimate":
                if asked.value is not None and asked.value["acc"]["n"] >= last:
                    continue
                asked.value = _outcome(warm, cut, asked.said, last)
            elif part == "uncut":
                if not (warm.correct[first:last] < 0).any():
                    continue
                answers = self._compute.logits(warm.suspect.model, test.clean.x[first:last]).argmax(1)
                warm.correct[first:last] = (answers == test.clean.y[first:last]).to(torch.int8)
            elif not self._ask(warm, cut, question.mode, part, first, last):
                continue
            yield _working_on(asked.value, _images(pieces[:at]), total)
        if not asked.exact:
            asked.value, asked.exact = _outcome(warm, cut, asked.said, total), True
        assert asked.value is not None
        yield _exact(asked.value)

    def _ask(self, warm: _Warm, cut: Tensor, mode: Mode, part: str, first: int, last: int) -> bool:
        """Ask the suspect with a cut about some test images; False if all of them were asked about before."""
        said = warm.answers(cut, mode).said[part]
        images = warm.test.clean.x if part == "clean" else warm.test.triggered
        if images is None or not (said[first:last] < 0).any():
            return False
        with masked(warm.suspect.model, cut, mode):
            said[first:last] = self._logits(warm, cut, part, first, last, images).argmax(1).to(torch.int16)
        return True

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
        test, cut = warm.test, warm.cut(question.cut)
        nothing = torch.zeros_like(cut)
        before, after = warm.answers(nothing, "scale").said, warm.answers(cut, question.mode).said
        images, truths = {"clean": test.clean.x}, {"clean": test.clean.y}
        if question.triggered and test.triggered is not None and test.truth is not None:
            images["triggered"], truths["triggered"] = test.triggered, test.truth
        repaired = None
        if question.run is not None:
            repaired, after = load_repaired(open_run(locate(question.run)), warm.suspect), warm.unasked()

        def counted(upto: int) -> dict[str, Any]:
            classes = list(warm.suspect.data.classes)
            return {"classes": classes} | {
                part: {
                    when: confusion(truth[:upto], said[part][:upto], len(classes)).tolist()
                    for when, said in (("before", before), ("after", after))
                }
                for part, truth in truths.items()
            }

        pieces = _pieces({part: before[part] for part in images}, [], self._glance)
        total, value = _images(pieces), None
        for at, (part, first, last) in enumerate(pieces, start=1):
            if part == "estimate":
                value = counted(last)
            elif repaired is not None:
                after[part][first:last] = self._compute.logits(repaired, images[part][first:last]).argmax(1)
            elif self._ask(warm, cut, question.mode, part, first, last):
                yield _working_on(value, _images(pieces[: at - 1]), total)
            if part in images:
                self._ask(warm, nothing, "scale", part, first, last)
            yield _working_on(value, _images(pieces[:at]), total)
        yield _exact(counted(total))

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


def _more_ways() -> dict[str, tuple[type[Spec], Callable[[_Warm, Any, Compute], Iterator[Answer]]]]:
    """The kinds of questions that have files of their own."""
    from engine import layer_questions, picture_questions, unit_questions

    ways: Any = {**unit_questions.WAYS, **layer_questions.WAYS, **picture_questions.WAYS}
    return ways


def _fingerprint(folder: Path) -> str:
    """Changes when a suspect's record or weights do; the hashes themselves are checked on loading."""
    try:
        weights = (folder / "model.safetensors").stat()
        manifest = (folder / MANIFEST).read_bytes()
    except OSError:
        return ""
    return f"{hashlib.sha256(manifest).hexdigest()} {weights.st_mtime_ns} {weights.st_size}"


def _pieces(said: dict[str, Tensor], unknown: list[bool], glance: int = GLANCE) -> list[tuple[str, int, int]]:
    """What to run in which order: a few images of each kind, an estimate, some more, another one, then the others.

    ``unknown`` says of which clean images the uncut model's answer is not known yet; it is asked along the way.
    """
    found: list[tuple[str, int, int]] = []
    done, whole = 0, max(map(len, said.values()))
    for upto in (min(glance, FIRST, whole), min(FIRST, whole), whole):
        # Each piece folds the cut weights anew, so what nobody waits to see grow comes in larger ones.
        size = SLICE if upto <= FIRST else 2 * SLICE
        for part, answers in said.items():
            for first in range(done, min(upto, len(answers)), size):
                last = min(first + size, upto, len(answers))
                found.append((part, first, last))
                if part == "clean" and any(unknown[first:last]):
                    found.append(("uncut", first, last))
        if done < upto < whole:
            found.append(("estimate", 0, upto))
        done = upto
    return found


def _images(pieces: list[tuple[str, int, int]]) -> int:
    """How many images some pieces run."""
    return sum(last - first for part, first, last in pieces if part != "estimate")


def _outcome(warm: _Warm, cut: Tensor, answers: dict[str, Tensor], upto: int) -> dict[str, Any]:
    """The figures of a cut from what was said of the first ``upto`` clean and triggered images."""
    test, truth, said = warm.test, warm.test.clean.y[:upto], answers["triggered"][:upto]
    correct = answers["clean"][:upto] == truth
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
