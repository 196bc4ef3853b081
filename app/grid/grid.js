// The neuron grid: every unit of a network as one cell on one canvas, under a histogram of the same scores.
//
// One threshold rules both pictures. Dragging it repaints cells, counts and bars here, without the server; only the
// release is reported. Python may set any field at any time; a revision per field says when it did (see __init__.py).
// All text goes in through textContent or fillText, so no name or label from Python is ever parsed as markup.

const KEY_PAUSE = 250; // ms without a key press before an arrow key in the number box counts as a release
const MAGNET = 4; // px within which the line snaps to a mark

class NeuronGrid extends GridFinder {
  constructor(root) {
    super();
    this.root = root;
    const find = selector => root.querySelector(selector);
    const parts = ["head", "detail", "at", "axis", "scroll", "sheet", "cells", "labels", "legend", "tip", "speech", "predicted", "finder", "refusal"];
    this.el = Object.fromEntries(parts.map(name => [name, find(`.${name}`)]));
    this.el.total = find(".total strong");
    this.el.box = find(".at input");
    this.revision = {};
    this.markAreas = [];
    this.cursor = this.hover = this.selected = -1;
    this.group = new Set();
    this.reported = 0;
    this.instance = Math.random().toString(36).slice(2); // tells this mount's reports from an earlier mount's
    this.listen();
    this.observer = new ResizeObserver(() => this.schedule(true));
    this.observer.observe(root);
    document.fonts.ready.then(() => this.schedule(true));
  }

  // --- state -----------------------------------------------------------------------------------------------------

  update(data, send) {
    this.send = send;
    const relayer = JSON.stringify(data.layers) !== JSON.stringify(this.data?.layers);
    if (relayer || data.values !== this.data.values) this.decode(data, relayer);
    this.data = data;
    // Python wins where its revision moved on; an unchanged revision leaves what the person did here alone. A line
    // in mid-drag stays in the hand: its release is newer than whatever Python sent.
    for (const [field, revision] of Object.entries(data.revision)) {
      if (this.revision[field] === revision || (field === "threshold" && this.dragging)) continue;
      this.revision[field] = revision;
      if (field === "threshold") this.setThreshold(this.before = data.threshold);
      if (field === "edits") {
        const known = Object.entries(data.edits).map(([id, edit]) => [this.ids.indexOf(id), edit]);
        this.edits = new Map(known.filter(([i]) => i >= 0 && this.eligible(i)));
      }
      if (field === "group") this.group = new Set(data.group.map(id => this.ids.indexOf(id)).filter(i => i >= 0));
      if (field === "selected") {
        this.selected = data.selected === null ? -1 : this.ids.indexOf(data.selected);
        if (this.selected >= 0) this.cursor = this.reveal = this.selected;
      }
    }
    this.el.cells.setAttribute("aria-label", data.alt);
    this.el.at.style.display = data.showThreshold ? "" : "none";
    this.el.box.setAttribute("aria-label", `Cut units whose ${data.scoreLabel} is at or above`);
    this.schedule(true);
  }

  decode(data, relayer) {
    this.values = new Float32Array(Uint8Array.from(atob(data.values), c => c.charCodeAt(0)).buffer);
    const eligible = this.values.filter(v => !Number.isNaN(v)).sort();
    this.sorted = eligible;
    this.low = eligible[0] ?? 0;
    this.high = eligible.at(-1) ?? 1;
    if (this.high <= this.low) [this.low, this.high] = [this.low - 0.5, this.low + 0.5];
    const span = this.high - this.low;
    this.decimals = Math.max(0, -Math.floor(Math.log10(span / 500)));
    this.tint = Uint8Array.from(this.values, v => Math.round(((v - this.low) / span) * 255));
    if (!relayer) return;
    this.ids = [];
    this.lowered = undefined;
    this.layerOf = [];
    data.layers.forEach((layer, at) => {
      for (let k = 0; k < layer.size; k++) this.ids.push(`${layer.name}:${k}`), this.layerOf.push(at);
    });
    this.edits = new Map();
    this.group = new Set();
    this.cursor = this.hover = this.selected = -1;
    this.revision = {}; // another network: take every field from Python again
  }

  setThreshold(value, typing = false) {
    this.threshold = value;
    // Scores are float32: compare with the float32 nearest to the threshold, as NumPy and torch do.
    this.bar = value === null ? Infinity : Math.fround(value);
    if (!typing) this.el.box.value = value === null ? "" : this.text(value);
    this.schedule();
  }

  eligible(i) { return !Number.isNaN(this.values[i]); }
  above(i) { return this.values[i] >= this.bar; } // false for NaN
  isCut(i) { const edit = this.edits.get(i); return this.eligible(i) && (edit ? edit === "cut" : this.above(i)); }
  text(value) { return value.toFixed(this.decimals); }
  rank(i) { // 1 is the most suspicious; equal scores share a rank
    const above = this.sorted.filter(value => value > this.values[i]).length;
    const shared = this.sorted.filter(value => value === this.values[i]).length;
    const rank = `rank ${whole.format(above + 1)} of ${whole.format(this.sorted.length)}`;
    return shared > 1 ? `${rank} (shared by ${whole.format(shared)})` : rank;
  }

  describe(i) { // [id, score and rank, state]
    if (!this.eligible(i)) return [this.ids[i], "no score", "not eligible, never cut"];
    const edit = this.edits.get(i);
    const state = edit === "cut" ? "cut by hand" : edit === "spare" ? "spared by hand" : this.above(i) ? "cut" : "kept";
    return [this.ids[i], `${this.data.scoreLabel} ${this.text(this.values[i])}`, `${this.rank(i)}, ${state}`];
  }

  say(text) { this.el.speech.textContent = text; }
  sayUnit(i) { this.say(`${this.describe(i).join(", ")}${i === this.selected ? ", selected" : ""}`); }

  report(origin) {
    const edits = Object.fromEntries([...this.edits].map(([i, edit]) => [this.ids[i], edit]));
    const state = { threshold: this.threshold, selected: this.ids[this.selected] ?? null, edits };
    state.group = [...this.group].map(i => this.ids[i]);
    this.send({ id: `${this.instance}-${++this.reported}`, origin, ...state });
  }

  reportThreshold() { // once per release, and only if the line really moved
    clearTimeout(this.pause);
    if (this.threshold === this.before) return;
    this.before = this.threshold;
    this.report("threshold");
    const at = this.threshold === null ? "none" : this.text(this.threshold);
    this.say([`threshold ${at}`, this.el.total.textContent, ...this.paintPredicted()].join(", "));
  }

  select(i) {
    if (!this.group.has(i)) this.group.clear();
    this.selected = i === this.selected ? -1 : i;
    this.report("select");
    if (i >= 0) this.sayUnit(i);
    this.schedule();
  }

  toggleEdit(i) { // back to what the threshold says, or against it
    if (!this.eligible(i)) return this.sayUnit(i);
    if (!this.edits.delete(i)) this.edits.set(i, this.above(i) ? "spare" : "cut");
    this.report("edit");
    this.sayUnit(i);
    this.schedule();
  }

  // --- hands -----------------------------------------------------------------------------------------------------

  listen() {
    const { axis, cells, box } = this.el;
    const lineX = () => (this.threshold === null ? this.plot.right : this.toX(this.threshold));
    const inPlot = event => this.data.showThreshold
      && event.offsetX >= this.left - 8 && event.offsetY <= this.plot.base + 8;
    const markAt = event => inPlot(event) && event.offsetY < 20
      && this.markAreas.find(mark => event.offsetX >= mark.from && event.offsetX <= mark.to);
    const drag = event => {
      const { left, right, from, to } = this.plot, x = Math.max(left, Math.min(event.offsetX - this.grip, right));
      const distance = mark => Math.abs(this.toX(mark.value) - x);
      const [mark] = this.data.marks.filter(m => distance(m) <= MAGNET).sort((a, b) => distance(a) - distance(b));
      const value = from + ((x - left) / (right - left)) * (to - from);
      this.setThreshold(mark ? mark.value : Number(this.text(value)));
    };
    axis.addEventListener("pointerdown", event => {
      const mark = markAt(event);
      if (event.button || !inPlot(event)) return;
      event.preventDefault();
      this.before = this.threshold;
      this.dragging = true;
      axis.setPointerCapture(event.pointerId);
      this.start = event.offsetX;
      this.grip = event.offsetX - lineX(); // where on the handle it was taken, so that the line does not jump
      if (!mark && Math.abs(this.grip) < 9) return;
      this.grip = 0;
      if (mark) this.setThreshold(mark.value);
      else drag(event);
    });
    axis.addEventListener("pointermove", event => {
      if (!this.dragging) axis.style.cursor = markAt(event) ? "pointer" : inPlot(event) ? "ew-resize" : "";
      else if (event.offsetX !== this.start) {
        this.start = NaN; // moved: from here on every position counts, this one too
        drag(event);
      }
    });
    for (const end of ["pointerup", "pointercancel"]) {
      axis.addEventListener(end, () => {
        if (this.dragging) this.reportThreshold();
        this.dragging = false;
      });
    }

    const read = () => (box.value.trim() === "" || !Number.isFinite(box.valueAsNumber) ? null : box.valueAsNumber);
    box.addEventListener("focus", () => { this.before = this.threshold; });
    box.addEventListener("input", () => this.setThreshold(read(), true));
    box.addEventListener("blur", () => { this.reportThreshold(); this.setThreshold(this.threshold); });
    box.addEventListener("keydown", event => {
      if (event.key === "Enter") this.reportThreshold();
      const way = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      if (!way) return;
      event.preventDefault();
      const step = 10 ** -this.decimals * (event.shiftKey ? 10 : 1);
      this.setThreshold(Number(((this.threshold ?? this.high) + way * step).toFixed(this.decimals)));
      clearTimeout(this.pause);
      this.pause = setTimeout(() => this.reportThreshold(), KEY_PAUSE);
    });

    const hover = i => {
      if (i === this.hover) return;
      this.hover = i;
      cells.style.cursor = i < 0 ? "default" : "pointer";
      this.schedule();
    };
    cells.addEventListener("pointermove", event => {
      this.keyboard = false;
      hover(this.rubber ? -1 : this.unitAt(event.offsetX, event.offsetY));
    });
    cells.addEventListener("pointerleave", () => hover(-1));
    this.el.scroll.addEventListener("scroll", () => hover(-1));
    cells.addEventListener("click", event => {
      const i = this.unitAt(event.offsetX, event.offsetY);
      if (i < 0 || this.boxed) return;
      this.cursor = i;
      if (event.shiftKey) this.toggleEdit(i); else this.select(i);
    });
    cells.addEventListener("focus", () => {
      if (!cells.matches(":focus-visible")) return;
      this.moveCursor(this.cursor >= 0 ? this.cursor : 0);
    });
    cells.addEventListener("blur", () => { this.keyboard = false; this.schedule(); });
    cells.addEventListener("keydown", event => this.key(event));
    this.listenForBoxes();
    this.listenForNames();
  }

  moveCursor(i) {
    this.cursor = this.reveal = i;
    this.keyboard = true;
    this.hover = -1;
    this.sayUnit(i);
    this.schedule();
  }

  move(i, extend) { // with Shift the box reaches from where it began to the cursor
    if (extend) {
      if (!this.group.size) this.anchor = Math.max(0, this.cursor);
      this.choose(this.unitsIn(this.span(this.anchor, i)));
    } else this.letGo();
    this.moveCursor(i);
    if (!extend) return;
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.reportGroup(), KEY_PAUSE);
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return; // the page's own shortcuts
    const at = Math.max(0, this.cursor), layer = this.layerOf[at], band = this.bands[layer], { columns } = this;
    const k = at - band.offset, column = k % columns;
    const start = b => b.offset + Math.min(column, b.size - 1);
    const moves = {
      ArrowRight: () => Math.min(at + 1, this.ids.length - 1),
      ArrowLeft: () => Math.max(at - 1, 0),
      ArrowDown: () => {
        const last = band.size - 1;
        if (Math.floor(k / columns) < Math.floor(last / columns)) return band.offset + Math.min(k + columns, last);
        return layer + 1 < this.bands.length ? start(this.bands[layer + 1]) : at;
      },
      ArrowUp: () => {
        if (k >= columns) return at - columns;
        if (!layer) return at;
        const above = this.bands[layer - 1], row = Math.floor((above.size - 1) / columns) * columns;
        return above.offset + Math.min(row + column, above.size - 1);
      },
      Home: () => band.offset,
      End: () => band.offset + band.size - 1,
      PageDown: () => start(this.bands[Math.min(layer + 1, this.bands.length - 1)]),
      PageUp: () => start(this.bands[Math.max(layer - 1, 0)]),
    };
    const units = this.group.size ? [...this.group] : [at];
    if (moves[event.key]) this.move(this.cursor < 0 ? 0 : moves[event.key](), event.shiftKey);
    else if (event.key === "/") { this.el.finder.focus(); this.el.finder.select(); }
    else if (event.key === " ") { this.keyboard = true; this.select(at); }
    else if (event.key === "Enter" && (event.shiftKey || this.group.size)) {
      this.editAll(units, event.shiftKey ? "spare" : "cut");
    } else if (event.key === "Enter" || event.key === "x" || event.key === "X") {
      this.keyboard = true;
      this.toggleEdit(at);
    } else if (event.key === "Delete" || event.key === "Backspace") this.editAll(units, null);
    else if (event.key === "Escape" && this.group.size) this.letGo();
    else if (event.key === "Escape" && this.selected >= 0) this.select(this.selected);
    else return;
    event.preventDefault();
    event.stopPropagation(); // Streamlit has single-letter shortcuts of its own
  }
}

export default function mount({ parentElement, data, setStateValue }) {
  const root = parentElement.querySelector(".neuron-grid");
  root.neuronGrid ??= new NeuronGrid(root); // called again on every rerun: keep the instance, hand it the new data
  root.neuronGrid.update(data, report => setStateValue("report", report));
  // Streamlit also runs the clean-up of calls that a newer one overtook: let go only when the page did.
  return () => { if (!root.isConnected) root.neuronGrid.observer.disconnect(); };
}
