// The operator's page: shows the status, sends commands, and sends the heartbeat from this, the main thread.

import { ImageView, ShiftChart } from "/drawing.js";
import { list, node, put } from "/elements.js";
import { Jog } from "/jog.js";
import { Plots } from "/plots.js";
import { KEYS as RECORDING_KEYS, Recording, isTyping } from "/recording.js";

const PROTOCOL = "rlfp.operator.1";
const BEAT_MS = 100;
const RECONNECT_MS = 1000;
const SILENT_MS = 1500; // without a status for this long, the page says so
const NEAR_PX = 18; // a second click this near to the shown goal sends it

const $ = (id) => document.getElementById(id);
const view = new ImageView($("image"));
const chart = new ShiftChart($("shift"));
const plots = new Plots();
const recording = new Recording((message) => send(message));

const jog = new Jog((message) => send(message), () => drawn);

let socket = null;
let status = null; // the newest from the server
let drawn = 0; // `now` of the newest status that is on the screen
let drawing = false;
let heard = 0; // when the newest status came
let refusal = ""; // the server does not let this page in
let hiddenNotice = "";
let imageTimes = [];
let bags = null; // the newest list of bags
let gainHeld = false; // the slider is being moved

// --- connection --------------------------------------------------------------------------------------------------

function connect() {
  const token = location.hash.slice(1);
  if (!/^[0-9a-zA-Z_-]{16,128}$/.test(token)) {
    refusal = "Open the whole address that the program printed, with the part after #.";
    render();
    return;
  }
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/page`, [PROTOCOL, `token.${token}`]);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => (typeof event.data === "string" ? onStatus(event.data) : onImage(event.data));
  socket.onclose = (event) => {
    socket = null;
    status = null;
    plots.clear();
    if (event.code === 1008 && event.reason.startsWith("wrong token")) {
      refusal = "The program was started again. Open the address that it printed now.";
    } else {
      refusal = event.reason;
      setTimeout(connect, event.code === 1013 ? 5 * RECONNECT_MS : RECONNECT_MS);
    }
    render();
  };
}

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function onStatus(text) {
  status = JSON.parse(text);
  heard = performance.now();
  refusal = "";
  plots.add(status.plots);
  if (status.bags) bags = status.bags; // sent once: a status that is not drawn must not lose it
  if (drawing) return; // a hidden page draws nothing: its frames must not pile up
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    render();
    if (status) drawn = status.now; // this is on the screen: a beat may say so
  });
}

async function onImage(data) {
  const length = new DataView(data).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  try {
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
    await new Promise(requestAnimationFrame);
    view.draw(header, bitmap, status?.goal?.pixel);
    const now = performance.now();
    imageTimes = [...imageTimes.filter((time) => now - time < 2000), now];
    chart.add(now / 1000, header.shift);
    renderImageFacts(header);
  } finally {
    send({ type: "drawn", image: header.image });
  }
}

// The heartbeat means that a person sees this page: no worker sends it, and it ends when the page is hidden or blocked.
setInterval(() => {
  if (document.visibilityState === "visible" && drawn) send({ type: "beat", shown: drawn });
  if (socket && heard && performance.now() - heard > SILENT_MS) render();
}, BEAT_MS);

document.addEventListener("operator-stop", () => send({ type: "stop" }));

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState !== "hidden") {
    render();
  } else if (status?.operates && status.enabled) {
    send({ type: "disable" });
    hiddenNotice = "The page was hidden, so the arm was disabled.";
  }
});

window.addEventListener("beforeunload", (event) => {
  if (status?.operates && status.enabled) event.preventDefault();
});
window.addEventListener("hashchange", () => location.reload());

// --- commands ----------------------------------------------------------------------------------------------------

const KEYS = { e: "enable", s: "step", d: "disable", r: "reset" };
for (const name of [...Object.values(KEYS), "take", "release"]) {
  $(name).addEventListener("click", () => {
    hiddenNotice = "";
    send({ type: name });
  });
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || isTyping(event)) return;
  const key = event.key.toLowerCase();
  const name = KEYS[key] || RECORDING_KEYS[key];
  if (name && !$(name).disabled) $(name).click();
});

$("gain").addEventListener("input", () => {
  gainHeld = true;
  $("gain-value").value = Number($("gain").value).toFixed(2);
});
$("gain").addEventListener("change", () => {
  gainHeld = false;
  send({ type: "gain", value: Number($("gain").value) });
});

const canClick = () => Boolean(status?.operates && status.controller?.takes_goal && view.shown);
$("image").addEventListener("click", (event) => {
  if (!canClick()) return;
  const [u, v] = view.pixel(event);
  const pixel = status.goal?.pixel;
  if (pixel && Math.hypot(u - pixel[0], v - pixel[1]) * view.scale < NEAR_PX) {
    send({ type: "send_goal", goal: status.goal.goal });
  } else {
    send({ type: "click", image: view.shown.image, u, v });
  }
});
$("goal-send").addEventListener("click", () => status?.goal && send({ type: "send_goal", goal: status.goal.goal }));
$("goal-forget").addEventListener("click", () => send({ type: "forget_goal" }));
new ResizeObserver(() => view.redraw(status?.goal?.pixel)).observe($("image").parentElement);

// --- what is shown -----------------------------------------------------------------------------------------------

// A parameter's description as the beginning of a sentence, without the unit of a pure number.
function sentence(text) {
  const plain = text.replace(" (1)", "");
  return plain.charAt(0).toUpperCase() + plain.slice(1);
}

function render() {
  const silent = status !== null && performance.now() - heard > SILENT_MS;
  const live = status !== null && !silent;
  renderBanner(live, silent);
  renderControl(live);
  renderChecklist(live);
  renderGoal(live);
  const events = live ? status.events.slice(-12).reverse() : [];
  if (live) {
    list($("log"), events, ({ at, text, ok }) => {
      const time = node("time", "", new Date(at).toLocaleTimeString([], { hour12: false }));
      return node("li", ok ? "" : "refused", "", time, node("span", "", text));
    });
  }
  recording.render(live ? { ...status, bags } : null);
  jog.render(live ? status : null);
  if (live) plots.draw(status.now);
  chart.draw(performance.now() / 1000, status?.controller?.shift_slow, status?.controller?.shift_hold);
}

function renderBanner(live, silent) {
  const connected = socket !== null && socket.readyState === WebSocket.OPEN;
  let [state, words] = ["Disconnected", refusal || "No connection to the server. The heartbeat has ended: the arm stops."];
  if (live) [state, words] = [status.state || "No controller", status.state_words];
  else if (silent) [state, words] = ["Silent", "The server sends nothing. The heartbeat does not count: the arm stops."];
  else if (connected) [state, words] = ["Connecting", "Waiting for the server."];
  document.body.dataset.state = live ? status.state || "none" : "lost";
  document.title = `${state} – Operator`;
  const jogging = live && status.reasons.some(({ code }) => code === "jog" || code === "handing_over");
  put($("state"), live && status.stopping ? "STOPPING" : jogging && status.operates ? "You are moving the arm" : state);
  put($("state-words"), words);
  list($("reasons"), live ? status.reasons : [], ({ code, meaning, remedy }) => {
    const row = node("li", "", "", node("span", "meaning", meaning), node("span", "remedy", remedy ? ` ${remedy}` : ""));
    row.append(node("code", "", code));
    return row;
  });
  const controller = live ? status.controller : null;
  put($("bundle"), controller?.bundle || "–");
  put($("arm"), controller?.arm || "–");
  put($("round-trip"), live && status.round_trip_ms !== null ? `${status.round_trip_ms} ms` : "–");
  put($("pages"), live ? String(status.pages) : "–");
  const notice = hiddenNotice || controller?.note || "";
  $("notice").hidden = !notice;
  put($("notice"), notice);
}

function renderControl(live) {
  const controller = live ? status.controller : null;
  const operates = live && status.operates;
  const red = live && status.checklist ? status.checklist.filter((line) => !line.ok).length : 0;
  const state = live ? status.state : null;
  const may = {
    enable: operates && state === "DISABLED" && !red,
    step: operates && (status.enabled || (state === "DISABLED" && !red)),
    disable: operates && status.enabled,
    reset: operates && state === "STOPPED",
  };
  for (const [name, allowed] of Object.entries(may)) {
    $(name).disabled = !allowed;
    $(name).classList.toggle("primary", allowed && (name === "enable" || name === "reset"));
  }
  $("take").hidden = !live || operates;
  $("take").disabled = live && !operates && status.operator !== null;
  $("release").hidden = !operates;
  let lease = "";
  if (operates) lease = `This page (${status.page}) operates.`;
  else if (live && status.operator !== null) lease = `Page ${status.operator} operates. This page (${status.page}) watches; STOP works here too.`;
  else if (live) lease = `Nothing operates. This page (${status.page}) watches.`;
  put($("lease"), lease);
  let hint = "";
  if (operates && state === "DISABLED" && red) hint = `Enable is refused until the checklist is green: ${red} ${red === 1 ? "line is" : "lines are"} red.`;
  else if (operates && state === "STOPPED") hint = "Reset releases the stop once the arm is at rest. The arm stays disabled until Enable.";
  put($("hint"), hint);
  const badges = [];
  if (controller?.dry_run) badges.push("dry run: nothing is sent to the arm");
  if (controller?.step_by_step) badges.push("step mode");
  list($("badges"), badges, (text) => node("span", "badge", text));
  const slider = $("gain");
  slider.disabled = !operates || !controller;
  if (controller && !gainHeld) {
    [slider.min, slider.max] = controller.gain_range;
    slider.value = controller.gain;
    $("gain-value").value = controller.gain.toFixed(2);
  }
  put($("gain-words"), controller ? `${sentence(controller.gain_description)}; now ${status.gain_applied.toFixed(2)} is applied.` : "");
  let words = "";
  if (controller && controller.require_heartbeat) {
    words = `Keep this page visible. If it is hidden, closed, blocked or disconnected, the arm stops within ${controller.heartbeat_timeout_s} s.`;
  } else if (controller) {
    words = "This controller requires no heartbeat: closing this page does NOT stop the arm.";
  }
  put($("heartbeat-words"), words);
  $("heartbeat-words").classList.toggle("loud", Boolean(controller && !controller.require_heartbeat));
}

function renderChecklist(live) {
  const lines = live ? status.checklist : null;
  const red = lines ? lines.filter((line) => !line.ok).length : 0;
  let sum = "";
  if (live && !lines) sum = "this graph has none";
  else if (live && status.enabled) sum = "as it was before Enable";
  else if (lines) sum = red ? `${red} of ${lines.length} red` : "all green";
  put($("checklist-sum"), sum);
  const sorted = lines ? [...lines].sort((a, b) => a.ok - b.ok) : [];
  list($("checklist"), sorted, ({ name, ok, found, fix }) => {
    const row = node("li", ok ? "ok" : "red");
    row.append(node("span", "mark", ok ? "✓" : "✕"));
    row.firstChild.setAttribute("aria-label", ok ? "green" : "red");
    const text = node("div", "", "", node("strong", "", name), node("span", "found", found));
    if (!ok && fix) text.append(node("p", "fix", fix));
    row.append(text);
    return row;
  });
}

function renderGoal(live) {
  const takes = live && status.controller?.takes_goal;
  $("goal-row").hidden = !takes;
  $("image").classList.toggle("clickable", canClick());
  if (!takes) return;
  const goal = status.goal;
  let text = status.operates ? "Click on the table to choose a goal." : "The page that operates can choose a goal.";
  if (status.goal_fault) text = `Refused: ${status.goal_fault}.`;
  if (goal) text = `Goal (${goal.point.map((value) => value.toFixed(3)).join(", ")}) m: click it again to send it.`;
  put($("goal-text"), text);
  $("goal-text").classList.toggle("refused", Boolean(status.goal_fault) && !goal);
  $("goal-send").hidden = $("goal-forget").hidden = !goal;
}

function renderImageFacts(header) {
  const rate = imageTimes.length > 1 ? ((imageTimes.length - 1) * 1000) / (imageTimes.at(-1) - imageTimes[0]) : 0;
  const parts = [`${header.width} × ${header.height}`, `age ${Math.round(header.age_ms)} ms`, `${rate.toFixed(0)} images/s`];
  if (!header.perceived) parts.unshift("NOT seen by the policy");
  put($("image-facts"), parts.join(" · "));
  put($("shift-now"), header.shift === null ? "–" : header.shift.toFixed(2));
  $("image-empty").hidden = true;
}

setInterval(() => {
  const age = status?.image_silent_s;
  if (age > 1 && view.shown) put($("image-facts"), `no new image for ${age.toFixed(0)} s`);
  if (!status) render();
}, 1000);

connect();
