"""How the page looks: light or dark as the reader has it, from 320 pixels on."""

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5a6472;--paper:#fff;--tile:#f3f5f7;--rule:#d5dae0;--a:#0072b2;
--b:#d55e00;--pale:#9ecae1;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#a3adb8;--paper:#15181c;--tile:#20252b;--rule:#39414a;
--a:#56b4e9;--b:#e69f00;--pale:#2f5573;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:0 16px 48px;background:var(--paper);color:var(--ink);
font:16px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.35rem;margin:20px 0 8px;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:36px 0 8px;padding-top:8px;border-top:2px solid var(--rule);overflow-wrap:anywhere}
h3{font-size:1rem;margin:24px 0 8px;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(140px,1fr));gap:8px;margin:0}
dl div{background:var(--tile);border-radius:6px;padding:8px 10px}
dt{font-size:.8rem;color:var(--soft)}dd{margin:0;font-weight:600;overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:4px 14px;margin:12px 0}
a{color:var(--a)}a:focus-visible,summary:focus-visible,[tabindex]:focus-visible{
outline:3px solid var(--b);outline-offset:2px}
ul{padding-left:20px;margin:8px 0}li{margin:4px 0;overflow-wrap:anywhere}
.sign{color:var(--bad)}.note{background:var(--tile);border-left:4px solid var(--b);padding:8px 10px;
overflow-wrap:anywhere}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,270px),1fr));gap:14px 18px}
figure{margin:0;min-width:0}figcaption{font-size:.82rem;overflow-wrap:anywhere}
svg{display:block;width:100%;background:var(--tile);border-radius:3px}
.ends{display:flex;justify-content:space-between;gap:8px;font-size:.76rem;color:var(--soft);overflow-wrap:anywhere}
img{max-width:100%;height:auto;border-radius:3px;display:block}
.a{fill:var(--a)}.soft{fill:var(--pale)}
.line{fill:none;stroke:var(--a);stroke-width:1.3;vector-effect:non-scaling-stroke}
.dots{fill:none;stroke:var(--b);stroke-width:3;stroke-linecap:round;vector-effect:non-scaling-stroke}
.s4{fill:#a6d5f0}.s3{fill:#56b4e9}.s2{fill:#0072b2}.s1{fill:#8a3b00}.s0{fill:#5c1a00}.sx{fill:none}
.wide{overflow-x:auto;margin:10px 0}table{border-collapse:collapse;font-size:.85rem}
caption{text-align:left;font-weight:600;padding:4px 0}
caption span{position:sticky;left:0;display:inline-block;max-width:calc(100vw - 36px)}
th,td{padding:4px 10px 4px 0;border-bottom:1px solid var(--rule);text-align:right;vertical-align:top}
th{text-align:left;font-weight:600}td{white-space:nowrap}
.words{white-space:normal;min-width:14rem;max-width:34rem;overflow-wrap:anywhere;text-align:left}
thead th{color:var(--soft);white-space:nowrap}
tbody th{overflow-wrap:anywhere;min-width:9rem}
details{margin:10px 0}summary{cursor:pointer;font-size:.9rem;color:var(--a)}
meter{width:8rem;vertical-align:middle}
@media print{nav{display:none}details>*{display:block}}
"""
