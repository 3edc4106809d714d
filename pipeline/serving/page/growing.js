"use strict";
// Pictures that grow on the page, code by code.

const PATCHES_A_ROW = 128;
let patches = null;   // a picture of every code, as an ImageBitmap
let loading = false;  // the patches are on their way
let drawn = [];       // the Growing pictures of the last request

// Codes that came before the patches are drawn once those are there; no picture waits for them.
async function loadPatches() {
  if (patches || loading) return;
  loading = true;
  try {
    const answer = await fetch("/v1/patches.png", { headers: headers() });
    patches = await createImageBitmap(await answer.blob());
    for (const each of drawn) each.draw();
  } catch {
    // Pictures come whole, and the next request asks for the patches again.
  }
  loading = false;
  if (running) showRunning();
}

// A picture that grows: patches of codes on a canvas, then the decoded picture in its place.
class Growing {
  constructor(label, sides) {
    this.figure = document.createElement("figure");
    this.canvas = document.createElement("canvas");
    this.canvas.width = this.canvas.height = 256;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `${label}, being drawn`);
    this.note = document.createElement("figcaption");
    this.figure.append(this.canvas, this.note);
    this.label = label;
    this.sides = sides;  // codes of a side, of each resolution
    this.waiting = [];   // codes that are not drawn yet, with their numbers
    drawn.push(this);
  }

  add(start, codes) {
    codes.forEach((code, offset) => this.waiting.push([start + offset, code]));
    this.draw();
  }

  draw() {
    if (!patches) return;
    const context = this.canvas.getContext("2d"), tile = patches.width / PATCHES_A_ROW;
    for (let [number, code] of this.waiting) {
      this.canvas.dataset.codes = number + 1;
      let side = this.sides[0];
      if (number >= side * side && this.sides[1]) [number, side] = [number - side * side, this.sides[1]];
      const across = this.canvas.width / side, x = number % side * across, y = Math.floor(number / side) * across;
      context.drawImage(patches, code % PATCHES_A_ROW * tile, Math.floor(code / PATCHES_A_ROW) * tile, tile, tile, x, y, across, across);
    }
    this.waiting = [];
  }

  finish(url, note) {
    const image = new Image();
    image.alt = this.label;
    image.src = url;
    this.canvas.replaceWith(image);
    this.note.textContent = note;
  }
}
