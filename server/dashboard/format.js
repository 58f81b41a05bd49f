// Numbers as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Bytes with a binary unit and three digits: "5.91 MiB", "512 MiB", "8.13 GiB". */
export function bytes(count) {
  let value = Math.abs(count);
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const sign = count < 0 ? "−" : "";
  return `${sign}${unit === 0 ? value : threeDigits(value)} ${UNITS[unit]}`;
}

function threeDigits(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** Mean KL divergence in nats per token. */
export function divergence(value) {
  return value === 0 ? "0" : value < 0.001 ? value.toFixed(5) : value.toPrecision(3);
}

/** Perplexity. */
export function perplexity(value) {
  return value >= 1000 ? value.toFixed(0) : value.toPrecision(4);
}

/** Something per second. */
export function rate(value) {
  return value >= 10 || value === 0 ? value.toFixed(0) : value.toFixed(1);
}

/** A time of day; `milliseconds` since 1970. */
export function clock(milliseconds) {
  return new Date(milliseconds).toLocaleTimeString([], { hourCycle: "h23" });
}

/** "1 answer", "3 answers". */
export function counted(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

/** A span in words: "45 s", "3 min", "2 h". */
export function span(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}
