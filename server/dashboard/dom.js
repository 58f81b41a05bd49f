// Elements, made in one line. All text goes in as text: nothing that a model or the daemon says becomes markup.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** An HTML element with attributes and children, which may be text. */
export function html(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same in SVG. */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Set an element's text, unless it says that already: screen readers and selections stay undisturbed. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Rows of a table's body, each a list of texts; the first of a row is its header. */
export function fillTable(table, rows) {
  const body = rows.map(([header, ...cells]) =>
    html("tr", {}, html("th", { scope: "row" }, header), ...cells.map((cell) => html("td", {}, cell))),
  );
  table.tBodies[0].replaceChildren(...body);
}
