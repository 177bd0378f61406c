"""How the report looks: on a laptop, a phone and paper, in light and dark."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f8; --card: #ffffff; --ink: #1d2429; --soft: #5b6770; --line: #dfe3e6; --accent: #00578a;
  --good: #00704f; --good-bg: #e3f4ee; --warning: #8a5a00; --warning-bg: #fff3d9;
  --error: #a83a00; --error-bg: #fde8dc; --note: #2a5d84; --note-bg: #e6f1f9; --code: #f0f2f4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15191c; --card: #1e2428; --ink: #e4e8ea; --soft: #9ba7af; --line: #333c42; --accent: #7cc4ef;
    --good: #5fd3ae; --good-bg: #12332a; --warning: #f3c262; --warning-bg: #3a2d10;
    --error: #ff9d6b; --error-bg: #422213; --note: #8cc8ef; --note-bg: #172d3c; --code: #2a3238;
  }
  figure .scroll { filter: brightness(.9); }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 40px; }
header p { margin: 0; color: var(--soft); overflow-wrap: anywhere; }
h1 { margin: 0 0 2px; font-size: 25px; line-height: 1.2; font-weight: 650; overflow-wrap: anywhere; }
h2 { margin: 30px 0 10px; font-size: 17px; font-weight: 650; }
h3 { margin: 0 0 6px; font-size: 14px; font-weight: 650; }
p, ul, ol, pre { margin: 0 0 8px; }
a { color: var(--accent); text-decoration: none; }
.verdict { margin: 18px 0 0; padding: 12px 16px; border-radius: 10px; font-size: 17px; font-weight: 600;
  display: flex; gap: 10px; align-items: baseline; overflow-wrap: anywhere; }
.good { color: var(--good); background: var(--good-bg); }
.warning { color: var(--warning); background: var(--warning-bg); }
.error { color: var(--error); background: var(--error-bg); }
.note { color: var(--note); background: var(--note-bg); }
.findings { list-style: none; margin: 10px 0 0; padding: 0; }
.findings li { display: grid; grid-template-columns: 74px 1fr; gap: 12px; padding: 8px 0;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; }
.findings li:first-child { border-top: 0; }
.label { justify-self: start; align-self: start; padding: 1px 9px; border-radius: 9px; font-size: 12px;
  font-weight: 600; }
.where { display: block; color: var(--soft); font-size: 13px; }
.tiles { display: grid; grid-template-columns: repeat(5, 1fr); gap: 10px; margin: 18px 0 0; padding: 0; }
.tiles div, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tiles div { padding: 10px 14px; }
.tiles dt { color: var(--soft); font-size: 12px; }
.tiles dd { margin: 0; font-size: 21px; font-weight: 650; line-height: 1.25; }
.tiles small { display: block; font-size: 12px; font-weight: 400; color: var(--soft); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; align-items: start; }
.card { padding: 14px 16px; min-width: 0; }
.card > :last-child { margin-bottom: 0; }
.card ul { padding-left: 18px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 4px 0; font-weight: 400; overflow-wrap: anywhere; }
tr + tr > * { border-top: 1px solid var(--line); }
.facts th { width: 116px; padding-right: 12px; color: var(--soft); overflow-wrap: normal; }
.facts td > ul { margin: 0; padding-left: 16px; }
.numbers { font-size: 13px; }
.numbers th, .numbers td { padding-right: 9px; overflow-wrap: normal; }
.numbers th[scope=row] { min-width: 96px; overflow-wrap: anywhere; }
.numbers thead th { color: var(--soft); font-size: 12px; line-height: 1.25; vertical-align: bottom; }
.scroll { overflow-x: auto; }
figure { margin: 0; background: #ffffff; border: 1px solid var(--line); border-radius: 10px; overflow: hidden;
  display: flex; flex-direction: column; }
figure .scroll { background: #ffffff; padding: 8px 8px 0; }
figure img { display: block; width: 100%; height: auto; background: #ffffff; }
figcaption { padding: 6px 14px 10px; font-size: 13px; line-height: 1.4; color: var(--soft);
  background: var(--card); flex: 1; }
.pictures { display: grid; grid-template-columns: 65fr 35fr; gap: 14px; }
.pictures .wide { grid-column: 1 / -1; }
.pictures .stack { display: grid; gap: 14px; align-content: start; }
.empty { color: var(--soft); }
.methods { user-select: all; -webkit-user-select: all; background: var(--code); border-radius: 8px;
  padding: 10px 12px; }
.hint { color: var(--soft); font-size: 13px; }
.papers { padding-left: 20px; font-size: 13px; overflow-wrap: anywhere; }
.papers li { margin-bottom: 3px; }
pre { background: var(--code); border-radius: 8px; padding: 10px 12px; overflow-x: auto;
  font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
footer { margin-top: 24px; color: var(--soft); font-size: 13px; }
section > .card + .card { margin-top: 14px; }
@media (max-width: 720px) {
  main { padding: 18px 12px 28px; }
  h1 { font-size: 21px; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .pair, .pictures { grid-template-columns: 1fr; }
  .findings li { grid-template-columns: 1fr; gap: 4px; }
  .wide img { min-width: 640px; }
  .facts th { width: 92px; }
}
@media print {
  @page { size: A4; margin: 9mm 10mm; }
  :root { --page: #fff; --card: #fff; --ink: #111; --soft: #555; --line: #ddd; --accent: #00578a;
    --good: #00704f; --good-bg: #e3f4ee; --warning: #8a5a00; --warning-bg: #fff3d9;
    --error: #a83a00; --error-bg: #fde8dc; --note: #2a5d84; --note-bg: #e6f1f9; --code: #f4f5f6; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  figure .scroll { filter: none; }
  body { font-size: 7.2pt; line-height: 1.3; background: #fff; }
  main { max-width: none; padding: 0; }
  h1 { font-size: 12pt; }
  h2 { font-size: 8.5pt; margin: 4pt 0 2pt; break-after: avoid; }
  h3 { font-size: 7.5pt; margin-bottom: 1pt; break-after: avoid; }
  p, ul, ol, pre { margin-bottom: 2pt; }
  .verdict { margin-top: 4pt; padding: 3pt 7pt; font-size: 8.5pt; border-radius: 4pt; gap: 5pt; }
  .findings { margin-top: 2pt; }
  .findings li { padding: 1.5pt 0; grid-template-columns: 40pt 1fr; gap: 5pt; }
  .label { font-size: 6.5pt; padding: 0 4pt; }
  .where, .hint, .papers, figcaption, footer, .tiles dt, .tiles small, .numbers thead th { font-size: 6.3pt; }
  .where { display: inline; margin-left: 4pt; }
  .tiles { grid-template-columns: repeat(5, 1fr); margin-top: 4pt; gap: 4pt; }
  .tiles div { padding: 1.5pt 6pt; border-radius: 4pt; }
  .tiles dd { font-size: 9.5pt; line-height: 1.15; }
  .tiles small { display: inline; }
  .pair { grid-template-columns: 1fr 1fr; gap: 4pt; }
  .pictures { grid-template-columns: 65fr 35fr; gap: 4pt; }
  .pictures .stack { gap: 4pt; }
  .card { padding: 3pt 6pt; border-radius: 4pt; }
  section > .card + .card { margin-top: 4pt; }
  table { font-size: 7pt; }
  th, td { padding: .4pt 0; }
  .facts th { width: 52pt; padding-right: 5pt; }
  .card ul, .facts td > ul { padding-left: 9pt; }
  figure { break-inside: avoid; border-radius: 4pt; }
  .scroll { overflow: visible; }
  figure .scroll { padding: 2pt 2pt 0; }
  .numbers { font-size: 6.5pt; }
  .numbers th[scope=row] { min-width: 60pt; }
  .wide img { width: 96%; margin: 0 auto; }
  .wide img { min-width: 0; }
  figcaption { padding: 0 6pt 2pt; line-height: 1.2; }
  .methods, pre { background: none; padding: 0; border-radius: 0; }
  pre { font-size: 6.5pt; line-height: 1.25; white-space: pre-wrap; }
  .papers { padding-left: 11pt; margin-bottom: 0; line-height: 1.2; }
  .papers li { margin-bottom: .5pt; }
  .plane + .plane { break-before: page; }
  footer { margin-top: 3pt; }
}
"""
