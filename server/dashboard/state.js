// What the page knows. Whoever shows a part of it subscribes, and is called once per frame at most.

/** One object that is replaced piece by piece. */
export class Store {
  #listeners = [];
  #waiting = false;

  constructor(state) {
    this.state = state;
  }

  /** Replace some fields. */
  update(fields) {
    this.state = { ...this.state, ...fields };
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      for (const listener of this.#listeners) listener(this.state);
    });
  }

  /** Call `listener` with the state, now and after changes. */
  subscribe(listener) {
    this.#listeners.push(listener);
    listener(this.state);
  }
}

/** Before anything was heard. `elastic` is what GET /v1/elastic answers, kept up to date by events. */
export function nothingKnown() {
  return {
    link: { phase: "connecting" },
    model: null,
    positions: [],
    elastic: null,
    speed: null,
    running: 0,
    waiting: 0,
    decisions: [],
  };
}

/** The elastic state after an event that tells of a change in it. */
export function changed(elastic, positions, event) {
  const { position, target, footprint_bytes, phase, decision } = event;
  const { perplexity, kl } = positions[position] ?? elastic.quality;
  return {
    ...elastic,
    ...{ position, target, footprint_bytes, phase, quality: { perplexity, kl } },
    last_decision: decision ?? elastic.last_decision,
  };
}

const MOST_DECISIONS = 100;

/** Decisions, the newest first, each once. */
export function withDecisions(known, found) {
  const all = [...known];
  for (const decision of found) if (!all.some((other) => same(other, decision))) all.push(decision);
  if (all.length === known.length) return known;
  return all.sort((one, other) => other.when - one.when).slice(0, MOST_DECISIONS);
}

/** A decision comes from the recording and as an event, with times that were taken moments apart. */
function same(one, other) {
  const alike = ["what", "from_position", "to_position"].every((name) => one[name] === other[name]);
  return alike && Math.abs(one.when - other.when) < 0.5;
}
