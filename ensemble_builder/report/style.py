"""The page's style sheet. Line colours are Okabe and Ito's, which colour-blind readers can tell apart, a little darker
or lighter where the background asks for it.
"""

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #59636e; --rule: #d8dde3; --grid: #e9ecf0;
  --sequence: #0067a8; --greedy: #b84a00; --random: #6a6a6a; --front-to-back: #00785a; --back-to-front: #a3417b;
  --exhaustive: #7a5c00; --ladder: #1b1f24; --whole-model: #5b3fa8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e6e9ed; --soft: #9aa5b1; --rule: #3a424c; --grid: #262c33;
    --sequence: #56b4e9; --greedy: #f08c3a; --random: #b3b3b3; --front-to-back: #2fc79b; --back-to-front: #e08fbf;
    --exhaustive: #e3c54a; --ladder: #e6e9ed; --whole-model: #b3a1f0;
  }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 800px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 26px; margin: 0 0 8px; }
h2 { font-size: 19px; margin: 36px 0 8px; }
figure { margin: 16px 0 28px; overflow-x: auto; }
figcaption, caption { color: var(--soft); font-size: 14px; text-align: left; }
caption { padding-bottom: 6px; }
ul { padding-left: 20px; margin: 8px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
thead th { color: var(--soft); font-weight: 500; }
th:first-child { text-align: left; font-weight: 500; }
summary { cursor: pointer; }
svg { display: block; width: 100%; min-width: 560px; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: var(--soft); }
svg .axis-name { fill: var(--ink); }
svg .grid { stroke: var(--grid); }
svg .axis { stroke: var(--soft); }
svg .level { stroke: var(--soft); stroke-dasharray: 2 4; }
svg .line { fill: none; stroke: var(--colour); stroke-width: 1.8; stroke-linejoin: round; }
svg .first { stroke-width: 5; stroke-opacity: 0.55; }
svg .leader { stroke: var(--colour); stroke-width: 1; }
svg .band { fill: var(--colour); fill-opacity: 0.16; }
svg .mark { fill: var(--colour); stroke: var(--paper); stroke-width: 0.8; }
svg .label { fill: var(--colour); font-weight: 600; paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
svg .greedy.line { stroke-dasharray: 7 4; }
svg .random.line { stroke-dasharray: 2 3; }
svg .sequence { --colour: var(--sequence); }
svg .greedy { --colour: var(--greedy); }
svg .random { --colour: var(--random); }
svg .front-to-back { --colour: var(--front-to-back); }
svg .back-to-front { --colour: var(--back-to-front); }
svg .exhaustive { --colour: var(--exhaustive); }
svg .ladder { --colour: var(--ladder); }
svg .whole-model { --colour: var(--whole-model); }
svg .pruned { --colour: var(--back-to-front); }
svg .ensemble-0 { --colour: var(--sequence); }
svg .ensemble-1 { --colour: var(--greedy); }
svg .ensemble-2 { --colour: var(--exhaustive); }
svg .ensemble-3 { --colour: var(--front-to-back); }
svg .ensemble-4 { --colour: var(--back-to-front); }
svg .ensemble-5 { --colour: var(--random); }
svg .ladder.line { stroke-dasharray: 1 3; }
svg .whole-model.line, svg .pruned.line { stroke-dasharray: 7 4; }
svg .branch { stroke: var(--soft); stroke-width: 0.7; stroke-opacity: 0.6; }
svg .twig { fill: var(--soft); }
"""
