{# The page's own script: photos as one scrolls, keys, boxes, and a queue of decisions that loses none. #}
const $ = id => document.getElementById(id);
const AT_ONCE = 12, NEAR = "1400px 0px", LEAST = 24, PATIENCE = 1500;
let roots = [], holders = new Map(), views = new Map(), current = "", chosen = "", adding = null, run = "", count = 0;
let dragging = null, nudged = null;  // boxes that are being changed, by mouse and by keys
let wished = null;  // the level that j and k stay at
const made = [];  // what this tab has decided, for undo: lists of ids

// ---------- the command at the other end
async function ask(name, body) {
  const reply = await fetch(name, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const content = await reply.json();
  if (!reply.ok) throw Object.assign(new Error(content.error), { status: reply.status });
  if (run && content.run !== run) setTimeout(refilter);
  run = content.run;
  return content;
}
let saying = 0;
function say(words, bad = false, stays = false) {
  clearTimeout(saying);
  ($("large").open ? $("large") : document.body).append($("trouble"));  // in front of the dialog
  $("trouble").textContent = words; $("trouble").hidden = !words; $("trouble").className = bad ? "bad" : "";
  if (words && !stays) saying = setTimeout(() => say(""), 5000);
}
// Decisions are sent one after the other. One that the command does not answer is sent again until it does; its id
// makes that the same decision, should the command have kept it and ended before it could say so.
const waiting = [];
let sending = false;
function decide(name, body) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(6)), byte => byte.toString(16).padStart(2, "0")).join("");
  return new Promise((done, failed) => { waiting.push({ name, body: { ...body, as: id }, done, failed }); send(); });
}
async function send() {
  if (sending) return;
  sending = true;
  while (waiting.length) {
    const first = waiting[0];
    $("saved").textContent = "saving …";
    try {
      const reply = await ask(first.name, first.body);
      waiting.shift();
      say("");
      first.done(reply);
    } catch (error) {
      if (!error.status) {
        say(`Not saved: ${waiting.length} decision${waiting.length > 1 ? "s" : ""}. The command does not answer: start it again, and leave this page open; they are sent then.`, true, true);
        await new Promise(later => setTimeout(later, PATIENCE));
        continue;
      }
      waiting.shift();
      say(error.message, true);
      first.failed(error);
    }
  }
  sending = false;
  $("saved").textContent = "saved";
  setTimeout(tell, 300);
}
addEventListener("beforeunload", event => { if (waiting.length || document.querySelector(".slice form")) event.preventDefault(); });

// ---------- which photos, and their cards as one scrolls
async function refilter() {
  const found = await ask("list", { show: $("which").value, find: $("find").value }).catch(error => say(error.message, true));
  if (!found) return;
  roots = found.roots;
  views.clear(); holders.clear();
  const old = [...$("photos").children];
  for (const holder of old) near.unobserve(holder);
  $("photos").replaceChildren(...roots.map(root => {
    const holder = make("div", "", { class: "holder" });
    holder.root = root;
    holder.style.height = "430px";
    holders.set(root, holder);
    near.observe(holder);
    return holder;
  }));
  $("empty").hidden = roots.length > 0;
  count = found.count;
  told(found);
  if (!roots.includes(current)) { current = roots[0] || ""; chosen = ""; }
  where();
}
async function tell() {
  if (waiting.length) return;
  told(await ask("list", { show: "waiting", find: "" }).catch(() => null));
}
function told(found) {
  if (!found) return;
  $("next").hidden = !found.waiting;
  $("next").firstElementChild.textContent = `${found.waiting} photo${found.waiting === 1 ? " waits" : "s wait"} for the next run:`;
  $("next").querySelector("code").textContent = ABOUT.command;
}
function where() {
  const place = roots.indexOf(current);
  $("where").textContent = roots.length ? `${place + 1} of ${roots.length}` : "0";
}
const wanted = new Set();
const near = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting && !target.card) want(target.root);
    else if (!isIntersecting && target.card && target.root !== current && !target.querySelector("form")) empty(target);
  }
}, { rootMargin: NEAR });
function empty(holder) {
  holder.style.height = `${holder.offsetHeight}px`;
  holder.replaceChildren();
  holder.card = null;
  views.delete(holder.root);
}
function want(root) {
  if (!wanted.size) setTimeout(bring, 15);
  wanted.add(root);
}
async function bring() {
  const batch = [...wanted].slice(0, AT_ONCE);
  batch.forEach(root => wanted.delete(root));
  try {
    for (const photo of (await ask("photos", { roots: batch })).photos) fill(photo);
  } catch (error) {
    say(error.status ? error.message : "The command does not answer: start it again, and leave this page open.", true);
    setTimeout(() => batch.forEach(want), PATIENCE);
  }
  if (wanted.size) setTimeout(bring);
}
function fill(photo) {
  const holder = holders.get(photo.root);
  // What a person is in the middle of stays; the card is filled anew when that is done.
  if (!holder || holder.querySelector("form") || [dragging, nudged].some(edit => edit?.photo.root === photo.root)) return;
  if (!ABOUT.photos) photo.large = photo.picture;
  views.set(photo.root, photo);
  const card = makeCard(photo, {
    levels: ABOUT.levels, address: file => file, captions: true,
    draw: { slice: (element, piece) => drawSlice(element, piece, photo), discard: (line, piece) => drawDiscard(line, piece, photo), level: (column, level) => drawLevel(column, level, photo) },
  });
  card.classList.toggle("rejected", photo.rejected);
  const tools = make("span", "", { class: "tools" }), enlarge = make("button", "Enlarge", { title: "Enter" }), whole = make("button", photo.rejected ? "Photo is rejected: restore" : "Reject photo", { title: "X" });
  enlarge.onclick = () => { choose(photo.root); openLarge(); };
  whole.onclick = () => { choose(photo.root); rejectPhoto(); };
  tools.append(enlarge, whole);
  card.querySelector("header").append(tools);
  card.addEventListener("pointerdown", () => { if (current !== photo.root) choose(photo.root); });
  if (card.stage) editable(card.stage, photo);
  holder.card = card;
  holder.style.height = "";
  holder.replaceChildren(card);
  if (photo.root === current) mark();
  if ($("large").open && photo.root === current) showLarge();
}
const STATES = { rejected: "✕ rejected", kept: "✓ kept", moved: "✓ box drawn", added: "✓ box added" };
function drawSlice(element, piece, photo) {
  element.dataset.key = piece.key;
  const state = make("p", STATES[piece.state] || "", { class: "state" }), acts = make("div", "", { class: "acts" });
  if (piece.waiting) state.append(make("small", `${piece.state ? ", " : ""}${piece.state === "rejected" ? "goes" : "changes"} at the next run`));
  element.querySelector(".facts").after(state);
  const button = (words, key, pressed, action) => {
    const one = make("button", words, { title: key, ...(pressed === null ? {} : { "aria-pressed": String(pressed) }) });
    one.onclick = event => { event.stopPropagation(); choose(photo.root, piece.key); action(); };
    acts.append(one);
  };
  button("Keep", "y", ["kept", "moved", "added"].includes(piece.state), keep);
  button("Reject", "x", piece.state === "rejected", toggle);
  button("Caption", "e", null, editCaption);
  element.append(acts);
  element.onclick = () => choose(photo.root, piece.key);
}
function drawDiscard(line, piece, photo) {
  if (!piece.key) return;
  const take = make("button", "Take it");
  take.onclick = () => { choose(photo.root); about({ do: "keep", key: piece.key }); };
  line.append(" ", take);
}
function drawLevel(column, level, photo) {
  if (!photo.size) return;
  const add = make("button", "+", { title: "a", "aria-label": `Add a ${ABOUT.levels[level]} box` });
  add.append(make("span", " box"));
  add.onclick = () => { choose(photo.root); startAdding(level); };
  column.querySelector("h4").append(add);
}

// ---------- what is chosen
const photo = () => views.get(current);
const slice = () => photo()?.slices.find(one => one.key === chosen);
function choose(root, key = "") {
  if (root !== current) stopAdding();
  current = root;
  chosen = key;
  mark();
  where();
}
function mark() {
  document.querySelectorAll(".photo.current, .slice.selected, .box.selected").forEach(one => one.classList.remove("current", "selected"));
  document.querySelectorAll(".grip").forEach(one => one.remove());
  const card = holders.get(current)?.card, shown = photo();
  if (!card || !shown) return;
  card.classList.add("current");
  let number = shown.slices.findIndex(one => one.key === chosen);
  if (number < 0) number = shown.slices.findIndex(one => one.level === wished);
  chosen = shown.slices[number]?.key || "";
  if (!chosen) return;
  card.slices[number].classList.add("selected");
  for (const stage of stages()) gripped(stage.boxes[number]);
}
const stages = () => [holders.get(current)?.card?.stage, $("large").open && $("large").stage].filter(Boolean);
function gripped(box) {
  box.classList.add("selected");
  for (const [x, y, cursor] of [[0, 0, "nwse"], [.5, 0, "ns"], [1, 0, "nesw"], [0, .5, "ew"], [1, .5, "ew"], [0, 1, "nesw"], [.5, 1, "ns"], [1, 1, "nwse"]]) {
    const grip = make("i", "", { class: "grip" });
    grip.style.left = `${100 * x}%`; grip.style.top = `${100 * y}%`; grip.style.cursor = `${cursor}-resize`;
    grip.edges = [x, y];
    box.append(grip);
  }
}
function step(by) {
  commit();
  const place = Math.min(roots.length - 1, Math.max(0, roots.indexOf(current) + by));
  if (!roots.length) return;
  choose(roots[place]);
  const holder = holders.get(current);
  if (!holder.card) want(current);
  holder.scrollIntoView({ block: "start" });
}
function chooseLevel(level) {
  const own = photo()?.slices.filter(one => one.level === level) || [];
  if (!own.length) return;
  wished = level;
  choose(current, own[(own.findIndex(one => one.key === chosen) + 1) % own.length].key);
}

// ---------- decisions
async function about(body, root = current) {
  const reply = await decide("decide", { root, ...body }).catch(error => { if (error.status === 409) refresh([root]); return null; });
  if (!reply) return null;
  count = reply.count;
  if (reply.id) made.push([reply.id]);
  const before = new Set(views.get(root)?.slices.map(one => one.key));
  fill(reply.photo);
  const added = reply.photo.slices.find(one => !before.has(one.key));
  if (root === current && added && body.do !== "restore") choose(root, added.key);
  return reply;
}
function toggle() { const one = slice(); if (one && !photo().rejected) about({ do: one.state === "rejected" ? "restore" : "reject", key: chosen }); }
function keep() { if (slice() && !photo().rejected) about({ do: "keep", key: chosen }); }
function rejectPhoto() { if (photo()) about({ do: photo().rejected ? "restore photo" : "reject photo" }); }
async function undo() {
  const ids = made.pop();
  for (const id of ids ? ids.reverse() : [null]) {
    const reply = await decide("undo", id ? { id } : {}).catch(() => null);
    if (!reply) return;
    count = reply.count;
    await refresh(reply.roots);
    if (reply.roots.length && !reply.roots.includes(current) && holders.has(reply.roots[0])) {
      choose(reply.roots[0]);
      holders.get(current).scrollIntoView({ block: "nearest" });
    }
  }
}
async function refresh(some) {
  const shown = some.filter(root => holders.get(root)?.card);
  for (let i = 0; i < shown.length; i += AT_ONCE) (await ask("photos", { roots: shown.slice(i, i + AT_ONCE) })).photos.forEach(fill);
}
// What another window has decided.
async function news() {
  const busy = () => document.hidden || waiting.length || dragging || nudged;
  if (busy()) return;
  const seen = count, found = await ask("news", { seen }).catch(() => null);
  if (!found || busy() || seen !== count || found.count === seen) return;
  count = found.count;
  await refresh(found.roots);
  tell();
}
addEventListener("focus", news);
setInterval(news, 3000);

function editCaption() {
  const one = slice(), element = holders.get(current)?.card?.slices[photo().slices.indexOf(one)];
  if (!one || element.querySelector("form")) return;
  const form = make("form"), field = make("textarea", "", { "aria-label": "Caption" }), all = make("input", "", { type: "checkbox" }), label = make("label"), save = make("button", "Save", { title: "Ctrl+Enter" }), cancel = make("button", "Cancel", { title: "Esc", type: "button" });
  field.value = one.caption;
  label.append(all, " all slices of this photo");
  form.append(field, label, save, " ", cancel);
  const old = element.querySelector(".caption"), root = current, key = chosen;
  const close = () => { form.remove(); old.hidden = false; };
  form.onclick = event => event.stopPropagation();
  cancel.onclick = () => { close(); refresh([root]); };
  field.onkeydown = event => {
    event.stopPropagation();
    if (event.key === "Escape") cancel.click();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  };
  form.onsubmit = async event => {
    event.preventDefault();
    save.disabled = true;
    const keys = all.checked ? views.get(root).slices.filter(piece => piece.state !== "rejected").map(piece => piece.key) : [key], ids = [];
    for (const each of keys) {
      const reply = await decide("decide", { root, do: "caption", key: each, caption: field.value }).catch(() => null);
      if (!reply) { save.disabled = false; return; }
      count = reply.count;
      ids.push(reply.id);
    }
    made.push(ids);
    close();
    await refresh([root]);
  };
  old.hidden = true;
  old.after(form);
  field.focus();
}

// ---------- boxes. Edges are whole pixels of the photo; what they give is asked of the code that cuts.
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
function pointIn(stage, event, [w, h]) {
  const area = stage.getBoundingClientRect();
  return [clamp(Math.round((event.clientX - area.left) / area.width * w), 0, w), clamp(Math.round((event.clientY - area.top) / area.height * h), 0, h)];
}
function editable(stage, shown) {
  stage.addEventListener("pointerdown", event => {
    if (event.button || shown.rejected) return;
    commit();
    if (shown.root !== current) choose(shown.root);
    const grip = event.target.closest(".grip"), box = event.target.closest(".box"), start = pointIn(stage, event, shown.size);
    if (adding !== null) dragging = { kind: "draw", level: adding, from: [...start, ...start] };
    else if (box) {
      const piece = shown.slices[stage.boxes.indexOf(box)];
      if (!piece) return;
      if (chosen !== piece.key) choose(shown.root, piece.key);
      dragging = { kind: grip ? "size" : "move", edges: grip?.edges, piece, level: piece.level, from: piece.box };
    } else return;
    Object.assign(dragging, { stage, photo: shown, start, moved: false });
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", event => { if (dragging?.stage === stage) drag(pointIn(stage, event, shown.size), event); });
  stage.addEventListener("pointerup", () => { if (dragging?.stage === stage) drop(); });
  stage.addEventListener("pointercancel", () => { if (dragging?.stage === stage) cancel(); });
  stage.addEventListener("dblclick", () => { if (adding === null) openLarge(); });
}
function drag(point, event) {
  const { kind, start, from, edges, photo: { size: [w, h] } } = dragging, dx = point[0] - start[0], dy = point[1] - start[1];
  if (!dragging.moved && Math.hypot(dx, dy) < Math.max(w, h) / 150) return;
  dragging.moved = true;
  if (kind === "move") dragging.box = movedBy(from, dx, dy, [w, h]);
  else if (kind === "draw") dragging.box = [Math.min(start[0], point[0]), Math.min(start[1], point[1]), Math.max(start[0], point[0]), Math.max(start[1], point[1])];
  else {
    let [x0, y0, x1, y1] = from;
    if (edges[0] === 0) x0 = clamp(x0 + dx, 0, x1 - LEAST);
    if (edges[0] === 1) x1 = clamp(x1 + dx, x0 + LEAST, w);
    if (edges[1] === 0) y0 = clamp(y0 + dy, 0, y1 - LEAST);
    if (edges[1] === 1) y1 = clamp(y1 + dy, y0 + LEAST, h);
    dragging.box = [x0, y0, x1, y1];
  }
  if (dragging.box[2] - dragging.box[0] < 2 || dragging.box[3] - dragging.box[1] < 2) { dragging.box = null; return; }
  event?.preventDefault();
  preview(dragging);
}
function movedBy([x0, y0, x1, y1], dx, dy, [w, h]) {
  dx = clamp(dx, -x0, w - x1);
  dy = clamp(dy, -y0, h - y1);
  return [x0 + dx, y0 + dy, x1 + dx, y1 + dy];
}
// What a box asks for: of one that is only moved the size stays.
const asked = ({ kind, box, level, piece }) => ({ level: ABOUT.levels[level], box, ...(piece ? { key: piece.key } : {}), ...(kind === "move" && piece ? { size: piece.out } : {}) });
// One question at a time; the newest box is asked about next.
let asking = false;
async function preview(edit) {
  draw(edit);
  if (asking) return;
  asking = true;
  while (edit.asked !== edit.box && edit.box) {
    edit.asked = edit.box;
    edit.cut = await ask("cut", { root: edit.photo.root, ...asked(edit) }).catch(error => ({ why: error.message || "the command does not answer" }));
    if (edit.over) break;
    draw(edit);
  }
  asking = false;
}
function draw(edit) {
  const { stage, photo: { size }, level, cut, piece } = edit;
  if (edit.over) return;
  if (!edit.shown) {
    edit.shown = make("div", "", { class: "clip" }); edit.drawn = make("div", "", { class: "drawn" }); edit.frame = make("div", "", { class: "frame" }); edit.told = make("p", "", { class: "told" });
    edit.frame.style.setProperty("--c", hue(level));
    edit.shown.append(edit.frame, edit.drawn);
    stage.append(edit.shown, edit.told);
    if (piece) stage.boxes[edit.photo.slices.indexOf(piece)]?.classList.add("hidden");
  }
  placed(edit.drawn, edit.box, size);
  placed(edit.frame, cut?.box || edit.box, size);
  edit.frame.classList.toggle("refused", Boolean(cut?.why));
  edit.told.textContent = !cut ? "…" : cut.why || `${cut.out[0]}×${cut.out[1]}${cut.scale > 1 ? `, enlarged ×${cut.scale.toFixed(2)}` : cut.scale < 1 ? `, reduced ×${cut.scale.toFixed(2)}` : ", pixel by pixel"}`;
}
function done(edit) {
  edit.over = true;
  edit.shown?.remove(); edit.told?.remove();
  if (edit.piece) edit.stage.boxes[edit.photo.slices.indexOf(edit.piece)]?.classList.remove("hidden");
}
async function drop() {
  const edit = dragging;
  dragging = null;
  if (edit.moved && edit.box) await place(edit);
  else if (edit.shown || edit.kind === "draw") done(edit);
}
async function place(edit) {
  await about({ do: edit.piece ? "place" : "add", ...asked(edit) }, edit.photo.root);
  done(edit);
  if (!edit.piece) stopAdding();
}
function cancel() {
  if (dragging) done(dragging);
  if (nudged) { clearTimeout(nudged.timer); done(nudged); }
  dragging = nudged = null;
  stopAdding();
}
function startAdding(level) {
  if (!photo()?.size || photo().rejected) return;
  adding = level;
  stages().forEach(stage => stage.classList.add("adding"));
  say(`Draw a ${ABOUT.levels[level]} box on the photo, or press Enter for one in the middle. Esc: none.`);
}
function stopAdding() {
  if (adding !== null) say("");
  adding = null;
  document.querySelectorAll(".stage.adding").forEach(stage => stage.classList.remove("adding"));
}
function addInTheMiddle() {
  const { root, size: [w, h] } = photo(), share = .5 / (adding + 1) + .1;
  const box = [.5 - share / 2, .5 - share / 2, .5 + share / 2, .5 + share / 2].map((edge, i) => Math.round(edge * (i % 2 ? h : w)));
  const level = ABOUT.levels[adding];
  stopAdding();
  about({ do: "add", level, box }, root);
}
// Boxes by keys: one decision when the keys have rested.
function nudge(dx, dy, grow = 0) {
  const one = slice();
  if (!one || photo().rejected || dragging) return;
  const stage = stages().at(-1), size = photo().size;
  if (nudged?.piece.key !== one.key) commit();
  nudged ||= { kind: "move", level: one.level, piece: one, photo: photo(), stage, box: one.box };
  const [x0, y0, x1, y1] = nudged.box, unit = Math.max(...size) / 100;
  if (grow) {
    const gx = Math.round((x1 - x0) * grow / 2), gy = Math.round((y1 - y0) * grow / 2);
    if (x1 - x0 + 2 * gx < LEAST || y1 - y0 + 2 * gy < LEAST) return;
    nudged.box = [Math.max(0, x0 - gx), Math.max(0, y0 - gy), Math.min(size[0], x1 + gx), Math.min(size[1], y1 + gy)];
    nudged.kind = "size";
  } else nudged.box = movedBy(nudged.box, Math.round(dx * unit) || dx, Math.round(dy * unit) || dy, size);
  preview(nudged);
  clearTimeout(nudged.timer);
  nudged.timer = setTimeout(commit, 700);
}
function commit() {
  if (!nudged) return;
  clearTimeout(nudged.timer);
  const edit = nudged;
  nudged = null;
  place(edit);
}

// ---------- the photo in large
function openLarge() {
  if (!photo()?.size) return;
  if (!$("large").open) $("large").showModal();
  showLarge();
}
function showLarge() {
  const shown = photo(), [w, h] = shown.size, height = Math.min(innerHeight * .96 - 90, (innerWidth * .96 - 30) * h / w);
  $("large").querySelector("b").textContent = shown.source;
  $("large").querySelector("span").textContent = "1 2 3 choose, drag, a adds, x rejects, Esc closes";
  const stage = makeStage(shown, shown.large || shown.picture, shown.slices, height);
  stage.style.width = `${height * w / h}px`;
  $("large").stage = stage;
  $("large").querySelector("div").replaceChildren(stage);
  if (adding !== null) stage.classList.add("adding");
  editable(stage, shown);
  mark();
}
$("large").querySelector("button").onclick = () => $("large").close();
$("large").addEventListener("close", () => { commit(); stopAdding(); });

// ---------- keys and buttons
const KEYS = {
  j: () => step(1), k: () => step(-1), x: toggle, y: keep, e: editCaption, u: undo, X: rejectPhoto,
  a: () => startAdding(slice()?.level ?? ABOUT.levels.length - 1),
  Enter: () => (adding !== null ? addInTheMiddle() : openLarge()),
  Escape: cancel, "?": () => $("help").showModal(), "/": () => $("find").focus(),
  "+": () => nudge(0, 0, .06), "=": () => nudge(0, 0, .06), "-": () => nudge(0, 0, -.06),
};
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
addEventListener("keydown", event => {
  if ($("help").open && event.key === "Escape") $("help").close();
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const typing = event.target.closest("input, textarea, select"), onButton = event.target.closest("button, summary");
  if (typing) { if (event.key === "Escape") typing.blur(); return; }
  if (onButton && (event.key === "Enter" || event.key === " ")) return;
  const digit = Number(event.key), arrow = ARROWS[event.key];
  if (digit >= 1 && digit <= ABOUT.levels.length) { commit(); chooseLevel(digit - 1); }
  else if (arrow && slice()) nudge(...arrow.map(way => way * (event.shiftKey ? .2 : 1)));
  else if (event.key === "Escape" && $("large").open && !dragging && !nudged && adding === null) $("large").close();
  else if (KEYS[event.key]) { if (!"+=-".includes(event.key) && event.key !== "Escape") commit(); KEYS[event.key](); }
  else return;
  event.preventDefault();
});
let typed = 0;
$("find").oninput = () => { clearTimeout(typed); typed = setTimeout(refilter, 250); };
$("which").onchange = () => { $("which").blur(); refilter(); scrollTo(0, 0); };
$("undo").onclick = event => { event.currentTarget.blur(); undo(); };
$("keys").onclick = () => $("help").showModal();
$("next").querySelector("button").onclick = () => navigator.clipboard.writeText(ABOUT.command).then(() => say("Copied."), () => say("Select it and copy it."));
refilter();
