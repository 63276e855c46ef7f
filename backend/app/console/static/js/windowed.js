// A scrolling list that holds only the rows in view, whatever its length. Rows have the height that they need: it is
// measured, and what the reader looks at stays where it is when rows above it come, go or grow.
import { Component, createRef } from "preact";
import { html } from "./html.js";

// Rows that are drawn beyond the view: more where the reader is going, for each row of a frame costs a third of a ms.
const AHEAD_PX = 500;
const BEHIND_PX = 150;
const EDGE_PX = 400;
const BOTTOM_PX = 60;

/** props: items, keyOf(item), estimate (px), render(item, index), onStart, onEnd, stick (stay at the bottom), label, role,
 *  header, footer, handle (receives {scrollTo(key), toBottom()}; null when the list goes). */
export class Windowed extends Component {
  box = createRef();
  inner = createRef();
  heights = new Map();
  elements = new Map();
  tops = [0];
  anchor = null;
  atBottom = true;
  lastTop = 0;
  goesUp = false;
  isPrinted = matchMedia("print").matches;
  state = { from: 0, to: 0 };

  constructor(props) {
    super(props);
    this.layOut(props);
    this.observer = new ResizeObserver((entries) => this.measured(entries));
    this.boxObserver = new ResizeObserver(() => this.resized());
    const count = props.items.length;
    this.state = props.stick ? { from: Math.max(0, count - 40), to: count } : { from: 0, to: Math.min(count, 40) };
  }

  layOut({ items, keyOf, estimate }) {
    const tops = new Array(items.length + 1);
    let top = 0;
    for (let i = 0; i < items.length; i += 1) {
      tops[i] = top;
      top += this.heights.get(keyOf(items[i])) ?? estimate;
    }
    tops[items.length] = top;
    this.tops = tops;
  }

  componentWillUpdate(next) {
    if (next.items !== this.props.items || this.hasGrown) this.layOut(next);
  }

  componentDidMount() {
    this.boxObserver.observe(this.box.current);
    for (const name of ["beforeprint", "afterprint"]) window.addEventListener(name, this.printed);
    this.props.handle?.({ scrollTo: (key) => this.scrollTo(key), toBottom: () => this.toBottom() });
    if (this.props.stick) this.toBottom();
    this.look();
  }

  componentDidUpdate(before) {
    const box = this.box.current;
    if (this.props.stick && this.atBottom) box.scrollTop = box.scrollHeight;
    else if (before.items !== this.props.items || this.hasGrown) this.restore();
    this.hasGrown = false;
    this.forgetGone();
    this.look();
  }

  componentWillUnmount() {
    this.props.handle?.(null);
    this.observer.disconnect();
    this.boxObserver.disconnect();
    for (const name of ["beforeprint", "afterprint"]) window.removeEventListener(name, this.printed);
  }

  /** On paper stand all rows that are loaded, one beneath the other (css), also those that come meanwhile. */
  printed = ({ type }) => {
    this.isPrinted = type === "beforeprint";
    this.setState({});
  };

  /** Heights of rows that are gone for good. */
  forgetGone() {
    if (this.heights.size < this.props.items.length * 2 + 200) return;
    const kept = new Set(this.props.items.map(this.props.keyOf));
    for (const key of this.heights.keys()) if (!kept.has(key)) this.heights.delete(key);
  }

  indexAt(y) {
    let low = 0;
    let high = this.props.items.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.tops[middle] <= y) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  restore() {
    if (!this.anchor || !this.inner.current) return;
    const index = this.props.items.findIndex((item) => this.props.keyOf(item) === this.anchor.key);
    if (index < 0) return;
    const wanted = this.tops[index] + this.anchor.delta + this.inner.current.offsetTop;
    if (Math.abs(this.box.current.scrollTop - wanted) > 0.5) this.box.current.scrollTop = wanted;
  }

  /** What is in view now; asks for more near an end. */
  look = () => {
    const box = this.box.current;
    if (!box || !this.inner.current || this.isPrinted) return; // going, or gone
    const { items, keyOf, onStart, onEnd } = this.props;
    const top = box.scrollTop - this.inner.current.offsetTop;
    if (top !== this.lastTop) this.goesUp = top < this.lastTop;
    this.lastTop = top;
    this.atBottom = box.scrollTop + box.clientHeight >= box.scrollHeight - BOTTOM_PX;
    if (items.length) {
      const first = this.indexAt(top);
      this.anchor = { key: keyOf(items[first]), delta: top - this.tops[first] };
    }
    const from = items.length ? this.indexAt(top - (this.goesUp ? AHEAD_PX : BEHIND_PX)) : 0;
    const to = items.length ? this.indexAt(top + box.clientHeight + (this.goesUp ? BEHIND_PX : AHEAD_PX)) + 1 : 0;
    if (from !== this.state.from || to !== this.state.to) this.setState({ from, to });
    if (onStart && box.scrollTop < EDGE_PX) onStart();
    if (onEnd && box.scrollTop + box.clientHeight > box.scrollHeight - EDGE_PX) onEnd();
  };

  measured(entries) {
    for (const { target, borderBoxSize } of entries) {
      const key = target.rowKey;
      const height = borderBoxSize[0].blockSize;
      if (height && this.heights.get(key) !== height) {
        this.heights.set(key, height);
        this.hasGrown = true;
      }
    }
    if (this.hasGrown) this.setState({});
  }

  resized() {
    if (this.props.stick && this.atBottom) this.box.current.scrollTop = this.box.current.scrollHeight;
    this.look();
  }

  row(key) {
    return (element) => {
      const before = this.elements.get(key);
      if (before && before !== element) this.observer.unobserve(before);
      if (element) {
        element.rowKey = key;
        this.elements.set(key, element);
        if (before !== element) this.observer.observe(element);
      } else this.elements.delete(key);
    };
  }

  scrollTo(key) {
    const index = this.props.items.findIndex((item) => this.props.keyOf(item) === key);
    if (index < 0) return;
    const box = this.box.current;
    const top = this.tops[index] + this.inner.current.offsetTop;
    const bottom = this.tops[index + 1] + this.inner.current.offsetTop;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
  }

  toBottom() {
    this.atBottom = true;
    this.box.current.scrollTop = this.box.current.scrollHeight;
  }

  render({ items, keyOf, render, header, footer, label, role = "list", class: name = "" }, { from, to }) {
    const last = this.isPrinted ? items.length : Math.min(to, items.length);
    const rows = [];
    for (let index = this.isPrinted ? 0 : Math.min(from, last); index < last; index += 1) {
      const key = keyOf(items[index]);
      rows.push(html`<div key=${key} class="windowed-row" role=${role === "list" ? "listitem" : null} ref=${this.rowRef(key)}
        style=${{ top: `${this.tops[index]}px` }}>${render(items[index], index)}</div>`);
    }
    return html`<div class="windowed ${name}" ref=${this.box} onScroll=${this.look} tabindex="0">
      ${header}
      <div class="windowed-rows" ref=${this.inner} role=${role} aria-label=${label} style=${{ height: `${this.tops[items.length]}px` }}>${rows}</div>
      ${footer}
    </div>`;
  }

  refs = new Map();

  /** The same function for the same row: another one would be called at every render. */
  rowRef(key) {
    let found = this.refs.get(key);
    if (!found) {
      if (this.refs.size > 2000) this.refs.clear();
      this.refs.set(key, (found = this.row(key)));
    }
    return found;
  }
}
