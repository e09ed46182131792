// Changes of the page's elements. Only what differs is changed: a screen reader reads out each change.

export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function list(element, rows, make) {
  const key = JSON.stringify(rows);
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  element.replaceChildren(...rows.map(make));
}

export function node(tag, className, text, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}
