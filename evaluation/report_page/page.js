"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const STEP = 50; // rows of a long table that are shown at once
const FEW = 8; // retrievals of a part that are shown at first
const COLLATOR = new Intl.Collator("en", { numeric: true });
const SVG = "http://www.w3.org/2000/svg";

// Elements. Text of the run is only ever set as text, never as HTML.

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function drawn(tag, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

const shown = (value, digits = 4) =>
  value === null || value === undefined || value === "" ? "–" : value.toFixed(digits);
const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)} %`);
const counted = (value) => value.toLocaleString("en");
const plural = (n, one, many) => `${counted(n)} ${n === 1 ? one : many}`;

/** A class's name as a button that filters by it. */
function named(label) {
  const button = element("button", { type: "button", class: "name" }, data.names[label]);
  button.title = "Filter by this class";
  button.addEventListener("click", () => setFilter(data.names[label]));
  return button;
}

function picture(image, alt) {
  const source = data.images[image];
  if (source) return element("img", { src: source, alt, loading: "lazy" });
  return element("span", { class: "empty", role: "img", "aria-label": `${alt}: cannot be read` },
    "no image");
}

function scrolling(label, table) {
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
}

function table(caption, columns, rows) {
  const head = element("tr");
  for (const [name, kind] of columns) head.append(element("th", { scope: "col", class: kind }, name));
  const body = element("tbody");
  for (const row of rows) {
    const line = element("tr");
    row.forEach((cell, i) => line.append(i === 0
      ? element("th", { scope: "row" }, cell)
      : element("td", { class: columns[i][1] }, cell)));
    body.append(line);
  }
  return element("table", {}, element("caption", {}, caption), element("thead", {}, head), body);
}

// Header, results, options, environment.

function header() {
  const epoch = data.epoch === null ? "" : ` of epoch ${data.epoch}`;
  byId("lead").textContent =
    `Test images as the best checkpoint${epoch} by ${data.metric} embeds them: ${data.evaltype}.`;
  const { images, queries, classes } = data.counts;
  const figures = [
    ["Recall@1", percent(data.means["e_recall@1"])], ["R-precision", percent(data.means.r_precision)],
    ["Test images", counted(images)], ["Queries", counted(queries)], ["Classes", counted(classes)],
    ["Epochs trained", data.epochs ? `${data.epochs} of ${data.n_epochs}` : "–"],
    ["Training time", data.epochs ? `${data.minutes.toFixed(1)} min` : "–"],
  ];
  for (const [name, value] of figures) {
    byId("figures").append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  }
  const notes = [...data.left_out];
  if (!data.epochs) notes.push("The run has saved no whole epoch yet: no curves and no results.");
  else if (data.epochs < data.n_epochs) notes.push("The run has not reached its last epoch.");
  const lone = data.counts.queries_with_nothing_to_find;
  if (lone) {
    notes.push(`${plural(lone, "query has", "queries have")} no other image of the class to find: `
      + "misses in recall, left out of R-precision.");
  }
  for (const note of notes) byId("notes").append(element("li", {}, note));
}

function results() {
  for (const { title, columns, rows } of data.tables) {
    const made = table(title, [["embedding", ""], ["epoch", ""], ...columns.map((name) => [name, "number"])],
      rows.map(([evaltype, kind, epoch, values]) =>
        [evaltype, `${kind}: epoch ${epoch}`, ...values.map((value) => shown(value))]));
    rows.forEach(([evaltype, kind], i) => {
      const isThis = evaltype === data.evaltype && kind === `best ${data.metric}`;
      if (isThis) made.tBodies[0].rows[i].className = "chosen";
    });
    byId("results").append(scrolling(`Results, ${title}`, made));
  }
  if (data.tables.length) {
    byId("results").append(element("p", { class: "soft" },
      "Epochs are counted from 0. This page shows the images of the checkpoint in bold."));
  } else byId("results").append(element("p", {}, "None are saved yet."));
}

function options() {
  const columns = [["option", ""], ["value", ""]];
  byId("options").append(data.given.length
    ? scrolling("Options that differ", table("Given on the command line", columns, data.given))
    : element("p", {}, "None."));
  byId("options").append(element("details", {}, element("summary", {}, "All options"),
    scrolling("All options", table("As the run used them", columns, data.options))));
  for (const text of data.environment) byId("environment").append(element("pre", {}, text));
  if (!data.environment.length) byId("environment").append(element("p", {}, "It was not recorded."));
}

// Curves.

/** Round numbers from `low` to `high`, about `n` of them. */
function ticks(low, high, n) {
  const rough = (high - low) / n || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) || 10);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return found;
}

function chart({ title, names, epochs, rows }) {
  const [width, height, left, top, right, bottom] = [360, 200, 52, 10, 10, 26];
  const values = rows.flat().filter((value) => value !== null);
  if (!values.length) return "";
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const space = (high - low) / 20 || Math.abs(high) / 10 + 1e-3;
  [low, high] = [low - space, high + space];
  const [first, last] = [epochs[0], Math.max(epochs[epochs.length - 1], epochs[0] + 1)];
  const x = (epoch) => left + ((epoch - first) / (last - first)) * (width - left - right);
  const y = (value) => height - bottom - ((value - low) / (high - low)) * (height - top - bottom);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const legend = element("ul");
  const told = [];
  for (const value of ticks(low, high, 5)) {
    svg.append(drawn("path", { class: "grid", d: `M${left} ${y(value)}H${width - right}`,
      style: "stroke-width:1" }));
    svg.append(drawn("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" },
      String(Number(value.toPrecision(4)))));
  }
  const onAxis = epochs.length === 1 ? epochs : ticks(first, last, 6).filter(Number.isInteger);
  for (const epoch of onAxis) {
    svg.append(drawn("text", { x: x(epoch), y: height - 8, "text-anchor": "middle" }, String(epoch)));
  }
  names.forEach((name, j) => {
    const style = `stroke:var(--c${j % 8});stroke-dasharray:${["none", "6 3", "2 3"][Math.floor(j / 8) % 3]}`;
    let path = "";
    rows.forEach((row, i) => {
      if (row[j] === null) return;
      const begins = i === 0 || rows[i - 1][j] === null;
      path += `${begins ? "M" : "L"}${x(epochs[i]).toFixed(1)} ${y(row[j]).toFixed(1)}`;
      if (rows.length <= 12) {
        svg.append(drawn("circle", { cx: x(epochs[i]), cy: y(row[j]), r: 2.5,
          style: `fill:var(--c${j % 8})` }));
      }
    });
    svg.append(drawn("path", { d: path, style }));
    const sample = drawn("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" });
    sample.append(drawn("path", { d: "M0 4H26", style }));
    const end = rows[rows.length - 1][j];
    const text = `${name}: ${end === null ? "–" : Number(end.toPrecision(4))}`;
    legend.append(element("li", {}, sample, element("span", {}, text)));
    told.push(text);
  });
  svg.setAttribute("aria-label", `${title} over the epochs ${first} to ${epochs[epochs.length - 1]}. `
    + `Last values: ${told.join(", ")}.`);
  return element("figure", { class: "chart" }, element("figcaption", {}, title), svg, legend);
}

function curves() {
  const isMain = ({ split, group }) => (split === "Train" ? group.toLowerCase() === "loss"
    : group.startsWith(`${data.evaltype}_`));
  const plain = (curve) => ({ ...curve, title: curve.split === "Train"
    ? { loss: "Train: loss", Loss: "Train: terms of the loss" }[curve.group]
    : `${curve.split}: ${curve.group.slice(data.evaltype.length + 1)}` });
  byId("main-curves").append(...data.curves.filter(isMain).map(plain).map(chart));
  const further = data.curves.filter((curve) => !isMain(curve));
  const details = byId("further-curves");
  details.hidden = !further.length;
  details.querySelector("summary").textContent = `${further.length} further curves`;
  details.addEventListener("toggle", () => {
    const charts = details.querySelector(".charts");
    if (!charts.children.length) charts.append(...further.map(chart));
  });
  if (!data.curves.length) byId("main-curves").append(element("p", {}, "None are saved yet."));
}

// Retrievals.

function retrieval(row) {
  const query = element("figure", { class: "tile query", title: row.file },
    picture(row.image, `Query of class ${data.names[row.label]}`),
    element("figcaption", {}, element("strong", {}, "Query"), named(row.label),
      element("div", { class: "soft" }, row.precision === null ? "nothing to find"
        : `R-precision ${shown(row.precision, 2)}`)));
  const line = element("div", { class: "retrieval" }, query);
  row.neighbours.forEach(([image, label, distance, file], i) => {
    const right = label === row.label;
    line.append(element("figure", { class: `tile ${right ? "right" : "wrong"}`, title: file },
      picture(image, `Neighbour ${i + 1}, class ${data.names[label]}`),
      element("figcaption", {}, element("strong", {}, `${right ? "✓" : "✗"} ${shown(distance, 3)}`),
        element("span", { class: "visually" }, right ? "Right: " : "Wrong: "),
        right ? data.names[label] : named(label))));
  });
  return line;
}

/** Shows the retrievals of the classes in `chosen`, those of all when it is null. */
function retrievals(chosen) {
  for (const [name, rows] of Object.entries(data.retrievals)) {
    const kept = chosen ? rows.filter((row) => chosen.has(row.label)) : rows;
    const part = byId(name);
    part.hidden = name === "further" && (!chosen || !kept.length);
    const lines = part.querySelector(".lines");
    if (part.hidden) lines.replaceChildren();
    else if (!kept.length) lines.replaceChildren(element("p", { class: "soft" }, chosen ? "None of this class." : "None."));
    else lines.replaceChildren(...kept.slice(0, FEW).map(retrieval), ...rest(kept));
  }
}

function furtherTold() {
  const n = data.retrievals.further.length;
  if (n) byId("further-told").textContent = `The filter by class shows ${counted(n)} more.`;
}

/** A button that shows the retrievals behind the first, where there are more. */
function rest(rows) {
  if (rows.length <= FEW) return [];
  const more = element("button", { type: "button" }, `Show all ${rows.length}`);
  more.addEventListener("click", () => {
    const lines = rows.slice(FEW).map(retrieval);
    more.replaceWith(...lines);
    lines[0].querySelector("button").focus();
  });
  return [more];
}

// Long tables: sorted by a column, filtered, shown in steps.

class LongTable {
  /** whole: how many rows there are, in words; columns: [title, kind, value of a row, cell of a
   * row]; a row's classes are `labels(row)`. */
  constructor(section, caption, whole, columns, rows, labels, sorted) {
    Object.assign(this, { whole, columns, rows, labels, sorted, ascending: true, most: STEP, chosen: null });
    this.told = element("p", { class: "soft", "aria-live": "polite" });
    this.more = element("button", { type: "button" }, "Show more");
    this.more.addEventListener("click", () => { this.most += STEP; this.show(); });
    this.body = element("tbody");
    this.head = element("tr");
    columns.forEach(([title, kind], i) => {
      const button = element("button", { type: "button" }, title);
      button.addEventListener("click", () => this.sort(i));
      this.head.append(element("th", { scope: "col", class: kind }, button));
    });
    const made = element("table", {}, element("caption", {}, caption),
      element("thead", {}, this.head), this.body);
    byId(section).append(this.told, scrolling(caption, made), this.more);
    this.show();
  }

  sort(column) {
    this.ascending = column === this.sorted ? !this.ascending : true;
    this.sorted = column;
    this.show();
  }

  filter(chosen) {
    this.chosen = chosen;
    this.most = STEP;
    this.show();
  }

  show() {
    const value = this.columns[this.sorted][2];
    const sign = this.ascending ? 1 : -1;
    const kept = this.rows.filter((row) => !this.chosen
      || this.labels(row).some((label) => this.chosen.has(label)));
    const order = (a, b) => (typeof a === "string" ? COLLATOR.compare(a, b) : a - b);
    const missing = (a) => a === null || a === "";
    kept.sort((a, b) => {
      const [one, other] = [value(a), value(b)];
      if (missing(one) || missing(other)) return missing(one) - missing(other);
      return sign * order(one, other);
    });
    this.body.replaceChildren(...kept.slice(0, this.most).map((row) => {
      const line = element("tr");
      this.columns.forEach(([, kind, , cell], i) => line.append(
        element(i ? "td" : "th", i ? { class: kind } : { scope: "row" }, ...[cell(row)].flat())));
      return line;
    }));
    [...this.head.children].forEach((cell, i) => {
      if (i === this.sorted) cell.setAttribute("aria-sort", this.ascending ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    });
    const n = Math.min(this.most, kept.length);
    const fits = this.chosen ? `; ${plural(kept.length, "row has", "rows have")} what the filter says` : "";
    const first = n < kept.length ? `; the first ${n} by the sorted column are shown` : "";
    this.told.textContent = `${this.whole}${fits}${first}.`;
    this.more.hidden = n === kept.length;
  }
}

function classTable() {
  const rows = data.classes.map((entry, label) => ({ label, entry }));
  const number = (title, i, show) => [title, "number", ({ entry }) => entry[i], ({ entry }) => show(entry[i])];
  return new LongTable("classes", "Classes", plural(rows.length, "class", "classes"), [
    ["class", "", ({ label }) => data.names[label], ({ label }) => named(label)],
    number("Recall@1", 2, percent),
    ["", "bar", ({ entry }) => entry[2], ({ entry }) => {
      const bar = element("span", { "aria-hidden": "true" });
      bar.style.width = `${100 * (entry[2] || 0)}%`;
      return bar;
    }],
    number("R-precision", 3, percent),
    number("images", 0, counted),
    number("queries", 1, counted),
    ["most often taken for", "", ({ entry }) => (entry[4] === null ? "" : data.names[entry[4]]),
      ({ entry }) => (entry[4] === null ? "–" : named(entry[4]))],
    number("times", 5, counted),
  ], rows, ({ label, entry }) => [label, entry[4]], 1);
}

function pairTable() {
  const name = (i) => ["", "", (row) => data.names[row[i]],
    (row) => [picture(row[4 + i], `Image of class ${data.names[row[i]]}`), " ", named(row[i])]];
  const { n_pairs: n, pairs } = data;
  const of = pairs.length < n ? `${counted(n)} pairs, the first ${pairs.length} of them here`
    : plural(n, "pair", "pairs");
  const made = new LongTable("pairs", "Nearest images of another class", of, [
    ["class", ...name(0).slice(1)],
    ["taken for", ...name(1).slice(1)],
    ["times", "number", (row) => row[2], (row) => counted(row[2])],
    ["the other way", "number", (row) => row[3], (row) => counted(row[3])],
    ["together", "number", (row) => row[2] + row[3], (row) => counted(row[2] + row[3])],
  ], pairs, (row) => [row[0], row[1]], 4);
  made.ascending = false;
  made.show();
  return made;
}

// Map.

class ImageMap {
  constructor() {
    this.canvas = byId("map-canvas");
    this.tile = byId("map-image").querySelector("canvas");
    this.caption = byId("map-image").querySelector("figcaption");
    this.points = data.map.points;
    this.chosen = null; // classes, null for all
    this.at = -1; // the point that is shown
    this.zoom = 1;
    const axes = [0, 1].map((axis) => this.points.map((point) => point[axis]));
    this.low = axes.map((values) => Math.min(...values));
    this.high = axes.map((values) => Math.max(...values));
    this.centre = [0, 1].map((axis) => (this.low[axis] + this.high[axis]) / 2); // of what is seen
    this.sheet = new Image();
    this.sheet.addEventListener("load", () => this.draw());
    this.sheet.src = data.map.sheet;
    const method = data.map.method === "pca" ? "the two principal components" : "t-SNE";
    byId("map-lead").textContent = `${counted(this.points.length)} of ${counted(data.map.of)} test images`
      + ` by ${method} of their embeddings, a colour for each class. Point at an image to see it; on the`
      + " keyboard, arrow keys go to the next image, plus and minus zoom.";
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerdown", (event) => this.point(event));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("focus", () => { if (this.at < 0) this.show(this.nearest(this.width / 2, this.height / 2)); });
    byId("draw-images").addEventListener("change", () => this.draw());
    byId("zoom-in").addEventListener("click", () => this.magnify(2));
    byId("zoom-out").addEventListener("click", () => this.magnify(0.5));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Where point i lies on the canvas, in CSS pixels; both axes have one scale. */
  place(i) {
    const size = [this.width, this.height];
    const scales = [0, 1].map((axis) => (size[axis] - 48) / (this.high[axis] - this.low[axis] || 1));
    const scale = Math.min(...scales) * this.zoom;
    const [x, y] = [0, 1].map((axis) => (this.points[i][axis] - this.centre[axis]) * scale);
    return [this.width / 2 + x, this.height / 2 - y];
  }

  visible(i) {
    return !this.chosen || this.chosen.has(this.points[i][2]);
  }

  nearest(x, y, accepts = () => true) {
    let [best, least] = [-1, Infinity];
    this.places.forEach(([px, py], i) => {
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least && this.visible(i) && accepts(px - x, py - y)) [best, least] = [i, distance];
    });
    return best;
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const i = this.nearest(x, y, (dx, dy) => dx * dx + dy * dy < 24 * 24);
    if (i >= 0 && i !== this.at) this.show(i);
  }

  key(event) {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "+" || event.key === "=") this.magnify(2);
    else if (event.key === "-") this.magnify(0.5);
    else if (direction && this.at >= 0) {
      const [u, v] = direction;
      const ahead = (dx, dy) => dx * u + dy * v > 0.5 && Math.abs(dx * v + dy * u) <= dx * u + dy * v;
      const i = this.nearest(...this.places[this.at], ahead);
      if (i >= 0) this.show(i);
    } else return;
    event.preventDefault();
  }

  magnify(factor) {
    this.zoom = Math.min(64, Math.max(1, this.zoom * factor));
    this.look();
    this.draw();
  }

  /** Moves the point that is shown, or the whole map without one, to the middle. */
  look() {
    this.centre = [0, 1].map((axis) => (this.at >= 0 && this.zoom > 1 ? this.points[this.at][axis]
      : (this.low[axis] + this.high[axis]) / 2));
  }

  filter(chosen) {
    this.chosen = chosen;
    if (this.at >= 0 && !this.visible(this.at)) this.at = -1;
    this.draw();
  }

  show(i) {
    if (i < 0) return;
    this.at = i;
    const [x, y] = this.place(i);
    if (x < 0 || y < 0 || x > this.width || y > this.height) this.look();
    this.draw();
    const [, , label, right, file] = this.points[i];
    const { columns, side } = data.map;
    const context = this.tile.getContext("2d");
    context.drawImage(this.sheet, (i % columns) * side, Math.floor(i / columns) * side, side, side,
      0, 0, this.tile.width, this.tile.height);
    this.tile.setAttribute("aria-label", `Image of class ${data.names[label]}`);
    const mark = right === null ? "only searched in" : right ? "✓ its nearest image is of its class"
      : "✗ its nearest image is of another class";
    this.caption.replaceChildren(element("div", {}, named(label)),
      element("div", { class: "soft" }, mark), element("div", { class: "soft" }, file));
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = this.width * ratio;
    this.canvas.height = this.height * ratio;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const faded = style.getPropertyValue("--faded");
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    this.places = this.points.map((_, i) => this.place(i));
    const asImages = byId("draw-images").checked && this.sheet.complete;
    const order = this.points.map((_, i) => i).sort((a, b) => this.visible(a) - this.visible(b));
    const { columns, side } = data.map;
    const size = 24 + 4 * Math.log2(this.zoom);
    for (const i of order) {
      const [x, y] = this.places[i];
      if (x < -40 || y < -40 || x > this.width + 40 || y > this.height + 40) continue;
      if (asImages && this.visible(i)) {
        context.drawImage(this.sheet, (i % columns) * side, Math.floor(i / columns) * side, side, side,
          x - size / 2, y - size / 2, size, size);
        continue;
      }
      const hue = (this.points[i][2] * 137.508) % 360;
      context.fillStyle = this.visible(i) ? `hsl(${hue} ${dark ? "65% 68%" : "65% 42%"})` : faded;
      context.beginPath();
      context.arc(x, y, this.chosen && this.visible(i) ? 5 : 3.5, 0, 7);
      context.fill();
    }
    if (this.at < 0) return;
    const [x, y] = this.places[this.at];
    context.lineWidth = 3;
    context.strokeStyle = style.getPropertyValue("--text");
    context.beginPath();
    context.arc(x, y, asImages ? size * 0.75 : 9, 0, 7);
    context.stroke();
  }
}

// Filter.

function setFilter(text) {
  byId("class").value = text;
  applyFilter();
}

/** A class's name as the filter's field holds it: in one line, without spaces around it. */
const typed = (name) => name.replace(/[\r\n]/g, "").trim();

/** The labels whose name is the filter's text, else those where only case differs, else those
 * whose names contain it; null without a filter. */
function matching() {
  const text = typed(byId("class").value);
  if (!text) return null;
  const names = data.names.map(typed);
  const [lower, part] = [names.map((name) => name.toLowerCase()), text.toLowerCase()];
  const ways = [(i) => names[i] === text, (i) => lower[i] === part, (i) => lower[i].includes(part)];
  const found = ways.map((accepts) => [...names.keys()].filter(accepts));
  return new Set(found.find((labels) => labels.length));
}

function applyFilter() {
  const chosen = matching();
  byId("matching").textContent = chosen
    ? `${plural(chosen.size, "class", "classes")} of ${counted(data.names.length)}` : "";
  const offered = chosen ? [...chosen].slice(0, STEP) : data.names.slice(0, STEP).keys();
  byId("class-names").replaceChildren(
    ...[...offered].map((label) => element("option", { value: data.names[label] })));
  retrievals(chosen);
  for (const part of filtered) part.filter(chosen);
}

header();
results();
curves();
options();
furtherTold();
const filtered = [classTable(), pairTable(), new ImageMap()];
byId("class").addEventListener("input", applyFilter);
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("filter").addEventListener("reset", () => setTimeout(applyFilter));
applyFilter();
