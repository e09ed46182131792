// Plots of the last 20 s: residual, admitted residual and command, as shares of their limits (-1 to 1).

import { colour, fit, level } from "/drawing.js";
import { node } from "/elements.js";

const SECONDS = 20;
const HIGHEST = 1.25; // values beyond this are drawn at the edge
const GAP_MS = 500; // a longer pause between two points is a gap of the line

const $ = (id) => document.getElementById(id);
const hue = (index, count) => `hsl(${Math.round((360 * index) / Math.max(1, count))} 75% 50%)`;

export class Plots {
  constructor() {
    this.points = [];
    this.named = "";
  }

  // Take what a status brings; the server sends each point once.
  add({ components, joints, points }) {
    const named = JSON.stringify([components, joints]);
    if (named !== this.named) {
      this.named = named;
      this.points = [];
      legend($("keys-residual"), components);
      legend($("keys-joints"), joints);
    }
    this.points.push(...points);
    const newest = this.points.at(-1)?.t ?? 0;
    while (this.points.length && newest - this.points[0].t > 1000 * SECONDS) this.points.shift();
  }

  clear() {
    this.points = [];
    this.named = "";
  }

  draw(now) {
    this.plot($("plot-residual"), now, [["asked", 1], ["applied", 2.4]]);
    this.plot($("plot-position"), now, [["position", 1.6]]);
    this.plot($("plot-velocity"), now, [["velocity", 1.6]]);
  }

  plot(canvas, now, kinds) {
    const { width, height } = canvas.getBoundingClientRect();
    const context = fit(canvas, width, height);
    context.clearRect(0, 0, width, height);
    const [left, right] = [2, width - 44];
    const middle = height / 2;
    const y = (value) => middle - (Math.max(-HIGHEST, Math.min(HIGHEST, value)) / HIGHEST) * (middle - 3);
    const x = (time) => right - ((now - time) / (1000 * SECONDS)) * (right - left);
    for (const [value, text, name] of [[1, "limit", "--bad"], [0, "0", "--quiet"], [-1, "limit", "--bad"]]) {
      level(context, left, right, y(value), text, colour(name));
    }
    context.save();
    context.beginPath();
    context.rect(left, 0, right - left, height);
    context.clip();
    for (const [name, thickness] of kinds) this.lines(context, name, thickness, x, y);
    context.restore();
  }

  lines(context, name, thickness, x, y) {
    const count = this.points.findLast((point) => point[name])?.[name].length ?? 0;
    context.lineWidth = thickness;
    context.lineJoin = "round";
    for (let index = 0; index < count; index += 1) {
      context.strokeStyle = hue(index, count);
      context.beginPath();
      let last = null; // time of the point before
      for (const point of this.points) {
        const value = point[name]?.[index];
        if (value === undefined || value === null) continue;
        if (last === null || point.t - last > GAP_MS) context.moveTo(x(point.t), y(value));
        else context.lineTo(x(point.t), y(value));
        last = point.t;
      }
      context.stroke();
    }
  }
}

function legend(list, names) {
  list.replaceChildren(
    ...names.map((name, index) => {
      const swatch = node("span", "swatch");
      swatch.style.borderColor = hue(index, names.length);
      return node("li", "", "", swatch, name);
    }),
  );
}
