// Draw an array as the line of memory: a cell per element, in the order of the bytes.

const AXES = DATA.axes;
const MEMORY = DATA.memory;
const BIG = (text) => BigInt(text);

// The six numbers (for two axes) of the view: (letter, bytes) in the order b, outputs, taps, c.
function viewStrides() {
  const letters = ["b", ...LETTERS.out, ...LETTERS.tap, "c"];
  return letters.map((letter, i) => [letter, BIG(MEMORY.windows_strides[i])]);
}

// The index of a product in the view, as (letter, index, bytes); positions are counted as in the arrays.
function viewTerms(example, output, tap, channel) {
  const index = [example, ...output, ...tap, channel];
  return viewStrides().map(([letter, stride], i) => [letter, index[i], stride]);
}

function gradientTerms(example, output, channel) {
  const letters = ["b", ...LETTERS.out, "d"];
  const index = [example, ...output, channel];
  return letters.map((letter, i) => [letter, index[i], BIG(DATA.gradient.strides[i])]);
}

function offsetOf(terms, base) {
  return terms.reduce((total, [, index, stride]) => total + BigInt(index) * stride, base);
}

const WHOLE = 130; // elements up to which the whole line is drawn; of a longer one, what is read
const AROUND = 3; // neighbours that are drawn on both sides of an element of a longer line
const MOST_READ = 160; // elements that are read and drawn, of a longer line

class Line {
  // `elements` is a list of [offset, text, kind]; runs of neighbours are drawn without a gap.
  constructor(name, itemsize, elements) {
    this.item = BigInt(itemsize);
    this.elements = [...new Map(elements.map((e) => [e[0], e])).values()].sort((a, b) => (a[0] < b[0] ? -1 : 1));
    this.row = new Map(this.elements.map(([offset], i) => [offset, i]));
    this.jumps = shape("g", { class: "jumps" });
    this.node = shape("svg", { role: "img", "aria-label": `The elements of ${name} in memory` });
    this.draw(this.elements);
  }

  // Draw some of the elements, in order, with a gap where bytes are left out.
  draw(elements) {
    this.at = new Map();
    const width = 28, height = 30, parts = [];
    this.top = 82;
    this.bottom = this.top + height + 20;
    let x = 8, before = null;
    for (const [offset, text, kind] of elements) {
      const starts = before === null || offset - before > this.item;
      if (starts && before !== null) {
        parts.push(shape("text", { class: "gap", x: x + 14, y: this.top + 19 }, "⋯"));
        x += 28;
      }
      const group = shape(
        "g", { class: `byte ${kind}`, "data-offset": offset, transform: `translate(${x} ${this.top})` },
        shape("rect", { width, height }),
        shape("text", { class: `value${text.length > 3 ? " long" : ""}`, x: width / 2, y: 19 }, text),
        shape(
          "text", { class: `at${starts ? " start" : ""}${String(offset).length > 4 ? " wide" : ""}`, x: width / 2, y: height + 14 },
          String(offset),
        ),
      );
      this.at.set(offset, { group, x: x + width / 2 });
      parts.push(group);
      x += width;
      before = offset;
    }
    this.node.setAttribute("width", x + 8);
    this.node.setAttribute("height", this.top + height + 90);
    this.node.replaceChildren(...parts, this.jumps);
  }

  // Choose what is drawn of a long line: what is read, the ends of arcs, and their neighbours.
  around(offsets, arcs) {
    const rows = new Set();
    for (const offset of [...offsets.slice(0, MOST_READ), ...arcs.flat().filter((end) => typeof end === "bigint")]) {
      const row = this.row.get(offset);
      if (row === undefined) continue;
      for (let i = Math.max(row - AROUND, 0); i <= Math.min(row + AROUND, this.elements.length - 1); i++) rows.add(i);
    }
    return [...rows].sort((a, b) => a - b).map((i) => this.elements[i]);
  }

  // Mark the bytes that are read, draw the strides as arcs, scroll to them. An arc is
  // [from, to, letter, above]: above the line inside a window, below it from window to window.
  show(offsets, focus, arcs) {
    if (this.elements.length > WHOLE) this.draw(this.around([focus, ...offsets], arcs));
    for (const { group } of this.at.values()) group.classList.remove("read", "focus");
    const met = offsets.filter((offset) => this.at.has(offset));
    met.forEach((offset) => this.at.get(offset).group.classList.add("read"));
    this.at.get(focus)?.group.classList.add("focus");
    this.jumps.replaceChildren();
    const labels = []; // [middle, half its width, distance from the line, whether above] of each
    for (const [start, end, letter, above] of arcs) {
      const [from, to] = [this.at.get(start), this.at.get(end)];
      if (!from || !to || start === end) continue;
      const y = above ? this.top - 2 : this.bottom;
      const reach = Math.min(10 + Math.abs(to.x - from.x) / 9, 38);
      const peak = above ? y - 2 * reach : y + 2 * reach;
      const middle = (from.x + to.x) / 2;
      const step = end - start;
      const text = `${letter} ${step < 0n ? "−" : "+"}${step < 0n ? -step : step}`;
      const half = 3.6 * text.length;
      let away = reach + (above ? 4 : 12);
      const covers = ([x, h, a, up]) => up === above && Math.abs(x - middle) < half + h && Math.abs(a - away) < 14;
      while (labels.some(covers)) away += 14;
      labels.push([middle, half, away, above]);
      this.jumps.append(
        shape("path", { class: `jump ${KIND[letter]}`, d: `M${from.x} ${y} Q${middle} ${peak} ${to.x} ${y}` }),
        shape("circle", { class: `jump-end ${KIND[letter]}`, cx: to.x, cy: y, r: 2.5 }),
        shape(
          "text", { class: `jump-text ${KIND[letter]}`, x: middle, y: above ? y - away : y + away },
          text,
        ),
      );
    }
    const region = this.node.parentElement;
    if (met.length && region) {
      const xs = met.map((offset) => this.at.get(offset).x);
      const [low, high] = [Math.min(...xs), Math.max(...xs)];
      region.scrollLeft = high - low > region.clientWidth - 60 ? low - 40 : (low + high - region.clientWidth) / 2;
    }
  }
}
