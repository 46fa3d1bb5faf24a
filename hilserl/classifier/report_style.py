"""How the report looks: light, dark, on a phone and printed."""

STYLE = """
:root { color-scheme: light dark; --paper: #f5f6f8; --card: #fff; --ink: #17202b; --dim: #66707d;
  --line: #dfe3e8; --good: #1a7f4b; --fair: #a86a00; --bad: #c0392b; --main: #2560b8;
  --good-soft: #1a7f4b26; --fair-soft: #e08e1b2b; --bad-soft: #c0392b22; --main-soft: #2560b81c; }
@media (prefers-color-scheme: dark) { :root { --paper: #11161d; --card: #1a212a; --ink: #e6eaef; --dim:
  #9aa5b1;
  --line: #303a46; --good: #4cc38a; --fair: #f0b429; --bad: #ff7b6b; --main: #7db2ff;
  --good-soft: #4cc38a2e; --fair-soft: #f0b42929; --bad-soft: #ff7b6b29; --main-soft: #7db2ff24; } }
@media print { :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --dim: #555; --line:
  #ccc;
  --good: #1a7f4b; --fair: #a86a00; --bad: #c0392b; --main: #2560b8; --good-soft: #1a7f4b26;
  --fair-soft: #e08e1b2b; --bad-soft: #c0392b22; --main-soft: #2560b81c; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } .wide { overflow: visible; }
  figure, tr, .card, .tile { break-inside: avoid; } h2, .lead { break-after: avoid; }
  section, header { box-shadow: none; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
header, section { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 22px 26px; margin-bottom: 18px; }
.over { color: var(--dim); font-size: 13px; letter-spacing: .06em; text-transform: uppercase; margin: 0; }
h1 { font-size: 27px; line-height: 1.2; margin: 2px 0 10px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 0 0 4px; } h3 { font-size: 15px; margin: 20px 0 8px; }
p { margin: 0 0 10px; max-width: 78ch; } .lead, .dim, figcaption { color: var(--dim); }
.lead { margin-bottom: 14px; } small { font-size: 12px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 12px;
  margin-top: 18px; }
.card { border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.card b { display: block; font-size: 25px; line-height: 1.25; font-weight: 650; }
.card span.what { color: var(--dim); font-size: 13px; display: block; }
.card small { color: var(--dim); display: block; line-height: 1.4; }
.card.good b { color: var(--good); } .card.fair b { color: var(--fair); } .card.bad b { color: var(--bad);
  }
.chip { display: inline-block; border-radius: 99px; padding: 2px 11px; font-size: 13px; font-weight: 600;
  white-space: nowrap; background: var(--main-soft); color: var(--main); }
.chip.good { background: var(--good-soft); color: var(--good); }
.chip.fair { background: var(--fair-soft); color: var(--fair); }
.chip.bad { background: var(--bad-soft); color: var(--bad); }
.chip.none { background: none; color: var(--dim); padding-left: 0; }
h1 + p .chip { font-size: 15px; padding: 4px 14px; margin-right: 8px; }
ol.next { margin: 0; padding-left: 22px; } ol.next li { margin-bottom: 8px; max-width: 84ch; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--dim); font-weight: 500; font-size: 12.5px; vertical-align: bottom; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); }
td { vertical-align: middle; overflow-wrap: break-word; min-width: 5em; }
tr:last-child td { border-bottom: 0; }
th.n, td.n { text-align: right; white-space: nowrap; overflow-wrap: normal; }
th:last-child, td:last-child { padding-right: 0; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 8px 40px; }
#confusion-episodes td.n, #confusion-frames td.n { font-size: 16px; }
.value { white-space: nowrap; }
td .hit { color: var(--good); font-weight: 650; } td .slip { color: var(--bad); font-weight: 650; }
figure { margin: 0; } figcaption { font-size: 13px; margin-top: 4px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 22px; }
.plots svg { width: 100%; height: auto; display: block; } svg text { fill: var(--dim); font-size: 12px; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg .axis { stroke: var(--dim); stroke-width: 1; }
svg .ideal { stroke: var(--dim); stroke-width: 1.2; stroke-dasharray: 4 4; }
svg .curve { fill: none; stroke: var(--main); stroke-width: 2.2; stroke-linejoin: round; }
svg .second { fill: none; stroke: var(--fair); stroke-width: 1.3; opacity: .75; }
svg .thin { stroke-width: 1.5; opacity: .85; } svg .faint { stroke-width: 1.2; opacity: .35; } svg .dot {
  fill: var(--main); }
svg .use { fill: var(--card); stroke: var(--bad); stroke-width: 2.4; }
#episodes-table td { padding-top: 5px; padding-bottom: 5px; } #episodes-table td.strip { width: 42%;
  min-width: 220px; } #episodes-table td:first-child { width: 22%; }
.strip svg { display: block; width: 100%; height: 40px; background: var(--paper); border-radius: 4px; }
.strip .truth { fill: var(--good-soft); } .strip .said { fill: var(--main-soft); stroke: none; }
.strip .line { fill: none; stroke: var(--main); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.strip .level { stroke: var(--dim); stroke-width: 1; stroke-dasharray: 3 3; vector-effect:
  non-scaling-stroke; }
.strip .right, .strip .wrong { stroke-width: 2.5; vector-effect: non-scaling-stroke; }
.strip .right { stroke: var(--good); } .strip .wrong { stroke: var(--bad); }
.key { display: inline-block; width: 14px; height: 10px; border-radius: 2px; margin: 0 5px 0 12px; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; }
.tile { border-radius: 8px; overflow: hidden; border: 1px solid var(--line); background: var(--paper); }
.tile.bad { border: 2px solid var(--bad); } .tile img { width: 100%; display: block; image-rendering:
  pixelated; }
.tile small { display: block; line-height: 1.35; } .tile figcaption { padding: 5px 8px 7px; margin: 0;
  line-height: 1.35; overflow-wrap: anywhere; }
.tile b { color: var(--ink); } .tile.bad b { color: var(--bad); } .warn { color: var(--fair); }
@media (max-width: 640px) { main { padding: 10px 8px 40px; } header, section { padding: 16px 14px; }
  .cards { grid-template-columns: 1fr 1fr; } .card b { font-size: 21px; } h1 { font-size: 22px; }
  #episodes-table thead { display: none; } #episodes-table tr { display: grid;
    grid-template-columns: repeat(3, 1fr); border-bottom: 1px solid var(--line); padding: 8px 0; }
  #episodes-table td { border: 0; padding: 2px 8px 2px 0; text-align: left; }
  #episodes-table td:nth-child(1), #episodes-table td:nth-child(2), #episodes-table td.strip {
  grid-column: 1 / -1;
    width: auto; } #episodes-table td[data-label]::before { content: attr(data-label) " "; color:
  var(--dim);
    font-size: 12px; } }
"""
