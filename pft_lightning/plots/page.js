"use strict";
document.documentElement.classList.add("scripted");

function sortable(table) {
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  const order = new Intl.Collator(undefined, {numeric: true});
  const valueOf = (row, column, isText) => {
    const cell = row.cells[column];
    if (isText) return cell.textContent;
    return parseFloat(cell.dataset.value ?? cell.textContent.replace("−", "-"));
  };
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    const isText = head.classList.contains("text");
    button.disabled = false;
    button.addEventListener("click", () => {
      // The first click puts the largest numbers, which are the worst errors, first.
      const before = head.getAttribute("aria-sort") ?? (isText ? "descending" : "ascending");
      const ascending = before === "descending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const sign = ascending ? 1 : -1;
      const rows = Array.from(body.rows, row => [valueOf(row, column, isText), row]);
      rows.sort(([a], [b]) => {
        if (isText) return sign * order.compare(a, b);
        if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);
        return sign * (a - b);
      });
      body.append(...rows.map(([, row]) => row));
      table.dispatchEvent(new Event("sorted"));
    });
  });
}

// Rows that are laid out at first: thousands would take seconds after every click.
const FEW = 300;

function filtered(table, input, count, more) {
  const body = table.tBodies[0];
  const texts = new Map(Array.from(body.rows, row =>
    [row, [0, 1, 2].map(n => row.cells[n].textContent).join(" ").toLowerCase()]));
  let most = FEW;
  const refresh = () => {
    const wanted = input.value.toLowerCase();
    let found = 0, shown = 0;
    for (const row of body.rows) {
      const fits = texts.get(row).includes(wanted);
      found += fits;
      row.hidden = !fits || shown >= most;
      shown += !row.hidden;
    }
    more.hidden = shown === found;
    const first = shown < found ? `, the first ${shown} shown` : "";
    count.textContent = `${found} of ${texts.size} rows${first}`;
  };
  input.addEventListener("input", refresh);
  table.addEventListener("sorted", refresh);
  more.addEventListener("click", () => {
    most = Infinity;
    refresh();
  });
  refresh();
}

// Places that a path of absolute moves and relative lines goes through.
function placesOf(path) {
  const places = [];
  for (const part of path.getAttribute("d").split("M").slice(1)) {
    const numbers = part.match(/-?\d+/g).map(Number);
    let [x, y] = [0, 0];
    for (let n = 0; n < numbers.length; n += 2) {
      [x, y] = [x + numbers[n], y + numbers[n + 1]];
      places.push(x, y);
    }
  }
  return places;
}

// Number of the place of a line that is nearest to x.
function nearestTo(places, x) {
  let best = 0;
  for (let n = 0; n < places.length; n += 2) {
    if (Math.abs(places[n] - x) < Math.abs(places[best] - x)) best = n;
  }
  return best;
}

function wavevector(panel, x) {
  for (const segment of panel.querySelectorAll(".segment")) {
    const [first, last] = [Number(segment.dataset.first), Number(segment.dataset.last)];
    if (x < first || x > last) continue;
    if (x === first) return segment.dataset.from;
    if (x === last) return segment.dataset.to;
    const share = Math.round(100 * (x - first) / (last - first));
    return `${segment.dataset.from} → ${segment.dataset.to}, ${share} % of the way`;
  }
  return "";
}

function readable(figure) {
  const buttons = Array.from(figure.querySelectorAll(".models button"));
  const groups = model => figure.querySelectorAll(`g.line[data-model="${model}"]`);
  const panel = figure.querySelector(".panel");
  const svg = figure.querySelector(".wide > svg");
  const reading = figure.querySelector(".reading");
  const pointer = figure.querySelector(".pointer");
  let lines = null, current = null;
  const forget = () => {
    figure.querySelectorAll(".near").forEach(path => path.classList.remove("near"));
    reading.hidden = true;
    pointer.classList.add("off");
    current = null;
  };
  buttons.forEach((button, model) => {
    button.disabled = false;
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", on);
      groups(model).forEach(group => group.classList.toggle("off", !on));
      forget();
    });
  });
  if (!panel) return;
  const read = () => Array.from(panel.querySelectorAll("g.line path"), path => ({
    path,
    model: Number(path.parentNode.dataset.model),
    branch: Array.from(path.parentNode.children).indexOf(path) + 1,
    places: placesOf(path),
  }));
  const drawn = () => {
    lines ??= read();
    return lines.filter(line => buttons[line.model].getAttribute("aria-pressed") === "true");
  };
  const {width, height, top, step} = panel.dataset;
  const show = (line, n) => {
    forget();
    current = {line, n};
    const [x, y] = [line.places[n], line.places[n + 1]];
    line.path.classList.add("near");
    pointer.setAttribute("cx", x);
    pointer.setAttribute("cy", y);
    pointer.classList.remove("off");
    const frequency = (top - step * y).toFixed(2).replace("-", "−");
    reading.textContent = [
      buttons[line.model].textContent.trim(), `${frequency} THz`,
      `branch ${line.branch}`, wavevector(panel, x),
    ].join("\n");
    reading.hidden = false;
    const frame = figure.getBoundingClientRect();
    const at = new DOMPoint(x, y).matrixTransform(panel.getScreenCTM());
    const room = figure.clientWidth - reading.offsetWidth;
    reading.style.left = `${Math.max(0, Math.min(at.x - frame.left + 14, room))}px`;
    reading.style.top = `${at.y - frame.top + 16}px`;
  };
  const look = event => {
    const matrix = panel.getScreenCTM();
    const here = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    let best = null, nearest = (20 / matrix.a) ** 2;
    for (const line of drawn()) {
      for (let n = 0; n < line.places.length; n += 2) {
        const [x, y] = [line.places[n], line.places[n + 1]];
        const distance = (x - here.x) ** 2 + (y - here.y) ** 2;
        if (distance < nearest && y >= 0 && y <= height) [best, nearest] = [[line, n], distance];
      }
    }
    if (!best || here.x < 0 || here.x > width) return forget();
    show(...best);
  };
  // Left and right go along a line, up and down to the next one at the same wave vector.
  const walk = event => {
    const along = {ArrowLeft: -2, ArrowRight: 2}[event.key];
    const across = {ArrowUp: -1, ArrowDown: 1}[event.key];
    if (event.key === "Escape") return forget();
    if (!along && !across) return;
    event.preventDefault();
    const there = drawn();
    if (!there.length) return;
    if (!current) return show(there[0], 0);
    const {line, n} = current;
    if (along) return show(line, Math.max(0, Math.min(n + along, line.places.length - 2)));
    const x = line.places[n];
    const below = there.map(other => [other, nearestTo(other.places, x)]);
    below.sort(([a, m], [b, k]) => a.places[m + 1] - b.places[k + 1]);
    const next = below.findIndex(([other]) => other === line) + across;
    show(...below[Math.max(0, Math.min(next, below.length - 1))]);
  };
  svg.addEventListener("pointerleave", forget);
  svg.addEventListener("pointermove", look);
  svg.addEventListener("pointerdown", look);
  svg.addEventListener("keydown", walk);
  svg.addEventListener("blur", forget);
  svg.tabIndex = 0;
}

document.querySelectorAll("table.sortable").forEach(sortable);
if (document.getElementById("materials")) {
  filtered(...["materials", "filter", "count", "more"].map(id => document.getElementById(id)));
}
document.querySelectorAll(".bands").forEach(readable);
