// Tells screen readers what has changed: what matters, once it has settled, and not every tick.

import { bytes } from "./format.js";
import { byId, say } from "./dom.js";
import { modeInWords, pressureInWords } from "./words.js";

const SETTLED_MS = 1500;

/** Watch the store and speak. */
export function announceChanges(store) {
  const place = byId("announcement");
  let told = null;
  let seen = null;
  let timer = null;

  function tell() {
    const news = Object.keys(seen).filter((name) => seen[name] !== told[name]);
    told = seen;
    if (news.length) say(place, news.map((name) => told[name]).join(" ").trim());
  }

  store.subscribe((state) => {
    const now = summary(state);
    told ??= now; // what there was at the beginning is no news
    if (now === null || JSON.stringify(now) === JSON.stringify(seen)) return;
    seen = now;
    clearTimeout(timer);
    timer = setTimeout(tell, SETTLED_MS);
  });
}

/** Sentences by what they are about; null while nothing is known. */
function summary({ elastic, link }) {
  if (elastic === null) return null;
  return {
    link: link.phase === "live" ? "Connected to the daemon." : "", // the banner tells that it is not
    position: `Position ${elastic.position} of ${elastic.max_position}, ${bytes(elastic.footprint_bytes)} of weights.`,
    mode: `The position ${modeInWords(elastic)}.`,
    pressure: `Memory: ${pressureInWords(elastic.pressure)}.`,
    refusing: elastic.refusing ? "New requests are refused." : "New requests are taken.",
  };
}
