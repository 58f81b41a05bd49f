// Keeps the page and the daemon together: events as they happen, a look at the memory every second, and from the
// beginning again when the daemon was gone.

import { ApiError } from "./api.js";
import { eventsOf } from "./event-stream.js";
import { readingsOf, tightest } from "./history.js";
import { parseMetrics, Rate } from "./metrics.js";
import { readRecording } from "./recording.js";
import { changed, withDecisions } from "./state.js";

const LOOK_MS = 1000;
const RATE_MS = 3000;
const UNSEEN_MS = 15_000;
const PATIENCE_MS = 10_000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

/** The connection; `askForKey(refusal)` gives whether another key was entered. */
export class Link {
  #api;
  #store;
  #history;
  #askForKey;
  #lookedAt = 0;
  #hurry = () => {};

  constructor(api, store, history, askForKey) {
    this.#api = api;
    this.#store = store;
    this.#history = history;
    this.#askForKey = askForKey;
  }

  /** Stay connected, for good. */
  async run() {
    let failures = 0;
    for (;;) {
      let why = "The daemon has ended the connection.";
      try {
        await this.#session(() => (failures = 0));
      } catch (error) {
        if (error.needsKey) {
          this.#store.update({ link: { phase: "key" } });
          if (!(await this.#askForKey(error))) await new Promise((resolve) => (this.#hurry = resolve));
          continue;
        }
        why = error.message;
      }
      await this.#wait(why, Math.min(FIRST_WAIT_MS * 2 ** failures, LONGEST_WAIT_MS));
      failures += 1;
    }
  }

  /** Do not wait any longer before the next try. */
  retry() {
    this.#hurry();
  }

  /** A newer state, from whoever got it. */
  take(elastic) {
    this.#store.update({ elastic });
    this.#remember(elastic);
    if (elastic.last_decision) this.#decided([elastic.last_decision]);
  }

  async #wait(why, milliseconds) {
    const { link } = this.#store.state;
    const since = link.phase === "waiting" ? link.since : Date.now();
    this.#store.update({ link: { phase: "waiting", why, since, until: Date.now() + milliseconds } });
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#hurry = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** From connecting until the connection ends. */
  async #session(opened) {
    const session = new AbortController();
    const { signal } = session;
    try {
      const paths = ["/v1/models", "/v1/elastic/sequence"];
      const [models, { positions }] = await Promise.all(paths.map((path) => this.#api.get(path, { signal })));
      this.#meet(models.data[0], positions);
      const events = await this.#api.open("/v1/elastic/events", { signal });
      opened();
      this.#store.update({ link: { phase: "live" } });
      this.#lookedAt = Date.now();
      this.#readRecording(signal);
      this.#look(session, new Rate(RATE_MS));
      for await (const { kind, data } of eventsOf(events)) this.#hear(kind, JSON.parse(data));
    } catch (error) {
      throw signal.aborted ? signal.reason : error;
    } finally {
      session.abort();
    }
  }

  /** Another model has another past. */
  #meet(model, positions) {
    const before = this.#store.state;
    const same = JSON.stringify(before.positions) === JSON.stringify(positions);
    if (!same) this.#history.clear();
    this.#store.update({ model, positions, elastic: same ? before.elastic : null });
  }

  #hear(kind, event) {
    if (kind === "state") {
      this.take(event);
      return;
    }
    const { elastic, positions } = this.#store.state;
    const next = changed(elastic, positions, event);
    this.#store.update({ elastic: next });
    this.#remember(next);
    if (event.decision) this.#decided([event.decision]);
  }

  #remember(elastic) {
    this.#history.addMemory({
      time: Date.now(),
      available: tightest(readingsOf(elastic))?.available ?? null,
      footprint: elastic.footprint_bytes,
      position: elastic.position,
    });
  }

  #decided(found) {
    this.#store.update({ decisions: withDecisions(this.#store.state.decisions, found) });
  }

  /** What happened before is nice to have: without it the charts begin now. */
  async #readRecording(signal) {
    try {
      const text = await this.#api.text("/v1/elastic/trace", { signal });
      const { elastic, positions } = this.#store.state;
      const reserves = new Map((elastic?.sources ?? []).map((source) => [source.name, source.reserves]));
      const { points, decisions } = readRecording(text, positions, reserves);
      this.#history.replaceMemory(points);
      this.#decided(decisions);
    } catch (error) {
      if (!signal.aborted) console.info(`The daemon's recording is left out: ${error.message}`);
    }
  }

  /** Look at memory and counters every second while somebody sees the page; a failure ends the connection. */
  async #look(session, speed) {
    const { signal } = session;
    while (!signal.aborted) {
      if (!document.hidden) {
        try {
          if (Date.now() - this.#lookedAt > UNSEEN_MS) this.#readRecording(signal);
          await this.#lookOnce(signal, speed);
        } catch (error) {
          session.abort(error.name === "TimeoutError" ? new ApiError("The daemon does not answer in time.") : error);
          return;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }

  async #lookOnce(ended, speed) {
    const signal = AbortSignal.any([ended, AbortSignal.timeout(PATIENCE_MS)]);
    const [elastic, text] = await Promise.all([
      this.#api.get("/v1/elastic", { signal }),
      this.#api.text("/metrics", { signal }),
    ]);
    const metrics = parseMetrics(text);
    const now = Date.now();
    const perSecond = speed.add(now, metrics.get("flexquant_generated_tokens_total") ?? 0);
    if (perSecond !== null) this.#history.addSpeed(now, perSecond);
    this.#lookedAt = now;
    this.take(elastic);
    this.#store.update({
      speed: perSecond,
      running: metrics.get("flexquant_requests_running") ?? 0,
      waiting: metrics.get("flexquant_requests_waiting") ?? 0,
    });
  }
}
