// Reads GET /v1/elastic/trace: what the controller saw and did before this page was opened.

import { tightest } from "./history.js";

/**
 * Points for the history, and decisions, from the lines of a recording.
 *
 * `positions` has the footprints; `reservesOf` maps names of sources to their reserves. Times in a recording are those
 * of a clock of its own; the header says what time of day one of them was.
 */
export function readRecording(text, positions, reservesOf) {
  const [header, ...rows] = text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  const wall = (seconds) => header.wall_time + seconds - header.now;
  const points = [];
  const decisions = [];
  for (const { now, sample, decision } of rows) {
    if (!sample) continue; // a wish, or what the law remembered
    const readings = sample.memory.map(({ source, available }) => ({
      name: source,
      available,
      reserves: reservesOf.get(source),
    }));
    points.push({
      time: wall(now) * 1000,
      available: tightest(readings)?.available ?? null,
      footprint: positions[sample.position]?.footprint_bytes ?? null,
      position: sample.position,
    });
    if (decision) decisions.push({ ...decision, when: wall(decision.at) });
  }
  return { points, decisions };
}
