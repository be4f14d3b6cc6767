"use strict";
(() => {
  const root = document.documentElement;
  const kept = (name, value) => {
    try {
      if (value !== undefined) sessionStorage.setItem(name, value);
      return sessionStorage.getItem(name);
    } catch { return null; }
  };
  const text = (tag, words, attributes = {}) => {
    const made = document.createElement(tag);
    made.textContent = words;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };

  // ------------------------------------------------------------------------------------------------ sortable tables
  const units = { k: 1e3, M: 1e6, G: 1e9 };
  const shown = cell => (cell?.firstChild?.nodeType === 1 && cell.firstChild.classList?.contains("sign")
    ? cell.childNodes[1] : cell?.firstChild)?.textContent.trim() ?? "";
  const number = words => {
    const found = /^[<>]?\s*([+−-]?[\d,]*\.?\d+(?:e[+-]?\d+)?)\s*([kMG%×]?)$/.exec(words.split(/ \[| to /)[0]);
    return found ? parseFloat(found[1].replaceAll(",", "").replace("−", "-")) * (units[found[2]] ?? 1) : NaN;
  };
  const isEmpty = words => words === "" || words === "–";
  const ordered = (rows, column) => {
    const words = rows.map(row => shown(row.cells[column]));
    const numbers = words.map(number);
    const isNumeric = words.every((word, at) => isEmpty(word) || !Number.isNaN(numbers[at]));
    const places = rows.map((_, at) => at);
    return (sign) => places.slice().sort((a, b) =>
      isEmpty(words[a]) - isEmpty(words[b]) ||
      sign * (isNumeric ? (numbers[a] - numbers[b]) || 0 : words[a].localeCompare(words[b], "en", { numeric: true })) ||
      a - b).map(at => rows[at]);
  };
  const sorts = [];  // of each table: sorts it as it was sorted before the page was loaded again
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0], start = [...body.rows];
    if (start.length < 2) continue;
    const sort = (column, next) => {
      const heads = table.tHead.rows[0].cells;
      if (!heads[column]) return;
      for (const other of heads) other.removeAttribute("aria-sort");
      if (next !== "none") heads[column].setAttribute("aria-sort", next);
      body.replaceChildren(...(next === "none" ? start : ordered(start, column)(next === "ascending" ? 1 : -1)));
    };
    sorts.push({ table, sort });
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = text("button", head.textContent, { type: "button" });
      head.replaceChildren(button);
      button.addEventListener("click", () => sort(column,
        { none: "ascending", ascending: "descending" }[head.getAttribute("aria-sort") ?? "none"] ?? "none"));
    });
  }

  // ---------------------------------------------------------------------------------------------------------- theme
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const chooser = document.getElementById("theme");
  const setTheme = value => {
    if (value === "light" || value === "dark") root.dataset.theme = value;
    else delete root.dataset.theme;
  };
  setTheme(kept("murk-theme"));
  chooser.value = root.dataset.theme || "";
  for (const hidden of document.querySelectorAll(".controls")) hidden.hidden = false;

  // -------------------------------------------------------------------------------------------------------- filters
  const page = JSON.parse(document.getElementById("murk-data").textContent);
  const state = { method: "", phase: "", over: "all" };
  const keeps = (row, over) => {
    if (state.method && row.method && row.method !== state.method) return false;
    if (state.phase && row.phase && !row.phase.split(", ").includes(state.phase)) return false;
    if (over !== undefined && row.over !== undefined) return row.over === over;
    if (state.over === "all" || row.group === undefined || row.group === null) return true;
    const [kind, ...name] = state.over.split(":");
    return row.group === "clean" || row[kind] === name.join(":");
  };
  const filterTables = () => {
    for (const row of document.querySelectorAll("tr[data-method], tr[data-phase], tr[data-group], tr[data-over]")) {
      const scope = row.dataset.over;
      row.hidden = !keeps(row.dataset) || (scope !== undefined && state.over !== "all" && scope !== state.over);
    }
  };

  // --------------------------------------------------------------------------------------------------------- charts
  const unpacked = columns => {
    const names = Object.keys(columns), all = {};
    for (const name of names) {
      const column = columns[name];
      all[name] = Array.isArray(column) ? column : column.codes.map(code => (code < 0 ? null : column.values[code]));
    }
    return names.length ? all[names[0]].map((_, at) => Object.fromEntries(names.map(name => [name, all[name][at]]))) : [];
  };
  const painted = (part, palette) => {
    if (Array.isArray(part)) return part.map(item => painted(item, palette));
    if (part && typeof part === "object") {
      return Object.fromEntries(Object.entries(part).map(([name, item]) =>
        [name, name === "domain" || name === "sort" ? item : painted(item, palette)]));
    }
    return typeof part === "string" && part.startsWith(page.colour) ? palette[part.slice(page.colour.length)] : part;
  };
  const noNetwork = { load: () => Promise.reject(new Error("no network")), sanitize: () => Promise.reject(new Error("no links")) };

  const tableOf = (chart, rows) => {
    const titles = Object.entries(chart.columns), table = document.createElement("table");
    const head = table.createTHead().insertRow(), body = table.createTBody();
    for (const [, title] of titles) head.append(text("th", title, { scope: "col" }));
    for (const row of rows.slice(0, 500)) {
      const line = body.insertRow();
      for (const [name] of titles) line.append(text("td", row[name] ?? "–"));
    }
    if (rows.length > 500) table.append(text("caption", `The first 500 of ${rows.length} rows; filter to see others.`));
    return table;
  };

  const legendColumns = (spec, width) => {  // as many as fit, so that no name runs out of the figure
    const names = spec.layer.map(layer => layer.encoding?.color?.scale?.domain).find(Array.isArray) ?? [];
    if (!names.length || typeof names[0] !== "string") return {};
    const room = 7 * Math.max(...names.map(name => Math.min(name.length, 48))) + 46;
    return { columns: Math.max(1, Math.min(names.length, Math.floor((width - 40) / room))), labelLimit: Math.min(340, width - 50) };
  };

  const draw = async chart => {
    const figure = document.getElementById(`figure-${chart.name}`);
    const live = figure.querySelector(".live"), empty = figure.querySelector(".empty");
    const choice = figure.querySelector(".choose select")?.value ?? Object.keys(chart.specs)[0];
    const rows = chart.rows.filter(row => keeps(row, state.over) && (!chart.choice || row[chart.choice] === choice));
    const details = figure.querySelector("details.data");
    const fill = () => details.querySelector(".scroll").replaceChildren(
      tableOf(chart, rows.filter(row => row.kind !== "tick")));
    details.ontoggle = () => { if (details.open) fill(); };
    if (details.open) fill();
    empty.hidden = rows.length > 0;
    live.hidden = rows.length === 0;
    figure.classList.add("is-live");
    details.hidden = false;
    if (!rows.length) return;
    const palette = page.palettes[theme()];
    const spec = {
      ...painted(chart.specs[choice], palette), description: chart.alt, data: { name: "rows", values: rows },
      width: Math.max(figure.clientWidth, chart.least_width), autosize: { type: "fit-x", contains: "padding" },
    };
    const config = page.configs[theme()];
    chart.view?.finalize();
    const { view } = await vegaEmbed(live, spec, {
      mode: "vega-lite", logLevel: 1, renderer: "svg", actions: false, defaultStyle: false, ast: true, loader: noNetwork,
      config: { ...config, legend: { ...config.legend, ...legendColumns(spec, figure.clientWidth) } },
      tooltip: { theme: "murk", disableDefaultStyle: false },
    });
    chart.view = view;
  };
  const drawn = async chart => {
    try {
      await draw(chart);
    } catch (error) {  // its still picture stays
      console.error(`chart ${chart.name}: ${error}`);
      const figure = document.getElementById(`figure-${chart.name}`);
      figure.classList.remove("is-live");
      figure.querySelector(".live").hidden = true;
    }
  };
  const drawAll = async () => {
    for (const chart of page.charts) await drawn(chart);
    root.dataset.drawn = String(Number(root.dataset.drawn ?? 0) + 1);
  };
  let queue = Promise.resolve();
  const redraw = () => { queue = queue.then(drawAll); return queue; };

  for (const chart of page.charts) {
    chart.rows = unpacked(chart.rows);
    const figure = document.getElementById(`figure-${chart.name}`);
    const choose = figure.querySelector(".choose");
    if (choose) {
      choose.hidden = false;
      choose.querySelector("select").addEventListener("change", () => { queue = queue.then(() => drawn(chart)); });
    }
  }
  const filters = document.getElementById("filters");
  const viewName = `murk-view ${document.title}`;
  const before = JSON.parse(kept(viewName) || "{}");  // of the page that has just loaded itself again
  kept(viewName, "");
  if (filters) {
    filters.hidden = false;
    const said = filters.querySelector("output");
    const apply = () => {
      for (const select of filters.querySelectorAll("select")) state[select.name] = select.value;
      filterTables();
      const on = [...filters.querySelectorAll("select")].filter(select => select.selectedIndex > 0);
      said.textContent = on.length ? `Shown: ${on.map(select => select.selectedOptions[0].textContent).join(", ")}` : "";
      redraw();
    };
    for (const select of filters.querySelectorAll("select")) {
      if ([...select.options].some(option => option.value === before.filters?.[select.name])) {
        select.value = before.filters[select.name];
      }
    }
    apply();
    filters.addEventListener("change", apply);
    filters.addEventListener("reset", () => setTimeout(apply));
    filters.addEventListener("submit", event => event.preventDefault());
  }
  chooser.addEventListener("change", () => {
    setTheme(chooser.value);
    kept("murk-theme", chooser.value);
    redraw();
  });
  dark.addEventListener("change", redraw);
  let width = innerWidth, waiting;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { if (innerWidth !== width) { width = innerWidth; redraw(); } }, 200);
  });
  if (!filters) redraw();

  // ------------------------------------------------------------------------------------------- printing and watching
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open]):not(.data)")];
    for (const details of opened) details.open = true;
    for (const row of document.querySelectorAll("tr[hidden]")) row.hidden = false;  // still pictures show all too
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
    filterTables();
  });
  const folds = [...document.querySelectorAll("main details")];
  const nameOf = (part, at) => part.dataset.name ?? part.querySelector("summary")?.textContent ??
    part.parentElement.getAttribute("aria-label") ?? at;
  if (before.open) folds.forEach((part, at) => { part.open = before.open.includes(nameOf(part, at)); });
  sorts.forEach(({ table, sort }, at) => {
    const [column, how] = before.sorted?.[nameOf(table, at)] ?? [];
    if (how) sort(column, how);
  });
  const watch = document.getElementById("refresh");
  if (watch) {
    watch.checked = kept("murk-refresh") !== "off";
    watch.addEventListener("change", () => kept("murk-refresh", watch.checked ? "on" : "off"));
    const again = () => {
      const sorted = sorts.map(({ table }, at) => {
        const heads = [...table.tHead.rows[0].cells], column = heads.findIndex(head => head.hasAttribute("aria-sort"));
        return [nameOf(table, at), column < 0 ? [] : [column, heads[column].getAttribute("aria-sort")]];
      });
      const open = folds.filter(part => part.open).map(nameOf);
      const view = { filters: { ...state }, open, sorted: Object.fromEntries(sorted) };
      kept(viewName, JSON.stringify(view));
      location.reload();
    };
    setInterval(() => { if (watch.checked) again(); }, 1000 * Number(watch.dataset.seconds));
  }
})();
