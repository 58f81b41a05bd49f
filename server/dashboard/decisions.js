// What the controller decided, the newest first.

import { byId, html } from "./dom.js";
import { clock } from "./format.js";
import { decisionInWords, MARKS } from "./words.js";

/** Show the list, now and after changes. */
export function showDecisions(store) {
  const list = byId("decisions-list");
  let shown = null;
  store.subscribe(({ decisions }) => {
    byId("no-decisions").hidden = decisions.length > 0;
    if (decisions === shown) return;
    shown = decisions;
    list.replaceChildren(...decisions.map(item));
  });
}

function item(decision) {
  const { title, why, kind } = decisionInWords(decision);
  const when = new Date(decision.when * 1000);
  return html(
    "li",
    { class: kind },
    html("span", { class: "mark", "aria-hidden": "true" }, MARKS[kind]),
    html("time", { datetime: when.toISOString() }, clock(when)),
    html("div", {}, html("strong", {}, title), ` ${why}`, html("small", {}, decision.why)),
  );
}
