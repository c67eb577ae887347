// What the views have in common: numbers and times as people read them, pictures, polling, one place for errors.

import { ask, element } from "../api.js";

/** Show an error, or none. */
export function fail(message) {
  const place = document.getElementById("error");
  place.textContent = message;
  place.hidden = message === "";
}

/** Say something to those who do not see what changes. */
export function say(message) {
  document.getElementById("spoken").textContent = message;
}

/** Return a share in per cent, without the sign. */
export const percent = (share) => (share === null || share === undefined ? "–" : (100 * share).toFixed(1));

/** Return a difference in percentage points. */
export function points(share) {
  if (share === null) return "–";
  return `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)}`;
}

/** Return a score with its interval. */
export const scored = (score) => `${percent(score.value)} % (${percent(score.low)} to ${percent(score.high)})`;

/** Return a setting or argument as text. */
export const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** Return an element with a time, in the reader's time zone. */
export function time(text) {
  if (text === null) return "–";
  const at = new Date(text);
  const year = at.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" };
  const short = at.toLocaleString(undefined, { ...year, month: "short", day: "numeric", hour: "numeric", minute: "2-digit" });
  return element("time", { dateTime: text, title: at.toString() }, short);
}

/** Return how long something took or takes. */
export function lasted(from, to) {
  if (from === null) return "–";
  const seconds = Math.max(0, Math.round(((to === null ? Date.now() : new Date(to)) - new Date(from)) / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** Return a heading that can be given the focus when its view is shown. */
export const heading = (...children) => element("h2", { tabIndex: -1 }, ...children);

/** Return a table in a frame that scrolls by itself. Headers may be elements; the first column names the row. */
export function table(label, headers, rows) {
  const head = element("tr", {}, ...headers.map((one) => (one instanceof Element ? one : element("th", { scope: "col" }, one))));
  const body = rows.map((cells) =>
    element("tr", {}, ...cells.map((cell, index) =>
      index === 0 ? element("th", { scope: "row" }, cell) : element("td", {}, cell))));
  return element("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": label },
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

/** Return a picture that is read with the token; it is let go when the view is left. */
export function picture(path, alt, signal) {
  const image = element("img", { alt, className: "picture" });
  ask(path, { signal })
    .then((answer) => answer.blob())
    .then((blob) => {
      const url = URL.createObjectURL(blob);
      image.src = url;
      signal.addEventListener("abort", () => URL.revokeObjectURL(url));
    })
    .catch((error) => {
      if (error.name !== "AbortError") image.replaceWith(element("p", { className: "muted" }, error.message));
    });
  return image;
}

/** Call a function again and again until it returns false, or the view is left. Errors are shown, and it goes on. */
export async function every(milliseconds, signal, look) {
  let failed = false;
  while (!signal.aborted) {
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
    if (signal.aborted) return;
    if (document.hidden) continue;
    try {
      if ((await look()) === false) return;
      if (failed) fail("");
      failed = false;
    } catch (error) {
      if (error.name === "AbortError") return;
      failed = true;
      fail(error.message);
    }
  }
}

/** Return the parts of a command line: words, and what stands between quotes. */
export function words(line) {
  const found = [];
  for (const [whole] of line.matchAll(/(?:[^\s"']|"[^"]*"|'[^']*')+/g)) {
    found.push(whole.replace(/"([^"]*)"|'([^']*)'/g, (_, double, single) => double ?? single));
  }
  return found;
}

/** Return the path of something below a name that may hold anything. */
export const below = (root, name, rest = "") => `${root}/${encodeURIComponent(name)}${rest}`;
