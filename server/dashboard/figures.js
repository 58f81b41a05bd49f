// The figures at the top, and what has to be said above them: no connection, no new requests.

import { byId, say } from "./dom.js";
import { bytes, clock, counted, divergence, perplexity, rate, span } from "./format.js";
import { modeInWords, phaseInWords, pressureInWords } from "./words.js";

/** Show them, now and after changes. */
export function showFigures(store, link) {
  byId("retry").addEventListener("click", () => link.retry());
  store.subscribe((state) => {
    showBanner(state);
    showLink(state);
    if (state.elastic) showNumbers(state);
  });
  setInterval(() => showBanner(store.state), 1000); // it counts seconds
}

function showLink({ link, model }) {
  const words = { connecting: "connecting", live: "live", waiting: "not connected", key: "key needed" };
  byId("link").dataset.phase = link.phase;
  say(byId("link-word"), words[link.phase]);
  say(byId("model"), model?.id ?? "");
  document.title = model ? `${model.id} · FlexQuant` : "FlexQuant";
  document.body.classList.toggle("stale", link.phase !== "live");
}

function showBanner({ link, elastic }) {
  const said = problem(link, elastic);
  byId("banner").hidden = said === null;
  byId("retry").hidden = link.phase !== "waiting" && link.phase !== "key";
  say(byId("retry"), link.phase === "key" ? "Enter the key" : "Try now");
  if (said === null) return;
  say(byId("problem"), said.what);
  say(byId("problem-more"), said.more);
}

function problem(link, elastic) {
  if (link.phase === "key") {
    return { what: "This daemon shows its state to those who have a key.", more: "Chat and controls need it, too." };
  }
  if (link.phase === "waiting") {
    const seconds = Math.max(0, Math.ceil((link.until - Date.now()) / 1000));
    return {
      what: `${link.why} Not connected since ${clock(link.since)}.`,
      more: `Next try in ${seconds} s. If it was stopped, start it again: flexquant-serve. What you see is older.`,
    };
  }
  if (link.phase === "live" && elastic?.refusing) {
    return {
      what: `New requests are refused: ${elastic.refusing}.`,
      more: "The model is as small as it may be. Close other programs, or allow a smaller position below.",
    };
  }
  const silent = link.phase === "live" ? (elastic?.sources ?? []).filter((source) => source.error) : [];
  if (!silent.length) return null;
  return {
    what: `Memory cannot be read from ${silent.map((source) => source.name).join(", ")}.`,
    more: `${silent[0].error}. Until it answers, the model does not grow.`,
  };
}

function showNumbers({ elastic, speed, running, waiting }) {
  const [low, up] = elastic.footprint_range_bytes;
  const { position, target, max_position, quality, pressure, available_bytes } = elastic;
  const place = target === position ? `${position}` : `${position} → ${target}`;
  figure("position", place, `of ${max_position}, ${doing(elastic)}`);
  figure("weights", bytes(elastic.footprint_bytes), `${bytes(low)} to ${bytes(up)}`);
  figure("quality", `KL ${divergence(quality.kl)}`, `perplexity ${perplexity(quality.perplexity)}`);
  figure("available", available_bytes === null ? "unknown" : bytes(available_bytes), pressureInWords(pressure));
  if (speed) figure("speed", rate(speed), "tokens per second");
  else figure("speed", speed === null ? "…" : "idle", "no tokens now");
  figure("requests", counted(running, "answer"), `${waiting} waiting`);
  byId("available").dataset.pressure = pressure;
}

function doing(elastic) {
  const until = elastic.ttl_seconds === null ? "" : ` for ${span(elastic.ttl_seconds)}`;
  return elastic.mode === "auto" ? phaseInWords(elastic.phase) : `${modeInWords(elastic)}${until}`;
}

function figure(id, value, more) {
  say(byId(id), value);
  say(byId(`${id}-more`), more);
}
