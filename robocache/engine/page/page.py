"""The page: sections of words, tables and drawings, self-contained, without scripts.

Ids, topics and reasons come from files that anybody may have made: all text goes through :func:`text`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from rich.filesize import decimal

from robocache.engine.page import draw
from robocache.engine.page.style import STYLE
from robocache.output.facts import Facts, FeatureFacts, Outlier, StreamFacts, outliers
from robocache.output.statistics import QUANTILES
from robocache.text import shown

#: Numbers of a feature that are drawn, and rows of a table of episodes, files or outliers.
DRAWN, LISTED = 8, 100
#: What the page may load: nothing but what is in it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_BREAKS = '<strong class="sign">breaks a threshold:</strong> '
_PROBLEM = '<strong class="sign">problem:</strong> '
#: Characters of a cell that stay on one line.
_SHORT = 28
#: Steps of a stream are drawn from a tenth of the usual one to ten times it.
_JITTER = np.logspace(-1, 1, 41)


@dataclass(frozen=True)
class Recorded:
    """A stream of one episode as it was recorded.

    times: int64 nanoseconds ``[n]``, sorted; age: nanoseconds ``[T]``, how old its last sample is at each row
    """

    source: str
    times: np.ndarray
    age: np.ndarray


@dataclass(frozen=True)
class Trace:
    """A number of a feature in one episode. values: ``[T]``, NaN where it is not valid; at, raw: what was recorded, as
    ``[n]`` shares of the episode and values, empty where it is not drawn.
    """

    feature: str
    label: str
    values: np.ndarray
    at: np.ndarray
    raw: np.ndarray


@dataclass(frozen=True)
class Fused:
    """One episode, recorded and as rows. failure: why the recording cannot be shown; empty where it is."""

    id: str
    seconds: float
    streams: Sequence[Recorded]
    traces: Sequence[Trace]
    failure: str = ""


@dataclass(frozen=True)
class Picture:
    """A small image as a ``data:`` URI."""

    caption: str
    uri: str


def page(
    facts: Facts,
    quality: Sequence[tuple[str, bool]],
    episodes: Sequence[Fused] = (),
    pictures: Sequence[Picture] = (),
    notes: Sequence[str] = (),
) -> str:
    """The document. quality: lines on the dataset, and whether each breaks a threshold; notes: on this page."""
    found = sorted((o for f in facts.features for o in outliers(f)), key=lambda o: -o.factor)
    sections = [
        ("quality", "Quality", _quality(facts, quality, found)),
        ("streams", "Streams", _streams(facts)),
        ("rows", "Coverage of the rows", _coverage(facts)),
        ("features", "Features", _features(facts, found)),
        *((f"episode-{k}", f"Episode {e.id}", _episode(e)) for k, e in enumerate(episodes)),
        ("pictures", "Images", _pictures(pictures)),
        ("left-out", "Left out", _left_out(facts)),
        ("run", "The run", _run(facts)),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{key}">{text(title)}</a>' for key, title, body in sections)
    bodies = "".join(
        f'<section id="{key}"><h2>{text(title)}</h2>{body}</section>' for key, title, body in sections if body
    )
    told = "".join(f'<p class="note">{text(note)}</p>' for note in notes)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{text(facts.uri)}</title><style>{STYLE}</style></head><body>"
        f'<header><h1>{text(facts.uri)}</h1>{_tiles(facts)}<nav aria-label="Sections">{links}</nav></header>'
        f"<main>{told}{bodies}</main></body></html>\n"
    )


def text(value: object) -> str:
    """Anything as text of the page: never markup, and nothing that turns the direction of reading."""
    return escape(shown(value))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], caption: str, *, closed: bool = False) -> str:
    """The first column names the row; cells are text, or ``Html``."""
    lines = "".join(f'<tr><th scope="row">{_cell(row[0])}</th>{"".join(map(_data, row[1:]))}</tr>' for row in rows)
    if not lines:
        return ""
    names = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    whole = (
        f'<div class="wide" role="region" tabindex="0" aria-label="{text(caption)}"><table>'
        f"<caption><span>{text(caption)}</span></caption><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table></div>"
    )
    return f"<details><summary>{text(caption)}</summary>{whole}</details>" if closed else whole


class Html(str):
    """Markup that this module has made."""


def _cell(value: object) -> str:
    return value if isinstance(value, Html) else text(value)


def _data(value: object) -> str:
    long = not isinstance(value, Html) and len(str(value)) > _SHORT
    return f'<td class="words">{_cell(value)}</td>' if long else f"<td>{_cell(value)}</td>"


def _tiles(facts: Facts) -> str:
    seconds = float(np.nansum(facts.seconds))
    time = f"{seconds / 3600:,.1f} h" if seconds >= 7200 else f"{seconds:,.1f} s"
    told = {
        "version": f"{facts.version}, {facts.made[:16].replace('T', ' ')}" if facts.version else facts.made,
        "episodes": f"{len(facts.ids):,}",
        "rows": f"{facts.rows.sum():,}",
        "time": time if facts.rate is not None else "by the stamps of a source",
        "rate": f"{facts.rate} Hz" if facts.rate is not None else "none",
        "size": decimal(facts.size),
        **({"quarantined": f"{len(facts.quarantine):,}"} if facts.version else {}),
    }
    return f"<dl>{''.join(f'<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>' for k, v in told.items())}</dl>"


def _quality(facts: Facts, quality: Sequence[tuple[str, bool]], found: Sequence[Outlier]) -> str:
    names = dict(zip(facts.numbers.tolist(), facts.ids, strict=True))
    kept = float(np.nanmean(facts.kept)) if len(facts.kept) and not np.isnan(facts.kept).all() else 1.0
    lines = [f"<li>{kept:.1%} of the time recorded is in rows</li>"] if len(facts.ids) and facts.version else []
    sign = _BREAKS if facts.version else _PROBLEM
    lines += [f"<li>{sign if failed else ''}{text(line)}</li>" for line, failed in quality]
    lines += [f"<li>{text(f'{names.get(o.episode, o.episode)}: {o.feature}: {o.text}')}</li>" for o in found[:5]]
    if len(found) > 5:
        lines.append(f"<li>{len(found) - 5} more outliers are under Features</li>")
    if facts.quarantine:
        lines.append(
            f"<li>quarantined: {len(facts.quarantine):,} of {len(facts.ids) + len(facts.quarantine):,} episodes</li>"
        )
    if len(lines) <= bool(facts.version):
        lines.append(f"<li>nothing {'else ' if lines else ''}was found</li>")
    return f"<ul>{''.join(lines)}</ul>"


def _streams(facts: Facts) -> str:
    return table(
        ("source", "episodes", "samples", "rate (Hz)", "late", "latest by", "repeated", "not finite", "dropped", "gaps",
         "longest gap", "valid"),
        (_stream(facts, s) for s in facts.streams),
        "What was found in each source, all episodes together",
    )  # fmt: skip


def _stream(facts: Facts, s: StreamFacts) -> list[object]:
    seconds, samples = facts.seconds[s.episodes], s.found["samples"]
    rates = samples[seconds > 0] / seconds[seconds > 0]
    rate = "" if not len(rates) else _g(np.median(rates))
    if len(rates) and rates.max() > 1.2 * max(rates.min(), 1e-9):
        rate += f" ({_g(rates.min())} to {_g(rates.max())})"

    def worst(name: str) -> str:
        at = int(np.argmax(s.found[name]))
        value = int(s.found[name][at])
        where = f" in {facts.ids[s.episodes[at]]}" if value and len(facts.ids) > 1 else ""
        return f"{_span(value)}{where}" if value else "0"

    def total(name: str) -> str:
        return f"{int(s.found[name].sum()):,}"

    valid = s.found["valid_share"]
    faults = [total(name) for name in ("duplicates", "non_finite", "dropped", "gaps")]
    return [s.source, f"{len(s.episodes):,}", total("samples"), rate, total("late"), worst("late_by"), *faults,
            worst("longest_gap"), f"{valid.mean():.1%}, least {valid.min():.1%}"]  # fmt: skip


def _coverage(facts: Facts) -> str:
    figures = []
    for name, share in facts.valid.items():
        if np.isnan(share).all():
            continue
        worst = int(np.nanargmin(share))
        words = f"{np.nanmean(share):.1%} on average, least {share[worst]:.1%} in {facts.ids[worst]}"
        figures.append(draw.figure(shown(name), shown(words), draw.shares(share), height=14, low=shown(words)))
    rows = ([facts.ids[k], facts.splits[k], f"{facts.rows[k]:,}", *([f"{facts.kept[k]:.1%}"] if facts.version else []),
             *(f"{share[k]:.1%}" for share in facts.valid.values())]
            for k in np.argsort(_least(facts), kind="stable")[:LISTED])  # fmt: skip
    caption = "Episodes, those with the least valid rows first" if facts.valid else "Episodes"
    if len(facts.ids) > LISTED:
        caption += f", {LISTED} of {len(facts.ids):,}"
    told = "<p>Valid rows of each feature, an episode a column from left to right; a lower, darker bar is less.</p>"
    body = f'{told}<div class="grid">{"".join(figures)}</div>' if figures else ""
    head = ("episode", "split", "rows", *(["kept"] if facts.version else []), *facts.valid)
    return body + table(head, rows, caption, closed=True)


def _least(facts: Facts) -> np.ndarray:
    shares = [np.nan_to_num(share, nan=1.0) for share in facts.valid.values()]
    return np.min(shares, axis=0) if shares else np.ones(len(facts.ids))


def _features(facts: Facts, found: Sequence[Outlier]) -> str:
    names = dict(zip(facts.numbers.tolist(), facts.ids, strict=True))
    rows = ([names.get(o.episode, o.episode), o.feature, o.text] for o in found[:LISTED])
    caption = f"Outliers: {len(found):,} of episodes and features" if found else ""
    out = [table(("episode", "feature", "what"), rows, caption)] if found else []
    return "".join(out) + "".join(_feature(f, [o for o in found if o.feature == f.name]) for f in facts.features)


def _feature(f: FeatureFacts, found: Sequence[Outlier]) -> str:
    m, figures = f.moments, []
    for d in _most_telling(f) if found else range(min(len(f.labels), DRAWN)):
        label = f"{f.name}[{f.labels[d]}]" if len(f.labels) > 1 else f.name
        floor, ceiling = float(np.nanmin(m.min[:, d], initial=np.inf)), float(np.nanmax(m.max[:, d], initial=-np.inf))
        if not floor <= ceiling:
            continue
        low, high = (float(f.total.quantiles([q])[0, d]) for q in (0.005, 0.995))
        middle = f"mean {_g(float(f.total.mean[d]))}, 99 % from {_g(low)} to {_g(high)}"
        heights = _histogram(f.total.points[d], f.total.weights[d], low, high)
        figures.append(draw.figure(shown(label), middle, draw.bars(heights), low=_g(low), high=_g(high)))
        if len(m.episodes) > 1:
            body = draw.band(m.min[:, d], m.max[:, d], m.mean[:, d], floor, ceiling)
            words = f"from {_g(floor)} to {_g(ceiling)} over {len(m.episodes)} episodes"
            figures.append(draw.figure("by episode: least, mean, largest", words, body, low=words))
    if not figures:
        return ""
    quantiles = f.total.quantiles()
    std = np.sqrt(np.divide(f.total.m2, f.total.counts, out=np.zeros_like(f.total.m2), where=f.total.counts > 0))
    rows = ([f.labels[d], f"{f.total.counts[d]:,.0f}", *(_g(float(v[d])) for v in (f.total.min, *quantiles, f.total.max,
             f.total.mean, std))] for d in range(min(len(f.labels), LISTED)))  # fmt: skip
    head = ("number", "count", "least", *(f"{q:.0%}" for q in QUANTILES), "largest", "mean", "std")
    more = f"<p>{DRAWN} of {len(f.labels)} numbers are drawn.</p>" if len(f.labels) > DRAWN else ""
    grid = f'<div class="grid pairs">{"".join(figures)}</div>'
    return f"<h3>{text(f.name)}</h3>{more}{grid}{table(head, rows, f'{f.name} in numbers', closed=True)}"


def _most_telling(f: FeatureFacts) -> list[int]:
    """The numbers that are most unlike in some episode, in their order."""
    usual = np.median(np.nan_to_num(f.moments.std), axis=0)
    spread = f.moments.std / np.where(usual > 0, usual, np.inf)
    most = np.nan_to_num(spread, posinf=np.finfo(float).max).max(axis=0)
    return sorted(np.argsort(-most, kind="stable")[:DRAWN].tolist())


def _histogram(points: np.ndarray, weights: np.ndarray, low: float, high: float, bins: int = 40) -> np.ndarray:
    """Of a digest: each point's weight is spread halfway to its neighbours."""
    if not high > low:
        return np.ones(1)
    there = weights > 0
    points, weights = points[there], weights[there]
    middles = (points[1:] + points[:-1]) / 2
    edges = np.concatenate([[points[0]], middles, [points[-1]]])
    below = np.concatenate([[0.0], np.cumsum(weights)])
    rising = np.maximum.accumulate(edges) + np.arange(len(edges)) * 1e-12 * max(abs(high), abs(low), 1e-12)
    return np.diff(np.interp(np.linspace(low, high, bins + 1), rising, below))


def _episode(e: Fused) -> str:
    out = [f'<p class="note">{text(e.failure)}</p>'] if e.failure else []
    spans, jitter, rows = [], [], []
    if e.streams:
        start = min(int(s.times[0]) for s in e.streams)
        end = max(int(s.times[-1]) for s in e.streams)
        for s in e.streams:
            steps = np.diff(s.times)
            usual = float(np.median(steps)) if len(steps) else 0.0
            breaks = np.flatnonzero(steps > 10 * usual) if usual else np.zeros(0, int)
            firsts, lasts = s.times[np.r_[0, breaks + 1]], s.times[np.r_[breaks, len(s.times) - 1]]
            pieces = [((a - start) / max(end - start, 1), (b - start) / max(end - start, 1))
                      for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True)]  # fmt: skip
            words = f"{len(breaks)} gaps" if len(breaks) != 1 else "1 gap"
            spans.append(draw.figure(shown(s.source), words, draw.spans(pieces), height=10, low=words))
            if usual and (steps > 0).any():
                counts, _ = np.histogram(np.clip(steps / usual, _JITTER[0], _JITTER[-1]), _JITTER)
                words = f"median step {_span(usual)}, 99 % below {_span(float(np.percentile(steps, 99)))}"
                jitter.append(
                    draw.figure(shown(s.source), words, draw.bars(np.sqrt(counts)), low="1/10", high="10 times")
                )
            age = s.age[s.age >= 0]
            ages = (
                [_span(float(v)) for v in (np.median(age), np.percentile(age, 99), age.max())] if len(age) else [""] * 3
            )
            rate = f"{1e9 / usual:.4g}" if usual else ""
            rows.append([s.source, f"{len(s.times):,}", rate, _span(usual), *ages])
        out.append(f'<h3>When each stream was there, in {e.seconds:.1f} s</h3><div class="grid">{"".join(spans)}</div>')
        head = ("source", "samples", "rate (Hz)", "median step", "age, median", "age, 99 %", "age, most")
        out.append(table(head, rows, "Samples, and how old the last one is when a row needs it"))
        told = "Steps between stamps, against the usual one; heights are square roots of counts"
        out.append(f'<h3>{told}</h3><div class="grid">{"".join(jitter)}</div>')
    traces = "".join(_trace(t, e.seconds) for t in e.traces)
    if traces:
        dots = "; dots are what was recorded" if any(len(t.at) for t in e.traces) else ""
        out.append(f'<h3>Rows{dots}</h3><div class="grid">{traces}</div>')
    return "".join(out)


def _trace(t: Trace, seconds: float) -> str:
    both = np.concatenate([t.values, t.raw])
    both = both[np.isfinite(both)]
    if not len(both):
        return ""
    floor, ceiling = float(both.min()), float(both.max())
    body = draw.line(t.values, floor, ceiling) + (draw.dots(t.at, t.raw, floor, ceiling) if len(t.at) else "")
    words = f"from {_g(floor)} to {_g(ceiling)}"
    label = f"{t.feature}[{t.label}]" if t.label else t.feature
    return draw.figure(shown(label), words, body, low=words, high=f"{seconds:.1f} s")


def _pictures(pictures: Sequence[Picture]) -> str:
    figures = ""
    for p in pictures:
        told = text(p.caption)
        figures += f'<figure><img src="{escape(p.uri)}" alt="{told}"><figcaption>{told}</figcaption></figure>'
    return f'<div class="grid">{figures}</div>' if pictures else ""


def _left_out(facts: Facts) -> str:
    quarantined = ([q.id, q.reason, "yes" if q.retry else "no"] for q in facts.quarantine[:LISTED])
    passed: Sequence[Mapping[str, Any]] = facts.report.get("passed_over", [])
    more = len(facts.quarantine) - LISTED
    caption = f"Quarantined episodes: {len(facts.quarantine):,}" + (f", the first {LISTED}" if more > 0 else "")
    out = table(("episode", "reason", "the next run tries it again"), quarantined, caption)
    files = ([p["uri"], decimal(int(p["size"])), p.get("what", ""), p.get("remedy", "")] for p in passed[:LISTED])
    out += table(("file", "size", "what", "what would read it"), files, f"Files passed over: {len(passed):,}")
    return out or ("<p>No episode is quarantined.</p>" if facts.version else "")


def _run(facts: Facts) -> str:
    r = facts.report
    if not facts.version:
        return ""
    if not r:
        return "<p>The last run made another version, or tells nothing.</p>"
    told: list[Sequence[object]] = [
        ("seconds", f"{float(r.get('seconds', 0)):.1f}"),
        ("workers", r.get("workers", "")),
        ("read", decimal(int(r.get("bytes_in", 0)))),
        ("written", decimal(int(r.get("bytes_out", 0)))),
        ("most memory of a process", decimal(int(r.get("peak_bytes", 0)))),
        *((f"version of {name}", v) for name, v in dict(r.get("versions", {})).items()),
    ]
    stages = {str(k): float(v) for k, v in dict(r.get("stages", {})).items() if float(v) > 0}
    total = sum(stages.values()) or 1.0
    rows = ([k, _meter(v / total), f"{v:.2f}"] for k, v in sorted(stages.items(), key=lambda kv: -kv[1]))
    notes = "".join(f'<p class="note">{text(note)}</p>' for note in r.get("notes", []))
    return (
        notes
        + table(("stage", "share", "seconds of all workers"), rows, "Where the workers' time went")
        + table(("what", ""), told, "The last run")
    )


def _meter(share: float) -> Html:
    return Html(f'<meter min="0" max="1" value="{share:.3f}">{share:.0%}</meter> {share:.0%}')


def _g(value: float) -> str:
    return f"{value:.4g}"


def _span(ns: float) -> str:
    """Nanoseconds as a person reads them."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(ns) >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.0f} ns"
