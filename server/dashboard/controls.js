// What the user may say about the position: hold one, hold what fits, never go beyond one, or follow the memory.

import { ApiError } from "./api.js";
import { byId, say } from "./dom.js";
import { bytes, divergence, perplexity } from "./format.js";
import { modeInWords } from "./words.js";

/** The form below the sequence. */
export class Controls {
  #api;
  #store;
  #link;
  #askForKey;
  #busy = false;
  #chosen = null; // on the slider, and not ordered yet
  #slider = byId("position-slider");
  #size = byId("size");
  #worst = byId("worst");

  /** Called when the slider was moved. */
  onChoice = () => {};

  constructor(api, store, link, askForKey) {
    this.#api = api;
    this.#store = store;
    this.#link = link;
    this.#askForKey = askForKey;
    this.#slider.addEventListener("input", () => this.#choose(this.#slider.valueAsNumber));
    this.#slider.addEventListener("keydown", (event) => this.#key(event));
    onSubmit("pin-form", () => this.#wish({ position: this.#slider.valueAsNumber }));
    onSubmit("size-form", () => this.#wish({ bytes: Math.floor(this.#size.valueAsNumber * 2 ** 20) }));
    onSubmit("worst-form", () => this.#wish({ worst_position: this.#worst.valueAsNumber }));
    byId("no-limit").addEventListener("click", () => this.#wish({ worst_position: this.#last() }));
    byId("follow").addEventListener("click", () => this.#wish({ mode: "auto" }));
    store.subscribe(() => this.#show());
  }

  /** The slider's position while it is not the model's; else null. */
  get chosen() {
    return this.#chosen;
  }

  #last() {
    return this.#store.state.elastic.max_position;
  }

  #choose(position) {
    this.#chosen = position;
    this.#show();
    this.onChoice();
  }

  #key(event) {
    if (event.key === "Escape") this.#choose(null);
    if (event.key !== "Enter") return;
    event.preventDefault();
    byId("pin-form").requestSubmit();
  }

  #show() {
    const { elastic, positions } = this.#store.state;
    byId("controls").disabled = !elastic || !positions.length;
    if (byId("controls").disabled) return;
    const shown = this.#chosen ?? elastic.position;
    const found = positions[shown];
    this.#slider.max = elastic.max_position;
    this.#slider.value = shown;
    const quality = `KL ${divergence(found.kl)}, perplexity ${perplexity(found.perplexity)}`;
    const told = `${bytes(found.footprint_bytes)}, ${quality}`;
    this.#slider.setAttribute("aria-valuetext", `Position ${shown} of ${elastic.max_position}: ${told}`);
    say(byId("choice"), `Position ${shown}: ${told}`);
    say(byId("pin"), `Pin position ${shown}`);
    byId("follow").setAttribute("aria-pressed", String(elastic.mode === "auto"));
    this.#limits(elastic);
  }

  #limits({ footprint_range_bytes, footprint_bytes, worst_position, max_position }) {
    const [low, up] = footprint_range_bytes.map((count) => count / 2 ** 20);
    this.#size.min = (Math.ceil(low * 100) / 100).toFixed(2);
    this.#size.placeholder = (footprint_bytes / 2 ** 20).toFixed(2);
    say(byId("size-hint"), `${this.#size.min} to ${(Math.ceil(up * 100) / 100).toFixed(2)}`);
    this.#worst.max = max_position;
    this.#worst.placeholder = `${max_position}`;
    say(byId("worst-now"), worst_position < max_position ? `now ${worst_position}` : "no limit now");
    byId("no-limit").hidden = worst_position >= max_position;
  }

  /** Send a wish, and tell what came of it. */
  async #wish(wish) {
    if (this.#busy) return;
    this.#busy = true;
    const seconds = Number(byId("ttl").value);
    const body = seconds ? { ...wish, ttl_seconds: seconds } : wish;
    tell("Moving …");
    try {
      const elastic = await this.#send(body);
      this.#chosen = null;
      this.#link.take(elastic);
      tell(outcome(wish, elastic));
    } catch (error) {
      const beyond = wish.position > this.#store.state.elastic.worst_position;
      tell(beyond ? `${error.message} Raise the limit, or choose a position within it.` : error.message, true);
    } finally {
      this.#busy = false;
    }
  }

  async #send(body) {
    try {
      return await this.#api.post("/v1/elastic/target", body);
    } catch (error) {
      if (!error.needsKey) throw error;
      if (!(await this.#askForKey(error))) throw new ApiError("Nothing was changed: no key was entered.");
      return this.#api.post("/v1/elastic/target", body);
    }
  }
}

function onSubmit(form, act) {
  byId(form).addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
}

function outcome(wish, elastic) {
  const here = `position ${elastic.position}, ${bytes(elastic.footprint_bytes)}`;
  if (wish.worst_position !== undefined) {
    const limited = elastic.worst_position < elastic.max_position;
    return `${limited ? `Never beyond position ${elastic.worst_position}` : "No limit"}. Now at ${here}.`;
  }
  const mode = modeInWords(elastic);
  return `${mode[0].toUpperCase()}${mode.slice(1)}. Now at ${here}.`;
}

function tell(text, problem = false) {
  const place = byId("control-outcome");
  place.classList.toggle("problem", problem);
  say(place, text);
}
