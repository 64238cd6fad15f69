"use strict";
(() => {
  const limits = JSON.parse(document.getElementById("limits").textContent);
  const narrow = () => window.innerWidth < 760;
  const tone = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const FONT = 'system-ui, "Segoe UI", Roboto, Arial, sans-serif';
  const CONFIG = {
    displaylogo: false,
    responsive: true,
    scrollZoom: false,
    // Nothing leaves this page.
    showSendToCloud: false,
    plotlyServerURL: "",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };

  // Numbers travel as base64 of little endian arrays, which is what every browser's machine has.
  const decode = (text, Type) => {
    const bytes = atob(text);
    const raw = new Uint8Array(bytes.length);
    for (let i = 0; i < bytes.length; i++) raw[i] = bytes.charCodeAt(i);
    return new Type(raw.buffer);
  };
  const column = (value, n) => {
    if (value === null) return null;
    if (typeof value === "number") return Array(n).fill(value);
    return Array.from(decode(value, Float32Array), (x) => (Number.isFinite(x) ? x : null));
  };
  const quantised = (packed, Type) => {
    const unknown = Type === Uint8Array ? 255 : 65535;
    return Array.from(decode(packed.q, Type), (q) => (q === unknown ? null : packed.low + packed.step * q));
  };
  const times = (data) => Array.from(decode(data.t, Uint32Array), (t) => data.t0 + t * data.tick_ms);
  // Plotly reads tags in its texts.
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const hz = (f) => (f < 1000 ? `${+f.toPrecision(3)} Hz` : `${+(f / 1000).toPrecision(3)} kHz`);

  const tick = (f) => (f < 1000 ? `${+f.toPrecision(3)}` : `${+(f / 1000).toPrecision(3)}k`);

  // A heat map's cells as columns of rows, its time edges, and the value per cell through `shape`.
  const heat = (packed, rows, shape = (x) => x) => {
    const flat = quantised(packed, Uint8Array);
    const [start, end] = packed.span;
    const x = Array.from({ length: packed.cells + 1 }, (_, i) => start + ((end - start) * i) / packed.cells);
    const z = Array.from({ length: rows }, (_, row) =>
      Array.from({ length: packed.cells }, (_, cell) => {
        const value = flat[cell * rows + row];
        return value === null ? null : shape(value, row);
      }),
    );
    return { x, z };
  };

  const line = (x, y, name, color, more = {}) => ({
    type: "scatter", mode: "lines", x, y, name, connectgaps: false,
    line: { color, width: 1.4, ...more }, hovertemplate: "%{y:.4~g}",
  });
  // Drawn in the axis, not as a trace: limits must not stretch an empty panel.
  const level = (y, color, dash, text) => ({ y, color, dash, text });

  const scorePanel = (d) => {
    const score = column(d.columns.score, d.n);
    if (!score) return null;
    const limit = column(d.columns.limit, d.n) || [];
    const at = (factor) => limit.map((v) => (v === null ? null : v * factor));
    const newest = limit.findLast((v) => v !== null);
    const labels = newest === undefined ? [] : [["advisory", 1], ["alert", limits.alert], ["alarm", limits.alarm]];
    return {
      title: "Drift score (distance from healthy)", height: 210,
      traces: [
        line(d.x, score, "score", tone("plot-1")),
        line(d.x, at(1), "advisory limit", tone("advisory"), { dash: "dot", width: 2 }),
        line(d.x, at(limits.alert), "alert limit", tone("alert"), { dash: "dash", width: 2 }),
        line(d.x, at(limits.alarm), "alarm limit", tone("alarm"), { dash: "solid", width: 2 }),
      ],
      labels: labels.map(([text, factor]) => ({ text, y: newest * factor })),
    };
  };
  const levelPanel = (d) => {
    const ratio = column(d.columns.level_ratio, d.n);
    if (!ratio) return null;
    const lines = [level(1, tone("soft"), "dot", "healthy")];
    if (limits.level) lines.push(level(limits.level, tone("alarm"), "solid", "alarm limit"));
    return { title: "Level, times healthy", height: 120, traces: [line(d.x, ratio, "level", tone("plot-1"))], lines };
  };
  const rmsPanel = (d) => {
    const rms = column(d.columns.rms, d.n);
    if (!rms) return null;
    const peak = column(d.columns.peak, d.n) || [];
    return {
      title: `RMS (solid) and peak (dotted), ${plain(d.unit)}`, height: 130,
      traces: [line(d.x, peak, "peak", tone("plot-2"), { dash: "dot" }), line(d.x, rms, "RMS", tone("plot-1"))],
    };
  };
  const shapePanel = (d) => {
    const rms = column(d.columns.rms, d.n);
    const peak = column(d.columns.peak, d.n);
    const kurtosis = column(d.columns.kurtosis, d.n);
    if (!rms || !peak || !kurtosis) return null;
    const crest = rms.map((r, i) => (r && peak[i] !== null ? peak[i] / r : null));
    return {
      title: "Kurtosis (solid) and crest factor (dotted): shocks", height: 130,
      traces: [line(d.x, crest, "crest", tone("plot-2"), { dash: "dot" }), line(d.x, kurtosis, "kurtosis", tone("plot-1"))],
      lines: [level(3, tone("soft"), "dot", "no shocks")],
    };
  };
  const velocityPanel = (d) => {
    const velocity = column(d.columns.velocity_mm_s, d.n);
    if (!velocity) return null;
    const colors = ["ok", "alert", "alarm"].map(tone);
    return {
      title: "Velocity 10-1000 Hz (mm/s RMS)", height: 130,
      traces: [line(d.x, velocity, "velocity", tone("plot-1"))],
      lines: d.iso.map((y, i) => level(y, colors[i], ["dot", "dash", "solid"][i], `ISO ${"ABC"[i]}/${"BCD"[i]}`)),
    };
  };
  const bandPanel = (d) => {
    if (!d.bands) return null;
    const edges = d.bands.edges_hz;
    const joined = edges.every((edge, i) => i === 0 || Math.abs(edge[0] - edges[i - 1][1]) < 1e-6 * edge[1]);
    const y = joined ? [edges[0][0], ...edges.map((e) => e[1])] : edges.map((e) => (e[0] + e[1]) / 2);
    const map = heat(d.bands, edges.length, (share) => 100 * share);
    return {
      title: "Where the drift is: share per band (kHz)", height: 180, hover: "closest",
      traces: [{
        type: "heatmap", x: map.x, y: y.map((f) => f / 1000), z: map.z, colorscale: "Cividis", zmin: 0,
        colorbar: { title: { text: "%" } }, hovertemplate: "%{x|%d %b %H:%M}<br>around %{y:.3~g} kHz: %{z:.0f} % of the drift<extra></extra>",
      }],
    };
  };
  const octavePanel = (d) => {
    if (!d.octaves) return null;
    const { hz: centres, healthy_db: healthy } = d.octaves;
    const map = heat(d.octaves, centres.length, (db, row) => (healthy ? db - healthy[row] : db));
    const every = Math.max(1, Math.ceil(centres.length / 7));
    const shown = centres.map((_, i) => i).filter((i) => i % every === 0);
    return {
      title: healthy ? "1/3-octave change since learning (dB, Hz)" : "1/3-octave levels (dB, Hz)", height: 190, hover: "closest",
      axis: { tickvals: shown, ticktext: shown.map((i) => tick(centres[i])) },
      traces: [{
        type: "heatmap", x: map.x, z: map.z, y: centres.map((_, i) => i),
        customdata: centres.map((f) => Array(d.octaves.cells).fill(hz(f))), colorbar: { title: { text: "dB" } },
        ...(healthy ? { colorscale: [[0, "#2166ac"], [0.5, "#f7f7f7"], [1, "#b2182b"]], zmin: -20, zmax: 20 } : { colorscale: "Cividis" }),
        hovertemplate: "%{x|%d %b %H:%M}<br>%{customdata}: %{z:+.1f} dB<extra></extra>",
      }],
    };
  };
  // One thick stroke per stretch; rows are named, so nothing rests on the colour.
  const strip = (name, spans, color) => ({
    type: "scatter", mode: "lines", name, connectgaps: false, line: { color, width: 11 },
    x: spans.flatMap(([start, end]) => [start, end, null]), y: spans.flatMap(() => [name, name, null]),
    hovertemplate: `${name}<br>%{x|%d %b %H:%M:%S}<extra></extra>`,
  });
  const healthPanel = (d) => {
    const statuses = ["ok", "stopped", "learning", "unknown", "advisory", "alert", "alarm"];
    const rows = statuses
      .map((name) => [name, d.spans.filter((span) => span[2] === name)])
      .filter(([, spans]) => spans.length);
    const traces = Object.entries(d.faults).map(([name, spans]) => strip("sensor: " + plain(name.replaceAll("_", " ")), spans, tone("unknown")));
    traces.push(...rows.map(([name, spans]) => strip(name, spans, tone(name))));
    return {
      title: "Status and sensor faults", height: 26 + 19 * traces.length, traces, hover: "closest",
      axis: { type: "category", dtick: 1, showgrid: false, range: [-0.7, traces.length - 0.3], tickfont: { size: 11 } },
    };
  };
  const PANELS = [scorePanel, levelPanel, rmsPanel, shapePanel, velocityPanel, bandPanel, octavePanel, healthPanel];

  const base = (height) => ({
    height, showlegend: false, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: FONT, size: 12, color: tone("ink") },
    hoverlabel: { bgcolor: tone("card"), bordercolor: tone("line"), font: { color: tone("ink"), family: FONT } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: tone("soft"), activecolor: tone("ink") },
    // A finger scrolls the page; zooming is for the mouse.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
  });
  const note = (text, y) => ({
    text, x: 0, xref: "paper", xanchor: "left", y, yref: "paper", yanchor: "bottom", showarrow: false,
    font: { size: narrow() ? 11 : 12, color: tone("ink") },
  });

  const shading = (d, top) => {
    const washes = { unknown: 0.1, advisory: 0.16, alert: 0.2, alarm: 0.2 };
    return d.spans.filter((span) => washes[span[2]]).map(([x0, x1, name]) => ({
      type: "rect", layer: "below", xref: "x", yref: "paper", x0, x1, y0: 0, y1: top,
      fillcolor: tone(name), opacity: washes[name], line: { width: 0 },
    }));
  };

  const drawTrends = (place, data) => {
    const d = { ...data, x: times(data) };
    d.n = d.x.length;
    const panels = PANELS.map((make) => make(d)).filter(Boolean);
    const GAP = 30;
    const total = panels.reduce((sum, panel) => sum + panel.height + GAP, 0);
    const layout = { ...base(total + 48), margin: { l: narrow() ? 52 : 70, r: narrow() ? 8 : 66, t: 4, b: 44 }, hovermode: "x unified", annotations: [], shapes: shading(d, 1) };
    layout.xaxis = {
      type: "date", anchor: "free", position: 0, range: [data.t0, d.x[d.n - 1]], gridcolor: tone("grid"),
      showspikes: true, spikemode: "across", spikethickness: 1, spikedash: "dot", spikecolor: tone("soft"),
      hoverformat: "%d %b %Y %H:%M:%S", linecolor: tone("line"), nticks: narrow() ? 4 : 10,
    };
    // What people did, such as acknowledging.
    for (const [x, text] of data.marks) {
      layout.shapes.push({ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color: tone("ink"), width: 1, dash: "dot" } });
      layout.annotations.push({ text, xref: "x", x, yref: "paper", y: 0, yanchor: "bottom", textangle: -90, xanchor: "right", showarrow: false, font: { size: 10, color: tone("ink") } });
    }
    const traces = [];
    let used = 0;
    panels.forEach((panel, i) => {
      const id = i ? String(i + 1) : "";
      const top = 1 - (used + GAP - 8) / total;
      const bottom = 1 - (used + GAP - 8 + panel.height) / total;
      used += panel.height + GAP;
      layout["yaxis" + id] = {
        domain: [Math.max(0, bottom), top], gridcolor: tone("grid"), zeroline: false, nticks: 5, fixedrange: true,
        linecolor: tone("line"), automargin: false, ...panel.axis,
      };
      layout.annotations.push(note(`<b>${panel.title}</b>`, top));
      for (const one of panel.lines || []) {
        layout.shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, yref: "y" + id, y0: one.y, y1: one.y, line: { color: one.color, width: 1.6, dash: one.dash } });
      }
      for (const one of [...(panel.lines || []), ...(panel.labels || [])]) {
        layout.annotations.push({ text: one.text, xref: "paper", x: 1, xanchor: narrow() ? "right" : "left", yref: "y" + id, y: one.y, yanchor: narrow() ? "bottom" : "middle", showarrow: false, font: { size: 10, color: tone("ink") } });
      }
      for (const trace of panel.traces) {
        if (trace.colorbar) Object.assign(trace.colorbar, { thickness: 10, len: top - bottom, lenmode: "fraction", y: (top + bottom) / 2, x: 1.005, outlinewidth: 0, tickfont: { size: 10 } });
        traces.push({ ...trace, xaxis: "x", yaxis: "y" + id, ...(narrow() && trace.colorbar ? { showscale: false } : {}) });
      }
    });
    return Plotly.newPlot(place, traces, layout, { ...CONFIG, displayModeBar: !narrow() });
  };

  // Healthy lies on top: what sticks out above it is what has changed.
  const SPECTRA = {
    alarm: { name: "at the alarm", color: "alarm", width: 1.6 },
    latest: { name: "newest", color: "learning", width: 1.2 },
    healthy: { name: "healthy", color: "ink", width: 1 },
  };
  const drawSpectra = (place, data, log) => {
    const traces = Object.entries(SPECTRA).filter(([kind]) => data.spectra[kind]).map(([kind, look]) => {
      const one = data.spectra[kind];
      const when = new Date(one.at).toISOString().slice(0, 16).replace("T", " ");
      return {
        type: "scatter", mode: "lines", name: `${look.name} (${when})`,
        x: Array.from(decode(one.hz, Float32Array), (f) => f / 1000),
        y: quantised(one.log10, Uint16Array).map((v) => 10 ** v),
        line: { color: tone(look.color), width: look.width }, hovertemplate: "%{y:.3~g}",
      };
    });
    const layout = {
      ...base(300), margin: { l: narrow() ? 52 : 70, r: 8, t: 26, b: 40 }, hovermode: "x unified", showlegend: true,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      xaxis: { title: { text: "kHz" }, gridcolor: tone("grid"), zeroline: false, hoverformat: ".4~f", unifiedhovertitle: { text: "%{x:.4~f} kHz" } },
      yaxis: { type: log ? "log" : "linear", title: { text: plain(data.unit) }, gridcolor: tone("grid"), zeroline: false, exponentformat: "power", rangemode: log ? "normal" : "tozero", nticks: 6 },
    };
    return Plotly.react(place, traces, layout, { ...CONFIG, displayModeBar: !narrow() });
  };

  // The overview needs no plots: plotly.js runs when the first sensor is opened.
  const loadPlotly = () => {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  };
  const drawn = new WeakSet();
  const draw = (section) => {
    if (drawn.has(section)) return;
    drawn.add(section);
    loadPlotly();
    const data = JSON.parse(section.querySelector('script[type="application/json"]').textContent);
    const trends = section.querySelector(".trends");
    if (data.n) drawTrends(trends, data);
    else trends.textContent = "No window of this sensor is on record.";
    const spectra = section.querySelector(".spectra");
    if (!spectra) return;
    const log = section.querySelector(".log");
    drawSpectra(spectra, data, log.checked);
    log.addEventListener("change", () => drawSpectra(spectra, data, log.checked));
  };
  const sections = [...document.querySelectorAll("details.sensor")];
  for (const section of sections) section.addEventListener("toggle", () => section.open && draw(section));

  const follow = () => {
    const found = location.hash.match(/^#sensor=(.*)$/);
    if (!found) return;
    let id = found[1];
    try { id = decodeURIComponent(id); } catch { /* not ours: matches no sensor */ }
    const section = sections.find((one) => one.dataset.sensor === id);
    if (!section) return;
    section.hidden = false;
    section.open = true;
    draw(section);
    section.scrollIntoView();
    section.querySelector("summary").focus({ preventScroll: true });
  };
  window.addEventListener("hashchange", follow);
  // The same link twice changes no hash.
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#sensor="]');
    if (link && link.getAttribute("href") === location.hash) follow();
  });

  const find = document.getElementById("find");
  const clear = document.getElementById("clear");
  const found = document.getElementById("found");
  const filters = [...document.querySelectorAll("[data-filter]")];
  const rows = [...document.querySelectorAll("[data-row]")];
  const filter = () => {
    const words = find.value.trim().toLowerCase();
    const chosen = filters.filter((one) => one.getAttribute("aria-pressed") === "true").map((one) => one.dataset.filter);
    const active = Boolean(words || chosen.length);
    for (const row of rows) {
      const text = (row.dataset.row + " " + (row.matches("tr") ? row.querySelector("th").textContent : "")).toLowerCase();
      const fits = !chosen.length || row.dataset.status.split(" ").some((one) => chosen.includes(one));
      row.hidden = !(fits && text.includes(words));
    }
    if (active) for (const more of document.querySelectorAll(".quiet")) more.open = true;
    clear.hidden = !active;
    found.textContent = active ? `${sections.filter((one) => !one.hidden).length} of ${sections.length} sensors` : "";
  };
  find.addEventListener("input", filter);
  for (const one of filters) {
    one.addEventListener("click", () => {
      one.setAttribute("aria-pressed", String(one.getAttribute("aria-pressed") !== "true"));
      filter();
    });
  }
  clear.addEventListener("click", () => {
    find.value = "";
    for (const one of filters) one.setAttribute("aria-pressed", "false");
    filter();
    find.focus();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => location.reload());
  follow();
})();
