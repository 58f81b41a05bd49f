// The last minutes, for the charts.

export const SPAN_MS = 300_000;
const KEPT_MS = 2 * SPAN_MS;
const LEAST_MS = 200; // between two points at the same position

/**
 * The source whose memory is nearest to making the model shrink: the rule of the daemon itself.
 *
 * `readings` are `{name, available, reserves}`; null where there are none.
 */
export function tightest(readings) {
  const left = ({ available, reserves }) => available - (reserves?.low ?? 0);
  return readings.reduce((best, one) => (best === null || left(one) < left(best) ? one : best), null);
}

/** The memory sources of a state that answer, as `tightest` takes them. */
export function readingsOf(elastic) {
  return elastic.sources
    .filter((source) => source.available_bytes !== null)
    .map(({ name, available_bytes, reserves }) => ({ name, available: available_bytes, reserves }));
}

/** Points over time: `memory` has time, available, footprint and position; `speeds` has time and tokens per second. */
export class History {
  memory = [];
  speeds = [];

  /** One more look at the memory. */
  addMemory(point) {
    const last = this.memory.at(-1);
    if (last && point.time <= last.time) return;
    if (last && point.position === last.position && point.time - last.time < LEAST_MS) return;
    this.memory.push(point);
    forget(this.memory, point.time);
  }

  /** One more look at the speed. */
  addSpeed(time, perSecond) {
    this.speeds.push({ time, perSecond });
    forget(this.speeds, time);
  }

  /** Put what the daemon has recorded in the place of what this page has seen. */
  replaceMemory(points) {
    const newest = points.at(-1)?.time ?? 0;
    const later = this.memory.filter((point) => point.time > newest);
    this.memory = [];
    for (const point of [...points, ...later]) this.addMemory(point);
  }

  /** Forget everything. */
  clear() {
    this.memory = [];
    this.speeds = [];
  }
}

function forget(points, now) {
  let old = 0;
  while (old < points.length && now - points[old].time > KEPT_MS) old += 1;
  if (old > 64) points.splice(0, old); // not at every point
}
