//! The page's style: light and dark as the reader's system is, narrow screens, print.

/// All of it.
pub const STYLE: &str = "
:root{--back:#fff;--text:#1a1a1a;--soft:#5a5a5a;--line:#d0d0d0;--card:#f6f6f4;--bad:#a8320a;--good:#0a5c8a;
--full:#0a5c8a;--part:#5aa9d6;--heat:#0a5c8a}
@media (prefers-color-scheme:dark){:root{--back:#16181a;--text:#e8e6e3;--soft:#a5a29d;--line:#3a3d40;--card:#1f2225;
--bad:#ff9a6b;--good:#7cc4ee;--full:#7cc4ee;--part:#3d7ea6;--heat:#7cc4ee}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:72rem;background:var(--back);color:var(--text);
font:16px/1.45 system-ui,sans-serif}
h1{font-size:1.3rem;margin:0}h2{font-size:1.1rem;margin:1.6rem 0 .5rem}h3{font-size:1rem;margin:1rem 0 .3rem}
p{margin:.3rem 0}.soft{color:var(--soft)}.bad{color:var(--bad);font-weight:600}.good{color:var(--good)}
.card{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem;margin:.7rem 0}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft)}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:auto;margin:.3rem 0}.ends{display:flex;justify-content:space-between;color:var(--soft);font-size:.8rem;margin:0}
.full{fill:var(--full)}.part{fill:var(--part)}.doubt{stroke:var(--bad);stroke-width:2}.heat{fill:var(--heat)}
.frame{fill:none;stroke:var(--line)}
input,button{font:inherit;padding:.4rem .6rem;border:1px solid var(--line);border-radius:4px;background:var(--back);
color:var(--text)}
@media (max-width:40rem){body{padding:.6rem}thead{position:absolute;left:-999rem}
tr{display:block;border-bottom:1px solid var(--line);padding:.4rem 0}
td{display:flex;gap:1rem;justify-content:space-between;border:0;padding:.1rem 0;overflow-wrap:anywhere}
td.n{text-align:left}td::before{content:attr(data-name);color:var(--soft);flex:none}td:empty{display:none}}
";
