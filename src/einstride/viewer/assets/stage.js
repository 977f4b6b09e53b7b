// Draw arrays as sheets of cells: a sheet per channel, a grid per slice, a cell per position.

// The letters of outputs, of taps, and of positions of x.
const LETTERS = {
  1: { out: ["h"], tap: ["i"], at: ["p"] },
  2: { out: ["h", "w"], tap: ["i", "j"], at: ["p", "q"] },
  3: { out: ["t", "h", "w"], tap: ["s", "i", "j"], at: ["n", "p", "q"] },
}[DATA.rank];
const KIND = {}; // the class of each letter, by which the style colours it
LETTERS.out.forEach((letter, a) => (KIND[letter] = `o${a + 4 - DATA.rank}`));
LETTERS.tap.forEach((letter, a) => (KIND[letter] = `k${a + 4 - DATA.rank}`));
Object.assign(KIND, { b: "b", g: "g", c: "c", d: "d" });

function coloured(letter, text = letter) {
  return element("span", { class: `ax ${KIND[letter] ?? ""}` }, String(text));
}

class Sheets {
  // `lengths` and `origin` are of the spatial axes, `channels` is a list of labels.
  constructor({ name, shown, lengths, origin, channels, kinds = null, choose = null, depth = 1 }) {
    Object.assign(this, { lengths, origin, kinds, choose });
    this.cells = [];
    this.sheets = [];
    const rank = lengths.length;
    const [rows, columns] = rank === 1 ? [1, lengths[0]] : lengths.slice(-2);
    const slices = rank === 3 ? lengths[0] : 1;
    const size = columns <= 8 ? "large" : columns <= 12 ? "middle" : "small";
    this.caption = element("span", { class: "example" });
    const sheets = channels.map((label, channel) => {
      const grids = Array.from({ length: slices }, (_, slice) => {
        const grid = element("div", { class: "grid", style: `--rows:${rows};--columns:${columns}` });
        for (let row = 0; row < rows; row++) {
          for (let column = 0; column < columns; column++) {
            const index = rank === 1 ? [column] : rank === 2 ? [row, column] : [slice, row, column];
            const kind = kinds ? kinds(index) : "inside";
            const cell = element("i", { class: `cell ${kind}` });
            if (choose) cell.addEventListener("click", () => choose(index, channel));
            this.cells.push(cell);
            grid.append(cell);
          }
        }
        const frame = element("div", { class: "frame", hidden: true });
        grid.append(frame);
        const text = rank === 3 ? element("span", { class: "slice" }, `[${slice + origin[0]}]`) : null;
        return element("div", { class: "slot" }, text, grid);
      });
      const sheet = element(
        "div", { class: "sheet" },
        channels.length > 1 || label ? element("span", { class: "channel" }, label) : null,
        element("div", { class: "slots" }, ...grids),
      );
      this.sheets.push(sheet);
      return sheet;
    });
    this.node = element(
      "figure", { class: `operand ${size}${depth > 1 ? " deep" : ""}${choose ? " choosable" : ""}` },
      element("figcaption", {}, element("b", {}, name), ` ${shown} `, this.caption),
      element("div", { class: "sheets" }, ...sheets),
    );
  }

  cell(index, channel) {
    return this.cells[channel * count(this.lengths) + place(index, this.lengths)];
  }

  // value(index, channel) is a number, or null for an empty cell.
  fill(value) {
    for (let channel = 0; channel < this.sheets.length; channel++) {
      for (const index of indices(this.lengths)) {
        const cell = this.cell(index, channel);
        const number = value(index, channel);
        if (cell.number === number) continue;
        cell.number = number;
        const text = number === null ? "" : short(number);
        if (cell.textContent !== text) {
          cell.textContent = text;
          cell.classList.toggle("long", text.length > 3);
          cell.classList.toggle("longer", text.length > 5);
        }
        cell.title = number === null ? "" : `[${index.map((i, a) => i + this.origin[a]).join(", ")}] ${full(number)}`;
      }
    }
  }

  clear() {
    for (const cell of this.cells) cell.classList.remove("read", "focus", "now", "zero");
    for (const sheet of this.sheets) {
      sheet.classList.remove("aside");
      for (const frame of sheet.querySelectorAll(".frame")) frame.hidden = true;
    }
  }

  mark(index, channel, ...names) {
    this.cell(index, channel)?.classList.add(...names);
  }

  // A frame around positions [first, first + extent) of every slice that the window meets.
  frame(first, extent, channel) {
    const rank = this.lengths.length;
    const frames = this.sheets[channel].querySelectorAll(".frame");
    const [top, left] = rank === 1 ? [0, first[0]] : first.slice(-2);
    const [height, width] = rank === 1 ? [1, extent[0]] : extent.slice(-2);
    frames.forEach((frame, slice) => {
      const met = rank < 3 || (slice >= first[0] && slice < first[0] + extent[0]);
      frame.hidden = !met;
      frame.style.setProperty("--top", top);
      frame.style.setProperty("--left", left);
      frame.style.setProperty("--height", height);
      frame.style.setProperty("--width", width);
    });
  }

  aside(channels) {
    channels.forEach((channel) => this.sheets[channel].classList.add("aside"));
  }
}
