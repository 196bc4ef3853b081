"""A file that was handed in: which one the page is about, how far the look at it is, and what it holds, as a card.

Everything here comes from a stranger, the file's name included. It reaches the page escaped, or as cells of a table.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import streamlit as st

from app import panels, shared, state
from app.palette import count
from engine.intake import desk
from engine.intake.desk import Kind, Look

#: Rows of a table of tensors, names or values: nobody reads more, and a page must stay light.
MOST = 500
_FORMATS = {"torch-zip": "PyTorch (zip)", "safetensors": "safetensors"}
_KINDS = {"known": "plain data", "foreign": "unknown, left alone", "running": "runs code"}


# --- which file ------------------------------------------------------------------------------------------------------


def current(kind: Kind) -> tuple[str, str] | None:
    """Ticket and name of the file that this session handed in."""
    found: dict[str, tuple[str, str]] = st.session_state.setdefault("handed", {})
    return found.get(kind)


def take(kind: Kind, ticket: str, name: str, source: Any) -> None:
    if not shared.allowed("uploads"):  # the page is not in the navigation then; this is for whoever gets past that
        return
    desk.hand_in(ticket, kind, source)
    st.session_state.setdefault("handed", {})[kind] = (ticket, name)
    if kind == "checkpoint":
        state.go(job=None)


def put_away(kind: Kind) -> None:
    """Another file, or none: the page forgets this one."""
    found = st.session_state.setdefault("handed", {}).pop(kind, None)
    if found:
        desk.forget(found[0])


def clear(kind: Kind) -> None:
    """:func:`put_away` as a callback: the widgets in which the file was chosen are empty again, too."""
    put_away(kind)
    store = st.session_state
    store[f"handed-{kind}:turn"] = store.get(f"handed-{kind}:turn", 0) + 1
    if kind == "checkpoint":
        store["inbox-choice"] = None


def uploader(kind: Kind, label: str, help: str) -> None:
    """Where a file is dropped; it is handed in as soon as it has arrived."""
    most = desk.LIMITS[kind] >> 20
    key = f"handed-{kind}-{st.session_state.get(f'handed-{kind}:turn', 0)}"

    def arrived() -> None:
        upload = st.session_state[key]
        put_away(kind)
        if kind == "checkpoint":
            st.session_state["inbox-choice"] = None
        if upload is not None:
            take(kind, f"{state.session()} {upload.file_id}", upload.name, upload)

    st.file_uploader(f"{label}, up to {most} MB", key=key, help=help, on_change=arrived, max_upload_size=most)


def found(kind: Kind) -> Look | None:
    """What is known of the present file; without one, or where the desk was cleared since, None."""
    handed = current(kind)
    if handed is None:
        return None
    look = desk.look(handed[0])
    if look is None:
        put_away(kind)
        st.warning("This file was put away meanwhile. Choose it again.", icon=":material/refresh:")
    return look


def accepted(look: Look | None, kind: Kind, empty: str, remedy: str) -> Look | None:
    """A look at a file that may be used; until then None, and the page says why: none is here, not yet, or refused.

    Args:
        empty: what to say where there is no file.
        remedy: what to do about a refusal.
    """
    if look is None:
        panels.note(empty)
    elif look.state == "working":
        wait(kind)
    elif look.state == "refused":
        panels.refuse(ValueError(look.error), remedy)
    else:
        return look
    return None


def wait(kind: Kind) -> None:
    """How far the look at a file is, until the page can go on."""
    st.fragment(_wait, run_every=0.5)(kind, short(current(kind)))


def _wait(kind: Kind, name: str) -> None:
    handed = current(kind)
    look = desk.look(handed[0]) if handed else None
    if look is None or look.state != "working":
        st.rerun()
    took = panels.clock(time.monotonic() - look.since)
    st.progress(look.share, text=f"{panels.plain(name)}: {look.what} \u2026 {took}")
    panels.note("This takes a few seconds. You can look at other pages meanwhile.")


def short(handed: tuple[str, str] | None, most: int = 60) -> str:
    """A stranger's file name on one line."""
    name = "".join(c if c.isprintable() else "\ufffd" for c in (handed[1] if handed else ""))
    return name if len(name) <= most else f"{name[: most - 13]}\u2026{name[-12:]}"


# --- the card --------------------------------------------------------------------------------------------------------


def card(look: Look) -> None:
    """What a checkpoint holds, or why it is refused."""
    handed = current("checkpoint")
    report = look.value or {}
    with st.container(border=True, key="handed-card", gap="small"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            panels.over("Refused" if look.state == "refused" else "What it holds")
            st.space("stretch")
            st.button(
                "Put away", key="handed-away", icon=":material/close:", type="tertiary",
                on_click=clear, args=("checkpoint",),
            )  # fmt: skip
        panels.heading(short(handed), lines=1)
        if look.state == "refused":
            panels.refuse(ValueError(look.error), "It was left as it was." if look.path else "Nothing of it was kept.")
        else:
            panels.note(_sentence(report))
        if not report:
            return
        panels.facts([], _facts(report))
        _tables(report)


def _sentence(report: Mapping[str, Any]) -> str:
    foreign = sum(row["kind"] == "foreign" for row in report["globals"])
    if foreign:
        return (
            f"It names {count(foreign)} {'thing' if foreign == 1 else 'things'} that Unmask does not know. They were "
            "left alone: nothing of them was imported, called or run. The tensors can be used."
        )
    return "Tensors and plain values only. Nothing in it asks to run anything."


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    tensors = report["tensors"]
    numbers = sum(_size(row["shape"]) for row in tensors)
    rows = [
        ("Format", _FORMATS.get(report["format"], str(report["format"]))),
        ("Size", size(report["size"])),
        ("SHA-256", f"{report['sha256'][:16]}\u2026"),
    ]
    if tensors:
        rows.append(("Tensors", f"{count(len(tensors))} with {count(numbers)} numbers"))
        groups = Counter(row["group"] for row in tensors)
        where = report["weights"]
        if where or len(groups) > 1:
            named = f"in the table {where[:60]!r}" if where else "in the outermost table"
            rows.append(("Weights", "in one of several tables" if where is None else named))
        rows.append(("Fits", "; ".join(fit(row) for row in report["architectures"]) or "no known architecture"))
    if bench := report.get("backdoorbench"):
        pictures = f", {count(bench['images'])} triggered pictures beside it" if bench["images"] else ""
        rows.append(("BackdoorBench", f"{bench['model_name']}, {bench['num_classes']} classes{pictures}"))
    return rows


def size(n: int) -> str:
    return f"{n / 1e6:,.1f} MB" if n >= 1e6 else f"{n / 1e3:,.1f} kB"


def fit(row: Mapping[str, Any]) -> str:
    wide = f", width {row['width']}" if row["width"] else ""
    return f"{row['name']}{wide}: {row['classes']} classes"


def _size(shape: list[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def _tables(report: Mapping[str, Any]) -> None:
    tensors = [
        {"name": row["name"], "table": row["group"], "shape": " \u00d7 ".join(map(str, row["shape"])) or "1",
         "type": row["dtype"]}
        for row in report["tensors"][:MOST]
    ]  # fmt: skip
    names = [{"name": row["name"], "what it is": _KINDS.get(row["kind"], row["kind"])} for row in report["globals"]]
    values = [
        {"path": row["path"], "type": row["type"],
         "value": str(row.get("value", f"{row['length']} entries" if "length" in row else ""))[:200]}
        for row in report["content"][:MOST]
    ]  # fmt: skip
    with st.container(horizontal=True, gap="small"):
        _table("Tensors", "layers", tensors, len(report["tensors"]))
        _table("Names in its pickle", "tag", sorted(names, key=lambda r: r["what it is"] == "plain data"), len(names))
        _table("Other values", "notes", values, report["content_total"])


def _table(title: str, icon: str, rows: list[dict[str, Any]], total: int) -> None:
    if not rows:
        return
    opener = st.popover(
        f"{title} ({total:,})", type="tertiary", icon=f":material/{icon}:", key=f"handed-{icon}", on_change="rerun"
    )
    if opener.open:
        with opener:
            if len(rows) > MOST or total > len(rows):
                panels.note(f"The first {min(len(rows), MOST):,} of {total:,}.")
            height: Any = "auto" if len(rows) <= 8 else 320
            alt = f"{title} of the file: {total:,} rows."
            st.dataframe(rows[:MOST], hide_index=True, alt=alt, height=height, width=620)
