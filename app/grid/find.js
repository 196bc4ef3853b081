// The find box: what is typed is looked for here, and only Enter tells the server. An id, the beginning of one, a short
// form ("l4.1 87"; of several layers the last one that has such a unit, as app/data.py has it) or a number will do.

class GridFinder extends GridSeveral {
  // The unit that a text names, -1 if none does.
  match(text) {
    const typed = text.trim().toLowerCase(), plain = typed.replaceAll(",", "");
    if (!typed) return -1;
    if (/^\d+$/.test(plain) && Number(plain) < this.ids.length) return Number(plain);
    const ids = this.lowered ??= this.ids.map(id => id.toLowerCase());
    const exact = ids.indexOf(typed);
    if (exact >= 0) return exact;
    const short = typed.match(/^([\w.-]+?)\s*[:/#\s]\s*(\d{1,6})$/);
    const named = beginning => this.bands.filter(band => abbreviates(beginning, band.name.toLowerCase()));
    if (short) {
      const having = named(short[1]).filter(band => Number(short[2]) < band.size);
      return having.length ? having.at(-1).offset + Number(short[2]) : -1;
    }
    const begins = ids.findIndex(id => id.startsWith(typed));
    return begins >= 0 ? begins : named(typed.replace(/[:/#\s]+$/, ""))[0]?.offset ?? -1;
  }

  look() { // at what is typed so far
    const { value } = this.el.finder;
    this.refuse("");
    this.found = this.reveal = this.match(value);
    this.schedule();
    clearTimeout(this.pause);
    this.pause = setTimeout(() => {
      if (this.found >= 0) this.sayUnit(this.found);
      else if (value.trim()) this.say(`no unit ${value.trim()}`);
    }, KEY_PAUSE);
  }

  refuse(text) {
    this.el.refusal.textContent = text;
    this.el.refusal.hidden = !text;
    this.el.finder.setAttribute("aria-invalid", String(Boolean(text)));
    if (text) this.say(text);
  }

  take() {
    const { finder } = this.el, i = this.match(finder.value), last = this.ids.length - 1;
    clearTimeout(this.pause);
    if (!finder.value.trim()) return;
    if (i < 0) {
      this.refuse(`No unit ${finder.value.trim()}: try ${this.ids[last]}, or a number from 0 to ${whole.format(last)}.`);
      return;
    }
    this.found = -1;
    this.cursor = this.reveal = i;
    finder.select();
    if (i !== this.selected) return this.select(i);
    this.sayUnit(i);
    this.schedule();
  }

  forget() {
    clearTimeout(this.pause);
    this.el.finder.value = "";
    this.found = -1;
    this.refuse("");
    this.schedule();
  }

  listenForNames() {
    const { finder, cells } = this.el;
    this.found = -1;
    finder.addEventListener("input", () => this.look());
    finder.addEventListener("blur", () => { this.found = -1; this.schedule(); });
    finder.addEventListener("keydown", event => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      event.stopPropagation(); // letters are typed here, whatever they are short for on the page
      if (event.key === "Enter") this.take();
      if (event.key !== "Escape") return;
      event.preventDefault();
      if (finder.value) this.forget();
      else cells.focus();
    });
  }
}

function abbreviates(short, name) { // each part begins the part at its place: letters may be few, digits count
  const split = part => part.match(/^(.*?)(\d*)$/).slice(1);
  const parts = name.split("."), wanted = short.split(".");
  return wanted.length <= parts.length && wanted.every((begin, k) => {
    const [letters, digits] = split(parts[k]), [few, number] = split(begin);
    return letters.startsWith(few) && number === digits;
  });
}
