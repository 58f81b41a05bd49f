// A small conversation with the model, streamed, with the positions that it was answered at.

import { ApiError } from "./api.js";
import { byId, html, say } from "./dom.js";
import { eventsOf } from "./event-stream.js";
import { counted, rate } from "./format.js";

const CHAT = "/v1/chat/completions";
const COMPLETIONS = "/v1/completions";
const NEAR_END_PX = 40;
const SHOWN_EVERY_MS = 80; // tokens can come faster than a browser lays out a long text

/** The chat box. */
export class Chat {
  #api;
  #store;
  #messages = []; // what the model is told, as the API takes it
  #hasTemplate = true;
  #running = null; // of the answer that is being streamed
  #log = byId("chat-log");
  #field = byId("question");

  constructor(api, store) {
    this.#api = api;
    this.#store = store;
    byId("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
    this.#field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#ask();
    });
    byId("stop").addEventListener("click", () => this.#running?.abort());
    byId("clear").addEventListener("click", () => this.#clear());
  }

  async #ask() {
    const question = this.#field.value.trim();
    if (!question || this.#running) return;
    this.#field.value = "";
    const messages = this.#messages;
    messages.push({ role: "user", content: question });
    this.#add("question", "You", question);
    const bubble = this.#add("answer", "Model", "");
    this.#running = new AbortController();
    this.#showRunning();
    const answer = new Answer(bubble, () => this.#follow(), () => this.#store.state.elastic?.position);
    const { signal } = this.#running;
    let answered = true;
    try {
      await this.#stream(answer, signal);
      answer.end("");
    } catch (error) {
      answered = false;
      answer.end(signal.aborted ? "stopped" : error.message, !signal.aborted);
    }
    if (answered || answer.text) messages.push({ role: "assistant", content: answer.text });
    else this.#takeBack(messages, question);
    this.#running = null;
    this.#showRunning();
    say(byId("chat-news"), answer.summary);
  }

  /** There was no answer: the question is there to be sent again. */
  #takeBack(messages, question) {
    messages.pop();
    this.#field.value ||= question;
  }

  async #stream(answer, signal) {
    const open = () => this.#api.open(this.#hasTemplate ? CHAT : COMPLETIONS, { body: this.#body(), signal });
    let stream;
    try {
      stream = await open();
    } catch (error) {
      if (error.code !== "no_chat_template") throw error;
      this.#hasTemplate = false;
      byId("no-template").hidden = false;
      stream = await open();
    }
    answer.begin(stream.headers.get("x-flexquant-position"));
    for await (const { data } of eventsOf(stream)) {
      if (data === "[DONE]") return;
      answer.take(JSON.parse(data));
    }
    throw new ApiError("The connection ended before the answer did.");
  }

  #body() {
    const fields = {
      model: this.#store.state.model?.id,
      max_tokens: byId("most-tokens").valueAsNumber || 256,
      stream: true,
      stream_options: { include_usage: true },
    };
    return this.#hasTemplate
      ? { ...fields, messages: this.#messages }
      : { ...fields, prompt: this.#messages.at(-1).content };
  }

  #add(kind, who, text) {
    byId("chat-empty").hidden = true;
    const bubble = html("div", { class: `message ${kind}` }, html("span", { class: "who" }, who), html("p", {}, text));
    this.#log.append(bubble);
    this.#log.scrollTop = this.#log.scrollHeight;
    return bubble;
  }

  /** Stay at the end, unless the reader has scrolled back. */
  #follow() {
    const { scrollTop, scrollHeight, clientHeight } = this.#log;
    if (scrollHeight - scrollTop - clientHeight < NEAR_END_PX) this.#log.scrollTop = scrollHeight;
  }

  #showRunning() {
    const running = this.#running !== null;
    this.#log.setAttribute("aria-busy", String(running));
    const hadFocus = document.activeElement === byId("send") || document.activeElement === byId("stop");
    byId("send").hidden = running;
    byId("stop").hidden = !running;
    if (hadFocus) byId(running ? "stop" : "send").focus();
  }

  #clear() {
    this.#running?.abort();
    this.#messages = [];
    this.#log.querySelectorAll(".message").forEach((bubble) => bubble.remove());
    byId("chat-empty").hidden = false;
    this.#field.focus();
  }
}

/** One answer as it comes. */
class Answer {
  text = "";
  summary = "";
  #note;
  #shown = new Text("");
  #timer = null;
  #grown;
  #here;
  #start = null;
  #began = performance.now();
  #first = null;
  #usage = null;

  /** `grown()` is called when there is more of it; `here()` gives the model's position. */
  constructor(bubble, grown, here) {
    this.#here = here;
    bubble.querySelector("p").append(this.#shown);
    this.#note = html("small", {}, "waiting …");
    bubble.append(this.#note);
    this.#grown = grown;
  }

  /** The daemon has taken the request at this position. */
  begin(position) {
    this.#start = position;
    this.#tellPosition();
  }

  #tellPosition() {
    if (this.#start !== null) say(this.#note, `${positions(this.#start, this.#here() ?? this.#start)} …`);
  }

  /** A chunk of the stream; throws ApiError if it is an error. */
  take({ choices, usage, error }) {
    if (error) throw new ApiError(error.message, 0, error.code);
    if (usage) this.#usage = usage;
    const piece = choices[0]?.delta?.content ?? choices[0]?.text ?? "";
    if (!piece) return;
    this.#first ??= performance.now();
    this.text += piece;
    this.#timer ??= setTimeout(() => this.#show(), SHOWN_EVERY_MS);
  }

  #show() {
    this.#timer = null;
    this.#shown.data = this.text;
    this.#tellPosition();
    this.#grown();
  }

  /** It is over; `remark` says why, if there is something to say. */
  end(remark, problem = false) {
    clearTimeout(this.#timer);
    this.#show();
    this.summary = [remark, this.#took()].filter(Boolean).join(" · ");
    this.#note.classList.toggle("problem", problem);
    say(this.#note, this.summary);
    this.#grown();
  }

  #took() {
    if (this.#usage === null) return "";
    const { completion_tokens: tokens, flexquant: at } = this.#usage;
    const seconds = (performance.now() - (this.#first ?? this.#began)) / 1000;
    const speed = tokens > 1 && seconds > 0 ? `, ${rate((tokens - 1) / seconds)} per second` : "";
    return `${positions(at.position_start, at.position_end)} · ${counted(tokens, "token")}${speed}`;
  }
}

function positions(start, end) {
  return Number(start) === end ? `position ${end}` : `position ${start} → ${end}`;
}
