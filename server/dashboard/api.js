// Talks to the daemon that this page came from, with the key if there is one. All that goes wrong is told in words.

const KEY = "flexquant.key";

/**
 * The daemon refused, or did not answer.
 *
 * `status` is 0 when there was no answer; `code` is the daemon's word for programs.
 */
export class ApiError extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Whether another key would help. */
  get needsKey() {
    return this.status === 401 || this.code === "admin_key_needed";
  }
}

/** The daemon's API. */
export class Api {
  /** For this tab alone, and for as long as it is open. */
  get key() {
    return sessionStorage.getItem(KEY) ?? "";
  }

  set key(value) {
    sessionStorage.setItem(KEY, value);
  }

  /** JSON of a GET. */
  async get(path, options = {}) {
    return (await this.open(path, options)).json();
  }

  /** Text of a GET. */
  async text(path, options = {}) {
    return (await this.open(path, options)).text();
  }

  /** JSON of a POST. */
  async post(path, body, options = {}) {
    return (await this.open(path, { ...options, body })).json();
  }

  /**
   * The answer as it comes; a POST where there is a body.
   *
   * Throws ApiError, and whatever ended the signal.
   */
  async open(path, { body, signal } = {}) {
    const headers = this.key ? { authorization: `Bearer ${this.key}` } : {};
    const request = { headers, signal, cache: "no-store" };
    if (body !== undefined) {
      headers["content-type"] = "application/json";
      Object.assign(request, { method: "POST", body: JSON.stringify(body) });
    }
    let answer;
    try {
      answer = await fetch(path, request);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError("The daemon does not answer.");
    }
    if (!answer.ok) throw await refusal(answer);
    return answer;
  }
}

async function refusal(answer) {
  try {
    const { error } = await answer.json();
    return new ApiError(error.message, answer.status, error.code);
  } catch {
    return new ApiError(`The daemon answered with status ${answer.status}.`, answer.status);
  }
}
