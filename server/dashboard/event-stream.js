// Server-sent events from an answer's body. EventSource cannot send a key, so they are read here.

import { ApiError } from "./api.js";

const SILENCE_MS = 45_000; // the daemon says something every 15 s

/** The events of an answer as `{kind, data}`; ends with the answer. Throws ApiError when nothing comes any more. */
export async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await withinSilence(reader.read());
      if (done) return;
      yield* parser.push(value);
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already, which has been told
  }
}

async function withinSilence(reading) {
  let timer;
  const silence = new Promise((_, reject) => {
    const tell = () => reject(new ApiError(`The daemon has said nothing for ${SILENCE_MS / 1000} s.`));
    timer = setTimeout(tell, SILENCE_MS);
  });
  try {
    return await Promise.race([reading, silence]);
  } finally {
    clearTimeout(timer);
  }
}

/** Puts events together from text that was cut anywhere. Lines end with a line feed, as the daemon writes them. */
export class EventParser {
  #rest = "";

  /** All events that `text` completes. */
  push(text) {
    const blocks = (this.#rest + text).split("\n\n");
    this.#rest = blocks.pop();
    return blocks.map(eventIn).filter((event) => event !== null);
  }
}

function eventIn(block) {
  let kind = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) kind = line.slice(7);
    else if (line.startsWith("data: ")) data.push(line.slice(6));
  }
  return data.length ? { kind, data: data.join("\n") } : null; // a comment has none
}
