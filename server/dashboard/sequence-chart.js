// The transition sequence: what quality costs at each position, where the model is, and where it may not go.

import { areaUnder, grid, label, LEFT, line, onWidth, panelTitle, pathThrough, RIGHT, scale, ticks } from "./axes.js";
import { byId, fillTable, say, svg } from "./dom.js";
import { bytes, divergence, perplexity } from "./format.js";

const TITLE = 24;
const HEIGHTS = { kl: 84, perplexity: 60 };
const BOTTOM = 20;
const END_LABEL = 90;

/** Show the chart, its caption and its table, now and after changes; `chosen()` is the slider's position. */
export function showSequenceChart(store, chosen) {
  const place = byId("sequence-chart");
  const details = byId("sequence-details");
  let width = 0;

  function draw() {
    const { elastic, positions } = store.state;
    if (!elastic || !positions.length || width === 0) return;
    place.replaceChildren(chart(elastic, positions, chosen(), width));
    say(byId("sequence-caption"), caption(elastic, positions));
    if (details.open) fillTable(byId("sequence-table"), rows(positions));
  }

  details.addEventListener("toggle", draw);
  onWidth(place, (found) => {
    width = found;
    draw();
  });
  store.subscribe(draw);
  return draw;
}

function chart(elastic, positions, chosen, width) {
  const right = width - RIGHT;
  const [best, smallest] = [positions[0], positions.at(-1)];
  const x = scale([0, Math.max(1, positions.length - 1)], [LEFT, right]);
  const kl = { top: TITLE, bottom: TITLE + HEIGHTS.kl };
  const second = { top: kl.bottom + TITLE, bottom: kl.bottom + TITLE + HEIGHTS.perplexity };
  const height = second.bottom + BOTTOM;
  const parts = [
    ...klPanel(elastic, positions, x, kl, width),
    ...perplexityPanel(elastic, positions, x, second, width),
    ...[kl, second].flatMap((panel) => forbidden(elastic, x, panel, right)),
    ...places(elastic, positions, chosen, x, [kl, second]),
    ...number(elastic.position, x(elastic.position), height - 5, right),
    label(LEFT, height - 5, `0 · ${bytes(best.footprint_bytes)}`, "note"),
    label(right, height - 5, `${bytes(smallest.footprint_bytes)} · ${positions.length - 1}`, "note", "end"),
  ];
  const described = { role: "img", "aria-labelledby": "sequence-title", "aria-describedby": "sequence-caption" };
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, height, ...described }, ...parts);
}

function klPanel(elastic, positions, x, panel, width) {
  const most = Math.max(1e-9, ...positions.map((found) => found.kl)) * 1.1;
  panel.y = scale([0, most], [panel.bottom, panel.top]);
  panel.value = (found) => found.kl;
  const points = positions.map((found, index) => [x(index), panel.y(found.kl)]);
  return [
    panelTitle(panel, "KL to the unquantized model", divergence(elastic.quality.kl)),
    ...grid(ticks(most, 2).map((value) => [panel.y(value), `${Number(value.toPrecision(3))}`]), width),
    svg("path", { class: "area quality", d: areaUnder(points, panel.bottom) }),
    svg("path", { class: "curve quality", d: pathThrough(points) }),
  ];
}

function perplexityPanel(elastic, positions, x, panel, width) {
  const values = positions.map((found) => found.perplexity);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const margin = (most - least || 1) * 0.08;
  panel.y = scale([least - margin, most + margin], [panel.bottom, panel.top]);
  panel.value = (found) => found.perplexity;
  const points = values.map((value, index) => [x(index), panel.y(value)]);
  return [
    panelTitle(panel, "Perplexity", perplexity(elastic.quality.perplexity)),
    ...grid([least, most].map((value) => [panel.y(value), perplexity(value)]), width),
    svg("path", { class: "curve quality", d: pathThrough(points) }),
  ];
}

/** Positions beyond the worst one allowed. */
function forbidden({ worst_position, max_position }, x, { top, bottom }, right) {
  if (worst_position >= max_position) return [];
  const from = x(worst_position);
  return [
    svg("rect", { class: "forbidden", x: from, y: top, width: right - from, height: bottom - top }),
    line(from, top, from, bottom, "worst"),
  ];
}

/** The number of the present position, where there is room for it beside those of the ends. */
function number(position, at, y, right) {
  const free = at > LEFT + END_LABEL && at < right - END_LABEL;
  return free ? [label(at, y, `${position}`, "readout", "middle")] : [];
}

function places({ position, target }, positions, chosen, x, panels) {
  return panels.flatMap(({ top, bottom, y, value }) => {
    const parts = [];
    if (chosen !== null && chosen !== position) parts.push(line(x(chosen), top, x(chosen), bottom, "chosen"));
    if (target !== position) parts.push(line(x(target), top, x(target), bottom, "target"));
    parts.push(line(x(position), top, x(position), bottom, "here"));
    parts.push(svg("circle", { class: "here", r: 4.5, cx: x(position), cy: y(value(positions[position])) }));
    return parts;
  });
}

function caption(elastic, positions) {
  const { position, target, worst_position, max_position } = elastic;
  const [best, smallest] = [positions[0], positions.at(-1)].map((found) => divergence(found.kl));
  const sentences = [
    `Position ${position} of ${max_position}${target === position ? "" : `, on the way to ${target}`}.`,
    `KL grows from ${best} at position 0, the best, to ${smallest} at ${max_position}, the smallest.`,
  ];
  if (worst_position < max_position) sentences.push(`Positions beyond ${worst_position} are not allowed.`);
  return sentences.join(" ");
}

function rows(positions) {
  return positions.map((found, index) => [
    `${index}`,
    bytes(found.footprint_bytes),
    divergence(found.kl),
    perplexity(found.perplexity),
  ]);
}
