// What a version found in a picture: classes, their shares and confidences, and how to paint them.

import { arraysOf } from "./npz.js";

/** Canvases are painted with at most this many pixels, so that large pictures stay quick. */
const MOST_PAINTED = 4e6;

export class Result {
  /**
   * @param {ArrayBuffer} file the answer as application/x-npz.
   * @param {object} model as /v1/models describes it.
   */
  constructor(file, model) {
    const { labels, confidence } = arraysOf(file);
    [this.height, this.width] = labels.shape;
    this.labels = labels.values;
    this.confidence = confidence.values;
    this.model = model;
    this.pixels = new Array(model.classes.length).fill(0);
    const sums = new Array(model.classes.length).fill(0);
    for (let index = 0; index < this.labels.length; index += 1) {
      this.pixels[this.labels[index]] += 1;
      sums[this.labels[index]] += this.confidence[index];
    }
    this.means = sums.map((sum, label) => (this.pixels[label] ? sum / this.pixels[label] : null));
  }

  /** Return share and mean confidence of a class by its name; a version may not know it. */
  of(name) {
    const label = this.model.classes.indexOf(name);
    return label < 0 ? null : { share: this.pixels[label] / this.labels.length, confidence: this.means[label] };
  }

  /** Return name, colour and confidence of a pixel. */
  at(x, y) {
    const index = y * this.width + x;
    const label = this.labels[index];
    return { name: this.model.classes[label], colour: this.model.colours[label], confidence: this.confidence[index] };
  }

  /** Return for each pixel whether another result has another class there. */
  differences(other) {
    const same = this.model.classes.map((name) => other.model.classes.indexOf(name));
    const found = new Uint8Array(this.labels.length);
    for (let index = 0; index < found.length; index += 1) {
      found[index] = same[this.labels[index]] === other.labels[index] ? 0 : 1;
    }
    return found;
  }

  /**
   * Paint the classes onto a canvas.
   * @param {Set<string>} hidden names of classes that are left out.
   * @param {Uint8Array | null} only the pixels to paint, if not all.
   */
  paint(canvas, hidden, only) {
    const step = Math.ceil(Math.sqrt(this.labels.length / MOST_PAINTED));
    canvas.width = Math.ceil(this.width / step);
    canvas.height = Math.ceil(this.height / step);
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const painted = new DataView(image.data.buffer);
    const colours = this.model.colours.map(([red, green, blue], label) =>
      hidden.has(this.model.classes[label]) ? 0 : ((red << 24) | (green << 16) | (blue << 8) | 255) >>> 0);
    let place = 0;
    for (let y = 0; y < this.height; y += step) {
      for (let index = y * this.width, end = index + this.width; index < end; index += step, place += 4) {
        if (only === null || only[index]) painted.setUint32(place, colours[this.labels[index]]);
      }
    }
    context.putImageData(image, 0, 0);
  }
}
