// Make elements, write numbers, and count in several digits. Text is always set as text, never as HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  return filled(made, attributes, children);
}

function shape(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function get(id) {
  return document.getElementById(id);
}

// Numbers are JSON's, texts of numbers that JSON lacks, or [real, imaginary].

function full(value) {
  if (!Array.isArray(value)) return String(value).replace("-", "−");
  const [real, imaginary] = value.map(Number);
  return `${full(real)}${imaginary < 0 ? "−" : "+"}${full(Math.abs(imaginary))}i`;
}

function short(value) {
  if (Array.isArray(value)) {
    const [real, imaginary] = value.map(Number);
    return `${short(real)}${imaginary < 0 ? "−" : "+"}${short(Math.abs(imaginary))}i`;
  }
  const number = Number(value);
  if (!Number.isFinite(number)) return { NaN: "NaN", Infinity: "∞", "-Infinity": "−∞" }[String(value)];
  let text = String(value);
  if (text.length > 5) {
    const size = Math.abs(number);
    if (size >= 1e5 || size < 1e-3) text = number.toExponential(1).replace("e+", "e");
    else text = String(Number(number.toPrecision(3)));
  }
  return text.replace("-", "−");
}

function factor(value) {
  const text = short(value);
  return Array.isArray(value) || text.startsWith("−") ? `(${text})` : text;
}

function conjugate(value) {
  return Array.isArray(value) ? [value[0], -value[1]] : value;
}

function product(a, b) {
  if (!Array.isArray(a) && !Array.isArray(b)) return Number(a) * Number(b);
  const [p, q] = [pair(a), pair(b)];
  return [p[0] * q[0] - p[1] * q[1], p[0] * q[1] + p[1] * q[0]];
}

function sum(a, b) {
  if (!Array.isArray(a) && !Array.isArray(b)) return Number(a) + Number(b);
  const [p, q] = [pair(a), pair(b)];
  return [p[0] + q[0], p[1] + q[1]];
}

function pair(value) {
  return Array.isArray(value) ? value.map(Number) : [Number(value), 0];
}

// Indices of several axes, the last one fastest.

function count(lengths) {
  return lengths.reduce((total, length) => total * length, 1);
}

function digits(number, lengths) {
  const found = [];
  for (let a = lengths.length - 1; a >= 0; a--) {
    found.unshift(number % lengths[a]);
    number = Math.floor(number / lengths[a]);
  }
  return found;
}

function place(index, lengths) {
  return index.reduce((total, i, a) => total * lengths[a] + i, 0);
}

function indices(lengths) {
  return Array.from({ length: count(lengths) }, (_, i) => digits(i, lengths));
}

function combinations(lists) {
  return lists.reduce((all, list) => all.flatMap((head) => list.map((item) => [...head, item])), [[]]);
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${unit ? n.toFixed(1) : n} ${units[unit]}`;
}

function seconds(t) {
  if (t >= 1) return `${t.toPrecision(3)} s`;
  if (t >= 1e-3) return `${(t * 1e3).toPrecision(3)} ms`;
  return t >= 1e-6 ? `${(t * 1e6).toPrecision(3)} µs` : `${(t * 1e9).toPrecision(3)} ns`;
}

function amount(n) {
  for (const [unit, name] of [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (n >= unit) return `${(n / unit).toPrecision(3)}${name}`;
  }
  return String(n);
}
