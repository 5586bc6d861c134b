{# One photo with its boxes and its slices, as JSON of view.py, for report and review. Every text is put in as text. #}
const HUES = ["--blue", "--teal", "--orange", "--violet", "--rose", "--green"];
const STAGE_HEIGHT = 300, TILE_HEIGHT = 192, MANY = 4;
const hue = level => `var(${HUES[level % HUES.length]})`;

function make(tag, text, attributes) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  return element;
}
// The part [x0, y0, x1, y1] of a picture of the size `whole`, however large either is shown.
function cropped(address, whole, [x0, y0, x1, y1], height = TILE_HEIGHT) {
  const frame = make("div", "", { class: "crop" }), image = make("img", "", { alt: "", loading: "lazy", draggable: "false" });
  const w = x1 - x0, h = y1 - y0;
  frame.style.width = `min(100%, ${height * w / h}px)`;
  frame.style.aspectRatio = `${w} / ${h}`;
  image.style.width = `${100 * whole[0] / w}%`;
  image.style.height = `${100 * whole[1] / h}%`;
  image.style.left = `${-100 * x0 / w}%`;
  image.style.top = `${-100 * y0 / h}%`;
  image.src = address;
  frame.append(image);
  return frame;
}
function placed(element, [x0, y0, x1, y1], [w, h]) {
  element.style.left = `${100 * x0 / w}%`;
  element.style.top = `${100 * y0 / h}%`;
  element.style.width = `${100 * (x1 - x0) / w}%`;
  element.style.height = `${100 * (y1 - y0) / h}%`;
  return element;
}
// boxes: pieces with box and level. Returns the stage; `stage.boxes` are its elements in the same order.
function makeStage(photo, address, boxes, height = STAGE_HEIGHT) {
  const stage = make("figure", "", { class: "stage" }), [w, h] = photo.size;
  stage.style.width = `min(100%, ${height * w / h}px)`;
  stage.style.aspectRatio = `${w} / ${h}`;
  const image = make("img", "", { alt: photo.source, loading: "lazy", draggable: "false" });
  image.src = address;
  stage.boxes = boxes.map(piece => {
    const box = make("div", "", { class: `box ${piece.state || ""}` });
    box.style.setProperty("--c", hue(piece.level));
    return placed(box, piece.box, photo.size);
  });
  stage.append(image, ...stage.boxes);
  return stage;
}
// What is said below a slice: size, enlargement, what found it.
function facts(slice) {
  const line = make("p", "", { class: "facts" }), scale = slice.scale || 1;
  line.append(make("b", `${slice.out[0]}×${slice.out[1]}`), " ");
  if (scale > 1) line.append(make("em", `×${scale.toFixed(2)} enlarged`), " ");
  if (slice.frames > 1) line.append(`${slice.frames} frames, ${(slice.frames / slice.fps).toFixed(1)} s from ${slice.start.toFixed(1)} s `);
  else if (slice.frames) line.append(`at ${slice.start.toFixed(1)} s `);
  if (slice.label) line.append(`${slice.label}${slice.score === undefined || slice.by === "review" ? "" : " " + slice.score.toFixed(2)}`);
  line.title = `${slice.box[2] - slice.box[0]}×${slice.box[3] - slice.box[1]} pixels of the photo, ` +
    (scale > 1 ? "enlarged" : scale < 1 ? "reduced" : "as they are") + (slice.enlarger ? ` by ${slice.enlarger}` : "") + (slice.by ? `; found by ${slice.by}, ${slice.score.toFixed(2)}` : "");
  return line;
}
// options: levels; address(file); draw: {slice(element, piece), discard(element, piece)}, what a page adds to each.
// The card has `stage` and `slices`, the elements in the order of photo.slices.
function makeCard(photo, options) {
  const { levels, address, draw = {} } = options, card = make("article", "", { class: "photo card" });
  const pieces = [...photo.slices, ...photo.discards.map(piece => ({ ...piece, state: "discarded" }))];
  const head = make("header"), kept = photo.slices.filter(slice => slice.state !== "rejected");
  const present = new Set(kept.map(slice => slice.level));
  head.append(make("b", photo.source), make("small", photo.size ? `${photo.size[0]}×${photo.size[1]}` : ""));
  if (kept.length) head.append(make("small", `K = ${present.size}`));
  if (photo.lost) head.append(make("small", `left out, ${photo.lost}`, { class: "warn" }));
  for (const note of photo.notes || []) head.append(make("small", note));
  card.append(head);
  const sheet = make("div", "", { class: "sheet" });
  const picture = photo.picture ? address(photo.picture) : photo.large && photo.size && address(photo.large);
  if (picture) {
    card.stage = makeStage(photo, picture, pieces);
    const column = make("div");
    column.append(card.stage);
    sheet.append(column);
  }
  const texts = new Set(kept.map(slice => slice.caption)), shared = texts.size === 1 && !options.captions;
  const columns = make("div", "", { class: "levels" });
  const shows = photo.shows || levels.map((_, level) => level);
  columns.style.setProperty("--n", shows.length);
  if (shows.length > MANY) columns.classList.add("many");
  card.slices = [];
  shows.forEach(level => {
    const name = levels[level], column = make("section", "", { class: "level" }), title = make("h4"), own = photo.slices.filter(slice => slice.level === level);
    column.style.setProperty("--c", hue(level));
    title.append(make("i"), name);
    column.append(title);
    if (!own.length) column.append(make("p", "none", { class: "none" }));
    for (const slice of own) {
      const element = make(options.links && slice.file ? "a" : "div", "", { class: `slice ${slice.state || ""}` });
      if (options.links && slice.file) element.setAttribute("href", address(slice.file));
      const tile = slice.tile ? cropped(address(slice.tile.picture), slice.tile.whole, slice.tile.box) : picture ? cropped(address(photo.large || photo.picture), photo.size, slice.box) : make("div", "", { class: "crop" });
      element.append(tile, facts(slice));
      if (!shared) element.append(caption(slice.caption, photo.guessed && !slice.written));
      if (draw.slice) draw.slice(element, slice);
      card.slices[photo.slices.indexOf(slice)] = element;
      lights(element, card, pieces.indexOf(slice));
      column.append(element);
    }
    if (draw.level) draw.level(column, level);
    columns.append(column);
  });
  sheet.append(columns);
  card.append(sheet);
  if (shared && kept.length) {
    const line = caption(kept[0].caption, photo.guessed);
    if (photo.guessed) line.append(make("small", " (no caption: words of a name)"));
    card.append(line);
  }
  if (photo.discards.length) card.append(discardList(photo, card, levels, draw));
  return card;
}
const caption = (words, guessed) => make("p", words, guessed ? { class: "caption guessed", title: "no caption: words of a name" } : { class: "caption" });
function discardList(photo, card, levels, draw) {
  const counts = {}, details = make("details", "", { class: "discards" }), list = make("ul");
  for (const { kind } of photo.discards) counts[kind] = (counts[kind] || 0) + 1;
  details.append(make("summary", `left out: ${Object.entries(counts).map(([kind, count]) => `${count} ${kind}`).join(", ")}`));
  photo.discards.forEach((piece, i) => {
    const line = make("li");
    line.append(make("b", `${levels[piece.level]} ${piece.label || ""}`.trim()), ` ${piece.kind}${piece.why ? ": " + piece.why : ""}`);
    if (draw.discard) draw.discard(line, piece);
    lights(line, card, photo.slices.length + i);
    list.append(line);
  });
  details.append(list);
  return details;
}
// Whoever points at a slice sees where it is.
function lights(element, card, number) {
  if (!card.stage) return;
  for (const [event, on] of [["pointerenter", true], ["pointerleave", false]])
    element.addEventListener(event, () => card.stage.boxes[number].classList.toggle("lit", on));
}
