// How the neuron grid looks: layout of the bands, and painting of cells, histogram and axis. A painter reads the state
// that NeuronGrid (grid.js) keeps and changes none of it. Python joins the files into one module.

const MIN_PITCH = 9, MAX_PITCH = 20, SCROLL_PITCH = 12; // height of a cell plus its gap, CSS pixels
const WIDEST = 1.7; // cells may be this much wider than high, to fill the row
const BAND_GAP = 3, STAGE_GAP = 6, BAND_HEIGHT = 13; // between layers, more where their first name part changes
const LOOSEST = 8; // what a gap may gain where there is room to spare

// Cividis in ten steps, interpolated to 256. `grey` is the same lightness without the hue, for cut units.
const CIVIDIS = ["00224e", "123570", "3b496c", "575d6d", "707173", "8a8678", "a59c74", "c3b369", "e1cc55", "fee838"]
  .map(hex => [0, 2, 4].map(at => parseInt(hex.slice(at, at + 2), 16)));
const RGB = Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (CIVIDIS.length - 1), low = Math.min(Math.floor(at), CIVIDIS.length - 2);
  return CIVIDIS[low].map((c, k) => c + (CIVIDIS[low + 1][k] - c) * (at - low));
});
const luma = ([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b;
const css = rgb => `rgb(${rgb.map(Math.round).join(" ")})`;
const blend = (a, b, share) => a.map((c, k) => c + (b[k] - c) * share);
const COLOURS = RGB.map(css);
const trace = (path, points) => {
  points.forEach(([x, y], k) => (k ? path.lineTo(x, y) : path.moveTo(x, y)));
  return path;
};
const SHAPES = { // of marks on the threshold axis, about their centre; any other kind is a disc
  paper: [[-4, -3], [4, -3], [0, 4]],
  knee: [[-3.5, -3.5], [3.5, -3.5], [3.5, 3.5], [-3.5, 3.5]],
  oracle: [[0, -5], [4.5, 0], [0, 5], [-4.5, 0]],
};
const lowerBound = (sorted, value) => { // how many of the rising numbers are below `value`
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
};
const whole = new Intl.NumberFormat("en-US");

class GridPainter {
  // --- layout ----------------------------------------------------------------------------------------------------

  // A power of two of columns lets the usual layers wrap into full rows; of those, the largest cells that need no
  // scrolling are taken. Where even the smallest do not fit, the grid scrolls.
  layout() {
    const width = this.width = this.root.clientWidth - 6, { layers, height } = this.data;
    const style = getComputedStyle(this.root);
    this.font = style.fontFamily;
    const pen = this.el.axis.getContext("2d");
    pen.font = `12px ${this.font}`;
    const widest = Math.max(...layers.map(layer => pen.measureText(layer.name).width));
    this.left = Math.ceil(Math.min(widest + 2, Math.max(56, width * 0.22))) + 12;
    const fullest = Math.max(...layers.map(({ size }) => pen.measureText(`${size} / ${size}`).width));
    this.right = Math.ceil(fullest) + 20;
    this.axisHeight = this.plot.base + 46;
    this.root.style.height = `${height}px`;
    const room = height - this.el.head.offsetHeight - this.el.legend.offsetHeight - this.axisHeight - 12;
    const inner = Math.max(width - this.left - this.right, 4 * MIN_PITCH);
    const largest = Math.max(...layers.map(layer => layer.size));
    const shape = (pitch, slack = 0) => {
      const columns = Math.min(2 ** Math.floor(Math.log2(inner / pitch)), 2 ** Math.ceil(Math.log2(largest)));
      const across = Math.min(Math.floor(inner / columns), Math.floor(pitch * WIDEST));
      let y = 1, stage;
      const bands = layers.map(layer => {
        const name = layer.name.split(".")[0];
        if (stage !== undefined) y += BAND_GAP + slack + (name !== stage ? STAGE_GAP : 0);
        stage = name;
        const band = { ...layer, y, height: Math.max(Math.ceil(layer.size / columns) * pitch, BAND_HEIGHT) };
        y += band.height;
        return band;
      });
      return { pitch, across, columns, bands, total: y + 2 };
    };
    const shapes = [];
    for (let pitch = MAX_PITCH; pitch >= MIN_PITCH; pitch--) shapes.push(shape(pitch));
    const shortest = shapes.filter(s => s.pitch <= SCROLL_PITCH).reduce((a, b) => (b.total < a.total ? b : a));
    let best = shapes.find(candidate => candidate.total <= room) ?? shortest;
    const spare = Math.floor((room - best.total) / Math.max(1, layers.length - 1));
    if (spare > 0) best = shape(best.pitch, Math.min(spare, LOOSEST));
    const gap = best.pitch > 12 ? 2 : 1;
    Object.assign(this, best, { cellWidth: best.across - gap, cellHeight: best.pitch - gap });
    this.el.sheet.style.height = `${this.total}px`;
    this.placeLabels();

    const rgb = name => { // resolve any CSS colour to numbers by painting one pixel
      const probe = document.createElement("canvas").getContext("2d");
      probe.fillStyle = style.getPropertyValue(name);
      probe.fillRect(0, 0, 1, 1);
      return [...probe.getImageData(0, 0, 1, 1).data.slice(0, 3)];
    };
    const ink = rgb("--st-text-color"), paper = rgb("--st-background-color");
    const dark = luma(paper) < 128;
    this.ink = css(ink);
    this.paper = css(paper);
    this.soft = css(blend(ink, paper, 0.28));
    this.faint = css(blend(ink, paper, 0.84));
    this.edge = css(blend(ink, paper, dark ? 0.72 : 0.6));
    this.accent = style.getPropertyValue("--st-primary-color");
    // Cut cells keep a trace of their lightness but lean towards the paper, so that they read as taken out.
    this.greys = RGB.map(c => css(blend(Array(3).fill(luma(c)), paper, dark ? 0.7 : 0.65)));
    this.hatch = this.makeHatch(dark ? "rgb(255 255 255 / 60%)" : "rgb(20 26 36 / 75%)");
  }

  makeHatch(colour) {
    const ratio = this.ratio = window.devicePixelRatio || 1, step = Math.round(4 * ratio);
    const tile = document.createElement("canvas");
    tile.width = tile.height = step;
    const pen = tile.getContext("2d");
    pen.strokeStyle = colour;
    pen.lineWidth = 1.1 * ratio;
    for (const shift of [-step, 0, step]) { pen.moveTo(shift - 1, step + 1); pen.lineTo(shift + step + 1, -1); }
    pen.stroke();
    const pattern = pen.createPattern(tile, "repeat");
    pattern.setTransform(new DOMMatrix().scale(1 / ratio));
    return pattern;
  }

  placeLabels() {
    const signature = JSON.stringify(this.bands) + this.left;
    if (signature === this.placed) return;
    this.placed = signature;
    this.el.labels.textContent = "";
    for (const band of this.bands) {
      const name = document.createElement("span"), count = document.createElement("span");
      name.className = "name";
      count.className = "count";
      name.textContent = band.name;
      name.style.width = `${this.left - 12}px`;
      for (const label of [name, count]) {
        label.style.top = `${band.y + (this.cellHeight - 14) / 2}px`;
        this.el.labels.append(label);
      }
      band.count = count;
    }
    this.counters = this.bands.map(band => band.count);
  }

  rectOf(i) {
    const band = this.bands[this.layerOf[i]], k = i - band.offset;
    const x = this.left + (k % this.columns) * this.across, y = band.y + Math.floor(k / this.columns) * this.pitch;
    return { x, y, w: this.cellWidth, h: this.cellHeight };
  }

  unitAt(x, y) {
    const band = this.bands.find(b => y >= b.y - 1 && y < b.y + b.height);
    const column = Math.floor((x - this.left) / this.across);
    if (!band || column < 0 || column >= this.columns) return -1;
    const k = Math.max(0, Math.floor((y - band.y) / this.pitch)) * this.columns + column;
    return k < band.size ? band.offset + k : -1;
  }

  // --- painting --------------------------------------------------------------------------------------------------

  schedule(relayout = false) {
    this.stale ||= relayout;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      if (!this.data || !this.root.isConnected || !this.root.clientWidth) return;
      if (this.stale || this.ratio !== window.devicePixelRatio) this.layout();
      this.stale = false;
      this.paint();
    });
  }

  paint() {
    this.paintCounts();
    this.paintPredicted();
    this.paintAxis();
    this.paintCells();
    if (this.reveal >= 0) this.scrollTo(this.reveal);
    this.reveal = -1;
    this.showTip();
  }

  sheetOf(canvas, width, height) { // a context in CSS pixels on a canvas of device pixels
    const [w, h] = [Math.round(width * this.ratio), Math.round(height * this.ratio)];
    if (canvas.width !== w || canvas.height !== h) {
      [canvas.width, canvas.height] = [w, h];
      [canvas.style.width, canvas.style.height] = [`${width}px`, `${height}px`];
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    return pen;
  }

  paintCounts() {
    const counts = this.bands.map(() => 0);
    for (let i = 0; i < this.values.length; i++) if (this.isCut(i)) counts[this.layerOf[i]]++;
    this.counters.forEach((counter, at) => {
      counter.textContent = this.data.showThreshold ? `${counts[at]} / ${this.bands[at].size}` : this.bands[at].size;
      counter.classList.toggle("some", counts[at] > 0);
    });
    const cut = counts.reduce((a, b) => a + b, 0), hand = [...this.edits.values()];
    const [added, spared] = ["cut", "spare"].map(kind => hand.filter(edit => edit === kind).length);
    const all = whole.format(this.values.length);
    this.el.total.textContent = this.data.showThreshold ? `${whole.format(cut)} of ${all} units cut` : `${all} units`;
    const details = [added && `${whole.format(added)} by hand`, spared && `${whole.format(spared)} spared`];
    this.el.detail.textContent = details.filter(Boolean).join(", ");
    const shown = { spare: spared, byhand: added, none: this.sorted.length < this.values.length };
    for (const [kind, any] of Object.entries(shown)) this.el.legend.querySelector(`.${kind}`).hidden = !any;
  }

  paintCells() {
    const pen = this.sheetOf(this.el.cells, this.width, this.total), cut = [];
    for (let i = 0; i < this.values.length; i++) {
      const { x, y, w, h } = this.rectOf(i);
      if (!this.eligible(i)) {
        pen.strokeStyle = this.edge;
        pen.lineWidth = 1;
        pen.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1);
        continue;
      }
      const gone = this.isCut(i);
      pen.fillStyle = gone ? this.greys[this.tint[i]] : COLOURS[this.tint[i]];
      pen.fillRect(x, y, w, h);
      if (gone) cut.push([x, y, w, h]);
    }
    pen.fillStyle = this.hatch;
    for (const cell of cut) pen.fillRect(...cell);
    for (const [i, edit] of this.edits) this.paintEdit(pen, this.rectOf(i), edit, this.tint[i]);
    this.paintGroup(pen);
    if (this.hover >= 0) this.ring(pen, this.rectOf(this.hover), this.ink, 1);
    if (this.found >= 0) this.ring(pen, this.rectOf(this.found), this.accent, 2);
    if (this.keyboard && this.cursor >= 0) this.ring(pen, this.rectOf(this.cursor), this.accent, 2);
    if (this.selected >= 0) this.ring(pen, this.rectOf(this.selected), this.ink, 2.5);
  }

  paintEdit(pen, { x, y, w, h }, edit, tint) {
    const [cx, cy, r] = [x + w / 2, y + h / 2, Math.min(w, h) / 2], path = new Path2D();
    if (edit === "spare") path.arc(cx, cy, r - 1.5, 0, 7);
    else for (const way of [0.7, -0.7]) trace(path, [[cx - r * 0.7, cy - r * way], [cx + r * 0.7, cy + r * way]]);
    // A spared ring sits on the score's own colour, a cross on hatching: the cross needs a halo.
    if (edit === "cut") { pen.strokeStyle = this.paper; pen.lineWidth = 4; pen.stroke(path); }
    pen.strokeStyle = edit === "cut" ? this.ink : luma(RGB[tint]) > 120 ? "#12161c" : "#ffffff";
    pen.lineWidth = 2;
    pen.stroke(path);
  }

  ring(pen, { x, y, w, h }, colour, weight) { // outside the cell, on a paper-coloured halo: it shows on any colour
    pen.strokeStyle = this.paper;
    pen.lineWidth = weight + 2;
    pen.strokeRect(x - 1, y - 1, w + 2, h + 2);
    pen.strokeStyle = colour;
    pen.lineWidth = weight;
    pen.strokeRect(x - 1.5, y - 1.5, w + 3, h + 3);
  }

  get plot() { // the histogram's frame; the axis reaches 2 % beyond the scores so that the line can rest outside
    const pad = (this.high - this.low) * 0.02, from = this.low - pad, to = this.high + pad;
    const top = this.data.showThreshold ? 20 : 4, base = top + (this.data.showHistogram ? 76 : 14);
    return { left: this.left, right: this.width - 8, top, base, from, to };
  }

  toX(value) {
    const { left, right, from, to } = this.plot;
    return left + Math.min(1, Math.max(0, (value - from) / (to - from))) * (right - left);
  }

  paintAxis() {
    const pen = this.sheetOf(this.el.axis, this.width, this.axisHeight), { left, right, top, base } = this.plot;
    const lineX = Math.round(this.threshold === null ? right : this.toX(this.threshold));
    const kept = [left, 0, lineX - left, base], gone = [lineX, 0, right - lineX + 1, base];
    pen.font = `12px ${this.font}`;
    pen.textBaseline = "alphabetic";
    if (this.data.showHistogram) this.paintBars(pen, kept, gone);
    // The colour key is the axis itself: one strip from low to high suspicion.
    const from = this.toX(this.low), to = this.toX(this.high);
    const strip = pen.createLinearGradient(from, 0, to, 0);
    CIVIDIS.forEach((c, k) => strip.addColorStop(k / (CIVIDIS.length - 1), css(c)));
    pen.fillStyle = strip;
    pen.fillRect(from, base + 1, to - from, 6);
    this.paintTicks(pen);
    if (this.data.showThreshold) { this.paintMarks(pen); this.paintLine(pen, lineX); }
  }

  paintBars(pen, kept, gone) {
    const { left, right, top, base } = this.plot;
    const from = this.toX(this.low), to = this.toX(this.high);
    const bins = Math.max(10, Math.min(80, Math.floor((to - from) / 8))), counts = new Array(bins).fill(0);
    const binOf = value => Math.min(bins - 1, Math.floor(((value - this.low) / (this.high - this.low)) * bins));
    for (const value of this.sorted) counts[binOf(value)]++;
    const most = Math.max(...counts, 10), share = count => (Math.log10(count) + 0.3) / (Math.log10(most) + 0.3);
    const y = count => base - share(count) * (base - top - 6); // the log axis starts at half a unit: one unit shows
    pen.textAlign = "right";
    for (let power = 1; power <= most; power *= 10) {
      const at = Math.round(y(power)) + 0.5;
      pen.strokeStyle = this.faint;
      pen.lineWidth = 1;
      pen.stroke(trace(new Path2D(), [[left, at], [this.width, at]]));
      pen.fillStyle = this.soft;
      pen.fillText(whole.format(power), left - 12, at + 4);
    }
    const step = (to - from) / bins;
    for (const [area, palette] of [[kept, COLOURS], [gone, this.greys]]) { // a bar under the line is split by it
      pen.save();
      pen.beginPath();
      pen.rect(...area);
      pen.clip();
      counts.forEach((count, k) => {
        if (!count) return;
        pen.fillStyle = palette[Math.round(((k + 0.5) / bins) * 255)];
        const bar = [from + k * step, y(count), step - 1, base - y(count)];
        pen.fillRect(...bar);
        if (area !== gone) return;
        pen.fillStyle = this.hatch;
        pen.fillRect(...bar);
      });
      pen.restore();
    }
  }

  paintTicks(pen) {
    const { left, right, base } = this.plot, span = this.high - this.low;
    const rough = span / Math.max(2, Math.min(10, (right - left) / 90)), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(k => k * power).find(k => k >= rough);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    pen.textAlign = "center";
    pen.fillStyle = this.soft;
    for (let k = Math.ceil(this.low / step - 1e-6); k * step <= this.high + step * 1e-6; k++) {
      pen.fillRect(Math.round(this.toX(k * step)), base + 7, 1, 3);
      pen.fillText((k * step).toFixed(digits), this.toX(k * step), base + 22);
    }
    pen.textAlign = "left";
    const label = this.data.scoreLabel + (this.data.showHistogram ? " (units per bar, log scale)" : "");
    pen.fillText(label, left, base + 38, right - left - 110);
    pen.textAlign = "right";
    pen.fillText("more suspicious \u2192", this.width, base + 38);
  }

  paintMarks(pen) {
    const { left, right, base } = this.plot;
    let free = -Infinity;
    this.markAreas = [];
    for (const mark of [...this.data.marks].sort((a, b) => a.value - b.value)) {
      const x = Math.round(this.toX(mark.value)), width = pen.measureText(mark.label).width;
      const text = Math.max(left, Math.min(Math.max(x - width / 2 - 6, free + 12), right - width - 12));
      free = text + width + 12;
      pen.strokeStyle = pen.fillStyle = this.soft;
      pen.lineWidth = 1;
      pen.setLineDash([2, 3]);
      pen.stroke(trace(new Path2D(), [[x + 0.5, 19], [x + 0.5, base]]));
      pen.setLineDash([]);
      const shape = new Path2D(), outline = SHAPES[mark.kind];
      if (outline) trace(shape, [...outline, outline[0]].map(([dx, dy]) => [text + 4 + dx, 9 + dy]));
      else shape.arc(text + 4, 9, 3.5, 0, 7);
      if (mark.kind === "oracle") pen.stroke(shape); // what used the true trigger is open everywhere
      else pen.fill(shape);
      pen.textAlign = "left";
      pen.fillText(mark.label, text + 12, 13);
      this.markAreas.push({ from: text, to: free, value: mark.value });
    }
  }

  paintLine(pen, x) {
    const { top, base } = this.plot, middle = (top + base) / 2;
    pen.fillStyle = this.ink;
    pen.fillRect(x - 1, top - 2, 2, base - top + 10);
    const grip = new Path2D();
    grip.roundRect(x - 6, middle - 11, 12, 22, 4);
    pen.fill(grip);
    pen.fillStyle = this.paper;
    pen.fillRect(x - 2.5, middle - 5, 1.5, 10);
    pen.fillRect(x + 1, middle - 5, 1.5, 10);
    if (!this.data.showHistogram) return;
    const label = this.threshold === null ? "cut nothing" : `cut \u2265 ${this.text(this.threshold)}`;
    pen.font = `600 12px ${this.font}`;
    const width = pen.measureText(label).width, before = x + width + 14 > this.width;
    pen.textAlign = before ? "right" : "left";
    pen.strokeStyle = this.paper;
    pen.lineWidth = 4;
    pen.lineJoin = "round";
    const at = [label, x + (before ? -8 : 8), top + 11];
    pen.strokeText(...at);
    pen.fillStyle = this.ink;
    pen.fillText(...at);
  }

  showTip() {
    const i = [this.hover, this.found, this.keyboard ? this.cursor : -1].find(k => k >= 0) ?? -1, { tip } = this.el;
    tip.hidden = i < 0;
    if (i < 0) return;
    [...tip.children].forEach((line, k) => { line.textContent = this.describe(i)[k]; });
    const { x, y, w, h } = this.rectOf(i);
    const [sheet, root] = [this.el.sheet, this.root].map(element => element.getBoundingClientRect());
    const below = sheet.top - root.top + y + h + 8, above = sheet.top - root.top + y - 8 - tip.offsetHeight;
    const down = Math.round(below + tip.offsetHeight < this.data.height ? below : above);
    const middle = sheet.left - root.left + x + w / 2 - tip.offsetWidth / 2;
    const across = Math.round(Math.max(0, Math.min(middle, this.width - tip.offsetWidth)));
    tip.style.transform = `translate(${across}px, ${down}px)`;
  }

  scrollTo(i) {
    const { y, h } = this.rectOf(i), { scroll } = this.el;
    const above = y - 8, below = y + h + 16 - scroll.clientHeight; // scroll positions that just show the cell
    if (scroll.scrollTop <= above && scroll.scrollTop >= below) return;
    const target = scroll.scrollTop > above ? above : below;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    scroll.scrollTo({ top: target, behavior: calm ? "instant" : "smooth" });
  }
}
