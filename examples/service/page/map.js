// A map that is drawn from the places of items alone: no tiles, no network.

export const COLOURS = [
  "#4e79a7", "#e58a2c", "#59a14f", "#a26da4", "#d9565a", "#5aa9a3", "#c9a227", "#8f6a54", "#d37295",
];
export const OTHER = "#b3aea4";
const INK = "#22262b", ACCENT = "#0b6e4f", PIN = "#d1203a", GROUND = "#f5f3ee";
const KM = 111.2; // of a degree of latitude
const NEAREST = 0.4, WIDEST = 400; // km that may be seen across

export function distance(a, b) {
  const east = (b[1] - a[1]) * Math.cos(((a[0] + b[0]) * Math.PI) / 360);
  return KM * Math.hypot(b[0] - a[0], east);
}

export class CityMap {
  // items: {id, place, colour} by column. onPlace: called with [latitude, longitude] when it is moved, and "keys" if by them.
  constructor(canvas, onPlace, onHover) {
    this.canvas = canvas;
    this.onPlace = onPlace;
    this.onHover = onHover;
    this.items = { places: [], colours: [] };
    this.recent = [];
    this.ranked = [];
    this.marks = []; // of the ranking, on the screen
    this.place = null;
    this.radius = null;
    this.lit = -1;
    this.centre = [0, 0];
    this.scale = 1; // pixels per km
    new ResizeObserver(() => this.resized()).observe(canvas);
    this.listen();
  }

  // ---- view

  resized() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const middle = this.width ? this.scale * Math.min(width, height) / Math.min(this.width, this.height) : this.scale;
    this.width = width;
    this.height = height;
    this.scale = middle;
    this.dense = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * this.dense);
    this.canvas.height = Math.round(height * this.dense);
    this.moved();
  }

  fit(places, least) {
    if (!places.length) return;
    const sorted = (axis) => places.map((p) => p[axis]).sort((a, b) => a - b);
    const cut = places.length > 100 ? 0.01 : 0; // some items are far out
    const [south, north, west, east] = [0, 1].flatMap((axis) => {
      const own = sorted(axis), at = Math.floor(cut * own.length);
      return [own[at], own[own.length - 1 - at]];
    });
    this.centre = [(south + north) / 2, (west + east) / 2];
    const tall = Math.max((north - south) * KM, least), wide = Math.max((east - west) * KM * this.squeeze(), least);
    this.scale = Math.min(this.width / wide, this.height / tall) * 0.82;
    this.moved();
  }

  squeeze() {
    return Math.cos((this.centre[0] * Math.PI) / 180);
  }

  toScreen([latitude, longitude]) {
    return [
      this.width / 2 + (longitude - this.centre[1]) * KM * this.squeeze() * this.scale,
      this.height / 2 - (latitude - this.centre[0]) * KM * this.scale,
    ];
  }

  toPlace(x, y) {
    const latitude = this.centre[0] - (y - this.height / 2) / (KM * this.scale);
    const longitude = this.centre[1] + (x - this.width / 2) / (KM * this.squeeze() * this.scale);
    return [Math.max(-90, Math.min(90, latitude)), Math.max(-180, Math.min(180, longitude))];
  }

  sees(place) {
    const [x, y] = this.toScreen(place);
    return x > 20 && y > 40 && x < this.width - 20 && y < this.height - 20;
  }

  zoom(by, x = this.width / 2, y = this.height / 2) {
    const short = Math.min(this.width, this.height);
    const scale = Math.max(short / WIDEST, Math.min(short / NEAREST, this.scale * by));
    const [before, part] = [this.toPlace(x, y), 1 - this.scale / scale];
    this.centre = this.centre.map((own, axis) => own + (before[axis] - own) * part);
    this.scale = scale;
    this.moved();
  }

  // ---- drawing: all items once for a view, the rest above them whenever it changes

  moved() {
    this.ground = null;
    this.draw();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.paint();
    });
  }

  paint() {
    if (!this.width) return;
    this.ground ??= this.paintItems();
    const pen = this.canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.drawImage(this.ground, 0, 0);
    pen.setTransform(this.dense, 0, 0, this.dense, 0, 0);
    pen.lineJoin = pen.lineCap = "round";
    this.paintRadius(pen);
    this.paintRecent(pen);
    this.paintPlace(pen);
    this.paintRanked(pen);
    this.paintScale(pen);
  }

  paintItems() {
    const sheet = document.createElement("canvas");
    sheet.width = this.canvas.width;
    sheet.height = this.canvas.height;
    const pen = sheet.getContext("2d");
    pen.scale(this.dense, this.dense);
    pen.fillStyle = GROUND;
    pen.fillRect(0, 0, this.width, this.height);
    pen.globalAlpha = 0.55;
    const r = Math.max(1.3, Math.min(4.5, Math.sqrt(this.scale) / 4));
    const { places, colours } = this.items;
    for (let i = 0; i < places.length; i++) {
      if (!places[i]) continue;
      const [x, y] = this.toScreen(places[i]);
      if (x < -r || y < -r || x > this.width + r || y > this.height + r) continue;
      pen.fillStyle = colours[i];
      pen.beginPath();
      pen.arc(x, y, r, 0, 7);
      pen.fill();
    }
    return sheet;
  }

  paintRadius(pen) {
    if (!this.place || !this.radius) return;
    const [x, y] = this.toScreen(this.place);
    pen.beginPath();
    pen.arc(x, y, this.radius * this.scale, 0, 7);
    pen.fillStyle = "#d1203a12";
    pen.fill();
    pen.strokeStyle = PIN;
    pen.lineWidth = 1.2;
    pen.setLineDash([5, 4]);
    pen.stroke();
    pen.setLineDash([]);
  }

  paintRecent(pen) {
    const at = this.recent.map((place) => this.toScreen(place));
    at.forEach(([x, y], i) => {
      pen.globalAlpha = 0.2 + (0.7 * (i + 1)) / at.length; // older ones fade
      pen.strokeStyle = INK;
      pen.lineWidth = 1.6;
      if (i) {
        pen.beginPath();
        pen.moveTo(...at[i - 1]);
        pen.lineTo(x, y);
        pen.stroke();
      }
    });
    at.forEach(([x, y], i) => {
      pen.globalAlpha = 0.3 + (0.7 * (i + 1)) / at.length;
      pen.beginPath();
      pen.arc(x, y, i === at.length - 1 ? 6 : 4, 0, 7);
      pen.fillStyle = i === at.length - 1 ? INK : "#fff";
      pen.fill();
      pen.stroke();
    });
    pen.globalAlpha = 1;
  }

  paintRanked(pen) {
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    this.marks = this.spread();
    this.marks.forEach((mark, i) => {
      if (!mark || mark.away < 3) return; // who had to give way is tied to where it is
      const [x, y] = this.toScreen(this.ranked[i]);
      pen.strokeStyle = pen.fillStyle = ACCENT;
      pen.lineWidth = 1.2;
      pen.beginPath();
      pen.moveTo(x, y);
      pen.lineTo(mark.x, mark.y);
      pen.stroke();
      pen.beginPath();
      pen.arc(x, y, 2.5, 0, 7);
      pen.fill();
    });
    for (let i = this.ranked.length - 1; i >= 0; i--) this.paintMark(pen, i);
    if (this.lit >= 0 && this.lit < this.ranked.length) this.paintMark(pen, this.lit);
  }

  // Marks on the screen, pushed apart where they would hide one another or the pin.
  spread() {
    const marks = this.ranked.map((place, i) => {
      if (!place) return null;
      const [x, y] = this.toScreen(place), turn = 2.4 * i; // so that marks of one place go different ways
      return { x: x + Math.cos(turn), y: y + Math.sin(turn), from: [x, y] };
    });
    const pin = this.place && this.toScreen(this.place);
    const fixed = pin ? [{ x: pin[0], y: pin[1] - 18 }, { x: pin[0], y: pin[1] - 4 }] : [];
    for (let round = 0; round < 60; round++) {
      for (const a of marks.filter(Boolean)) {
        for (const b of [...marks.filter(Boolean), ...fixed]) {
          const [right, lower] = [a.x - b.x, a.y - b.y], far = Math.hypot(right, lower) || 1;
          if (a === b || far > 23) continue;
          const by = (23 - far) / far / 2;
          [a.x, a.y] = [a.x + right * by, a.y + lower * by];
        }
      }
    }
    for (const mark of marks) if (mark) mark.away = Math.hypot(mark.x - mark.from[0], mark.y - mark.from[1]);
    return marks;
  }

  paintMark(pen, i) {
    if (!this.ranked[i]) return;
    const { x, y } = this.marks[i], r = (i < 3 ? 11 : 9) + (i === this.lit ? 3 : 0);
    pen.beginPath();
    pen.arc(x, y, r, 0, 7);
    pen.fillStyle = ACCENT;
    pen.fill();
    pen.lineWidth = i === this.lit ? 3 : 1.5;
    pen.strokeStyle = i === this.lit ? "#ffd447" : "#fff";
    pen.stroke();
    pen.fillStyle = "#fff";
    pen.font = `600 ${i < 3 ? 12 : 10.5}px system-ui, sans-serif`;
    pen.fillText(String(i + 1), x, y + 0.5);
  }

  paintPlace(pen) {
    if (!this.place) return;
    const [x, y] = this.toScreen(this.place);
    pen.beginPath();
    pen.moveTo(x, y);
    pen.bezierCurveTo(x - 3, y - 9, x - 10, y - 12, x - 10, y - 20);
    pen.arc(x, y - 20, 10, Math.PI, 0);
    pen.bezierCurveTo(x + 10, y - 12, x + 3, y - 9, x, y);
    pen.fillStyle = PIN;
    pen.fill();
    pen.strokeStyle = "#fff";
    pen.lineWidth = 1.5;
    pen.stroke();
    pen.beginPath();
    pen.arc(x, y - 20, 3.6, 0, 7);
    pen.fillStyle = "#fff";
    pen.fill();
  }

  paintScale(pen) {
    const fit = 120 / this.scale, unit = 10 ** Math.floor(Math.log10(fit));
    const km = [5, 2, 1].find((n) => n * unit <= fit) * unit, long = km * this.scale;
    const x = this.width - 16, y = this.height - 16;
    pen.strokeStyle = pen.fillStyle = INK;
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.moveTo(x - long, y - 5);
    pen.lineTo(x - long, y);
    pen.lineTo(x, y);
    pen.lineTo(x, y - 5);
    pen.stroke();
    pen.font = "12px system-ui, sans-serif";
    pen.textAlign = "right";
    pen.textBaseline = "alphabetic";
    const text = km < 1 ? `${Math.round(km * 1000)} m` : `${km} km`;
    pen.strokeStyle = GROUND; // around the letters, so that items do not hide them
    pen.lineWidth = 4;
    pen.strokeText(text, x - 4, y - 6);
    pen.fillText(text, x - 4, y - 6);
  }

  // ---- hands

  listen() {
    const down = new Map();
    let wide = 0, dragged = false;
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const spread = () => {
      const [a, b] = [...down.values()];
      return Math.hypot(a[0] - b[0], a[1] - b[1]);
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      if (!down.size) dragged = false;
      down.set(event.pointerId, at(event));
      if (down.size === 2) wide = spread();
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const here = at(event), from = down.get(event.pointerId);
      if (!from) return this.hover(here);
      if (down.size === 2) {
        down.set(event.pointerId, here);
        const now = spread(), [a, b] = [...down.values()];
        this.zoom(now / Math.max(wide, 1), (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
        [wide, dragged] = [now, true];
        return undefined;
      }
      const [right, lower] = [here[0] - from[0], here[1] - from[1]];
      if (!dragged && Math.hypot(right, lower) < 4) return undefined;
      dragged = true;
      down.set(event.pointerId, here);
      this.centre = this.toPlace(this.width / 2 - right, this.height / 2 - lower);
      this.moved();
      return undefined;
    });
    this.canvas.addEventListener("pointerup", (event) => {
      down.delete(event.pointerId);
      if (!dragged && !down.size) this.onPlace(this.toPlace(...at(event)));
    });
    this.canvas.addEventListener("pointercancel", (event) => down.delete(event.pointerId));
    this.canvas.addEventListener("pointerleave", () => this.onHover(-1, -1, 0, 0));
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-Math.sign(event.deltaY) * Math.min(0.3, Math.abs(event.deltaY) / 300)), ...at(event));
    }, { passive: false });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const step = event.shiftKey ? 60 : 12; // pixels, so that steps are finer where the view is
    const ways = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
    if (event.key === "+" || event.key === "=") this.zoom(1.4);
    else if (event.key === "-") this.zoom(1 / 1.4);
    else if (ways[event.key] && this.place) {
      const [x, y] = this.toScreen(this.place), [right, lower] = ways[event.key];
      const to = this.toPlace(x + right * step, y + lower * step);
      if (!this.sees(to)) this.centre = to;
      this.onPlace(to, "keys");
      this.moved();
    } else return;
    event.preventDefault();
  }

  // What is under the pointer: a mark of the ranking before an item.
  hover([x, y]) {
    const nearest = (points, most) => points.reduce(([found, best], point, i) => {
      const far = point ? Math.hypot(point[0] - x, point[1] - y) : Infinity;
      return far < best ? [i, far] : [found, best];
    }, [-1, most])[0];
    const mark = nearest(this.marks.map((own) => own && [own.x, own.y]), 12);
    const item = mark >= 0 ? -1 : nearest(this.items.places.map((place) => place && this.toScreen(place)), 6);
    this.onHover(mark, item, x, y);
  }
}
