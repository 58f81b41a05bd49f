// What is read from GET /metrics.

/** Values by name and labels, as they stand in Prometheus' text format. */
export function parseMetrics(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const end = line.lastIndexOf(" ");
    if (end > 0 && !line.startsWith("#")) found.set(line.slice(0, end), Number(line.slice(end + 1)));
  }
  return found;
}

/** How fast a counter rises, over the last moments. */
export class Rate {
  #seen = [];
  #spanMs;

  constructor(spanMs) {
    this.#spanMs = spanMs;
  }

  /** Per second, up to now; null until there are two values. A counter that falls has begun anew. */
  add(milliseconds, total) {
    if (this.#seen.length && total < this.#seen.at(-1).total) this.#seen = [];
    this.#seen.push({ milliseconds, total });
    while (this.#seen.length > 2 && milliseconds - this.#seen[1].milliseconds >= this.#spanMs) this.#seen.shift();
    const first = this.#seen[0];
    return milliseconds > first.milliseconds
      ? ((total - first.total) * 1000) / (milliseconds - first.milliseconds)
      : null;
  }
}
