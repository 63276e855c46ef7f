// Small charts as SVG, made of elements: no library, no markup from text.
import { html } from "./html.js";
import { number } from "./i18n.js";

const WIDTH = 600;

/** points: [{at (words), value}], the oldest first; null: there was nothing to measure. The same figures are in the label for who does not see them. */
export function Bars({ points, label, height = 96, kind = "" }) {
  const most = Math.max(1, ...points.map((point) => point.value));
  const shown = (value) => (value === null ? "—" : number(value, { maximumFractionDigits: 2 }));
  const step = WIDTH / Math.max(points.length, 1);
  const top = points.reduce((best, point) => (point.value > best.value ? point : best), { value: 0 });
  return html`<figure class="chart"><figcaption><span>${label}</span><span class="quiet">${top.value > 0 ? `max ${shown(top.value)} · ${top.at}` : shown(points.some((point) => point.value !== null) ? 0 : null)}</span></figcaption>
    <svg class="bars ${kind}" viewBox=${`0 0 ${WIDTH} ${height}`} preserveAspectRatio="none" role="img" aria-label=${`${label}: ${points.map((point) => shown(point.value)).join(", ")}`}>
      <line x1="0" x2=${WIDTH} y1=${height - 0.5} y2=${height - 0.5} />
      ${points.map((point, index) => {
        const tall = point.value > 0 ? Math.max(2, (point.value / most) * (height - 4)) : 0;
        return html`<rect key=${index} x=${index * step + step * 0.12} width=${step * 0.76} y=${height - tall} height=${tall}><title>${point.at}: ${shown(point.value)}</title></rect>`;
      })}
    </svg>${points.length > 1 && html`<p class="axis" aria-hidden="true"><span>${points[0].at}</span><span>${points.at(-1).at}</span></p>`}</figure>`;
}
