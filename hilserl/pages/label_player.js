// An episode's pictures, its timeline, and the keys. Moving through the pictures happens here; what is said of
// them goes to the server as "press" events and comes back as `state`.
//
// view:  {name, frames, fps, cameras, url, start, serial}: pictures at `${url}/${camera}/${frame}`; a new serial
//        moves the cursor to `start`
// state: {ranges, label, exclude, pending, ghost, scores, threshold, facts, answered}

const MARKS = { s: "start", e: "end", f: "to_end", x: "none", Backspace: "remove", Delete: "remove", q: "exclude", Enter: "accept" };
const MOVES = { n: "next", N: "following", p: "previous", r: "review", R: "review_back", u: "undo", U: "redo" };
const KEYS = [
  ["f", "success from here on"], ["x", "no success"], ["s", "first success frame"], ["e", "last success frame"],
  ["⏎", "accept proposal", "Enter"], ["⌫", "remove interval", "Backspace"], ["q", "exclude"], ["u", "undo"], ["⇧u", "redo", "U"],
  ["n", "next unlabelled"], ["p", "previous"], ["⇧n", "following", "N"], ["r", "next in review"],
];
const WORKERS = 4;
const THUMBS = 10;

export default {
  template: `
    <div class="player" :data-episode="view.name" :data-cursor="cursor" :data-shown="shown" :data-loaded="loaded"
         :data-answered="state.answered" :data-sent="sent">
      <div class="stage">
        <div class="pictures">
          <figure v-for="camera in view.cameras" :key="camera">
            <canvas :ref="'screen-' + camera" :data-camera="camera" width="640" height="480"></canvas>
            <figcaption v-if="view.cameras.length > 1">{{ camera }}</figcaption>
          </figure>
          <div class="verdict" :class="here.kind">{{ here.text }}</div>
          <div class="failed" v-if="failed">{{ failed }}</div>
        </div>
        <aside>
          <div class="counter"><b>{{ cursor }}</b><span>frame, of 0 to {{ last }}</span></div>
          <div class="clock">{{ (cursor / view.fps).toFixed(2) }} s<span v-if="playing"> ▶ {{ view.fps }} Hz</span></div>
          <h3>Label</h3>
          <div class="label" :class="state.label.kind">{{ state.label.text }}</div>
          <div class="note" v-if="state.label.by">by {{ state.label.by }}{{ stored }}</div>
          <div class="note pending" v-if="state.pending">{{ state.pending[0] === "start" ? "starts" : "ends" }} at frame
            {{ state.pending[1] }}: press {{ state.pending[0] === "start" ? "e at its last frame" : "s at its first frame" }}</div>
          <template v-if="state.ghost"><h3>Proposal</h3><div class="ghosted">{{ state.ghost.text }}</div>
            <div class="note">{{ state.ghost.why }}</div></template>
          <template v-if="score !== null"><h3>Classifier</h3>
            <div class="score"><i :style="{ width: 100 * score + '%' }"></i><b>{{ score.toFixed(2) }}</b></div></template>
          <template v-if="state.facts.length"><h3>Episode</h3>
            <dl><template v-for="[name, value] in state.facts"><dt>{{ name }}</dt><dd>{{ value }}</dd></template></dl></template>
        </aside>
      </div>
      <div class="film"><canvas v-for="(frame, i) in thumbs" :key="i" :ref="'thumb-' + i" width="112" height="84"
           @click="move(frame)" :title="'frame ' + frame"></canvas></div>
      <div class="strip" ref="strip" :class="state.label.kind" @pointerdown="grab" @pointermove="drag" @pointerup="drop">
        <div class="buffer" :style="{ width: (100 * loaded) / view.frames + '%' }"></div>
        <div v-for="range in state.ranges" class="range" :style="place(range)"></div>
        <template v-if="state.ghost"><div v-for="range in state.ghost.ranges" class="ghost" :style="place(range)"></div></template>
        <div v-if="state.pending" class="edge" :style="place([state.pending[1], state.pending[1] + 1])"></div>
        <svg v-if="state.scores" :viewBox="'0 0 ' + view.frames + ' 1'" preserveAspectRatio="none">
          <line x1="0" :x2="view.frames" :y1="1 - state.threshold" :y2="1 - state.threshold"/>
          <polyline :points="curve"/></svg>
        <div class="cursor" :style="place([cursor, cursor + 1])"></div>
        <div class="word" v-if="!state.ranges.length">{{ state.label.text }}</div>
      </div>
      <div class="axis"><span v-for="tick in ticks" :style="{ left: (100 * (tick + 0.5)) / view.frames + '%' }">{{ tick }}</span></div>
      <div class="keys">
        <button v-for="[face, text, key] in keys" @click="press(key || face)" tabindex="-1"><kbd>{{ face }}</kbd>{{ text }}</button>
        <span><kbd>←</kbd><kbd>→</kbd>1 frame</span><span><kbd>⇧←</kbd><kbd>⇧→</kbd>10</span><span><kbd>space</kbd>play</span>
      </div>
    </div>`,
  props: { view: Object, state: Object },
  data() {
    return { cursor: this.view.start, shown: -1, loaded: 0, playing: false, failed: "", sent: 0, leaving: 0, keys: KEYS };
  },
  computed: {
    last() { return this.view.frames - 1; },
    thumbs() {
      const count = Math.min(THUMBS, this.view.frames);
      return Array.from({ length: count }, (_, i) => Math.floor(((i + 0.5) * this.view.frames) / count));
    },
    here() {
      if (this.state.exclude) return { kind: "excluded", text: "excluded" };
      if (this.state.label.kind === "unlabelled") return { kind: "unlabelled", text: "not labelled" };
      const success = this.state.ranges.some(([a, b]) => a <= this.cursor && this.cursor < b);
      return success ? { kind: "success", text: "success" } : { kind: "none", text: "no success" };
    },
    stored() { return this.state.ranges.map(([first, end]) => `, stored [${first}, ${end})`).join(""); },
    score() { return this.state.scores ? this.state.scores[this.cursor] : null; },
    curve() { return this.state.scores.map((p, k) => `${k + 0.5},${1 - p}`).join(" "); },
    ticks() {
      const step = [5, 10, 20, 25, 50, 100, 200, 500, 1000].find((s) => this.view.frames / s <= 14) || 5000;
      return Array.from({ length: Math.floor(this.last / step) + 1 }, (_, i) => i * step);
    },
  },
  watch: {
    "view.serial"() { this.open(); },
    "view.name"() { this.load(); },
    cursor() { this.draw(); },
  },
  mounted() {
    this.listener = (event) => this.typed(event);
    document.addEventListener("keydown", this.listener);
    this.load();
  },
  unmounted() {
    document.removeEventListener("keydown", this.listener);
    this.load_number = -1;
  },
  methods: {
    place([first, end]) { return { left: (100 * first) / this.view.frames + "%", width: (100 * (end - first)) / this.view.frames + "%" }; },
    open() {
      this.playing = false;
      this.cursor = this.view.start;
    },
    load() {
      // A new episode: forget the old pictures, then fetch all of the new one, those at the cursor first.
      this.load_number = (this.load_number || 0) + 1;
      this.blobs = {};
      this.busy = {};
      this.loaded = 0;
      this.shown = -1;
      this.failed = "";
      this.open();
      history.replaceState(null, "", "?episode=" + encodeURIComponent(this.view.name));
      const load = this.load_number;
      let next = 0;
      const worker = async () => {
        while (next < this.view.frames && load === this.load_number) await this.fetched(next++);
      };
      for (let i = 0; i < WORKERS; i++) worker();
      this.draw();
    },
    fetched(frame) {
      // The pictures of a frame, {camera: Blob}, fetched once; null where they cannot be.
      if (this.busy[frame]) return this.busy[frame];
      const load = this.load_number;
      const one = async (camera) => {
        const answer = await fetch(`${this.view.url}/${encodeURIComponent(camera)}/${frame}`);
        if (!answer.ok) throw new Error(await answer.text());
        return [camera, await answer.blob()];
      };
      return (this.busy[frame] = Promise.all(this.view.cameras.map(one))
        .then((pairs) => {
          if (load !== this.load_number) return null;
          this.loaded += 1;
          const thumb = this.thumbs.indexOf(frame);
          const blobs = (this.blobs[frame] = Object.fromEntries(pairs));
          if (thumb >= 0) this.paint(this.$refs["thumb-" + thumb][0], blobs[this.view.cameras[0]], false);
          return blobs;
        })
        .catch((error) => {
          if (load === this.load_number) this.failed = `frame ${frame} cannot be shown: ${error.message}`;
          return null;
        }));
    },
    async paint(canvas, blob, resize) {
      const picture = await createImageBitmap(blob);
      if (resize) [canvas.width, canvas.height] = [picture.width, picture.height];
      canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
      picture.close();
    },
    async draw() {
      // One picture at a time, and then the one the cursor has come to meanwhile.
      if (this.drawing) return;
      this.drawing = true;
      while (this.shown !== this.cursor) {
        const [load, frame] = [this.load_number, this.cursor];
        const blobs = this.blobs[frame] || (await this.fetched(frame));
        if (load !== this.load_number) continue;
        if (!blobs) break;
        await Promise.all(this.view.cameras.map((c) => this.paint(this.$refs["screen-" + c][0], blobs[c], true)));
        if (load === this.load_number) this.shown = frame;
      }
      this.drawing = false;
    },
    move(frame) { this.cursor = Math.max(0, Math.min(this.last, frame)); },
    play() {
      this.playing = !this.playing;
      if (!this.playing) return;
      const from = this.cursor >= this.last ? 0 : this.cursor;
      const began = performance.now();
      const tick = () => {
        if (!this.playing) return;
        this.move(from + Math.floor(((performance.now() - began) / 1000) * this.view.fps));
        if (this.cursor >= this.last) this.playing = false;
        else requestAnimationFrame(tick);
      };
      tick();
    },
    grab(event) {
      this.$refs.strip.setPointerCapture(event.pointerId);
      this.held = true;
      this.drag(event);
    },
    drag(event) {
      if (!this.held) return;
      this.playing = false;
      const box = this.$refs.strip.getBoundingClientRect();
      this.move(Math.floor(((event.clientX - box.left) / box.width) * this.view.frames));
    },
    drop() { this.held = false; },
    typed(event) {
      if (event.target.closest("input, textarea, [contenteditable]") || event.altKey) return;
      let key = event.key;
      if (event.ctrlKey || event.metaKey) {
        if (key.toLowerCase() !== "z" && key !== "y") return;
        key = key === "z" ? "u" : "U";
      }
      if (this.press(key, event.shiftKey, event.repeat)) event.preventDefault();
    },
    press(key, shift = false, repeat = false) {
      // Whether the key means something.
      const step = shift ? 10 : 1;
      const here = { ArrowLeft: -step, ArrowRight: step, Home: -this.view.frames, End: this.view.frames }[key];
      if (here !== undefined) {
        this.playing = false;
        this.move(this.cursor + here);
      } else if (key === " ") {
        if (!repeat) this.play();
      } else if (key === "Escape") {
        if (this.state.pending) this.say("remove", true);
      } else if (key in MARKS) {
        if (!repeat) this.say(MARKS[key], true);
      } else if (key in MOVES) {
        if (!repeat) this.say(MOVES[key], false);
      } else return false;
      return true;
    },
    say(what, mark) {
      // In the order typed. A mark speaks of the picture on show: it waits until that is there.
      if (mark && this.leaving > this.state.answered) {
        this.$emit("early", what);
        return;
      }
      const said = { id: ++this.sent, what, frame: this.cursor, episode: this.view.name };
      if (!mark) this.leaving = said.id;
      const ready = mark ? this.fetched(said.frame) : null;
      this.queue = Promise.all([this.queue, ready]).then(() => this.$emit("press", said));
    },
  },
};
