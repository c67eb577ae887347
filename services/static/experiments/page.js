// The page of the experiment service: which view is shown, and who looks at it.

import { askJson, element, forgetToken, hasToken } from "../api.js";
import { showComparison } from "./compare.js";
import { showJob, showJobs } from "./jobs.js";
import { showModels } from "./models.js";
import { showRun } from "./run.js";
import { showRuns } from "./runs.js";
import { showSweep, showSweeps } from "./sweeps.js";
import { fail } from "./view.js";

const main = document.getElementById("main");
const VIEWS = [
  [/^\/runs$/, showRuns, "Runs"],
  [/^\/runs\/([^/]+)$/, showRun, "Runs"],
  [/^\/compare$/, showComparison, "Runs"],
  [/^\/jobs$/, showJobs, "Jobs"],
  [/^\/jobs\/([^/]+)$/, showJob, "Jobs"],
  [/^\/models$/, showModels, "Models"],
  [/^\/sweeps$/, showSweeps, "Sweeps"],
  [/^\/sweeps\/([^/]+)$/, showSweep, "Sweeps"],
];
let leaving = new AbortController();
let first = true;

async function show() {
  // A link within the page, such as the one that skips to the content.
  if (location.hash !== "" && !location.hash.startsWith("#/")) return;
  leaving.abort();
  leaving = new AbortController();
  const [path, query] = location.hash.slice(1).split("?");
  const found = VIEWS.find(([pattern]) => pattern.test(path)) ?? VIEWS[0];
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.textContent === found[2]) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  fail("");
  main.replaceChildren(element("p", { className: "muted" }, "Reading…"));
  const names = (found[0].exec(path) ?? []).slice(1).map(decodeURIComponent);
  const { signal } = leaving;
  try {
    await whoAsks(signal);
    await found[1]({ main, signal, names, query: new URLSearchParams(query ?? ""), who });
    if (!first && !signal.aborted) main.querySelector("h2")?.focus();
    first = false;
  } catch (error) {
    if (error.name === "AbortError") return;
    main.replaceChildren();
    fail(error.message);
  }
}

let who = null;

async function whoAsks(signal) {
  who = await askJson("v1/whoami", { signal });
  const rights = who.may_act ? "may act" : "may read";
  document.getElementById("who").textContent = hasToken() ? `${who.name}, ${rights}` : "";
  document.getElementById("forget").hidden = !hasToken();
}

document.getElementById("forget").addEventListener("click", () => {
  forgetToken();
  show();
});
addEventListener("hashchange", show);
show();
