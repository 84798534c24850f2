// SPDX-License-Identifier: Apache-2.0
// The page of `ledpose view`. What comes over the web socket: ledpose_ros/web_server.py and live_view.py.
"use strict";

const SILENCE = 2500; // ms without a word from the server
const RETRY = 1000; // ms
const TRAIL = 6000; // ms
const RANGES = [2, 3, 4, 6, 8, 12, 16, 24, 32, 64]; // m, how far the map reaches forward
const OFF_COLOUR = [30, 30, 90]; // as in the overlay
const ON_COLOUR = [255, 235, 60];

const select = (selector) => document.querySelector(selector);
const frame = select("#frame");
const plan = select("#plan");
const trails = new Map(); // label -> [{at, place}]
let socket = null;
let picture = "overlay"; // the one that is asked for
let pictured = null; // the one that is on the page
let range = RANGES[0];
let heard = performance.now();
let state = null;
let farewell = ""; // of the server, when it closed the connection

// --- connection ------------------------------------------------------------------------------------------

function connect() {
  if (socket !== null || document.hidden) return;
  socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/live`);
  const mine = socket;
  let follows = false;
  const shown = () => { if (mine.readyState === WebSocket.OPEN) mine.send("shown"); };
  mine.addEventListener("open", () => mine.send(picture));
  mine.addEventListener("message", (event) => {
    heard = performance.now();
    if (typeof event.data === "string") {
      state = JSON.parse(event.data);
      follows = state.picture.follows;
      show(state);
      if (!follows) shown();
    } else if (state.picture.kind === picture) {
      showPicture(event.data, state.picture.kind, shown);
    } else {
      shown(); // another one has been chosen meanwhile
    }
  });
  mine.addEventListener("close", (event) => {
    if (socket !== mine) return;
    socket = null;
    farewell = event.reason;
    tellSilence();
    setTimeout(connect, RETRY);
  });
}

// A page that nobody looks at leaves the estimator in peace.
document.addEventListener("visibilitychange", () => {
  if (document.hidden && socket !== null) {
    const gone = socket;
    socket = null;
    gone.close();
  }
  connect();
});

function tellSilence() {
  const isSilent = performance.now() - heard > SILENCE;
  if (socket === null) setHeadline("error", `${farewell || "no connection to ledpose view"}; trying again`);
  else if (isSilent) setHeadline("error", "ledpose view does not answer");
  if (socket === null || isSilent) {
    for (const section of document.querySelectorAll("section")) section.classList.add("stale");
  }
}

setInterval(tellSilence, 500);

// --- what is shown ---------------------------------------------------------------------------------------

function show(news) {
  setHeadline(news.headline.level, news.headline.text);
  setNote("#picture", news.picture);
  setNote("#map", news.peers);
  setNote("#peers", news.peers);
  setNote("#leds", news.leds);
  setNote("#nodes", news.nodes);
  for (const peer of news.peers.value) peer.name = nameOf(peer);
  showPeers(news);
  showLeds(news.leds.value);
  showNodes(news.nodes.value);
  remember(news);
  drawMap(news);
}

function setHeadline(level, text) {
  const headline = select("#headline");
  if (headline.textContent !== text) headline.textContent = text;
  headline.dataset.level = level;
}

// The note says what is amiss; where nothing new comes, what the panel still shows is old.
function setNote(selector, panel) {
  const section = select(selector);
  const note = section.querySelector(".note");
  if (note.textContent !== panel.note) note.textContent = panel.note;
  section.classList.toggle("stale", panel.is_stale);
}

function showPicture(blob, kind, done) {
  const address = URL.createObjectURL(blob);
  const finish = () => { URL.revokeObjectURL(address); done(); };
  frame.onload = () => {
    pictured = kind;
    frame.hidden = pictured !== picture;
    select("#picture .stage").style.aspectRatio = `${frame.naturalWidth} / ${frame.naturalHeight}`;
    finish();
  };
  frame.onerror = finish;
  frame.src = address;
}

for (const button of document.querySelectorAll("[data-picture]")) {
  button.addEventListener("click", () => {
    picture = button.dataset.picture;
    for (const other of document.querySelectorAll("[data-picture]")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    frame.hidden = pictured !== picture;
    if (socket !== null && socket.readyState === WebSocket.OPEN) socket.send(picture);
  });
}

// One list item per entry, kept from time to time so that what is open stays open.
function fill(list, entries, key, make, update) {
  const old = new Map([...list.children].map((item) => [item.dataset.key, item]));
  entries.forEach((entry, index) => {
    const name = key(entry);
    let item = old.get(name);
    old.delete(name);
    if (item === undefined) {
      item = document.createElement("li");
      item.dataset.key = name;
      make(item);
    }
    if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null);
    update(item, entry);
  });
  for (const item of old.values()) item.remove();
}

function add(parent, tag, kind) {
  const element = document.createElement(tag);
  element.className = kind;
  parent.append(element);
  return element;
}

function put(item, kind, text) {
  const element = item.querySelector(`.${kind}`);
  if (element.textContent !== text) element.textContent = text;
}

const percent = (share) => `${Math.round(100 * share)} %`;

function nameOf(peer) {
  const best = peer.identity[0];
  return best !== undefined && best.probability >= 0.9 && best.name !== "stranger" ? best.name : peer.label;
}

function whereOf(place) {
  const [right, forward] = place;
  const aside = Math.abs(right).toFixed(2);
  const side = aside === "0.00" ? "straight" : `${aside} m ${right > 0 ? "right" : "left"}`;
  return `${forward.toFixed(2)} m ahead, ${side}`;
}

function showPeers(news) {
  const rows = news.peers.value.map((peer) => ({ ...peer, kind: "peer" }));
  if (news.truth !== null) {
    rows.push({ ...news.truth, name: "truth", label: "truth", identity: [], kind: "truth" });
  }
  const make = (item) => ["name", "where", "distance", "identity"].forEach((kind) => add(item, "span", kind));
  fill(select("#peers ul"), rows, (row) => row.label, make, (item, row) => {
    item.className = row.kind;
    put(item, "name", row.name);
    put(item, "where", whereOf(row.place));
    put(item, "distance", `${row.distance.toFixed(2)} m`);
    put(item, "identity", row.identity.map((who) => `${who.name} ${percent(who.probability)}`).join(", "));
  });
}

function showLeds(leds) {
  const make = (item) => {
    add(item, "span", "dot");
    add(item, "span", "name");
    add(add(item, "span", "bar"), "i", "share");
    add(item, "span", "on");
  };
  fill(select("#leds ul"), leds, (led) => led.name, make, (item, led) => {
    const colour = OFF_COLOUR.map((off, channel) => Math.round(off + (ON_COLOUR[channel] - off) * led.on));
    item.querySelector(".dot").style.background = `rgb(${colour.join(" ")})`;
    item.querySelector(".share").style.width = `${100 * led.on}%`;
    put(item, "name", led.name);
    put(item, "on", percent(led.on));
  });
}

function showNodes(nodes) {
  const make = (item) => {
    const details = add(item, "details", "");
    const summary = add(details, "summary", "");
    ["level", "name", "text"].forEach((kind) => add(summary, "span", kind));
    add(details, "table", "values");
  };
  fill(select("#nodes ul"), nodes, (node) => node.name, make, (item, node) => {
    item.dataset.level = node.level;
    for (const kind of ["level", "name", "text"]) put(item, kind, node[kind]);
    if (!item.querySelector("details").open) return;
    const rows = Object.entries(node.values).map((pair) => {
      const row = document.createElement("tr");
      for (const text of pair) add(row, "td", "").textContent = text;
      return row;
    });
    item.querySelector("table").replaceChildren(...rows);
  });
}

// --- map -------------------------------------------------------------------------------------------------

function remember(news) {
  const now = performance.now();
  if (!news.peers.is_stale) {
    for (const peer of news.peers.value) {
      const trail = trails.get(peer.label) ?? [];
      if (trail.at(-1)?.place.join() !== peer.place.join()) trail.push({ at: now, place: peer.place });
      trails.set(peer.label, trail);
    }
  }
  for (const [label, trail] of trails) {
    while (trail.length > 0 && now - trail[0].at > TRAIL) trail.shift();
    if (trail.length === 0) trails.delete(label);
  }
}

function drawMap(news) {
  const ratio = window.devicePixelRatio || 1;
  const width = plan.clientWidth, height = plan.clientHeight;
  if (width === 0 || height === 0) return;
  if (plan.width !== Math.round(width * ratio) || plan.height !== Math.round(height * ratio)) {
    plan.width = Math.round(width * ratio);
    plan.height = Math.round(height * ratio);
  }
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const context = plan.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "12px system-ui, sans-serif";
  context.lineJoin = "round";

  const places = [...news.peers.value.map((peer) => peer.place), ...(news.truth ? [news.truth.place] : [])];
  const margin = 34;
  const fits = (reach) => places.every(([x, z]) =>
    z < reach && Math.abs(x) < (width / 2 - 12) * reach / (height - 2 * margin));
  // What is near the rim does not make the map jump to and fro.
  if (!fits(range) || RANGES.some((reach) => reach < range && fits(0.85 * reach))) {
    range = RANGES.find((reach) => fits(0.95 * reach)) ?? RANGES.at(-1);
  }
  const scale = (height - 2 * margin) / range; // px per metre
  const onPlan = ([x, z]) => [width / 2 + x * scale, height - margin - z * scale];

  drawGrid(context, scale, onPlan, width, height, colour);
  drawSight(context, news.field, onPlan, colour);
  news.peers.value.forEach((peer, rank) => {
    const own = colour(rank === 0 ? "peer" : "other");
    drawTrail(context, trails.get(peer.label) ?? [], onPlan, own);
  });
  if (news.truth !== null) drawRobot(context, news.truth, onPlan, scale, colour("truth"), false);
  news.peers.value.forEach((peer, rank) => {
    const own = colour(rank === 0 ? "peer" : "other");
    drawRobot(context, peer, onPlan, scale, own, true);
    if (peer.ellipse !== null) drawEllipse(context, peer, onPlan, scale, own);
    const text = `${peer.name}  ${peer.distance.toFixed(2)} m`;
    drawText(context, text, onPlan(peer.place), sizeOf(scale) + 8, width, colour);
  });
}

function drawGrid(context, scale, onPlan, width, height, colour) {
  const step = range <= 8 ? 1 : range <= 16 ? 2 : range <= 32 ? 4 : 8;
  select("#grid").textContent = String(step);
  context.strokeStyle = colour("line");
  context.fillStyle = colour("faint");
  context.lineWidth = 1;
  context.textAlign = "left";
  const reach = Math.ceil(width / 2 / scale / step) * step;
  for (let x = -reach; x <= reach; x += step) {
    const [u] = onPlan([x, 0]);
    line(context, [Math.round(u) + 0.5, 0], [Math.round(u) + 0.5, height]);
  }
  for (let z = -step; z <= range + step; z += step) {
    const [, v] = onPlan([0, z]);
    line(context, [0, Math.round(v) + 0.5], [width, Math.round(v) + 0.5]);
    if (z > 0 && v > 14) context.fillText(`${z} m`, 6, v - 4);
  }
}

function drawSight(context, field, onPlan, colour) {
  const camera = onPlan([0, 0]);
  if (field !== null) {
    const ends = field.map(([x, z]) => onPlan([x * range * 4, z * range * 4]));
    context.fillStyle = colour("sight");
    context.strokeStyle = colour("accent");
    context.setLineDash([4, 4]);
    context.beginPath();
    context.moveTo(...ends[0]);
    context.lineTo(...camera);
    context.lineTo(...ends[1]);
    context.stroke();
    context.fill();
    context.setLineDash([]);
  }
  const [u, v] = camera;
  context.fillStyle = colour("accent");
  context.beginPath();
  context.moveTo(u, v - 10);
  context.lineTo(u + 8, v + 8);
  context.lineTo(u - 8, v + 8);
  context.fill();
  context.textAlign = "center";
  context.fillText("camera", u, v + 23);
}

function drawTrail(context, trail, onPlan, own) {
  const now = performance.now();
  context.strokeStyle = own;
  context.lineWidth = 2;
  for (let index = 1; index < trail.length; index++) {
    context.globalAlpha = 0.6 * Math.max(0, 1 - (now - trail[index].at) / TRAIL);
    line(context, onPlan(trail[index - 1].place), onPlan(trail[index].place));
  }
  context.globalAlpha = 1;
}

function drawEllipse(context, peer, onPlan, scale, own) {
  const [long, short, direction] = peer.ellipse;
  context.beginPath();
  // The map's second axis points up, the canvas's down.
  context.ellipse(...onPlan(peer.place), long * scale, short * scale, -direction, 0, 2 * Math.PI);
  context.fillStyle = own;
  context.strokeStyle = own;
  context.lineWidth = 1.5;
  context.globalAlpha = 0.2;
  context.fill();
  context.globalAlpha = 0.9;
  context.stroke();
  context.globalAlpha = 1;
}

const sizeOf = (scale) => Math.max(10, Math.min(0.15 * scale, 18)); // px

// An arrowhead that points where the robot does.
function drawRobot(context, robot, onPlan, scale, own, isFilled) {
  const [u, v] = onPlan(robot.place);
  const [x, z] = robot.heading;
  const size = sizeOf(scale);
  context.save();
  context.translate(u, v);
  context.rotate(Math.atan2(x, z));
  context.beginPath();
  context.moveTo(0, -size);
  context.lineTo(0.62 * size, 0.75 * size);
  context.lineTo(0, 0.4 * size);
  context.lineTo(-0.62 * size, 0.75 * size);
  context.closePath();
  context.fillStyle = context.strokeStyle = own;
  context.lineWidth = 2;
  if (isFilled) context.fill();
  else context.stroke();
  context.restore();
}

// Beside the place, where ellipses, which mostly point at the camera, leave room.
function drawText(context, text, [u, v], aside, width, colour) {
  context.font = "600 13px system-ui, sans-serif";
  const isRight = u + aside + context.measureText(text).width < width - 6;
  const at = isRight ? u + aside : u - aside;
  context.textAlign = isRight ? "left" : "right";
  context.lineWidth = 4;
  context.strokeStyle = colour("sunk");
  context.strokeText(text, at, v + 4);
  context.fillStyle = colour("text");
  context.fillText(text, at, v + 4);
}

function line(context, from, to) {
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
}

window.addEventListener("resize", () => { if (state !== null) drawMap(state); });
connect();
