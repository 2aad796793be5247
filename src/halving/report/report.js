// What the page adds where scripts run: a trial named everywhere at once, brushes, filter, sort, copying.
"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const make = (name, attributes, parent) => {
  const element = document.createElementNS(parent.namespaceURI, name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  return parent.appendChild(element);
};

for (const command of all("pre.command")) {
  const button = make("button", { type: "button", class: "copy", "aria-label": `copy: ${command.textContent}` }, command.parentNode);
  button.textContent = "copy";
  button.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(command.textContent); }
    catch { getSelection().selectAllChildren(command); document.execCommand("copy"); }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
}
for (const part of all(".scroll")) {  // a region that scrolls must be reachable by keyboard
  const fit = () => part.scrollWidth > part.clientWidth || part.scrollHeight > part.clientHeight ? part.setAttribute("tabindex", "0") : part.removeAttribute("tabindex");
  fit();
  addEventListener("resize", fit);
}
const table = document.getElementById("trials");
if (table) explore(table);

function explore(table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], rows = new Map(), marks = new Map();
  for (const row of body.rows) rows.set(row.dataset.t, row);
  for (const mark of all("svg [data-t]")) marks.set(mark.dataset.t, [...(marks.get(mark.dataset.t) ?? []), mark]);
  const value = (row, i) => row.cells[i].dataset.v ?? row.cells[i].textContent;

  // Sorting: numbers as numbers, what is empty last.
  const order = (a, b) => a === "" || b === "" ? (a === "") - (b === "") : isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
  heads.forEach((head, i) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const compare = (a, b) => { const x = value(a, i), y = value(b, i); return down && x !== "" && y !== "" ? order(y, x) : order(x, y); };
    body.append(...[...body.rows].sort(compare));
  }));

  // Naming: the trial under the pointer, or of the row that has the focus, stands out wherever it is drawn.
  const tip = document.getElementById("tip");
  let named = null, pinned = null;
  const name = trial => {
    if (trial === named) return;
    const toggle = on => { for (const each of [rows.get(named), ...(marks.get(named) ?? [])]) each?.classList.toggle("on", on); };
    toggle(false);
    named = trial;
    toggle(true);
    document.body.classList.toggle("naming", trial !== null);
  };
  const words = trial => {
    const row = rows.get(trial), said = [];
    heads.forEach((head, i) => { if (i && row.cells[i].textContent && i < heads.length - 1) said.push(`${head.textContent} ${row.cells[i].textContent}`); });
    return `trial ${trial}\n${said.join("\n")}`;
  };
  const near = [0, 3, -3, 6, -6].flatMap(x => [0, 3, -3, 6, -6].map(y => [x, y])).sort((a, b) => Math.hypot(...a) - Math.hypot(...b));
  const under = event => {
    if (!event.target.closest?.("svg")) return event.target.closest?.("#trials tr[data-t]")?.dataset.t ?? null;
    for (const [x, y] of near) {
      const found = document.elementsFromPoint(event.clientX + x, event.clientY + y).find(each => each.closest("svg [data-t]:not(.off)"));
      if (found) return found.closest("[data-t]").dataset.t;
    }
    return null;
  };
  const point = at => {
    const trial = at.buttons ? null : under(at);
    name(trial ?? pinned);
    tip.hidden = trial === null || !at.target.closest("svg");
    if (tip.hidden) return;
    tip.textContent = words(trial);
    tip.style.left = `${Math.max(8, Math.min(at.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${at.clientY + 14 + tip.offsetHeight > innerHeight ? Math.max(8, at.clientY - tip.offsetHeight - 10) : at.clientY + 14}px`;
  };
  let waiting = null;
  document.addEventListener("pointermove", event => {
    waiting ?? requestAnimationFrame(() => { const at = waiting; waiting = null; point(at); });
    waiting = event;
  });
  document.addEventListener("click", event => {  // which is all that a finger does
    if (event.target.closest("svg") && !event.target.closest(".handle, .track")) { pinned = under(event); point(event); }
  });
  const seen = () => [...body.rows].filter(row => !row.hidden);
  const reach = () => { const first = seen()[0]; for (const row of body.rows) row.tabIndex = row === first ? 0 : -1; };
  body.addEventListener("focusin", event => { pinned = event.target.closest("tr").dataset.t; name(pinned); });
  body.addEventListener("focusout", () => { pinned = null; name(null); });
  body.addEventListener("keydown", event => {
    const there = seen(), at = there.indexOf(event.target.closest("tr"));
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: there.length - 1 }[event.key];
    if (next === undefined || !there[next]) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    there[next].tabIndex = 0;
    there[next].focus();
  });

  // Choosing: words and comparisons that are typed, and brushes on the axes.
  const filter = document.getElementById("filter"), shown = document.getElementById("shown"), chosen = document.getElementById("chosen");
  const brushes = new Map(), lines = new Map();
  const column = text => heads.findIndex(head => [head.dataset.name, head.dataset.name?.split(/[. ]/).pop(), head.textContent].includes(text));
  const test = word => {
    const [, left, sign, right] = word.match(/^(.+?)(<=|>=|!=|<|>|=)(.+)$/) ?? [], i = left ? column(left) : -1;
    if (i < 0) return row => row.textContent.toLowerCase().includes(word.toLowerCase());
    return row => {
      const text = value(row, i), by = order(text, right);
      return text !== "" && { "<": by < 0, ">": by > 0, "<=": by <= 0, ">=": by >= 0, "=": by === 0, "!=": by !== 0 }[sign];
    };
  };
  const choose = () => {
    const tests = filter.value.trim().split(/\s+/).filter(Boolean).map(test);
    let count = 0;
    for (const [trial, row] of rows) {
      const inside = [...brushes].every(([axis, [top, bottom]]) => { const y = lines.get(trial)?.[axis]; return y >= top - 0.02 && y <= bottom + 0.02; });
      row.hidden = !(inside && tests.every(passes => passes(row)));
      for (const mark of marks.get(trial) ?? []) mark.classList.toggle("off", row.hidden);
      count += !row.hidden;
    }
    shown.textContent = `${count} of ${rows.size} trials`;
    chosen.firstElementChild.textContent = shown.textContent;
    chosen.hidden = !tests.length && !brushes.size;
    reach();
  };
  all(".tools, .tools-hint").forEach(part => { part.hidden = false; });
  filter.addEventListener("input", choose);
  const clears = [];
  const free = () => { filter.value = ""; pinned = null; name(null); tip.hidden = true; clears.forEach(clear => clear()); choose(); };
  chosen.lastElementChild.addEventListener("click", free);
  document.addEventListener("keydown", event => { if (event.key === "Escape" && !event.target.closest(".handle")) free(); });
  const figure = document.querySelector(".parallel svg");
  if (figure) brush(figure);
  choose();

  function brush(svg) {
    const numbers = path => path.getAttribute("d").match(/-?[\d.]+/g).map(Number);
    const axes = all("g[id^=parallel-axis-] path", svg).map(path => {
      const [x, from, , to] = numbers(path);
      return { x, top: Math.min(from, to), bottom: Math.max(from, to), name: path.parentNode.id.replace("parallel-axis-", "") };
    });
    for (const [trial, drawn] of marks) for (const path of drawn) {
      const points = svg.contains(path) && path.tagName === "path" ? numbers(path) : [];
      if (points.length === 2 * axes.length) lines.set(trial, points.filter((_, i) => i % 2));
    }
    svg.setAttribute("role", "group");
    axes.forEach((axis, i) => ruler(svg, axis, i));
  }

  function ruler(svg, axis, i) {
    const stops = [...new Set([...lines.values()].map(line => line[i]))].sort((a, b) => b - a);  // from the lowest up
    const end = Math.max(axis.bottom, stops[0]), at = heads.findIndex(head => head.dataset.axis === axis.name);
    const text = y => { const [trial] = [...lines].find(([, line]) => line[i] === y); return rows.get(trial).cells[at].textContent || (axis.name === "error" ? "failed" : "not used"); };
    const track = make("rect", { class: "track", x: axis.x - 14, width: 28, y: axis.top - 10, height: end - axis.top + 20 }, svg);
    const band = make("rect", { class: "band", x: axis.x - 7, width: 14, visibility: "hidden" }, svg);
    const title = heads[at].dataset.name;
    const handles = ["lowest", "highest"].map((which, high) => make("rect", {
      class: "handle", role: "slider", tabindex: 0, x: axis.x - 8, width: 16, height: 6, rx: 3, "aria-orientation": "vertical",
      "aria-label": `${title}: ${which} that is shown`, "aria-valuemin": 0, "aria-valuemax": stops.length - 1,
    }, svg));
    let ends = [0, stops.length - 1];  // stops that the handles are at
    const draw = (top, bottom) => {
      const active = top !== undefined;
      band.setAttribute("visibility", active ? "visible" : "hidden");
      if (active) { band.setAttribute("y", top); band.setAttribute("height", Math.max(bottom - top, 1)); }
      [bottom ?? end, top ?? axis.top].forEach((y, high) => {
        handles[high].setAttribute("y", high ? y - 9 : y + 3);
        handles[high].setAttribute("aria-valuenow", ends[high]);
        handles[high].setAttribute("aria-valuetext", text(stops[ends[high]]));
      });
    };
    const set = (top, bottom) => { brushes.set(i, [top, bottom]); draw(top, bottom); choose(); };
    const clear = () => { ends = [0, stops.length - 1]; brushes.delete(i); draw(); };
    clears.push(clear);
    handles.forEach((handle, high) => handle.addEventListener("keydown", event => {
      if (event.key === "Escape") { clear(); choose(); return; }
      const by = { ArrowUp: 1, ArrowRight: 1, PageUp: 10, End: stops.length, ArrowDown: -1, ArrowLeft: -1, PageDown: -10, Home: -stops.length }[event.key];
      if (!by) return;
      event.preventDefault();
      const to = ends[high] + by;
      ends[high] = Math.max(high ? ends[0] : 0, Math.min(high ? stops.length - 1 : ends[1], to));
      if (ends[0] === 0 && ends[1] === stops.length - 1) { clear(); choose(); } else set(stops[ends[1]], stops[ends[0]]);
    }));
    const height = event => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).y;
    const drag = (element, from) => element.addEventListener("pointerdown", event => {
      const fixed = from(event);
      element.setPointerCapture(event.pointerId);
      const move = now => {
        const [top, bottom] = [fixed, height(now)].sort((a, b) => a - b);
        const inside = stops.map((y, at) => [y, at]).filter(([y]) => y >= top && y <= bottom).map(([, at]) => at);
        ends = inside.length ? [inside[0], inside.at(-1)] : ends;
        set(top, bottom);
      };
      element.addEventListener("pointermove", move);
      element.addEventListener("lostpointercapture", last => {
        element.removeEventListener("pointermove", move);
        if (element === track && Math.abs(height(last) - fixed) < 3) { clear(); choose(); }
      }, { once: true });
    });
    drag(track, height);
    handles.forEach((handle, high) => drag(handle, () => high ? brushes.get(i)?.[1] ?? end : brushes.get(i)?.[0] ?? axis.top));
    draw();
  }
}
