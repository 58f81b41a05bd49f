// What the controller decided, the newest first.

import { byId, html } from "./dom.js";
import { clock } from "./format.js";
import { decisionInWords, isMove, MARKS } from "./words.js";

/** Show the list, now and after changes. */
export function showDecisions(store) {
  const list = byId("decisions-list");
  let shown = null;
  store.subscribe(({ decisions }) => {
    byId("no-decisions").hidden = decisions.length > 0;
    if (decisions === shown) return;
    shown = decisions;
    list.replaceChildren(...runsOf(decisions).map(item));
  });
}

/** The newest of each run of the same decision that moves nothing, and how many there were. */
export function runsOf(decisions) {
  const runs = [];
  for (const decision of decisions) {
    const last = runs.at(-1);
    if (last && last.decision.what === decision.what && !isMove(decision) && !isMove(last.decision)) last.times += 1;
    else runs.push({ decision, times: 1 });
  }
  return runs;
}

function item({ decision, times }) {
  const { title, why, kind } = decisionInWords(decision);
  const when = new Date(decision.when * 1000);
  const because = times > 1 ? ` ${times} times: ${why}` : ` ${why}`;
  return html(
    "li",
    { class: kind },
    html("span", { class: "mark", "aria-hidden": "true" }, MARKS[kind]),
    html("time", { datetime: when.toISOString() }, clock(when)),
    html("div", {}, html("strong", {}, title), because, html("small", {}, decision.why)),
  );
}
