// The page: what is asked, and what has changed since the answer before.

import { COLOURS, CityMap, OTHER, distance } from "/page/map.js";

const K = 10, LINE = 20; // answers; recent places on the map
const DAY = 86400;
const DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const byId = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

const city = { index: new Map(), id: [], place: [], kind: [], kinds: [], colours: [] };
const state = { user: "", events: [], place: null, day: 0, half: 24, radius: null, model: null };
let shown = null; // the answer on the page: {user, items, asked}
let base = null; // the answer that moves are told against: the one before the control that is moved now
let moving = "";
let framed = false; // whether the map has been laid around this user and the first answer
const map = new CityMap(byId("map"), (place, by) => change({ place }, by), hovered);

// ---- calls

class Failed extends Error {}

async function call(path, body, signal) {
  const options = body === undefined ? { signal } : {
    method: "POST", signal, body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
  };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed("The service does not answer.");
  }
  const content = await answer.json().catch((error) => {
    if (error.name === "AbortError") throw error; // not asked any more, while its answer was read
    return {};
  });
  if (!answer.ok) {
    const failed = new Failed(content.error ?? `The service answered with ${answer.status}.`);
    failed.status = answer.status;
    throw failed;
  }
  return content;
}

// ---- time: the sliders say a day and an hour, the request is the first such moment after the last event; of a
// new user, the latest one that has been, as a visit cannot be ahead of the clock

function last() {
  return state.events.at(-1);
}

function offset() {
  const known = state.events.findLast((event) => event.utc_offset !== null);
  return known ? known.utc_offset : state.events.length ? 0 : -60 * new Date().getTimezoneOffset();
}

const weekday = (local) => (((Math.floor(local / DAY) + 3) % 7) + 7) % 7; // Monday is 0

function moment() {
  const since = (last()?.time ?? Date.now() / 1000 - 7 * DAY) + offset();
  const days = Math.floor(since / DAY) + ((state.day - weekday(since) + 7) % 7);
  const local = days * DAY + state.half * 1800;
  return (local < since ? local + 7 * DAY : local) - offset();
}

function said(time, shift, more = { year: "numeric" }) {
  return new Date((time + shift) * 1000).toLocaleString("en-GB", {
    timeZone: "UTC", weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", ...more,
  });
}

const hours = (half) => `${String(half >> 1).padStart(2, "0")}:${half & 1 ? "30" : "00"}`;
const many = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;
const kilometres = (km) => (km < 0.995 ? `${Math.round(km * 1000)} m` : `${km.toFixed(1)} km`);

// ---- what is asked

// by: the control that is moved; as long as it is the same one, moves are told against one answer.
function change(more, by) {
  if (!by || by !== moving) base = shown;
  moving = by;
  Object.assign(state, more);
  byId("day").value = state.day;
  byId("hour").value = state.half;
  byId("radius").value = state.radius ?? "";
  byId("day-said").value = DAYS[state.day];
  byId("hour-said").value = hours(state.half);
  byId("day").setAttribute("aria-valuetext", DAYS[state.day]);
  byId("hour").setAttribute("aria-valuetext", hours(state.half));
  byId("moment").textContent = `${said(moment(), offset())}, ${where(state.place)}`;
  map.place = state.place;
  map.radius = state.radius;
  map.draw();
  keep();
  ask();
}

function where(place) {
  const from = placeOf(last());
  if (!place) return "nowhere yet: click on the map";
  if (!from) return place.map((degrees) => degrees.toFixed(4)).join(", ");
  const far = distance(from, place);
  return far < 0.001 ? "at the last place" : `${kilometres(far)} from the last place`;
}

function keep() {
  const words = new URLSearchParams({ user: state.user, day: state.day, hour: state.half / 2 });
  if (state.place) words.set("place", state.place.map((degrees) => degrees.toFixed(5)).join());
  if (state.radius) words.set("km", state.radius);
  history.replaceState(null, "", `#${words}`);
}

let timer, running;

function ask() {
  clearTimeout(timer);
  byId("answer").setAttribute("aria-busy", "true");
  timer = setTimeout(async () => {
    running?.abort();
    const own = (running = new AbortController());
    const request = { user: state.user, time: moment(), utc_offset: offset() };
    if (state.place) request.place = state.place;
    if (state.place && state.radius) request.within_km = state.radius;
    const k = Math.min(K, city.id.length, state.model.limits.k);
    try {
      const answer = await call("/recommendations", { requests: [request], k }, own.signal);
      show(request, answer.answers[0].items);
      trouble(null);
    } catch (error) {
      if (error.name === "AbortError") return;
      trouble(error, ask);
      byId("answer").classList.add("old"); // it is not of what is asked now
      if (error.status === 503) timer = setTimeout(ask, 3000); // busy, or still compiling
    }
  }, 60);
}

function trouble(error, again) {
  const problem = byId("problem"), button = problem.querySelector("button");
  problem.hidden = !error;
  if (!error) return;
  if (!(error instanceof Failed)) console.error(error);
  problem.querySelector("span").textContent = error instanceof Failed ? error.message : "The page failed.";
  button.onclick = () => {
    problem.hidden = true;
    again();
  };
  byId("answer").setAttribute("aria-busy", "false");
}

// ---- what is answered

function show(request, items) {
  const against = base?.user === request.user ? base : null;
  const before = against?.items.map((each) => each.item);
  const list = byId("answer"), old = new Map();
  for (const row of list.children) old.set(row.dataset.item, row.getBoundingClientRect().top);
  const asked = [said(request.time, request.utc_offset, {})];
  if (request.place) asked.push(where(request.place));
  if (request.within_km) asked.push(`within ${kilometres(request.within_km)}`);
  shown = { user: request.user, items, asked };
  list.replaceChildren(...items.map((each, i) => row(each, i, items, before)));
  if (!items.length) list.append(make("li", "none", "No place may be answered here: allow a greater distance."));
  list.setAttribute("aria-busy", "false");
  list.classList.remove("old");
  slide(list, old);
  const gone = before?.filter((id) => !items.some((each) => each.item === id)) ?? [];
  byId("against").textContent = against ? `Moves since ${against.asked.join(", ")}` : "";
  byId("gone").textContent = byId("gone").title = gone.length ? `No longer among them: ${gone.join("; ")}` : "";
  byId("said").textContent = items.length ? `First now: ${items[0].item}. ${gone.length} of ${K} are new.` : "";
  map.ranked = items.map((each) => city.place[city.index.get(each.item)] ?? null);
  map.lit = -1;
  if (!framed) view(state.place);
  framed = true;
  map.draw();
}

function row({ item, score }, i, items, before) {
  const own = make("li"), at = city.index.get(item), place = city.place[at];
  own.dataset.item = item;
  own.append(make("span", "rank", i + 1));
  const middle = make("div"), title = make("div", "name", item), sort = make("div", "sort");
  title.title = item;
  const dot = make("span", "dot"), bar = make("span", "bar"), share = make("i");
  dot.style.background = city.colours[at] ?? OTHER;
  share.style.width = `${100 * Math.exp(score - items[0].score)}%`;
  bar.append(share);
  sort.append(dot, make("span", "", state.place && place ? kilometres(distance(state.place, place)) : "—"), bar);
  middle.append(title, sort);
  const right = make("div");
  right.append(make("div", "share", percent(score)), moved(item, i, before));
  const go = make("button", "", "Go");
  go.type = "button";
  go.setAttribute("aria-label", `Go to ${item}: tell the service that it was visited`);
  go.onclick = () => visit(item, go);
  own.append(middle, right, go);
  own.onmouseenter = () => light(i);
  own.onmouseleave = () => light(-1);
  own.onfocusin = () => light(i);
  return own;
}

function percent(score) {
  const share = 100 * Math.exp(score);
  return share < 0.1 ? "< 0.1%" : `${share.toFixed(share < 9.95 ? 1 : 0)}%`;
}

function moved(item, i, before) {
  if (!before) return make("span", "move", "");
  const was = before.indexOf(item);
  if (was < 0) return make("span", "move new", "new");
  if (was === i) return make("span", "move", "=");
  const made = make("span", `move ${was > i ? "up" : "down"}`, `${was > i ? "▲" : "▼"} ${Math.abs(was - i)}`);
  made.setAttribute("aria-label", `${was > i ? "up" : "down"} by ${Math.abs(was - i)}`);
  return made;
}

// Rows glide from where they were.
function slide(list, old) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const own of list.children) {
    const from = old.get(own.dataset.item);
    const by = from === undefined ? 0 : from - own.getBoundingClientRect().top;
    if (by) own.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }], { duration: 220, easing: "ease-out" });
  }
}

function light(i) {
  map.lit = i;
  map.draw();
  [...byId("answer").children].forEach((own, k) => own.classList.toggle("lit", k === i));
}

function hovered(mark, item, x, y) {
  if (mark !== map.lit) light(mark);
  const tip = byId("tip"), id = mark >= 0 ? shown.items[mark].item : city.id[item];
  tip.hidden = id === undefined;
  if (id === undefined) return;
  const kind = city.kinds[city.kind[city.index.get(id)]];
  tip.textContent = kind && !id.includes(kind) ? `${id} · ${kind}` : id;
  tip.style.left = `${Math.max(90, Math.min(map.width - 90, x))}px`;
  tip.style.top = `${Math.max(40, y)}px`;
}

async function visit(item, button) {
  button.disabled = true;
  const place = city.place[city.index.get(item)] ?? state.place;
  const event = { user: state.user, item, time: moment(), utc_offset: offset(), place };
  try {
    await call("/events", { events: [event] });
    await read(state.user);
    if (place && !map.sees(place)) view(place);
    change({ place });
  } catch (error) {
    button.disabled = false;
    trouble(error, () => visit(item, button));
  }
}

// ---- users

function placeOf(event) {
  return event ? city.place[city.index.get(event.item)] ?? event.place : null;
}

async function read(user) {
  const found = await call(`/users/${encodeURIComponent(user)}`);
  Object.assign(state, { user, events: found.events });
  const recent = state.events.slice(-LINE);
  map.recent = recent.map(placeOf).filter(Boolean);
  byId("user").value = user;
  byId("recent-head").textContent = recent.length ? `Last ${many(recent.length, "place")}, latest first` : "No places yet";
  byId("recent").replaceChildren(...recent.reverse().map((event) => {
    const own = make("li"), name = make("span", "name", event.item);
    name.title = event.item;
    own.append(name, make("time", "", said(event.time, event.utc_offset ?? offset(), {})));
    return own;
  }));
}

async function choose(user, given = {}) {
  if (!user) return;
  try {
    await read(user);
  } catch (error) {
    trouble(error, () => choose(user, given));
    return;
  }
  const since = (last() ? last().time + 3600 : Date.now() / 1000) + offset(); // an hour later, or now
  const place = placeOf(last()) ?? middle();
  framed = false;
  change({ day: weekday(since), half: Math.floor((((since % DAY) + DAY) % DAY) / 1800), place, radius: null, ...given });
}

// The user, the places of the last day or so, and what is recommended.
function view(place) {
  map.fit([...map.recent.slice(-6), ...map.ranked, place].filter(Boolean), 3);
}

function middle() {
  const places = city.place.filter(Boolean), half = places.length >> 1;
  return places.length ? [0, 1].map((axis) => places.map((p) => p[axis]).sort((a, b) => a - b)[half]) : null;
}

async function suggest(prefix) {
  const { users } = await call(`/users?${new URLSearchParams({ prefix, limit: 50 })}`);
  byId("users").replaceChildren(...users.map((user) => Object.assign(make("option"), { value: user })));
  return users;
}

// ---- the start

function legend() {
  const count = new Map();
  for (const kind of city.kind) count.set(kind, (count.get(kind) ?? 0) + 1);
  const first = [...count].filter(([kind]) => kind >= 0).sort((a, b) => b[1] - a[1]).slice(0, COLOURS.length);
  const colour = new Map(first.map(([kind], i) => [kind, COLOURS[i]]));
  city.colours = city.kind.map((kind) => colour.get(kind) ?? OTHER);
  const rows = first.map(([kind]) => [colour.get(kind), city.kinds[kind]]);
  if (first.length < count.size) rows.push([OTHER, first.length ? "other" : "items"]);
  const marks = [
    ['<circle cx="8" cy="8" r="7" fill="#0b6e4f"/>', "recommended, by rank"],
    ['<path d="M1 13 7 4l5 7" fill="none" stroke="#22262b"/><circle cx="7" cy="4" r="2.5" fill="#fff" stroke="#22262b"/><circle cx="12" cy="11" r="3.5" fill="#22262b"/>', "recent places, to the last"],
    ['<path d="M8 16C7 12 3 10 3 6a5 5 0 0 1 10 0c0 4-4 6-5 10" fill="#d1203a"/>', "the user is here: click to move"],
  ];
  const dots = rows.map(([own, text]) => [`<circle cx="8" cy="8" r="4" fill="${own}"/>`, text]);
  byId("legend").replaceChildren(...[...marks, ...dots].map(([drawn, text]) => {
    const line = make("li");
    line.innerHTML = `<svg viewBox="0 0 16 16" aria-hidden="true">${drawn}</svg>`;
    line.append(make("span", "", text));
    return line;
  }));
}

// What an address says, but for what no control could have said.
function addressed(words) {
  const number = (name) => (words.get(name) ? Number(words.get(name)) : NaN), given = {};
  const [day, half, radius] = [number("day"), Math.round(2 * number("hour")), number("km")];
  const place = (words.get("place") ?? "").split(",").map((degrees) => (degrees ? Number(degrees) : NaN));
  if (day in DAYS) given.day = day;
  if (half >= 0 && half < 48) given.half = half;
  if ([...byId("radius").options].some((option) => Number(option.value) === radius)) given.radius = radius;
  if (place.length === 2 && Math.abs(place[0]) <= 90 && Math.abs(place[1]) <= 180) given.place = place;
  return given;
}

async function start() {
  byId("problem").hidden = true;
  try {
    const [model, items] = await Promise.all([call("/model"), call("/items")]);
    state.model = model;
    Object.assign(city, items, { index: new Map(items.id.map((id, i) => [id, i])) });
    legend();
    map.items = { places: city.place, colours: city.colours };
    map.fit(city.place.filter(Boolean), 1);
    byId("about").textContent = `${many(model.items, "place")}, ${many(model.users, "user")} · ${model.version}`;
    const unread = ["time", "place"].filter((part) => !model.reads.includes(part));
    byId("unread").hidden = !unread.length;
    byId("unread").textContent = `This model does not read the ${unread.join(" or ")} of a request: moving it changes no score.`;
    const users = await suggest(""), words = new URLSearchParams(location.hash.slice(1));
    await choose(words.get("user") || users[0] || "somebody", addressed(words));
  } catch (error) {
    byId("about").textContent = "";
    trouble(error, start);
  }
}

byId("day").oninput = (event) => change({ day: Number(event.target.value) }, "day");
byId("hour").oninput = (event) => change({ half: Number(event.target.value) }, "hour");
byId("radius").onchange = (event) => change({ radius: Number(event.target.value) || null });
byId("back").onclick = () => choose(state.user);
byId("user").oninput = (event) => suggest(event.target.value).catch(() => {});
byId("user").onchange = (event) => choose(event.target.value.trim());
byId("another").onclick = async () => {
  const users = await suggest("").catch((error) => trouble(error, () => byId("another").click()) ?? []);
  const others = users.filter((user) => user !== state.user);
  choose(others[Math.floor(Math.random() * others.length)]);
};
byId("asked").onsubmit = (event) => event.preventDefault();
byId("closer").onclick = () => map.zoom(1.5);
byId("farther").onclick = () => map.zoom(1 / 1.5);
byId("own").onclick = () => view(state.place);
byId("whole").onclick = () => map.fit(city.place.filter(Boolean), 1);
byId("key").open = !matchMedia("(max-width: 52rem)").matches;
start();
