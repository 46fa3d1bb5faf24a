// The episodes and their labels, and the review list. rows: [{name, kind, text}]; review: null without a
// classifier, else {note, rows: [{key, name, frame, text, bar, success}]}. at: the episode shown; seen: the key of the review row.

export default {
  template: `
    <nav class="list">
      <div class="tabs" v-if="review">
        <button :class="{ on: tab === 'episodes' }" @click="tab = 'episodes'" tabindex="-1">Episodes</button>
        <button :class="{ on: tab === 'review' }" @click="tab = 'review'" tabindex="-1">Review {{ review.rows.length }}</button>
      </div>
      <div class="rows" v-if="tab === 'episodes'" ref="rows">
        <button v-for="row in rows" :key="row.name" :class="[row.kind, { at: row.name === at }]" :data-name="row.name"
                @click="$emit('open', row.name)" tabindex="-1" :title="row.name">
          <i></i><b>{{ row.name }}</b><span>{{ row.text }}</span></button>
      </div>
      <div class="rows review" v-else>
        <p>{{ review.note }}</p>
        <button v-for="row in review.rows" :key="row.key" :class="{ at: row.key === seen }" :data-key="row.key"
                @click="$emit('review', row.key)" tabindex="-1">
          <b>{{ row.name }}</b><span>{{ row.text }}</span>
          <em :class="row.success ? 'low' : 'high'" :style="{ width: 100 * row.bar + '%' }"></em></button>
      </div>
    </nav>`,
  props: { rows: Array, review: Object, at: String, seen: String },
  data() { return { tab: "episodes" }; },
  watch: {
    at() { this.$nextTick(this.follow); },
    seen() {
      if (this.seen) this.tab = "review";
    },
    tab() { this.$nextTick(this.follow); },
  },
  mounted() { this.follow(); },
  methods: {
    follow() {
      const row = this.$el.querySelector(".at");
      if (row) row.scrollIntoView({ block: "nearest" });
    },
  },
};
