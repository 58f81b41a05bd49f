// Scales and axes: small, and for these charts alone.

import { svg } from "./dom.js";

export const LEFT = 62; // room for labels; the slider has the same margins in layout.css
export const RIGHT = 10;

/** A function from values to pixels. */
export function scale([least, most], [from, to]) {
  const factor = most > least ? (to - from) / (most - least) : 0;
  return (value) => from + (value - least) * factor;
}

/** Round values from 0 to `most`, at most `count` of them beyond 0, in steps of 1, 2 or 5 of a binary unit. */
export function byteTicks(most, count) {
  const unit = 1024 ** Math.max(0, Math.floor(Math.log2(Math.max(most, 1)) / 10));
  return ticks(most / unit, count).map((value) => value * unit);
}

/** The same in steps of 1, 2 or 5 of a power of ten. */
export function ticks(most, count) {
  if (!(most > 0)) return [0];
  const power = 10 ** Math.floor(Math.log10(most / count));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => Math.floor(most / size) <= count);
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => index * step);
}

/** Text in a chart. */
export function label(x, y, text, kind, anchor = "start") {
  return svg("text", { x, y, class: kind, "text-anchor": anchor }, text);
}

/** A straight line in a chart. */
export function line(x1, y1, x2, y2, kind) {
  return svg("line", { x1, y1, x2, y2, class: kind });
}

/** What a panel shows, and the value now, above it. */
export function panelTitle(panel, name, value) {
  const text = label(LEFT, panel.top - 6, `${name} `, "panel-title halo");
  text.append(svg("tspan", { class: "value" }, value));
  return text;
}

/** Lines across a chart of this width, at heights `[y, text]`. */
export function grid(marks, width) {
  return marks.flatMap(([y, text]) => [
    line(LEFT, y, width - RIGHT, y, "grid"),
    label(LEFT - 8, y + 4, text, "note", "end"),
  ]);
}

/** The path through points `[x, y]`; with `steps`, a value holds until the next one. */
export function pathThrough(points, { steps = false } = {}) {
  const onward = steps ? (x, y) => `H${x}V${y}` : (x, y) => `L${x} ${y}`;
  return points.map(([x, y], index) => (index ? onward(r(x), r(y)) : `M${r(x)} ${r(y)}`)).join("");
}

/** The area between such a path and a floor. */
export function areaUnder(points, floor, options) {
  if (!points.length) return "";
  return `${pathThrough(points, options)}V${r(floor)}H${r(points[0][0])}Z`;
}

function r(value) {
  return Math.round(value * 10) / 10;
}

/** Call `draw(width)` now, and when the element gets another width. */
export function onWidth(element, draw) {
  new ResizeObserver(([entry]) => draw(Math.round(entry.contentRect.width))).observe(element);
}
