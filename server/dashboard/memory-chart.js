// Memory over the last minutes: what is available, what the weights take, and how fast tokens come meanwhile. Three
// panels share the axis of time and have scales of their own.

import {
  areaUnder,
  byteTicks,
  grid,
  label,
  LEFT,
  line,
  onWidth,
  panelTitle,
  pathThrough,
  RIGHT,
  scale,
  ticks,
} from "./axes.js";
import { byId, fillTable, say, svg } from "./dom.js";
import { bytes, clock, counted, rate } from "./format.js";
import { readingsOf, SPAN_MS, tightest } from "./history.js";
import { decisionInWords, isMove, MARKS } from "./words.js";

const TOP = 14; // for the marks of moves
const TITLE = 30;
const BOTTOM = 20; // for the axis of time
const HEIGHTS = { available: 104, weights: 92, speed: 52 };
const NARROW = 480; // where there is no room for notes
const MINUTE_MS = 60_000;
const TABLE_STEP_MS = 15_000;

/** Show the chart, its caption and its table, now and after changes. */
export function showMemoryChart(store, history) {
  const place = byId("memory-chart");
  const details = byId("memory-details");
  let width = 0;
  let pointer = null; // where the mouse is, in pixels

  function draw() {
    const { state } = store;
    if (!state.elastic || width === 0) return;
    const view = new View(state, history, width, pointer);
    place.replaceChildren(view.chart());
    say(byId("memory-caption"), view.caption());
    if (details.open) fillTable(byId("memory-table"), view.rows());
  }

  place.addEventListener("pointermove", (event) => {
    pointer = event.clientX - place.getBoundingClientRect().left;
    draw();
  });
  place.addEventListener("pointerleave", () => {
    pointer = null;
    draw();
  });
  details.addEventListener("toggle", draw);
  onWidth(place, (found) => {
    width = found;
    draw();
  });
  store.subscribe(draw);
}

/** One drawing. */
class View {
  constructor({ elastic, decisions, speed }, history, width, pointer) {
    this.elastic = elastic;
    this.perSecond = speed;
    this.history = history;
    this.width = width;
    this.pointer = pointer;
    this.now = history.memory.at(-1)?.time ?? Date.now();
    this.x = scale([this.now - SPAN_MS, this.now], [LEFT, width - RIGHT]);
    this.memory = this.visible(history.memory);
    this.source = tightest(readingsOf(elastic));
    this.moves = decisions.filter((decision) => isMove(decision) && decision.when * 1000 > this.now - SPAN_MS);
  }

  /** Points within the span, and the one before, so that a line comes in from the left. */
  visible(points) {
    const first = points.findIndex((point) => point.time >= this.now - SPAN_MS);
    return first < 0 ? points.slice(-1) : points.slice(Math.max(0, first - 1));
  }

  chart() {
    const bottom = Object.values(HEIGHTS).reduce((sum, height) => sum + TITLE + height, TOP);
    const parts = this.marks(bottom);
    let top = TOP;
    for (const [name, height] of Object.entries(HEIGHTS)) {
      const panel = { top: top + TITLE, bottom: top + TITLE + height };
      parts.push(...this[name](panel));
      top = panel.bottom;
    }
    const height = bottom + BOTTOM;
    parts.push(...this.minutes(bottom), ...this.cursor(bottom));
    const plot = svg("rect", { x: LEFT, y: 0, width: this.width - LEFT - RIGHT, height });
    const clip = svg("clipPath", { id: "plot" }, plot);
    const described = { role: "img", "aria-labelledby": "memory-title", "aria-describedby": "memory-caption" };
    return svg("svg", { viewBox: `0 0 ${this.width} ${height}`, height, ...described }, clip, ...parts);
  }

  available(panel) {
    const known = this.memory.filter((point) => point.available !== null);
    const reserves = this.source?.reserves;
    const most = Math.max(1, reserves?.low ?? 0, ...known.map((point) => point.available)) * 1.08;
    const y = scale([0, most], [panel.bottom, panel.top]);
    const points = known.map((point) => [this.x(point.time), y(Math.max(0, point.available))]);
    const parts = [
      panelTitle(panel, "Available", this.source ? bytes(this.source.available) : "unknown"),
      ...grid(byteTicks(most, 3).map((value) => [y(value), bytes(value)]), this.width),
      this.data("area available", areaUnder(points, panel.bottom)),
      this.data("curve available", pathThrough(points)),
    ];
    if (reserves?.low > 0) {
      const right = this.width - RIGHT;
      parts.push(line(LEFT, y(reserves.low), right, y(reserves.low), "low"));
      parts.push(line(LEFT, y(reserves.critical), right, y(reserves.critical), "critical"));
      const told = `shrinks below ${bytes(reserves.low)}`;
      if (this.width > NARROW) parts.push(label(LEFT + 6, y(reserves.low) - 4, told, "note halo"));
    }
    return parts;
  }

  weights(panel) {
    const [low, up] = this.elastic.footprint_range_bytes;
    const y = scale([0, up * 1.1], [panel.bottom, panel.top]);
    const points = this.memory
      .filter((point) => point.footprint !== null)
      .map((point) => [this.x(point.time), y(point.footprint)]);
    if (points.length) points.push([this.x(this.now), points.at(-1)[1]]);
    const band = { x: LEFT, width: this.width - LEFT - RIGHT, y: y(up), height: y(low) - y(up), class: "range" };
    return [
      panelTitle(panel, "Weights", bytes(this.elastic.footprint_bytes)),
      svg("rect", band),
      ...grid([up, low, 0].map((value) => [y(value), bytes(value)]), this.width),
      this.data("area weights", areaUnder(points, panel.bottom, { steps: true })),
      this.data("curve weights", pathThrough(points, { steps: true })),
    ];
  }

  speed(panel) {
    const seen = this.visible(this.history.speeds);
    const most = Math.max(1, ...seen.map((point) => point.perSecond)) * 1.1;
    const y = scale([0, most], [panel.bottom, panel.top]);
    const points = seen.map((point) => [this.x(point.time), y(point.perSecond)]);
    return [
      panelTitle(panel, "Tokens per second", this.perSecond === null ? "…" : rate(this.perSecond)),
      ...grid(ticks(most, 2).map((value) => [y(value), `${value}`]), this.width),
      this.data("area speed", areaUnder(points, panel.bottom)),
      this.data("curve speed", pathThrough(points)),
    ];
  }

  minutes(bottom) {
    const steps = Array.from({ length: SPAN_MS / MINUTE_MS + 1 }, (_, minutes) => minutes);
    return steps.flatMap((minutes) => {
      const x = this.x(this.now - minutes * MINUTE_MS);
      const text = minutes === 0 ? "now" : this.width <= NARROW ? `−${minutes}` : `−${minutes} min`;
      const anchor = minutes === 0 ? "end" : minutes === SPAN_MS / MINUTE_MS ? "start" : "middle";
      return [line(x, bottom, x, bottom + 4, "tick"), label(x, bottom + 16, text, "note", anchor)];
    });
  }

  marks(bottom) {
    return this.moves.flatMap((decision) => {
      const x = this.x(decision.when * 1000);
      const { kind, title } = decisionInWords(decision);
      const told = svg("title", {}, `${clock(decision.when * 1000)} ${title}: ${decision.why}`);
      const glyph = label(x, 13, MARKS[kind], `mark ${kind}`, "middle");
      glyph.append(told);
      return [line(x, TOP - 2, x, bottom, `move ${kind}`), glyph];
    });
  }

  /** What there was where the mouse points. */
  cursor(bottom) {
    if (this.pointer === null || !this.memory.length) return [];
    const away = (point) => Math.abs(this.x(point.time) - this.pointer);
    const point = this.memory.reduce((one, other) => (away(one) < away(other) ? one : other));
    const x = Math.max(LEFT, this.x(point.time));
    const right = x > this.width / 2;
    const told = `${clock(point.time)}: ${bytes(point.footprint)} of weights, ${availableIn(point)} available`;
    return [
      line(x, TOP, x, bottom, "cursor"),
      label(right ? x - 6 : x + 6, TOP + TITLE + 10, told, "readout halo", right ? "end" : "start"),
    ];
  }

  data(kind, d) {
    return svg("path", { class: kind, d, "clip-path": "url(#plot)" });
  }

  caption() {
    const [low, up] = this.elastic.footprint_range_bytes;
    const sentences = [
      `The weights take ${bytes(this.elastic.footprint_bytes)}; they can take ${bytes(low)} to ${bytes(up)}.`,
    ];
    if (this.source) {
      const { name, available, reserves } = this.source;
      sentences.push(`${bytes(available)} are available by “${name}”, the source that decides.`);
      if (reserves.low > 0) {
        sentences.push(`Below ${bytes(reserves.low)} the model shrinks, below ${bytes(reserves.critical)} at once.`);
      }
    }
    sentences.push(`${counted(this.moves.length, "move")} in the last five minutes.`);
    return sentences.join(" ");
  }

  /** For the table: the newest first, one row every quarter of a minute. */
  rows() {
    const found = [];
    for (const point of this.memory.toReversed()) {
      if (found.length && found.at(-1).time - point.time < TABLE_STEP_MS) continue;
      found.push(point);
    }
    return found.map(({ time, available, footprint, position }) => [
      clock(time),
      availableIn({ available }),
      bytes(footprint),
      `${position}`,
    ]);
  }
}

function availableIn({ available }) {
  return available === null ? "unknown" : bytes(available);
}
