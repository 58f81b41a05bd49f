// The daemon's short words, in plain ones.

const DECISIONS = {
  shrink: { title: "Shrank", why: "memory was getting short", kind: "down" },
  critical: { title: "Shrank at once", why: "memory was critical", kind: "urgent" },
  grow: { title: "Grew", why: "enough memory stayed free", kind: "up" },
  pin: { title: "Moved", why: "a position was asked for", kind: "wish" },
  worst_position: { title: "Moved", why: "a limit was set", kind: "wish" },
  caches: { title: "Gave back kept prompts", why: "memory was getting short; the weights stay", kind: "down" },
  floor: { title: "Takes no new requests", why: "memory is critical at the smallest size", kind: "urgent" },
  resume: { title: "Takes requests again", why: "memory is free again", kind: "up" },
  retained: { title: "Memory did not come back", why: "what was released is still held", kind: "urgent" },
  blind: { title: "Cannot see the memory", why: "no source answers, so nothing grows", kind: "urgent" },
};

export const MARKS = { down: "▼", urgent: "▼", up: "▲", wish: "◆" };
export const KINDS = { down: "shrink", urgent: "urgent", up: "growth", wish: "your wish" };

/** A decision as `{title, why, kind}`: what happened, why, and one of MARKS. */
export function decisionInWords({ what, from_position, to_position }) {
  const known = DECISIONS[what] ?? { title: what, why: "", kind: "wish" };
  const moved = from_position !== to_position;
  return { ...known, title: moved ? `${known.title}: ${from_position} → ${to_position}` : known.title };
}

/** Whether a decision moved the model. */
export function isMove({ from_position, to_position }) {
  return from_position !== to_position;
}

const PHASES = {
  hold: "holding",
  shrink: "shrinking",
  critical: "making room, urgently",
  floor: "as small as it may be",
  grow: "growing",
  cooldown: "waiting before it grows",
  blind: "cannot see the memory",
};

/** What the controller is doing. */
export function phaseInWords(phase) {
  return PHASES[phase] ?? phase;
}

const PRESSURES = {
  none: "no pressure",
  low: "getting short",
  critical: "critical",
  unknown: "no source answers",
};

/** How short memory is. */
export function pressureInWords(pressure) {
  return PRESSURES[pressure] ?? pressure;
}

/** Who decides about the position. */
export function modeInWords({ mode, override, pinned_position }) {
  if (mode === "auto") return "follows memory";
  return override ? `pinned to ${pinned_position}, yields to critical memory` : `pinned to ${pinned_position}`;
}
