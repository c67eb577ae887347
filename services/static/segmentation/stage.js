// The picture with its classes: layers, divider and a cursor for mouse, finger and keyboard.

const ids = ["stage", "photo", "first", "second", "edge", "first-name", "second-name", "cursor", "divider", "divider-row"];
const parts = Object.fromEntries(ids.map((id) => [id, document.getElementById(id)]));
/** The longer side is this many steps of an arrow key, and a tenth as many with Shift. */
const STEPS = 100;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

let size = { width: 3, height: 2 };
let at = null;
let onMove = () => {};

/** Call a function with x, y and whether by keyboard, each time the cursor moves. */
export function watchCursor(moved) {
  onMove = moved;
}

/** Show a picture, without classes. Resolves with whether the browser can show it. */
export async function showPhoto(url, name) {
  const { photo } = parts;
  show([], 0);
  hideCursor();
  photo.src = url;
  photo.alt = name;
  const isShown = await photo.decode().then(() => true, () => false);
  if (isShown && photo.src === url) resize(photo.naturalWidth, photo.naturalHeight);
  return isShown;
}

/** Take the size of what was found: with it the cursor counts. */
export function resize(width, height) {
  size = { width, height };
  for (const element of [parts.stage, parts["divider-row"]]) element.style.setProperty("--ratio", width / height);
  const isEnlarged = width < parts.stage.clientWidth * devicePixelRatio;
  for (const name of ["photo", "first", "second"]) parts[name].classList.toggle("enlarged", isEnlarged);
}

/** Show none, one or two layers of classes; `names` say whose. */
export function show(names, opacity) {
  const isCompared = names.length > 1;
  parts.first.hidden = names.length === 0;
  for (const id of ["second", "edge", "first-name", "second-name", "divider-row"]) parts[id].hidden = !isCompared;
  if (isCompared) [parts["first-name"].textContent, parts["second-name"].textContent] = names;
  fade(opacity);
  divide();
}

/** Set how much the classes cover, 0 to 1. */
export function fade(opacity) {
  for (const name of ["first", "second"]) parts[name].style.opacity = opacity;
}

/** Return where the cursor is, or null. */
export const cursor = () => at;

function hideCursor() {
  at = null;
  parts.cursor.hidden = true;
}

function divide() {
  const share = Number(parts.divider.value);
  const isCompared = !parts.second.hidden;
  parts.first.style.clipPath = isCompared ? `inset(0 ${100 - share}% 0 0)` : "";
  parts.second.style.clipPath = `inset(0 0 0 ${share}%)`;
  parts.edge.style.left = `${share}%`;
}

function moveTo(x, y, byKeyboard) {
  const inside = (value, most) => Math.min(Math.max(Math.floor(value), 0), most - 1);
  at = { x: inside(x, size.width), y: inside(y, size.height) };
  parts.cursor.style.left = `${(100 * (at.x + 0.5)) / size.width}%`;
  parts.cursor.style.top = `${(100 * (at.y + 0.5)) / size.height}%`;
  parts.cursor.hidden = false;
  onMove(at.x, at.y, byKeyboard);
}

function point(event) {
  const box = parts.stage.getBoundingClientRect();
  moveTo(((event.clientX - box.left) / box.width) * size.width, ((event.clientY - box.top) / box.height) * size.height, false);
}

parts.stage.addEventListener("pointermove", point);
parts.stage.addEventListener("pointerdown", point);
parts.stage.addEventListener("keydown", (event) => {
  const arrow = ARROWS[event.key];
  if (!arrow || event.ctrlKey || event.metaKey || event.altKey || event.target !== parts.stage) return;
  event.preventDefault();
  const one = Math.max(1, Math.round(Math.max(size.width, size.height) / STEPS));
  const step = event.shiftKey ? 10 * one : one;
  const from = at ?? { x: size.width / 2 - arrow[0] * step, y: size.height / 2 - arrow[1] * step };
  moveTo(from.x + arrow[0] * step, from.y + arrow[1] * step, true);
});
parts.divider.addEventListener("input", divide);
