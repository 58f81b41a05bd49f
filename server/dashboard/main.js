// Puts the page together.

import { announceChanges } from "./announce.js";
import { Api } from "./api.js";
import { Chat } from "./chat.js";
import { Controls } from "./controls.js";
import { showDecisions } from "./decisions.js";
import { showFigures } from "./figures.js";
import { History } from "./history.js";
import { KeyDialog } from "./key.js";
import { Link } from "./link.js";
import { showMemoryChart } from "./memory-chart.js";
import { showSequenceChart } from "./sequence-chart.js";
import { nothingKnown, Store } from "./state.js";

const api = new Api();
const store = new Store(nothingKnown());
const history = new History();
const dialog = new KeyDialog(api);
const askForKey = (refusal) => dialog.ask(refusal);
const link = new Link(api, store, history, askForKey);

showFigures(store, link);
showMemoryChart(store, history);
showDecisions(store);
const controls = new Controls(api, store, link, askForKey);
controls.onChoice = showSequenceChart(store, () => controls.chosen);
new Chat(api, store);
announceChanges(store);
link.run();
