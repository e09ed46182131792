// STOP: the button and the space bar. Depends on no other part of the page, on no connection and on no token.

const button = document.getElementById("stop");
const note = document.getElementById("stop-note");

export async function stop() {
  document.dispatchEvent(new Event("operator-stop")); // the open connection stops the arm too, if there is one
  button.classList.add("pressed");
  setTimeout(() => button.classList.remove("pressed"), 400);
  try {
    const answer = await fetch("/estop", { method: "POST", keepalive: true, cache: "no-store" });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  } catch (error) {
    note.textContent = `STOP did not arrive (${error.message}). Use the arm's own emergency stop.`;
    note.classList.add("failed");
  }
}

button.addEventListener("pointerdown", stop);
button.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.repeat) stop();
});
button.addEventListener("click", (event) => {
  if (event.detail === 0) stop(); // a screen reader or another assistive tool; a pointer has already stopped
});

// While the arm is disabled or stopped already, the space bar writes a space into a text.
const AT_REST = ["DISABLED", "STOPPED"];
const writes = (event) => event.target.matches?.("input[type=text]") && AT_REST.includes(document.body.dataset.state);

// The space bar would press the button that has the focus: otherwise it always means STOP here.
for (const kind of ["keydown", "keyup"]) {
  document.addEventListener(
    kind,
    (event) => {
      if ((event.code !== "Space" && event.key !== " ") || writes(event)) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      if (kind === "keydown" && !event.repeat) stop();
    },
    { capture: true },
  );
}
