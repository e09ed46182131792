// A person moves the arm: buttons that are held, keys, or a gamepad. Jogs are sent only while something is held.

import { put } from "/elements.js";
import { isTyping } from "/recording.js";

const $ = (id) => document.getElementById(id);
const SEND_MS = 50; // the arm rests 0.2 s after the last jog
const DEAD_ZONE = 0.15; // of a stick
const DEADMAN = [4, 5]; // shoulder buttons: a stick counts only while one of them is held
const DIRECTIONS = {
  // id of the button: axis (linear x y z, angular x y z), sign
  "jog-forward": [0, 1],
  "jog-back": [0, -1],
  "jog-left": [1, 1],
  "jog-right": [1, -1],
  "jog-up": [2, 1],
  "jog-down": [2, -1],
  "jog-turn-left": [5, 1],
  "jog-turn-right": [5, -1],
};
const KEYS = { i: "jog-forward", k: "jog-back", j: "jog-left", l: "jog-right", u: "jog-up", o: "jog-down", n: "jog-turn-left", m: "jog-turn-right" };

export class Jog {
  // `shown` returns the time of the newest status that is on the screen.
  constructor(send, shown) {
    this.send = send;
    this.shown = shown;
    this.held = new Map(); // what holds a button, a pointer or a key: id of the button
    this.moving = false;
    this.allowed = false;
    for (const id of Object.keys(DIRECTIONS)) this.listen($(id), id);
    document.addEventListener("keydown", (event) => {
      const id = KEYS[event.key.toLowerCase()];
      if (!id || event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
      if (!event.repeat) this.hold(event.code, id);
    });
    document.addEventListener("keyup", (event) => this.release(event.code));
    window.addEventListener("blur", () => this.releaseAll());
    document.addEventListener("visibilitychange", () => this.releaseAll());
    document.addEventListener("operator-stop", () => this.releaseAll());
    $("resume").addEventListener("click", () => send({ type: "enable" }));
    setInterval(() => this.tick(), SEND_MS);
  }

  listen(button, id) {
    button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      button.setPointerCapture(event.pointerId);
      this.hold(event.pointerId, id);
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
      button.addEventListener(name, (event) => this.release(event.pointerId));
    }
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long press on a phone
    button.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.repeat) this.hold(event.code, id); // the code that its keyup has
    });
  }

  hold(what, id) {
    if (!this.allowed) return;
    this.held.set(what, id);
    this.tick();
  }

  release(what) {
    if (!this.held.delete(what)) return;
    if (!this.held.size) this.tick();
  }

  releaseAll() {
    this.held.clear();
    this.tick();
  }

  tick() {
    const velocity = this.allowed ? this.velocity() : null;
    if (velocity === null && !this.moving) return;
    this.moving = velocity !== null; // a last message with zeros: the arm need not wait for the timeout
    const speed = Number($("jog-speed").value);
    const scaled = (velocity ?? [0, 0, 0, 0, 0, 0]).map((share) => share * speed);
    this.send({ type: "jog", shown: this.shown(), linear: scaled.slice(0, 3), angular: scaled.slice(3) });
    this.mark();
  }

  // Shares of the highest speeds; null if nothing is held.
  velocity() {
    const total = [0, 0, 0, 0, 0, 0];
    for (const id of this.held.values()) {
      const [axis, sign] = DIRECTIONS[id];
      total[axis] = sign;
    }
    let active = this.held.size > 0;
    for (const pad of navigator.getGamepads?.() ?? []) {
      if (!pad?.connected || !DEADMAN.some((button) => pad.buttons[button]?.pressed)) continue;
      active = true;
      const stick = (axis) => (Math.abs(pad.axes[axis] ?? 0) > DEAD_ZONE ? -pad.axes[axis] : 0);
      total[0] += stick(1);
      total[1] += stick(0);
      total[2] += stick(3);
      total[5] += stick(2);
    }
    return active ? total.map((share) => Math.max(-1, Math.min(1, share))) : null;
  }

  mark() {
    const held = new Set(this.held.values());
    for (const id of Object.keys(DIRECTIONS)) $(id).classList.toggle("held", held.has(id));
  }

  // `status` is null without a connection.
  render(status) {
    const codes = new Set((status?.reasons ?? []).map((reason) => reason.code));
    const person = codes.has("jog") || codes.has("handing_over");
    const waits = codes.has("waiting_for_resume");
    this.allowed = Boolean(status?.operates && status.enabled);
    if (!this.allowed && this.held.size) this.releaseAll();
    for (const id of Object.keys(DIRECTIONS)) $(id).disabled = !this.allowed;
    document.body.classList.toggle("person", person || waits);
    $("resume").disabled = !(this.allowed && waits);
    $("resume").classList.toggle("primary", this.allowed && waits);
    let words = "Hold a button or a key. The policy fades first; then you move the arm.";
    if (!status) words = "";
    else if (!status.operates) words = person ? "A person moves the arm on another page." : "This page only watches.";
    else if (person) words = "You are moving the arm.";
    else if (waits) words = "You have the arm. It holds still until you move it, or press Resume.";
    else if (!status.enabled) words = "Enable the arm to move it.";
    put($("jog-words"), words);
    const speed = status?.controller?.jog_m_s;
    put($("jog-limit"), speed ? `at most ${(speed * Number($("jog-speed").value)).toFixed(2)} m/s` : "");
    this.mark();
  }
}
