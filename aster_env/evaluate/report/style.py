"""The page's style: one set of names for colours, twice: for light and for dark."""

STYLE = """
:root { --ground: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --right: #0b6fb8; --wrong: #e3a75a;
  --missing: #c9ccd1; --error: #c8553d; --timeout: #8a63b8; --invalid: #7a828c; --m0: #b3541e; --m1: #2b7a4b;
  --m2: #8a3fa0; --m3: #a0304f; --m4: #5c6570; --m5: #7d6b00; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181d; --ink: #e6e9ed; --soft: #a3acb6; --line: #333b45;
  --right: #5cb0ee; --wrong: #a8712c; --missing: #4a515a; --error: #e57b63; --timeout: #b593e0; --invalid: #98a1ab;
  --m0: #f0955c; --m1: #6fcf97; --m2: #d39be6; --m3: #f08aa4; --m4: #aab3be; --m5: #d6c457; } }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 40px 0 4px; font-size: 20px; border-top: 1px solid var(--line);
  padding-top: 20px; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 16px 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
caption { text-align: left; font-weight: 600; padding: 4px 0; }
th, td { padding: 4px 12px 4px 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
td { white-space: nowrap; }
th:first-child, th.words, td.words { text-align: left; }
td.words { white-space: normal; overflow-wrap: anywhere; min-width: 8em; }
th { font-weight: 500; } thead th { color: var(--soft); }
.note, figcaption { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; } .note { margin: 4px 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 20px; }
figure { margin: 8px 0; } figure.wide { grid-column: 1 / -1; } figcaption b { color: var(--ink); }
summary { cursor: pointer; font-weight: 600; margin: 10px 0; }
svg { display: block; width: 100%; height: auto; max-width: 500px; }
figure.wide { overflow-x: auto; } figure.wide svg { min-width: 640px; max-width: 940px; }
svg text { fill: var(--ink); font-size: 12px; font-family: system-ui, "Segoe UI", sans-serif; unicode-bidi: isolate; }
svg .name, svg .said { fill: var(--soft); }
.grid, .ring { stroke: var(--line); fill: none; } .axis { stroke: var(--soft); } .ground { fill: var(--line); }
.right, .outcome-ok { fill: var(--right); } .wrong { fill: var(--wrong); } .missing { fill: var(--missing); }
.outcome-error { fill: var(--error); } .outcome-timeout { fill: var(--timeout); }
.outcome-invalid { fill: var(--invalid); }
.curve { fill: none; stroke: var(--right); stroke-width: 2; } .band { fill: var(--right); opacity: 0.18; }
.run { fill: var(--right); stroke: var(--ground); stroke-width: 1.5; }
.interval { stroke: var(--right); stroke-width: 5; opacity: 0.4; }
.run-area { fill: var(--right); fill-opacity: 0.15; stroke: var(--right); stroke-width: 2.5; }
.outline { fill: none; stroke-width: 1.5; stroke-dasharray: 5 3; }
.model-0 { fill: var(--m0); } .model-1 { fill: var(--m1); } .model-2 { fill: var(--m2); }
.model-3 { fill: var(--m3); } .model-4 { fill: var(--m4); } .model-5 { fill: var(--m5); }
.outline-0 { stroke: var(--m0); } .outline-1 { stroke: var(--m1); } .outline-2 { stroke: var(--m2); }
.outline-3 { stroke: var(--m3); } .outline-4 { stroke: var(--m4); } .outline-5 { stroke: var(--m5); }
@media print { details { display: block; } }
"""
