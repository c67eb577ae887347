// The table of classes: legend, switches, shares and confidences.

import { element } from "../api.js";

const body = document.getElementById("classes");
const columns = document.getElementById("columns");

/** Return a fraction as people read it. */
export function percent(value) {
  if (value === null || value === undefined) return "–";
  if (value > 0 && value < 0.001) return "<\u00a00.1\u00a0%";
  return `${(100 * value).toFixed(1)}\u00a0%`;
}

/** Return a patch of a colour. */
export function swatch([red, green, blue]) {
  const patch = element("span", { className: "swatch" });
  patch.style.backgroundColor = `rgb(${red} ${green} ${blue})`;
  return patch;
}

/** Return the names of all classes of some results, in their order, each once. */
export const namesOf = (results) => [...new Set(results.flatMap((result) => result.model.classes))];

/** Show what one or two results found. `toggle` is called with a name and whether its class is shown. */
export function showClasses(results, hidden, toggle) {
  const heads = results.length > 1
    ? [...results.map((result) => `v ${result.model.version}, %`), "change"]
    : ["share", "confidence"];
  columns.replaceChildren(element("tr", {}, ...["class", ...heads].map((head) => element("th", { scope: "col" }, head))));
  body.replaceChildren(...namesOf(results).map((name) => row(name, results, hidden, toggle)));
}

/** Mark the class that the cursor is on. */
export function markClass(name) {
  for (const line of body.children) line.classList.toggle("at", line.dataset.name === name);
}

function row(name, results, hidden, toggle) {
  const found = results.map((result) => result.of(name));
  const owner = results[found.findIndex((one) => one !== null)];
  const colour = owner.model.colours[owner.model.classes.indexOf(name)];
  const box = element("input", { type: "checkbox", checked: !hidden.has(name) });
  box.addEventListener("change", () => toggle(name, box.checked));
  const shares = found.map((one) => one?.share ?? null);
  const cells = results.length > 1
    ? [...shares.map((share) => percent(share).replace("\u00a0%", "")), difference(...shares)]
    : [withBar(shares[0]), percent(found[0].confidence)];
  const line = element(
    "tr", { className: shares.some((share) => share > 0) ? "" : "gone" },
    element("th", { scope: "row" }, element("label", { className: "class" }, box, swatch(colour), name)),
    ...cells.map((cell) => element("td", {}, cell)),
  );
  line.dataset.name = name;
  return line;
}

function withBar(share) {
  const fill = element("span");
  fill.style.width = `${100 * share}%`;
  return element("div", {}, percent(share), element("div", { className: "bar" }, fill));
}

function difference(first, second) {
  if (first === null || second === null) return "–";
  const points = 100 * (second - first);
  const rounded = points.toFixed(1);
  return `${points > 0 && rounded !== "0.0" ? "+" : ""}${rounded.replace("-0.0", "0.0").replace("-", "−")}`;
}
