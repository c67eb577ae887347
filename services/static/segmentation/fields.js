// What units of networks see: what jobs/receptive_field.py kept on the storage, if anything.

import { ask, askJson, element, hasToken, save } from "../api.js";

const ROUTE = "v1/receptive-fields";
const ids = ["fields", "fields-error", "look", "unit", "before", "after", "look-facts", "sheet", "look-files"];
const parts = Object.fromEntries(ids.map((id) => [id, document.getElementById(id)]));

let look = null;
let numbers = null;
let shown = "";

/** Show the section if there is anything to show. */
export async function startFields() {
  await told(async () => {
    const { receptive_fields: found } = await askJson(ROUTE);
    parts.fields.hidden = found.length === 0;
    if (found.length === 0) return;
    parts.look.replaceChildren(...found.map((id) => element("option", { value: id }, id)));
    await openLook();
  });
}

async function openLook() {
  const place = `${ROUTE}/${encodeURIComponent(parts.look.value)}`;
  look = await askJson(place);
  numbers = await askJson(`${place}/numbers.json`);
  parts.unit.replaceChildren(...look.units.map((unit) => element("option", { value: unit }, String(unit))));
  await openUnit();
}

async function openUnit() {
  const place = `${ROUTE}/${encodeURIComponent(look.id)}`;
  const unit = Number(parts.unit.value);
  const sheet = look.files.find((file) => file.name.endsWith(`-${unit}.png`));
  parts.before.disabled = parts.unit.selectedIndex === 0;
  parts.after.disabled = parts.unit.selectedIndex === look.units.length - 1;
  parts["look-facts"].textContent = facts(numbers.units.find((one) => one.unit === unit));
  parts["look-files"].replaceChildren(...files(place, unit));
  const blob = await (await ask(`${place}/${encodeURIComponent(sheet.name)}`)).blob();
  URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(blob);
  parts.sheet.src = shown;
  parts.sheet.alt = `Unit ${unit} of ${look.layer}: its receptive fields and strongest images`;
  parts.sheet.hidden = false;
}

function facts(unit) {
  const [strongest] = unit.images;
  const sides = [
    unit.theoretical_px ? `in theory ${unit.theoretical_px.join(" x ")} px` : "in theory everything",
    unit.effective_side_px === null ? "" : `by gradient ${unit.effective_side_px.toFixed(0)} px`,
    `by occlusion ${unit.empirical.side_px.toFixed(0)} px`,
  ];
  const where = `${look.model} (${look.weights}), ${look.layer}, ${look.num_images} images of ${look.images}`;
  if (strongest.activation <= 0) return `${where}. Unit ${unit.unit} is active in none of them.`;
  return `${where}. Unit ${unit.unit} sees ${sides.filter(Boolean).join(", ")}; strongest ${strongest.activation.toPrecision(3)}.`;
}

/** Return what can be had of a unit; where a token is wanted a link would not carry it. */
function files(place, unit) {
  const wanted = look.files.filter(({ name }) =>
    name.endsWith(`-${unit}.npz`) || ["numbers.json", "index.html", "minimal.png", "minimal.npz"].includes(name));
  return wanted.map(({ name, size }) => {
    const said = `${name === "index.html" ? "Gallery of all units" : name} (${Math.ceil(size / 1000)} kB)`;
    const address = `${place}/${encodeURIComponent(name)}`;
    if (name === "index.html" && !hasToken()) {
      return element("a", { className: "button", href: address, target: "_blank", rel: "noopener" }, said);
    }
    const button = element("button", { type: "button" }, said);
    button.addEventListener("click", () => told(() => save(address, {}, name)));
    return button;
  });
}

async function told(work) {
  parts["fields-error"].hidden = true;
  try {
    await work();
  } catch (error) {
    parts.fields.hidden = false;
    parts["fields-error"].textContent = error.message;
    parts["fields-error"].hidden = false;
  }
}

function step(by) {
  parts.unit.selectedIndex += by;
  told(openUnit);
}

parts.look.addEventListener("change", () => told(openLook));
parts.unit.addEventListener("change", () => told(openUnit));
parts.before.addEventListener("click", () => step(-1));
parts.after.addEventListener("click", () => step(1));
