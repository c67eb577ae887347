// Curves and intervals, drawn by hand as SVG; all colours come from page.css.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const WIDTH = 520;
const HEIGHT = 240;
const EDGE = { left: 46, right: 14, top: 14, bottom: 34 };

/**
 * Return a chart of curves over epochs.
 *
 * Each curve is { name, points: [[epoch, value]], mark } where `mark`, if any, is a point that is singled out. `unit`
 * goes with the numbers of the axis, `upTo` is the last epoch there will be.
 */
export function curves(label, each, { upTo, unit = "", fromZero = true }) {
  const values = each.flatMap(({ points }) => points.map(([, value]) => value));
  const low = fromZero ? 0 : Math.min(...values);
  const ticks = niceTicks(low, Math.max(...values, low + 1e-9));
  const top = ticks.at(-1);
  const bottom = ticks[0];
  const last = Math.max(upTo, 1);
  const x = (epoch) => EDGE.left + ((WIDTH - EDGE.left - EDGE.right) * epoch) / last;
  const y = (value) => HEIGHT - EDGE.bottom - ((HEIGHT - EDGE.top - EDGE.bottom) * (value - bottom)) / (top - bottom);
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": label });
  for (const tick of ticks) {
    chart.append(
      svg("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(tick), y2: y(tick), class: "grid" }),
      text(EDGE.left - 7, y(tick) + 4, `${round(tick)}${unit}`, "end"));
  }
  for (const tick of epochTicks(last)) chart.append(text(x(tick), HEIGHT - EDGE.bottom + 18, tick, "middle"));
  chart.append(text(WIDTH - EDGE.right, HEIGHT - 3, "epoch", "end"));
  each.forEach(({ name, points, mark }, index) => {
    const path = points.map(([epoch, value], at) => `${at ? "L" : "M"}${x(epoch).toFixed(1)} ${y(value).toFixed(1)}`);
    chart.append(svg("path", { d: path.join(""), class: `curve curve-${index}` }));
    for (const [epoch, value] of points) {
      const chosen = mark !== undefined && mark[0] === epoch;
      const dot = svg("circle", { cx: x(epoch), cy: y(value), r: chosen ? 5 : 2.5, class: `dot dot-${index}` });
      dot.append(svg("title", {}, `${name}, epoch ${epoch}: ${round(value)}${unit}${chosen ? ", the best" : ""}`));
      chart.append(dot);
    }
  });
  return chart;
}

/** Return a score and its interval as a bar on the scale from `from` to `to`; one without interval is a dot. */
export function interval({ value, low, high }, from, to, marks = []) {
  const width = 150;
  const x = (number) => 4 + ((width - 8) * (number - from)) / (to - from || 1);
  const drawn = svg("svg", { viewBox: `0 0 ${width} 16`, class: "interval", "aria-hidden": "true" });
  drawn.append(svg("line", { x1: 0, x2: width, y1: 8, y2: 8, class: "grid" }));
  for (const mark of marks) drawn.append(svg("line", { x1: x(mark), x2: x(mark), y1: 0, y2: 16, class: "zero" }));
  if (value === null) return drawn;
  if (low !== null) drawn.append(svg("line", { x1: x(low), x2: x(high), y1: 8, y2: 8, class: "span" }));
  drawn.append(svg("circle", { cx: x(value), cy: 8, r: 4, class: "dot dot-0" }));
  return drawn;
}

/** Return the ends of a scale that holds all of some intervals. */
export function ends(intervals, more = []) {
  const numbers = [...intervals.flatMap(({ value, low, high }) => [value, low, high]), ...more].filter((one) => one !== null);
  return numbers.length ? [Math.min(...numbers), Math.max(...numbers)] : [0, 1];
}

function text(x, y, what, anchor) {
  return svg("text", { x, y, "text-anchor": anchor, class: "label" }, String(what));
}

function niceTicks(low, high) {
  const raw = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 2.5, 5, 10].find((one) => one * power >= raw) ?? 10);
  const ticks = [];
  for (let tick = Math.floor(low / step); ticks.length === 0 || ticks.at(-1) < high - 1e-12; tick += 1) ticks.push(tick * step);
  return ticks;
}

function epochTicks(last) {
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((one) => last / one <= 8) ?? Math.ceil(last / 8);
  const ticks = [];
  for (let tick = 0; tick <= last; tick += step) ticks.push(tick);
  return ticks;
}

function round(value) {
  return Number(value.toPrecision(3));
}
