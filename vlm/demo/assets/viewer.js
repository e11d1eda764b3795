// The map of reasons: words on top, the image below. One handler serves all cards, whatever is
// drawn anew: `element` is the component that holds the answers.
const FOR = [232, 93, 4];
const AGAINST = [29, 111, 220];

const parts = (box) => {
  if (!box.vlm) {
    box.vlm = { data: JSON.parse(box.dataset.map), pinned: -1, cell: -1 };
  }
  return box.vlm;
};

const draw = (box, word) => {
  const { data, cell } = parts(box);
  const canvas = box.querySelector("canvas");
  const pen = canvas.getContext("2d");
  const { width, height } = canvas;
  pen.clearRect(0, 0, width, height);
  const values = word >= 0 && data.words.length ? data.words[word] : data.all;
  data.boxes.forEach(([x0, y0, x1, y1], i) => {
    const strength = Math.abs(values[i]);
    if (strength < 0.02) return;
    const left = Math.round(x0 * width), top = Math.round(y0 * height);
    const right = Math.round(x1 * width), bottom = Math.round(y1 * height);
    pen.fillStyle = `rgba(${values[i] > 0 ? FOR : AGAINST},${0.72 * strength})`;
    pen.fillRect(left, top, right - left, bottom - top);
  });
  if (cell >= 0) {
    const [x0, y0, x1, y1] = data.boxes[cell];
    for (const [color, line] of [["#fff", 4], ["#111", 2]]) {
      pen.strokeStyle = color;
      pen.lineWidth = line * Math.max(1, width / 500);
      pen.strokeRect(x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height);
    }
  }
};

const say = (box, text) => {
  box.querySelector(".vlm-says").textContent = text;
};

const press = (box, word) => {
  box.querySelectorAll(".vlm-word").forEach((button) => {
    button.setAttribute("aria-pressed", String(Number(button.dataset.word) === word));
  });
};

const tint = (box, shares) => {
  box.querySelectorAll(".vlm-word:not(.vlm-all)").forEach((button) => {
    const share = shares ? shares[Number(button.dataset.word)] : Number(button.dataset.relevance);
    const color = share > 0 ? FOR : AGAINST;
    button.style.setProperty("--tint", `rgba(${color},${0.55 * Math.abs(share)})`);
  });
};

const choose = (box, word) => {
  const state = parts(box);
  state.pinned = word;
  state.cell = -1;
  press(box, word);
  tint(box, null);
  draw(box, word);
  const { data } = state;
  if (word < 0) say(box, "The colours show what decided. Choose a word, or a place in the image.");
  else if (data.words.length) say(box, `What “${data.texts[word]}” draws from the image.`);
  else say(box, "This method has one map for the whole question.");
};

const point = (box, cell) => {
  const state = parts(box);
  const { data } = state;
  state.cell = cell;
  draw(box, state.pinned);
  if (cell < 0) return choose(box, state.pinned);
  if (!data.words.length) return say(box, "This method has one map for the whole question.");
  const here = data.words.map((values) => values[cell]);
  const strongest = Math.max(...here.map(Math.abs));
  if (!here.length || strongest < 0.02) {
    tint(box, here.map(() => 0));
    return say(box, "No word draws on this place.");
  }
  tint(box, here.map((value) => value / strongest));
  const best = here.map(Math.abs).indexOf(strongest);
  say(box, `Here “${data.texts[best]}” matters most.`);
};

const cellAt = (box, event) => {
  const area = box.querySelector(".vlm-map").getBoundingClientRect();
  const x = (event.clientX - area.left) / area.width;
  const y = (event.clientY - area.top) / area.height;
  return parts(box).data.boxes.findIndex(
    ([x0, y0, x1, y1]) => x0 <= x && x < x1 && y0 <= y && y < y1,
  );
};

const within = (event, selector) => event.target.closest && event.target.closest(selector);

element.addEventListener("click", (event) => {
  const box = within(event, ".vlm-reasons");
  if (!box) return;
  const word = within(event, ".vlm-word");
  if (word) choose(box, Number(word.dataset.word));
  else if (within(event, ".vlm-map")) point(box, cellAt(box, event));
});

const preview = (show) => (event) => {
  const word = within(event, ".vlm-word");
  const box = word && word.closest(".vlm-reasons");
  if (box) draw(box, show ? Number(word.dataset.word) : parts(box).pinned);
};

for (const kind of ["pointerover", "focusin"]) element.addEventListener(kind, preview(true));
for (const kind of ["pointerout", "focusout"]) element.addEventListener(kind, preview(false));

element.addEventListener("keydown", (event) => {
  const box = within(event, ".vlm-reasons");
  if (!box) return;
  if (event.key === "Escape") return choose(box, -1);
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const step = steps[event.key];
  const { data, cell } = parts(box);
  if (!step || !within(event, ".vlm-map")) return;
  event.preventDefault();
  const [rows, columns] = data.grid || [1, data.boxes.length];
  const row = cell < 0 ? Math.floor(rows / 2) : Math.floor(cell / columns) + step[1];
  const column = cell < 0 ? Math.floor(columns / 2) : (cell % columns) + step[0];
  if (row < 0 || row >= rows || column < 0 || column >= columns) return;
  point(box, row * columns + column);
});

const begin = () => element.querySelectorAll(".vlm-reasons").forEach((box) => choose(box, -1));
watch("value", begin);
begin();
