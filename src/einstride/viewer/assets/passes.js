// The three passes, step by step: which elements are multiplied, where they lie, what their sum is.
//
// A step is { caption, target, products, total, arcs }. A product is { left, right, at, terms, base }:
// two factors as [text, value], the cells to mark, and the terms whose sum is the byte offset.

const D = DATA.drawn;
const V = DATA.values;
const X = AXES.map((axis) => axis.stop - axis.start);
const O = AXES.map((axis) => axis.outputs[1] - axis.outputs[0]);
const K = AXES.map((axis) => axis.taps);
const FIRST_X = AXES.map((axis) => axis.start);
const FIRST_O = AXES.map((axis) => axis.outputs[0]);
const INNER = DATA.shapes.f.at(-2);
const OUTER = DATA.shapes.f.at(-1) / DATA.groups;

const atX = (values, b, p, g, c) => values[place([b, ...p, g, c], [D.batch, ...X, D.groups, D.channels])];
const atY = (values, b, o, g, d) => values[place([b, ...o, g, d], [D.batch, ...O, D.groups, D.filters])];
const atF = (values, k, g, c, d) => values[place([...k, g, c, d], [...K, D.groups, D.channels, D.filters])];

const plus = (index, first) => index.map((i, a) => i + first[a]);
const position = (o, k) => AXES.map((axis, a) => (o[a] + FIRST_O[a]) * axis.stride + k[a] * axis.dilation - axis.low - axis.start);
const inGroup = (g, i) => i >= g * D.channels && i < (g + 1) * D.channels;
const filterIndex = (k) => (DATA.flip ? k.map((i, a) => AXES[a].kernel - 1 - i) : k);
const held = (p) => p.every((i, a) => AXES[a].sources[i] >= 0);
const kindOf = (p) => {
  const kinds = p.map((i, a) => AXES[a].kinds[i]);
  return ["cropped", "border", "hole"].find((kind) => kinds.includes(kind)) ?? "inside";
};
const xName = (b, p, g, c) =>
  held(p)
    ? `x[${[b, ...p.map((i, a) => AXES[a].sources[i]), g * INNER + c].join(", ")}]`
    : "0";
const labels = (groups, channels, all) =>
  groups * channels === 1 && all === 1
    ? [""]
    : Array.from({ length: groups * channels }, (_, i) => {
        const [g, c] = digits(i, [groups, channels]);
        return DATA.groups > 1 ? `g${g} c${c}` : `${c}`;
      });
const tuple = (values) => `(${values.join(", ")}${values.length === 1 ? "," : ""})`;

// ---- the three arrays, as sheets ------------------------------------------------------------------

function inputSheets(name, choose = null) {
  return new Sheets({
    name, shown: tuple(DATA.shapes.x), lengths: X, origin: FIRST_X, kinds: kindOf, choose,
    channels: labels(D.groups, D.channels, DATA.shapes.x.at(-1)).map((l) => (l && DATA.groups === 1 ? `c = ${l}` : l)), depth: D.batch,
  });
}

function outputSheets(name, choose = null) {
  return new Sheets({
    name, shown: tuple(DATA.shapes.y), lengths: O, origin: FIRST_O, choose,
    channels: labels(D.groups, D.filters, DATA.shapes.y.at(-1)).map((l) => (l ? (DATA.groups === 1 ? `d = ${l}` : l.replace("c", "d")) : l)), depth: D.batch,
  });
}

function filterSheets(name, choose = null) {
  return new Sheets({
    name, shown: tuple(DATA.shapes.f), lengths: K, origin: K.map(() => 0), choose,
    channels: D.channels === 1 && INNER === 1 ? [""] : Array.from({ length: D.channels }, (_, c) => `c = ${c}`),
    depth: D.filters * D.groups,
  });
}

function fillInput(sheets, values, b) {
  sheets.fill((p, channel) => {
    const [g, c] = digits(channel, [D.groups, D.channels]);
    return atX(values, b, p, g, c);
  });
  sheets.caption.textContent = D.batch > 1 ? `example ${b} of ${DATA.shapes.x[0]}` : "";
}

function fillFilter(sheets, g, d, value = (k, c) => atF(V.f, k, g, c, d)) {
  sheets.fill((k, c) => value(k, c));
  const groups = DATA.groups > 1 ? `group ${g}, ` : "";
  sheets.caption.textContent = DATA.shapes.f.at(-1) > 1 ? `${groups}filter d = ${g * OUTER + d}` : "";
}

function others(groups, channels, g) {
  return Array.from({ length: groups * channels }, (_, i) => i).filter((i) => Math.floor(i / channels) !== g);
}

function extent() {
  return AXES.map((axis) => (axis.taps - 1) * axis.dilation + 1);
}

// Arcs of the strides from one element of the view: to its neighbours inside, and to the next windows.
function viewArcs(index, lengths, start, inside) {
  return viewStrides().flatMap(([letter, stride], i) => {
    if (letter === "b" || index[i] + 1 >= lengths[i]) return [];
    return [[start, start + stride, letter, inside.includes(letter)]];
  });
}

function gradientArcs(terms) {
  const start = offsetOf(terms, 0n);
  return terms.slice(1).map(([letter, , stride]) => [start, start + stride, letter, true]);
}

// What gradients of complex numbers multiply by.
const CONJ = DATA.complex ? "conj " : "";

const VIEW_LENGTHS = [D.batch, ...O, ...K, D.channels];

// ---- forward ---------------------------------------------------------------------------------------

const FORWARD = {
  name: "Forward",
  story: [
    "The window slides over x with its border; each output is the sum of the window times the filter. ",
    "All windows together are one view v of the memory of x, or of its copy with the border: no window is copied.",
  ],
  lengths: [D.batch, D.groups, D.filters, ...O],
  build(go) {
    const jump = (o, channel) => {
      const [g, d] = digits(channel, [D.groups, D.filters]);
      go(place([this.example, g, d, ...o], this.lengths));
    };
    this.x = inputSheets("x");
    this.f = filterSheets(DATA.flip ? "f, reversed" : "f");
    this.y = outputSheets("y", jump);
    return [this.x.node, after("∗", this.f), after("=", this.y)];
  },
  equation() {
    const o = LETTERS.out, k = LETTERS.tap;
    const y = ["b", ...o, ...group(), "d"], v = ["b", ...o, ...k, ...group(), "c"], f = [...k, ...group(), "c", "d"];
    return ["einsum ", ...letters(v), ", ", ...letters(f), " → ", ...letters(y)];
  },
  step(number) {
    const [b, g, d, ...o] = digits(number, this.lengths);
    this.example = b;
    const now = place([g, d, ...o], this.lengths.slice(1));
    fillInput(this.x, V.x, b);
    fillFilter(this.f, g, d);
    this.y.fill((index, channel) => {
      const [gg, dd] = digits(channel, [D.groups, D.filters]);
      return place([gg, dd, ...index], this.lengths.slice(1)) <= now ? atY(V.y, b, index, gg, dd) : null;
    });
    this.y.caption.textContent = D.batch > 1 ? `example ${b} of ${DATA.shapes.y[0]}` : "";
    [this.x, this.f, this.y].forEach((sheets) => sheets.clear());
    this.x.aside(others(D.groups, D.channels, g));
    this.y.mark(o, g * D.filters + d, "now");
    const products = [];
    for (const k of indices(K)) {
      for (let c = 0; c < D.channels; c++) {
        const p = position(o, k), channel = g * D.channels + c;
        this.x.mark(p, channel, "read");
        this.f.mark(k, c, "read");
        products.push({
          left: [xName(b, p, g, c), atX(V.x, b, p, g, c)],
          right: [`f[${[...filterIndex(k), c, g * OUTER + d].join(", ")}]`, atF(V.f, k, g, c, d)],
          at: [[this.x, p, channel], [this.f, k, c]],
          terms: viewTerms(b, plus(o, FIRST_O), k, g * INNER + c),
          base: BIG(MEMORY.base),
        });
      }
    }
    for (let c = 0; c < D.channels; c++) this.x.frame(position(o, K.map(() => 0)), extent(), g * D.channels + c);
    const start = offsetOf(products[0].terms, BIG(MEMORY.base));
    return {
      target: ["y", [b, ...plus(o, FIRST_O), g * OUTER + d]],
      caption: `Output ${tuple(plus(o, FIRST_O))} of filter ${g * OUTER + d}: its window begins at position ${tuple(plus(position(o, K.map(() => 0)), FIRST_X))}.`,
      products, total: atY(V.y, b, o, g, d),
      arcs: viewArcs([b, ...o, ...K.map(() => 0), 0], VIEW_LENGTHS, start, [...LETTERS.tap, "c"]),
    };
  },
};

// ---- input gradient ----------------------------------------------------------------------------------

const GATHER = {
  name: "Input gradient",
  get story() {
    const phases = count(AXES.map((axis) => Math.min(axis.stride, axis.size)));
    return [
      "Gather: each element of gx is one sum. ",
      phases > 1
        ? `The stride sorts the elements into ${phases} phases (colours): in each, only some taps meet an output, and they form a dense convolution of gy. einstride computes these and multiplies no inserted zero.`
        : "With a stride of one there is one phase: gx is a convolution of gy with the reversed filter.",
    ];
  },
  lengths: [D.batch, D.groups, D.channels, ...X],
  possible: AXES.every((axis) => axis.pairs !== null),
  elements() {
    this.inside ??= indices(X).filter((p) => held(p) && ["inside", "cropped"].includes(kindOf(p)));
    this.rows ??= new Map(this.inside.map((p, i) => [place(p, X), i]));
    return this.inside;
  },
  // The number of an element among those of gx; -1 in the border.
  row(p) {
    return this.rows.get(place(p, X)) ?? -1;
  },
  get steps() {
    return D.batch * D.groups * D.channels * Math.max(this.elements().length, 1);
  },
  build(go) {
    const jump = (p, channel) => {
      const at = this.row(p);
      const [g, c] = digits(channel, [D.groups, D.channels]);
      if (at >= 0) go(place([this.example, g, c, at], [D.batch, D.groups, D.channels, this.elements().length]));
    };
    this.y = outputSheets("gy");
    this.f = filterSheets(DATA.flip ? "f, reversed" : "f");
    this.x = inputSheets("gx", jump);
    for (const p of DATA.repeats ? indices(X) : this.elements()) {
      const phase = place(p.map((i, a) => AXES[a].phases[i]), AXES.map((axis) => axis.stride));
      for (let channel = 0; channel < D.groups * D.channels; channel++) this.x.mark(p, channel, `phase${phase % 6}`);
    }
    return [this.y.node, after("∗", this.f), after("=", this.x)];
  },
  equation() {
    const p = LETTERS.at;
    return ["gx", ...bracket(["b", ...p, "c"]), " = Σ gy", ...bracket(["b", ...p.map((l, a) => `(${l} + ${AXES[a].low} − ${LETTERS.tap[a]}·${AXES[a].dilation}) / ${AXES[a].stride}`), "d"]), ` ${CONJ}f`, ...bracket([...LETTERS.tap, "c", "d"])];
  },
  step(number) {
    const elements = this.elements();
    const [b, g, c, at] = digits(number, [D.batch, D.groups, D.channels, elements.length]);
    this.example = b;
    const p = elements[at], channel = g * D.channels + c;
    const sources = p.map((i, a) => AXES[a].sources[i]);
    this.y.fill((o, i) => atY(V.gy, b, o, ...digits(i, [D.groups, D.filters])));
    this.y.caption.textContent = D.batch > 1 ? `example ${b} of ${DATA.shapes.y[0]}` : "";
    fillFilter(this.f, g, 0);
    this.x.fill((q, i) => {
      const k = this.row(q);
      return k >= 0 && i * elements.length + k <= channel * elements.length + at ? atX(V.gx, b, q, ...digits(i, [D.groups, D.channels])) : null;
    });
    this.x.caption.textContent = D.batch > 1 ? `example ${b} of ${DATA.shapes.x[0]}` : "";
    [this.x, this.f, this.y].forEach((sheets) => sheets.clear());
    this.x.mark(p, channel, "now");
    this.y.aside(others(D.groups, D.filters, g));
    const perAxis = AXES.map((axis, a) =>
      axis.sources.flatMap((source, q) => (source === sources[a] ? axis.pairs[q].map(([k, o]) => [q, k, o - FIRST_O[a]]) : [])),
    );
    const products = [];
    const repeats = new Set();
    for (const met of combinations(perAxis)) {
      const q = met.map((m) => m[0]), k = met.map((m) => m[1]), o = met.map((m) => m[2]);
      repeats.add(q.join());
      if (q.join() !== p.join()) this.x.mark(q, channel, "read");
      for (let d = 0; d < D.filters; d++) {
        const out = g * D.filters + d;
        this.y.mark(o, out, "read");
        this.f.mark(k, c, "read");
        products.push({
          left: [`gy[${[b, ...plus(o, FIRST_O), g * OUTER + d].join(", ")}]`, atY(V.gy, b, o, g, d)],
          right: [`${DATA.complex ? "conj " : ""}f[${[...filterIndex(k), c, g * OUTER + d].join(", ")}]`, conjugate(atF(V.f, k, g, c, d))],
          at: [[this.y, o, out], [this.f, k, c]],
          filter: [g, d],
          terms: gradientTerms(b, plus(o, FIRST_O), g * OUTER + d), base: 0n,
        });
      }
    }
    const phase = p.map((i, a) => AXES[a].phases[i]);
    const folded = repeats.size > 1 ? ` The border repeats this element ${repeats.size - (repeats.has(p.join()) ? 1 : 0)} times: the gradients of these positions are added.` : "";
    return {
      target: ["gx", [b, ...sources, g * INNER + c]],
      caption: `Element ${tuple(sources)} of channel ${g * INNER + c}: phase ${tuple(phase)}, ${products.length} product${products.length === 1 ? "" : "s"}.${folded}`,
      products, total: atX(V.gx, b, p, g, c), arcs: products.length ? gradientArcs(products[0].terms) : [],
    };
  },
  focus(product) {
    if (product) fillFilter(this.f, ...product.filter);
  },
};

const SCATTER = {
  name: "Input gradient",
  story: [
    "Scatter: each output gives its gradient back to the elements of its window, times the tap that it met. ",
    "Windows overlap, so elements of gx are read and written several times; the gather writes each of them once.",
  ],
  lengths: [D.batch, D.groups, D.filters, ...O],
  get steps() {
    return count(this.lengths) + (DATA.bordered ? D.batch : 0);
  },
  build(go) {
    const jump = (o, channel) => {
      const [g, d] = digits(channel, [D.groups, D.filters]);
      go(this.number(this.example, place([g, d, ...o], this.lengths.slice(1))));
    };
    this.y = outputSheets("gy", jump);
    this.f = filterSheets(DATA.flip ? "f, reversed" : "f");
    this.x = inputSheets("gx");
    return [this.y.node, after("⊗", this.f), after("→", this.x)];
  },
  // The steps of an example: one for each output, and one that folds or drops the border.
  perExample() {
    return count(this.lengths.slice(1)) + (DATA.bordered ? 1 : 0);
  },
  number(b, i) {
    return b * this.perExample() + i;
  },
  equation() {
    const o = LETTERS.out, k = LETTERS.tap;
    return ["gx", ...bracket(["b", ...o.map((l, a) => `${l}·${AXES[a].stride} + ${k[a]}·${AXES[a].dilation} − ${AXES[a].low}`), "c"]), " += gy", ...bracket(["b", ...o, "d"]), ` ${CONJ}f`, ...bracket([...k, "c", "d"])];
  },
  step(number) {
    const [b, at] = digits(number, [D.batch, this.perExample()]);
    this.example = b;
    const last = count(this.lengths.slice(1));
    const folds = at === last;
    const partial = Array(count([...X, D.groups, D.channels])).fill(null);
    const key = (p, g, c) => place([...p, g, c], [...X, D.groups, D.channels]);
    for (let i = 0; i <= Math.min(at, last - 1); i++) {
      const [g, d, ...o] = digits(i, this.lengths.slice(1));
      for (const k of indices(K)) {
        const p = position(o, k), gradient = atY(V.gy, b, o, g, d);
        for (let c = 0; c < D.channels; c++) {
          const term = product(gradient, conjugate(atF(V.f, k, g, c, d))), j = key(p, g, c);
          partial[j] = partial[j] === null ? term : sum(partial[j], term);
        }
      }
    }
    this.x.fill((p, channel) => {
      const [g, c] = digits(channel, [D.groups, D.channels]);
      if (!folds) return partial[key(p, g, c)];
      return held(p) && ["inside", "cropped"].includes(kindOf(p)) ? atX(V.gx, b, p, g, c) : null;
    });
    [this.x, this.f, this.y].forEach((sheets) => sheets.clear());
    const [g, d, ...o] = digits(Math.min(at, last - 1), this.lengths.slice(1));
    fillFilter(this.f, g, d);
    this.y.fill((index, i) => atY(V.gy, b, index, ...digits(i, [D.groups, D.filters])));
    this.y.caption.textContent = this.x.caption.textContent = D.batch > 1 ? `example ${b}` : "";
    if (folds) {
      const held = DATA.fill.some((number) => number !== 0) ? "a constant" : "zeros";
      const what = DATA.repeats ? "The border repeats elements of x: its gradients are added to theirs." : `The border held ${held}, which ${held === "zeros" ? "need" : "needs"} no gradient: it is left out.`;
      return { target: ["gx", []], caption: `Last step: ${what}`, products: [], total: null, arcs: [] };
    }
    this.y.mark(o, g * D.filters + d, "now");
    const products = [];
    for (const k of indices(K)) {
      for (let c = 0; c < D.channels; c++) {
        const p = position(o, k), channel = g * D.channels + c;
        this.x.mark(p, channel, "read");
        this.f.mark(k, c, "read");
        products.push({
          left: [`gy[${[b, ...plus(o, FIRST_O), g * OUTER + d].join(", ")}]`, atY(V.gy, b, o, g, d)],
          right: [`${DATA.complex ? "conj " : ""}f[${[...filterIndex(k), c, g * OUTER + d].join(", ")}]`, conjugate(atF(V.f, k, g, c, d))],
          at: [[this.x, p, channel], [this.f, k, c]],
          into: held(p) ? xName(b, p, g, c).replace("x", "gx") : "a position that holds no element of x",
          terms: gradientTerms(b, plus(o, FIRST_O), g * OUTER + d), base: 0n,
        });
      }
    }
    for (let c = 0; c < D.channels; c++) this.x.frame(position(o, K.map(() => 0)), extent(), g * D.channels + c);
    return {
      target: ["gx", []],
      caption: `gy of output ${tuple(plus(o, FIRST_O))}, filter ${g * OUTER + d}, is added to ${products.length} elements, times their taps.`,
      products, total: null, arcs: gradientArcs(products[0].terms),
    };
  },
};

// ---- filter gradient -----------------------------------------------------------------------------------

const FILTER = {
  name: "Filter gradient",
  story: [
    "The same view again: the gradient of one tap is the sum of all elements of x that the tap met, times gy. ",
    "So gf is a correlation of x with gy, whose elements lie a stride apart.",
  ],
  lengths: [D.groups, D.filters, D.channels, ...K],
  build(go) {
    const jump = (k, c) => go(place([...this.filter, c, ...k], this.lengths));
    this.x = inputSheets("x");
    this.y = outputSheets("gy");
    this.f = filterSheets(DATA.flip ? "gf, reversed" : "gf", jump);
    return [this.x.node, after("∗", this.y), after("=", this.f)];
  },
  equation() {
    const o = LETTERS.out, k = LETTERS.tap;
    return ["einsum ", CONJ, ...letters(["b", ...o, ...k, ...group(), "c"]), ", ", ...letters(["b", ...o, ...group(), "d"]), " → ", ...letters([...k, ...group(), "c", "d"])];
  },
  step(number) {
    const [g, d, c, ...k] = digits(number, this.lengths);
    this.filter = [g, d];
    this.tap = k;
    this.channels = [g * D.channels + c, g * D.filters + d];
    const now = place([c, ...k], this.lengths.slice(2));
    fillFilter(this.f, g, d, (index, i) => (place([i, ...index], this.lengths.slice(2)) <= now ? atF(V.gf, index, g, i, d) : null));
    const products = [];
    for (let b = 0; b < D.batch; b++) {
      for (const o of indices(O)) {
        const p = position(o, k);
        products.push({
          left: [`${CONJ}${xName(b, p, g, c)}`, conjugate(atX(V.x, b, p, g, c))],
          right: [`gy[${[b, ...plus(o, FIRST_O), g * OUTER + d].join(", ")}]`, atY(V.gy, b, o, g, d)],
          at: [[this.x, p, g * D.channels + c], [this.y, o, g * D.filters + d]],
          example: b,
          terms: viewTerms(b, plus(o, FIRST_O), k, g * INNER + c), base: BIG(MEMORY.base),
        });
      }
    }
    this.focus(products[0]);
    const start = offsetOf(products[0].terms, BIG(MEMORY.base));
    return {
      target: ["gf", [...filterIndex(k), c, g * OUTER + d]],
      caption: `Tap ${tuple(filterIndex(k))} of channel ${c}, filter ${g * OUTER + d}: it met ${products.length} elements of x.`,
      products, total: atF(V.gf, k, g, c, d),
      arcs: viewArcs([0, ...O.map(() => 0), ...k, c], VIEW_LENGTHS, start, LETTERS.out),
    };
  },
  focus(product) {
    const b = product?.example ?? 0, [g, d] = this.filter;
    fillInput(this.x, V.x, b);
    this.y.fill((index, i) => atY(V.gy, b, index, ...digits(i, [D.groups, D.filters])));
    this.y.caption.textContent = D.batch > 1 ? `example ${b} of ${DATA.shapes.y[0]}` : "";
    [this.x, this.f, this.y].forEach((sheets) => sheets.clear());
    this.x.aside(others(D.groups, D.channels, g));
    this.y.aside(others(D.groups, D.filters, g));
    for (const o of indices(O)) {
      this.x.mark(position(o, this.tap), this.channels[0], "read");
      this.y.mark(o, this.channels[1], "read");
    }
    const span = AXES.map((axis, a) => (O[a] - 1) * axis.stride + 1);
    this.x.frame(position(O.map(() => 0), this.tap), span, this.channels[0]);
    this.f.mark(this.tap, this.channels[0] % D.channels, "now");
  },
};

// ---- what the passes share --------------------------------------------------------------------------------

// A sign and the operand after it, which stay side by side.
function after(sign, operand) {
  return element("div", { class: "after" }, element("span", { class: "sign", "aria-hidden": "true" }, sign), operand.node);
}

function group() {
  return DATA.groups > 1 ? ["g"] : [];
}

function letters(names) {
  return names.map((letter) => coloured(letter));
}

function bracket(names) {
  return ["[", ...names.flatMap((name, i) => [i ? ", " : "", KIND[name] ? coloured(name) : mixed(name)]), "]"];
}

// An index such as "h·2 + i − 1", with each letter in its colour.
function mixed(text) {
  return element("span", {}, ...[...text].map((letter) => (KIND[letter] ? coloured(letter) : letter)));
}

const PASSES = { forward: FORWARD, gather: GATHER, scatter: SCATTER, filter_grad: FILTER };
