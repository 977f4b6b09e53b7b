// Tabs, steps, keys and exercises: everything that the reader moves.

const TABS = [
  ["forward", "Forward"], ["input_grad", "Input gradient"], ["filter_grad", "Filter gradient"],
  ["plan", "Plan"], ["exercises", "Exercises"],
];
const MOST_PRODUCTS = 48; // of a sum are written out

const state = { tab: null, way: GATHER.possible ? "gather" : "scatter", pass: null, step: 0, focus: 0, shown: null, line: null, timer: null };

function start() {
  get("title").textContent = DATA.title;
  get("summary").textContent = DATA.summary === DATA.title ? `dtypes x ${DATA.dtypes.x}, f ${DATA.dtypes.f}, y ${DATA.dtypes.y}` : DATA.summary;
  get("settings").append(...DATA.settings.map(([name, value]) => element("li", {}, element("b", {}, name), ` ${value}`)));
  const notes = [DATA.order, DATA.drawn.text].filter(Boolean);
  get("part").hidden = notes.length === 0;
  get("part").textContent = notes.join(" ");
  const tabs = get("tabs");
  TABS.forEach(([id, name], i) => tabs.append(element("button", {
    type: "button", role: "tab", id: `tab-${id}`, "aria-controls": panelOf(id), "aria-selected": "false",
    onclick: () => open(id),
    onkeydown: (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!move) return;
      event.preventDefault();
      event.stopPropagation();
      const other = TABS[(i + move + TABS.length) % TABS.length][0];
      open(other);
      get(`tab-${other}`).focus();
    },
  }, name)));
  const ways = { gather: "Gather by phases", scatter: "Scatter" };
  if (!GATHER.possible) delete ways.gather;
  state.ways = radios(get("ways"), ways, (way) => { state.way = way; open("input_grad"); });
  get("panel-plan").append(...planPanel());
  get("panel-exercises").append(...exercisePanel());
  get("slider").addEventListener("input", (event) => { pause(); go(Number(event.target.value)); });
  const press = { first: () => go(0), back: () => go(state.step - 1), next: () => go(state.step + 1), last: () => go(steps() - 1) };
  for (const [id, action] of Object.entries(press)) get(id).addEventListener("click", () => { pause(); action(); });
  get("play").addEventListener("click", toggle);
  document.addEventListener("keydown", onKey);
  const wanted = new URLSearchParams(location.search).get("tab"); // page.html?tab=plan
  open(TABS.some(([id]) => id === wanted) ? wanted : DATA.direction);
  if (window.parent === window) return;
  tellHeight(); // at once: browsers may not observe a frame that is out of sight
  new ResizeObserver(tellHeight).observe(document.documentElement);
}

// Tells a page that holds this one in a frame how high it is, so that the frame can fit.
function tellHeight() {
  const height = Math.ceil(document.documentElement.getBoundingClientRect().height);
  window.parent.postMessage({ einstrideHeight: height }, "*");
}

function panelOf(id) {
  return id === "plan" || id === "exercises" ? `panel-${id}` : "panel-pass";
}

// Scrolls the bar alone: `scrollIntoView` would move a page that holds this one in a frame.
function bringIntoView(bar, tab) {
  const left = tab.offsetLeft - bar.offsetLeft;
  bar.scrollLeft = Math.min(Math.max(bar.scrollLeft, left + tab.offsetWidth - bar.clientWidth), left);
}

function open(tab) {
  pause();
  state.tab = tab;
  for (const [id] of TABS) {
    const selected = id === tab;
    get(`tab-${id}`).setAttribute("aria-selected", String(selected));
    get(`tab-${id}`).tabIndex = selected ? 0 : -1;
    if (selected) bringIntoView(get("tabs"), get(`tab-${id}`));
  }
  for (const id of ["panel-pass", "panel-plan", "panel-exercises"]) get(id).hidden = id !== panelOf(tab);
  get(panelOf(tab)).setAttribute("aria-labelledby", `tab-${tab}`);
  if (panelOf(tab) !== "panel-pass") return;
  get("ways").hidden = tab !== "input_grad";
  for (const [key, button] of Object.entries(state.ways)) {
    button.setAttribute("aria-checked", String(key === state.way));
    button.tabIndex = key === state.way ? 0 : -1;
  }
  state.pass = PASSES[tab === "input_grad" ? state.way : tab];
  get("story").textContent = state.pass.story.join("");
  get("stage").replaceChildren(...state.pass.build(go));
  get("equation").replaceChildren(...state.pass.equation());
  drawLine(tab === "input_grad");
  get("slider").max = steps() - 1;
  go(0);
}

function steps() {
  return state.pass.steps ?? count(state.pass.lengths);
}

// ---- steps --------------------------------------------------------------------------------------------

function go(step) {
  state.step = Math.max(0, Math.min(step, steps() - 1));
  state.focus = 0;
  get("slider").value = state.step;
  get("count").textContent = `${state.step + 1} of ${steps()}`;
  state.shown = state.pass.step(state.step);
  get("caption").textContent = state.shown.caption;
  writeSum();
  focus(0, false);
}

function focus(number, moves = true) {
  const { products, arcs } = state.shown;
  state.focus = products.length ? (number + products.length) % products.length : 0;
  const product = products[state.focus];
  if (moves || state.pass === GATHER) state.pass.focus?.(product);
  if (state.pass.x) {
    for (const sheets of [state.pass.x, state.pass.f, state.pass.y]) {
      for (const cell of sheets.cells) cell.classList.remove("focus");
    }
  }
  product?.at.forEach(([sheets, index, channel]) => sheets.mark(index, channel, "focus"));
  for (const term of document.querySelectorAll(".term")) term.classList.toggle("focus", Number(term.dataset.number) === state.focus);
  const offsets = products.map((p) => offsetOf(p.terms, p.base));
  state.line.show(offsets, offsets[state.focus], arcs);
  writeFormula(product);
}

function toggle() {
  if (state.timer) return pause();
  if (state.step === steps() - 1) go(0);
  get("caption").setAttribute("aria-live", "off"); // a reader would hear every step
  get("play").textContent = "Pause";
  get("play").setAttribute("aria-label", "Pause");
  state.timer = setInterval(() => (state.step === steps() - 1 ? pause() : go(state.step + 1)), 700);
}

function pause() {
  clearInterval(state.timer);
  state.timer = null;
  get("caption").setAttribute("aria-live", "polite");
  get("play").textContent = "Play";
  get("play").setAttribute("aria-label", "Play");
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=text]")) return;
  if (/^[1-5]$/.test(event.key)) {
    open(TABS[Number(event.key) - 1][0]);
    get(panelOf(state.tab)).focus({ preventScroll: true }); // so that the arrows step, and choose no tab
    return;
  }
  if (panelOf(state.tab) !== "panel-pass") return;
  const slider = event.target.id === "slider";
  const onButton = event.target.matches("button, summary");
  const actions = {
    ArrowRight: () => { pause(); go(state.step + 1); }, ArrowLeft: () => { pause(); go(state.step - 1); },
    Home: () => { pause(); go(0); }, End: () => { pause(); go(steps() - 1); },
    "]": () => focus(state.focus + 1), "[": () => focus(state.focus - 1),
    " ": toggle,
  };
  const action = actions[event.key];
  if (!action || (event.key === " " && onButton) || (slider && event.key !== " " && event.key !== "[" && event.key !== "]")) return;
  event.preventDefault();
  action();
}

// ---- the sum, the line of memory, the offset ---------------------------------------------------------------

function writeSum() {
  const { target, products, total } = state.shown;
  const [name, index] = target;
  const written = products.slice(0, MOST_PRODUCTS).flatMap((p, i) => [
    i ? " + " : "",
    element("button", {
      type: "button", class: "term", "data-number": i, "data-offset": offsetOf(p.terms, p.base), tabindex: -1,
      title: `${p.left[0]} · ${p.right[0]}${p.into ? ` → ${p.into}` : ""}`, onclick: () => { pause(); focus(i); },
    }, factor(p.left[1]), "·", factor(p.right[1])),
  ]);
  const more = products.length - MOST_PRODUCTS;
  get("sum").replaceChildren(
    element("b", {}, name + (index.length ? `[${index.join(", ")}]` : "")), total === null ? " += " : " = ",
    ...(products.length ? written : ["0"]),
    more > 0 ? ` + ${more} more products` : "",
    total === null ? "" : element("span", {}, " = ", element("b", { id: "total", title: full(total) }, short(total))),
  );
  if (!products.length && total === null) get("sum").replaceChildren("Nothing is multiplied in this step.");
}

const GROUPED = DATA.groups > 1 ? ` Its channels are those of all groups: number g·${INNER} + c.` : "";
const EXPLAINED = "A stride is the number of bytes from one index of an axis to the next: the arcs. Numbers below the cells are byte offsets.";
const WHERE = { 1: [""], 2: [" row", " column"], 3: [" slice", " row", " column"] }[DATA.rank];
const NAMES = { b: "example", c: "channel", d: "filter" };
LETTERS.out.forEach((letter, a) => (NAMES[letter] = `output${WHERE[a]}`));
LETTERS.tap.forEach((letter, a) => (NAMES[letter] = `tap${WHERE[a]}`));

function drawLine(gradient) {
  const hasHoles = AXES.some((axis) => axis.kinds.includes("hole"));
  const item = gradient ? DATA.gradient.itemsize : MEMORY.itemsize;
  const name = gradient ? "gy" : MEMORY.name;
  const found = [];
  for (let b = 0; b < D.batch; b++) {
    if (gradient) {
      for (const o of indices(O)) {
        for (const [g, d] of indices([D.groups, D.filters])) {
          found.push([offsetOf(gradientTerms(b, plus(o, FIRST_O), g * OUTER + d), 0n), short(atY(V.gy, b, o, g, d)), "inside"]);
        }
      }
    } else {
      for (const p of indices(X)) {
        const where = p.map((i, a) => BigInt(i + AXES[a].start + (MEMORY.copied ? AXES[a].low : 0)));
        if (MEMORY.copied && kindOf(p) === "cropped") continue;
        for (const [g, c] of indices([D.groups, D.channels])) {
          const index = [BigInt(b), ...where, BigInt(g * INNER + c)];
          const offset = index.reduce((total, i, a) => total + i * BIG(MEMORY.strides[a]), 0n);
          found.push([offset, short(atX(V.x, b, p, g, c)), kindOf(p)]);
        }
      }
    }
  }
  state.line = new Line(name, item, found);
  get("line").replaceChildren(state.line.node);
  get("memory-text").textContent = gradient
    ? `gy as it lies in memory, ${item} bytes an element. ${EXPLAINED}`
    : MEMORY.copied
      ? `einsum reads a copy of x with its border${hasHoles ? " and holes" : ""}, ${tuple(MEMORY.shape)}, made once, ${item} bytes an element; compiled kernels read x itself. ${EXPLAINED}${GROUPED}`
      : `x itself, as it lies in memory, ${item} bytes an element: the view v copies nothing. ${EXPLAINED}${GROUPED}`;
  const letters = gradient ? ["b", ...LETTERS.out, "d"] : viewStrides().map(([letter]) => letter);
  const steps = gradient ? DATA.gradient.strides : MEMORY.windows_strides;
  const shape = gradient ? DATA.shapes.y : MEMORY.windows_shape;
  get("strides").replaceChildren(element("table", {},
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, gradient ? "gy" : "v"), ...letters.map((l) => element("th", { scope: "col" }, coloured(l))))),
    element("tbody", {},
      element("tr", { class: "names" }, element("th", { scope: "row" }, "axis"), ...letters.map((l) => element("td", {}, NAMES[l]))),
      element("tr", {}, element("th", { scope: "row" }, "shape"), ...shape.map((n) => element("td", {}, String(n)))),
      element("tr", { id: "view-strides" }, element("th", { scope: "row" }, "strides"), ...steps.map((n, i) => element("td", {}, coloured(letters[i], n)))))));
}

function writeFormula(product) {
  if (!product) return get("formula").replaceChildren();
  const parts = product.terms.flatMap(([letter, index, stride], i) => [
    i || product.base ? " + " : "", element("span", { class: `ax ${KIND[letter]}`, title: `index of ${letter} times its stride` }, `${index}·${stride}`),
  ]);
  const source = product.left[0].replace("conj ", "");
  const inCopy = MEMORY.copied && !source.startsWith("gy");
  const name = source === "0" ? "an element of the copy's border" : inCopy ? `the copy's element ${source}` : source;
  get("formula").replaceChildren(
    element("b", {}, name), " lies at byte ", product.base ? String(product.base) : "", ...parts, " = ",
    element("b", { id: "offset" }, String(offsetOf(product.terms, product.base))));
}

// ---- exercises --------------------------------------------------------------------------------------------

function exercisePanel() {
  const list = DATA.exercises.map((exercise, i) => {
    const verdict = element("output", { for: `answer-${i}`, class: "verdict" });
    const check = () => {
      const text = get(`answer-${i}`).value.replace(/[\s,_]/g, "").replace("−", "-");
      const right = text === exercise.answer;
      verdict.textContent = text === "" ? "" : right ? "Right." : "Not yet: look at the worked answer, or try again.";
      verdict.classList.toggle("right", right);
    };
    return element("li", {},
      element("label", { for: `answer-${i}` }, exercise.question),
      element("div", { class: "answer" },
        element("input", { type: "text", inputmode: "numeric", id: `answer-${i}`, autocomplete: "off", onchange: check }),
        element("button", { type: "button", onclick: check }, "Check"), verdict),
      element("details", {}, element("summary", {}, "Answer"), element("p", { class: "code" }, `${exercise.worked} bytes`)));
  });
  return [
    element("p", { class: "story" }, "An array is a line of bytes. Its strides say how many bytes lie between neighbours on each axis, so the element at an index lies at ",
      element("b", {}, "the sum of index times stride"), ". A view of windows is the same line with more axes: the outputs ",
      ...LETTERS.out.flatMap((l, a) => [a ? ", " : "", coloured(l)]), " move by the stride, the taps ", ...LETTERS.tap.flatMap((l, a) => [a ? ", " : "", coloured(l)]),
      " by the dilation, each times the bytes of one position. The view's numbers here:"),
    element("div", { class: "scroll" }, exerciseTable()),
    element("ol", { class: "exercises" }, ...list),
  ];
}

function exerciseTable() {
  const cells = viewStrides();
  return element("table", {},
    element("thead", {}, element("tr", {}, element("th", {}, "v"), ...cells.map(([l]) => element("th", { scope: "col" }, coloured(l))))),
    element("tbody", {},
      element("tr", { class: "names" }, element("th", { scope: "row" }, "axis"), ...cells.map(([l]) => element("td", {}, NAMES[l]))),
      element("tr", {}, element("th", { scope: "row" }, "shape"), ...MEMORY.windows_shape.map((n) => element("td", {}, String(n)))),
      element("tr", {}, element("th", { scope: "row" }, "strides"), ...cells.map(([l, s]) => element("td", {}, coloured(l, s))))));
}

start();
