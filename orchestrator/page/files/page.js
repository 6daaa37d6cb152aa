"use strict";
(() => {
  const root = document.documentElement;
  const holder = document.getElementById("data");
  const data = holder ? JSON.parse(holder.textContent) : { charts: {}, copy: {}, words: {} };
  const status = document.getElementById("status");
  const language = () => (root.lang === "en" ? 1 : 0);
  const keep = (key, value) => { try { localStorage.setItem("nx8." + key, value); } catch { /* private window */ } };

  // Language.
  const languages = document.querySelectorAll("button[data-lang]");
  const speak = (chosen) => {
    root.lang = chosen;
    for (const one of languages) one.setAttribute("aria-pressed", String(one.dataset.lang === chosen));
    for (const one of document.querySelectorAll("[data-en-label]")) {
      one.setAttribute("aria-label", chosen === "en" ? one.dataset.enLabel : one.dataset.zhLabel);
    }
  };
  for (const one of languages) {
    one.addEventListener("click", () => { speak(one.dataset.lang); keep("lang", one.dataset.lang); });
  }
  speak(root.lang);
  addEventListener("hashchange", () => {
    if (location.hash === "#zh") speak("zh-CN");
    if (location.hash === "#en") speak("en");
  });

  // Colours.
  const themes = document.querySelectorAll("button[data-theme]");
  const paint = (theme) => {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    for (const one of themes) one.setAttribute("aria-pressed", String(one.dataset.theme === theme));
    draw();
  };
  for (const one of themes) {
    one.addEventListener("click", () => { keep("theme", one.dataset.theme); paint(one.dataset.theme); });
  }

  // Copying.
  const copyText = async (text) => {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* an older way is left */ }
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "hidden";
    document.body.append(area);
    area.select();
    let done = false;
    try { done = document.execCommand("copy"); } catch { /* said below */ }
    area.remove();
    return done;
  };
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const text = data.copy[language() ? "en" : "zh"][button.dataset.copy];
      const done = await copyText(text);
      status.textContent = data.words[done ? "copied" : "copy_failed"][language()];
      button.classList.toggle("done", done);
      setTimeout(() => { button.classList.remove("done"); status.textContent = ""; }, 2500);
    });
  }

  // Curves.
  const short = (value) => {
    if (value == null) return "–";
    if (value === 0) return "0";
    const text = Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(4);
    return text.includes(".") && !text.includes("e") ? text.replace(/\.?0+$/, "") : text;
  };
  let plots = [];
  const draw = () => {
    if (typeof uPlot === "undefined") return;
    for (const plot of plots) plot.destroy();
    plots = [];
    const style = getComputedStyle(root);
    const colour = (name) => style.getPropertyValue(name).trim();
    const font = "11px " + getComputedStyle(document.body).fontFamily;
    for (const [id, chart] of Object.entries(data.charts)) {
      const place = document.getElementById(id);
      const read = document.getElementById(id + "-read");
      const axis = { stroke: colour("--muted"), font, ticks: { show: false }, values: (_, all) => all.map(short) };
      const options = {
        width: Math.max(200, place.clientWidth),
        height: 190,
        legend: { show: false },
        padding: [8, 18, 0, 0],
        cursor: { sync: { key: chart.group }, y: false, drag: { x: true, y: false }, points: { size: 7 } },
        scales: {
          x: { time: false },
          y: { range: (_, low, high) => {
            const room = (high - low) * 0.08 || Math.abs(high) * 0.05 || 1;
            return [low >= 0 && low < room * 4 ? 0 : low - room, high + room];
          } },
        },
        axes: [
          { ...axis, size: 26, space: 60, ...(chart.group.endsWith("-step") ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000] } : {}), grid: { show: false }, border: { show: true, stroke: colour("--line"), width: 1 } },
          { ...axis, size: 52, space: 36, grid: { stroke: colour("--line"), width: 1 } },
        ],
        series: [{}, ...chart.y.map((_, n) => ({ stroke: colour("--l" + n), width: 1.6, points: { show: chart.x.length < 2 } }))],
        hooks: {
          drawClear: [(u) => {
            if (chart.warmup == null) return;
            const { left, top, width, height } = u.bbox;
            const end = Math.min(left + width, u.valToPos(chart.warmup + 0.5, "x", true));
            u.ctx.fillStyle = colour("--warm");
            if (end > left) u.ctx.fillRect(left, top, end - left, height);
          }],
          setCursor: [(u) => {
            const n = u.cursor.idx;
            read.textContent = n == null ? "" : short(chart.x[n]) + ": " + chart.y.map((one) => short(one[n])).join(" / ");
          }],
        },
      };
      plots.push(new uPlot(options, [chart.x, ...chart.y], place));
    }
  };
  const theme = root.dataset.theme || "auto";
  paint(theme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let asked = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(() => {
      for (const plot of plots) plot.setSize({ width: Math.max(200, plot.root.parentNode.clientWidth), height: 190 });
    });
  });
})();
