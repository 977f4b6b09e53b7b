// The plan of each pass: a bar per algorithm, the machine's limits, why each rival lost, the kernel.

const BARS = [
  ["seconds", "predicted time", seconds],
  ["moved", "bytes moved", bytes],
  ["workspace", "workspace", bytes],
  ["multiply_adds", "multiply-adds", amount],
];

function planPanel() {
  const names = { forward: "Forward", input_grad: "Input gradient", filter_grad: "Filter gradient" };
  const body = element("div", { id: "plan" });
  const choices = element("div", { class: "choices", role: "radiogroup", "aria-label": "Pass" });
  const choose = (name) => {
    for (const [key, button] of Object.entries(buttons)) {
      button.setAttribute("aria-checked", String(key === name));
      button.tabIndex = key === name ? 0 : -1;
    }
    body.replaceChildren(...planned(DATA.plans[name]));
  };
  const buttons = radios(choices, names, choose);
  choose(DATA.direction);
  return [
    element("p", { class: "story" }, "A plan follows from shapes, dtypes and this machine's calibration, never from values. ",
      "The algorithm with the least predicted time that can do the job within the limits is chosen."),
    choices, body,
  ];
}

// A group of radio buttons, of which the arrow keys choose the next one.
function radios(parent, names, choose) {
  const keys = Object.keys(names), buttons = {};
  keys.forEach((key, i) => {
    buttons[key] = element("button", {
      type: "button", role: "radio", "aria-checked": "false", id: `choose-${parent.id || "plan"}-${key}`,
      onclick: () => choose(key),
      onkeydown: (event) => {
        const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!move) return;
        event.preventDefault();
        event.stopPropagation();
        const other = keys[(i + move + keys.length) % keys.length];
        choose(other);
        buttons[other].focus();
      },
    }, names[key]);
    parent.append(buttons[key]);
  });
  return buttons;
}

function planned(plan) {
  if (plan.refused) return [element("p", { class: "note" }, plan.refused)];
  return [
    element("p", {}, ...plan.head.split("\n").flatMap((line) => [line, element("br")])),
    limits(plan),
    element("div", { class: "algorithms" }, ...plan.candidates.map((c) => algorithm(plan, c))),
    element("h2", {}, "The kernel"),
    element("div", { class: "kernel" },
      element("dl", {}, ...plan.execution.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)])),
      tile(plan.tile)),
  ];
}

function limits(plan) {
  const l = plan.limits;
  return element("p", { class: "limits" },
    `The products alone, ${amount(l.multiply_adds)} multiply-adds at the calibrated rate of a large matrix product, would take `,
    element("b", {}, seconds(l.arithmetic)), `; to read the operands and write the result once, ${bytes(l.least_bytes)}, would take `,
    element("b", {}, seconds(l.memory)), ". An algorithm that forms every product takes about the larger of the two, or more; kernels may be faster than that product (",
    element("span", { class: "limit-key" }), " in the bars of time); winograd and fft form fewer products, and arrays that a cache holds are read faster.");
}

function algorithm(plan, candidate) {
  const { cost } = candidate;
  const chosen = candidate.algorithm === plan.algorithm;
  const head = element("h3", {}, candidate.algorithm, chosen ? element("span", { class: "badge" }, "chosen") : null);
  const why = element("p", { class: "why" }, candidate.verdict + (cost?.note ? `; ${cost.note}` : ""));
  const limit = Math.max(plan.limits.arithmetic, plan.limits.memory);
  const bars = cost ? BARS.map(([key, name, text]) => bar(plan, key, name, cost[key], text, limit)) : [];
  return element("section", { class: `algorithm${chosen ? " chosen" : ""}${cost ? "" : " refused"}` }, head, why, ...bars);
}

function bar(plan, key, name, value, text, limit) {
  const most = Math.max(...plan.candidates.map((c) => c.cost?.[key] ?? 0), 1e-30);
  const share = (value / most) * 100;
  return element("div", { class: `bar ${key}` },
    element("span", { class: "name" }, name),
    element("span", { class: "track" },
      element("span", { class: "fill", style: `width:${Math.max(share, value > 0 ? 0.6 : 0)}%` }),
      key === "seconds" ? element("span", { class: "limit", style: `left:${Math.min((limit / most) * 100, 100)}%` }) : null),
    element("span", { class: "figure" }, text(value)));
}

function tile(sizes) {
  if (!sizes) return null;
  const names = Object.keys(sizes), { lanes, vectors } = sizes;
  if (!lanes || !vectors) return null;
  const rest = names.filter((n) => n !== "lanes" && n !== "vectors");
  const rows = rest.reduce((n, name) => n * sizes[name], 1);
  const columns = vectors * lanes, unit = Math.min(22, 460 / columns);
  const cells = [];
  for (let r = 0; r < Math.min(rows, 32); r++) {
    for (let v = 0; v < vectors; v++) {
      for (let lane = 0; lane < lanes; lane++) {
        cells.push(shape("rect", {
          x: (v * lanes + lane) * unit + v * 6, y: r * (unit + 3), width: unit - 1.5, height: unit - 1.5, rx: 2, class: v % 2 ? "odd" : "even",
        }));
      }
    }
  }
  const height = Math.min(rows, 32) * (unit + 3);
  return element("figure", { class: "tile" },
    shape("svg", { viewBox: `0 0 ${columns * unit + vectors * 6} ${height}`, width: columns * unit + vectors * 6, role: "img",
      "aria-label": `Register tile of ${rows} rows by ${vectors} vectors of ${lanes} lanes` }, ...cells),
    element("figcaption", {}, `Register tile: ${rows} ${rest.join(" × ") || "row"} by ${vectors} vector${vectors > 1 ? "s" : ""} of ${lanes} lanes. `
      + "Each row of squares of one colour is a vector register that holds sums while products are added to it."));
}
