"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const places = [...document.querySelectorAll("[data-chart]")];
  const narrow = matchMedia("(max-width: 560px)");

  // Replaces names such as "@0" and "@ink" by the colours of the style sheet, which depend on light and dark.
  function colours(style) {
    const value = (name) => style.getPropertyValue(name).trim();
    const replace = (part) => {
      if (typeof part === "string" && /^@\w+$/.test(part)) {
        return value("--" + (/^@\d$/.test(part) ? "c" : "") + part.slice(1));
      }
      if (Array.isArray(part)) return part.map(replace);
      if (part && typeof part === "object") {
        return Object.fromEntries(Object.entries(part).map(([key, content]) => [key, replace(content)]));
      }
      return part;
    };
    return replace;
  }

  function axis(given, values) {
    const line = { gridcolor: "@grid", linecolor: "@muted", zerolinecolor: "@grid", zeroline: false };
    const result = { ...line, automargin: true, ticks: "", exponentformat: "power", ...given };
    if (result.type === "log") {
      const shown = values.filter((value) => value > 0);
      const decades = Math.log10(Math.max(...shown) / Math.min(...shown));
      if (decades > 1) result.dtick = decades > 8 ? 2 : decades > 1.5 ? 1 : "D2"; // below one decade plotly chooses well
      if (decades < 0.3) result.range ??= [-0.3, 0.3].map((air, i) => Math.log10([Math.min, Math.max][i](...shown)) + air);
      if (decades <= 1.5) result.tickformat = Math.min(...shown) < 1 ? "~g" : "~s"; // plotly would label 200 as "2"
    }
    return result;
  }

  function draw(place, width) {
    const chart = charts[place.dataset.chart];
    const style = getComputedStyle(document.documentElement);
    const pressed = [...place.querySelectorAll(".choices button")].findIndex((b) => b.ariaPressed === "true");
    const choice = chart.choices[pressed];
    const small = narrow.matches;
    const data = chart.data.map((trace, i) => (choice ? { ...trace, x: choice.x[i] } : trace));
    const names = chart.data.filter((trace) => trace.name && trace.showlegend !== false).map((trace) => trace.name);
    const legend = names.length;
    const layout = {
      height: small ? 320 : 380,
      ...chart.layout,
      xaxis: axis(
        { exponentformat: "SI", ...chart.layout.xaxis, ...(choice && { title: { text: choice.title }, type: choice.type }) },
        data.flatMap((trace) => trace.x),
      ),
      yaxis: axis(
        chart.layout.yaxis,
        data.flatMap((trace) => trace.y),
      ),
      font: { family: getComputedStyle(document.body).fontFamily, size: small ? 11 : 12, color: "@ink" },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 8, r: 8, t: 24, b: 8 },
      showlegend: legend > 1,
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, font: { size: small ? 10 : 12 } },
      hoverlabel: { bgcolor: "@raised", bordercolor: "@muted", font: { color: "@ink" }, namelength: -1 },
      hovermode: "closest",
      dragmode: small ? false : "zoom",
      ...(width && { width }),
    };
    // The columns of the legend are as wide as its longest name: about 6.5 pixels for a letter, and 40 for the line.
    const widest = 40 + 6.5 * Math.max(0, ...names.map((name) => name.length));
    const columns = Math.max(widest > place.clientWidth / 2 ? 1 : 2, Math.floor(place.clientWidth / Math.max(190, widest)));
    const rows = layout.showlegend ? Math.ceil(legend / (small ? Math.min(2, columns) : columns)) : 0;
    layout.height += 20 * rows;
    layout.margin.b = 44 + 20 * rows;
    const config = { responsive: !width, displaylogo: false, displayModeBar: false };
    return Plotly.react(place.querySelector(".plot"), colours(style)(data), colours(style)(layout), config);
  }

  const drawAll = (width) => Promise.all(places.map((place) => draw(place, width)));
  for (const place of places) {
    for (const button of place.querySelectorAll(".choices button")) {
      button.addEventListener("click", () => {
        for (const other of button.parentElement.children) other.ariaPressed = String(other === button);
        draw(place);
      });
    }
  }
  for (const query of [matchMedia("(prefers-color-scheme: dark)"), narrow]) query.addEventListener("change", () => drawAll());
  addEventListener("beforeprint", () => drawAll(680));
  addEventListener("afterprint", () => drawAll());

  // Shows a long table in pages of 50 lines, with buttons below it.
  for (const table of document.querySelectorAll("table.paged")) {
    const size = 50;
    const body = table.tBodies[0];
    const pages = Math.ceil(body.rows.length / size);
    let page = 0;
    const buttons = ["previous", "next"].map((word, i) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: word });
      button.addEventListener("click", () => table.showPage(page + 2 * i - 1));
      return button;
    });
    const place = document.createElement("span");
    const pager = Object.assign(document.createElement("div"), { className: "pager" });
    pager.append(buttons[0], place, buttons[1]);
    table.parentElement.after(pager);
    table.showPage = (number) => {
      page = Math.min(Math.max(number, 0), pages - 1);
      [...body.rows].forEach((row, i) => (row.hidden = Math.floor(i / size) !== page));
      place.textContent = `lines ${page * size + 1} to ${Math.min((page + 1) * size, body.rows.length)} of ${body.rows.length}`;
      buttons[0].disabled = page === 0;
      buttons[1].disabled = page === pages - 1;
    };
    table.showPage(0);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const down = head.ariaSort === "ascending";
        for (const other of heads) other.ariaSort = "none";
        head.ariaSort = down ? "descending" : "ascending";
        const rows = [...table.tBodies[0].rows];
        const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
        const numeric = head.classList.contains("number");
        const empty = (text) => numeric && !Number.isFinite(Number(text));
        rows.sort((a, b) => {
          const [first, second] = [key(a), key(b)];
          if (empty(first) || empty(second)) return empty(first) - empty(second); // rows without a number come last
          const order = numeric ? first - second : first.localeCompare(second, "en", { numeric: true });
          return down ? -order : order;
        });
        table.tBodies[0].append(...rows);
        table.showPage?.(0);
      });
    });
  }
  drawAll();
})();
