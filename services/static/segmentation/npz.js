// Arrays out of an .npz file as NumPy writes it: a zip of .npy files, here stored without compression.

const KINDS = { "|u1": Uint8Array, "<f4": Float32Array };
const END_BYTES = 22;
const text = new TextDecoder();

/** Return the arrays of a file by name, each with its `shape` and `values`. */
export function arraysOf(buffer) {
  const view = new DataView(buffer);
  const end = buffer.byteLength - END_BYTES;
  if (end < 0 || view.getUint32(end, true) !== 0x06054b50) throw new Error("the arrays are cut off");
  const found = {};
  let entry = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left -= 1) {
    const [name, extra, comment] = [28, 30, 32].map((place) => view.getUint16(entry + place, true));
    const local = view.getUint32(entry + 42, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    found[text.decode(new Uint8Array(buffer, entry + 46, name)).replace(/\.npy$/, "")] = arrayAt(buffer, start);
    entry += 46 + name + extra + comment;
  }
  return found;
}

/** Return the array of the .npy file, version 1, that starts at a place. */
function arrayAt(buffer, start) {
  const length = new DataView(buffer).getUint16(start + 8, true);
  const header = text.decode(new Uint8Array(buffer, start + 10, length));
  const Kind = KINDS[/'descr': '([^']+)'/.exec(header)?.[1]];
  if (!Kind || header.includes("'fortran_order': True")) throw new Error(`arrays of another kind: ${header.trim()}`);
  const shape = /'shape': \(([\d, ]*)\)/.exec(header)[1].split(",").filter((part) => part.trim()).map(Number);
  const bytes = shape.reduce((product, side) => product * side, 1) * Kind.BYTES_PER_ELEMENT;
  const first = start + 10 + length;
  // A zip aligns nothing: most arrays have to be copied.
  const isAligned = first % Kind.BYTES_PER_ELEMENT === 0;
  const values = isAligned ? new Kind(buffer, first, bytes / Kind.BYTES_PER_ELEMENT) : new Kind(buffer.slice(first, first + bytes));
  return { shape, values };
}
