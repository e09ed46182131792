// Draws images with their lines, and the domain shift over time. Coordinates are pixels of the camera's image.

const SECONDS = 60;

export function fit(canvas, width, height) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A dashed line across a diagram, with its name on the right.
export function level(context, left, right, y, name, style) {
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.strokeStyle = context.fillStyle = style;
  context.lineWidth = 1;
  context.setLineDash([4, 4]);
  context.beginPath();
  context.moveTo(left, y);
  context.lineTo(right, y);
  context.stroke();
  context.setLineDash([]);
  context.fillText(name, right + 6, y);
}

function outlined(context, inner, width, path) {
  for (const [style, extra] of [["rgba(0, 0, 0, 0.75)", 2.5], [inner, 0]]) {
    context.strokeStyle = style;
    context.lineWidth = width + extra;
    context.beginPath();
    path();
    context.stroke();
  }
}

export class ImageView {
  constructor(canvas) {
    this.canvas = canvas;
    this.shown = null; // header of the image that is drawn
    this.bitmap = null;
  }

  // Draw an image; `goal` is one that waits for the second click, in pixels.
  draw(header, bitmap, goal) {
    if (this.bitmap && this.bitmap !== bitmap) this.bitmap.close();
    [this.shown, this.bitmap] = [header, bitmap];
    const box = this.canvas.parentElement.getBoundingClientRect();
    const scale = Math.min(box.width / header.width, (0.5 * window.innerHeight) / header.height);
    const [width, height] = [header.width * scale, header.height * scale];
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    const context = fit(this.canvas, width, height);
    context.imageSmoothingEnabled = scale < 3; // a small image shows the pixels that the policy sees
    context.drawImage(bitmap, 0, 0, width, height);
    this.scale = scale;
    const at = ([u, v]) => [(u + 0.5) * scale, (v + 0.5) * scale];
    if (header.object) this.ellipse(context, header.object, at);
    if (header.goal) this.ring(context, at(header.goal), []);
    if (header.tool && header.residual) this.arrow(context, at(header.tool), at(header.residual));
    header.points.forEach(([u, v, confidence], index) => {
      const [x, y] = at([u, v]);
      context.beginPath();
      context.arc(x, y, 2.5 + 3 * confidence, 0, 2 * Math.PI);
      context.fillStyle = `hsl(${(360 * index) / header.points.length} 90% 58%)`;
      context.fill();
      context.lineWidth = 1.2;
      context.strokeStyle = "rgba(0, 0, 0, 0.8)";
      context.stroke();
    });
    if (goal) this.ring(context, at(goal), [6, 5]);
  }

  redraw(goal) {
    if (this.bitmap) this.draw(this.shown, this.bitmap, goal);
  }

  ellipse(context, [u, v, a, b, angle], at) {
    const [x, y] = at([u, v]);
    const radii = [a, b].map((radius) => Math.max(4, radius * this.scale));
    outlined(context, colour("--object"), 2, () => context.ellipse(x, y, radii[0], radii[1], angle, 0, 2 * Math.PI));
    outlined(context, colour("--object"), 1.5, () => {
      context.moveTo(x - 5, y);
      context.lineTo(x + 5, y);
      context.moveTo(x, y - 5);
      context.lineTo(x, y + 5);
    });
  }

  ring(context, [x, y], dashes) {
    context.setLineDash(dashes);
    outlined(context, colour("--goal"), 2.5, () => context.arc(x, y, 13, 0, 2 * Math.PI));
    context.setLineDash([]);
    outlined(context, colour("--goal"), 2, () => context.arc(x, y, 1.5, 0, 2 * Math.PI));
  }

  arrow(context, [x0, y0], [x1, y1]) {
    const length = Math.hypot(x1 - x0, y1 - y0);
    outlined(context, colour("--residual"), 1.5, () => context.arc(x0, y0, 4, 0, 2 * Math.PI));
    if (length < 3) return;
    const [dx, dy] = [(x1 - x0) / length, (y1 - y0) / length];
    const head = Math.min(9, 0.6 * length);
    outlined(context, colour("--residual"), 3, () => {
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
      context.lineTo(x1 - head * (dx + 0.6 * dy), y1 - head * (dy - 0.6 * dx));
      context.moveTo(x1, y1);
      context.lineTo(x1 - head * (dx - 0.6 * dy), y1 - head * (dy + 0.6 * dx));
    });
  }

  // The pixel of the image under a pointer event.
  pixel(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / this.scale - 0.5, (event.clientY - box.top) / this.scale - 0.5];
  }
}

export class ShiftChart {
  constructor(canvas) {
    this.canvas = canvas;
    this.points = []; // [seconds, shift]
  }

  add(now, shift) {
    if (shift === null) return;
    this.points.push([now, shift]);
    while (this.points.length && now - this.points[0][0] > SECONDS) this.points.shift();
  }

  draw(now, slow, hold) {
    const { width, height } = this.canvas.getBoundingClientRect();
    const context = fit(this.canvas, width, height);
    context.clearRect(0, 0, width, height);
    const [left, right] = [2, width - 40];
    const y = (value) => height - 5 - (height - 12) * Math.min(1, Math.max(0, value));
    const x = (time) => right - ((now - time) / SECONDS) * (right - left);
    for (const [value, text, name] of [[slow, "slow", "--warn"], [hold, "hold", "--bad"]]) {
      if (value !== undefined) level(context, left, right, y(value), text, colour(name));
    }
    context.strokeStyle = colour("--line");
    context.beginPath();
    context.moveTo(left, y(0));
    context.lineTo(right, y(0));
    context.stroke();
    context.strokeStyle = colour("--accent");
    context.lineWidth = 1.8;
    context.lineJoin = "round";
    context.beginPath();
    this.points.forEach(([time, shift], index) => {
      const gap = index > 0 && time - this.points[index - 1][0] > 1;
      if (index === 0 || gap) context.moveTo(x(time), y(shift));
      else context.lineTo(x(time), y(shift));
    });
    context.stroke();
  }
}
