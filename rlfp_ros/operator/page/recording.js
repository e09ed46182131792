// The recorder's part of the page: record, label, and the list of bags.

import { put, list, node } from "/elements.js";

const $ = (id) => document.getElementById(id);
const LABELS = ["success", "failure", "discard"];
const NAME = "rlfp-operator-name"; // in the browser's own storage
export const KEYS = { b: "record", g: "label-success", f: "label-failure", x: "label-discard" };

// Whether the keys of an event go into a text.
export const isTyping = (event) => Boolean(event.target.matches?.("input[type=text]"));

export class Recording {
  constructor(send) {
    this.send = send;
    this.bag = ""; // that the label is for
    this.labelled = ""; // the last one that was labelled here
    this.recording = false;
    $("record").addEventListener("click", () => send({ type: this.recording ? "end_record" : "record" }));
    for (const label of LABELS) $(`label-${label}`).addEventListener("click", () => this.label(label));
    try {
      $("operator-name").value = localStorage.getItem(NAME) ?? "";
    } catch {
      // the browser keeps nothing
    }
    $("operator-name").addEventListener("change", () => {
      try {
        localStorage.setItem(NAME, $("operator-name").value);
      } catch {
        // the browser keeps nothing
      }
    });
    for (const name of ["note", "operator-name"]) {
      $(name).addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === "Escape") event.target.blur(); // the keys are commands again
      });
    }
  }

  label(label) {
    const [note, operator] = [$("note").value.trim(), $("operator-name").value.trim()];
    this.send({ type: "label", bag: this.bag, label, note, operator });
    this.labelled = this.bag;
  }

  // `status` is null without a connection.
  render(status) {
    const recorder = status?.recorder ?? null;
    const operates = Boolean(status?.operates);
    this.recording = Boolean(recorder?.recording);
    if (recorder && recorder.bag !== this.bag) {
      if (this.bag && this.labelled === this.bag) $("note").value = ""; // it was sent with the label
      this.bag = recorder.bag;
    }
    document.body.classList.toggle("recording", this.recording);
    $("record").disabled = !operates || !recorder;
    put($("record-word"), this.recording ? "End recording" : "Record");
    let words = "";
    if (status && !recorder) words = "No recorder runs. Start the graph with operator:=true or record:=FOLDER.";
    else if (this.recording) words = `Recording ${recorder.bag}.`;
    else if (recorder) words = `Nothing is being recorded.`;
    put($("record-words"), words);
    put($("record-facts"), recorder?.bag ? facts(recorder) : "");
    $("record-fault").hidden = !recorder?.fault;
    put($("record-fault"), recorder?.fault ?? "");
    put($("label-for"), recorder?.bag ? `Label of ${recorder.bag}` : "Label of the bag: record one first");
    for (const label of LABELS) {
      $(`label-${label}`).disabled = !operates || !recorder?.bag;
      $(`label-${label}`).setAttribute("aria-pressed", String(recorder?.label?.label === label));
    }
    const typing = document.activeElement?.matches("input[type=text]");
    $("typing-hint").hidden = !(typing && status?.enabled);
    if (status?.bags) renderBags(status.bags);
  }
}

function facts({ recording, duration_s, messages, megabytes, dropped }) {
  const parts = [`${duration_s.toFixed(recording ? 0 : 1)} s`, `${messages} messages`, `${megabytes.toFixed(1)} MB`];
  parts.push(dropped ? `${dropped} LOST` : "none lost");
  return parts.join(" · ");
}

function renderBags({ bags, more }) {
  put($("bags-sum"), bags.length ? `the newest ${bags.length} of ${bags.length + more}` : "none yet");
  list($("bags"), bags, ({ name, start_ms, duration_s, megabytes, label, episodes, dropped }) => {
    const when = new Date(start_ms).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
    const row = node("li", "", "", node("strong", "", name));
    row.append(node("span", `mark ${label?.label ?? ""}`, label?.label ?? "no label"));
    const parts = [when, `${duration_s.toFixed(1)} s`, `${megabytes.toFixed(1)} MB`];
    if (episodes) parts.push(`episodes: ${episodes}`);
    if (dropped) parts.push(`lost ${dropped}`);
    if (label?.operator) parts.push(`labelled by ${label.operator}`);
    row.append(node("span", "note quiet", parts.join(" · ")));
    if (label?.note) row.append(node("span", "note", label.note));
    return row;
  });
}
