// A bar chart of one number of each run, drawn by hand. With the arrow keys one goes from run to run.

import { clean, h, replace, setText, svg } from '../dom.js';
import { clock, exact } from '../time.js';
import { kindOf, kindWords, toneOf } from '../words.js';

const HEIGHT = 132;
const LEFT = 62;
const BOTTOM = 20;
const TOP = 8;

/** The least round number that is not below `value`. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value * 0.999999);
}

/**
 * `runs` are oldest first; `value(run)` is a number or null, `format(number)` its text. Draws again when
 * its width changes, until `signal` aborts.
 */
export function chart({ title, runs, value, format, signal }) {
  const canvas = svg('svg', { height: HEIGHT, 'aria-hidden': 'true', focusable: 'false' });
  const readout = h('output.readout');
  const slider = h(
    'div.plot',
    { role: 'slider', tabindex: 0, 'aria-label': `${title}, run by run`, 'aria-valuemin': 1, 'aria-valuemax': runs.length, 'aria-valuenow': runs.length },
    canvas,
  );
  const most = ceiling(Math.max(...runs.map((run) => value(run) ?? 0), Number.MIN_VALUE * 1e10) || 1);
  let chosen = runs.length - 1;
  let bars = [];

  const words = (at) => {
    const amount = value(runs[at]);
    return `${amount === null ? 'not measured' : format(amount)}, ${kindWords(kindOf(runs[at])).toLowerCase()}, ${exact(runs[at].scheduled_time)}`;
  };
  const choose = (at) => {
    bars[chosen]?.removeAttribute('data-chosen');
    chosen = Math.max(0, Math.min(runs.length - 1, at));
    bars[chosen]?.setAttribute('data-chosen', '');
    slider.setAttribute('aria-valuenow', chosen + 1);
    slider.setAttribute('aria-valuetext', clean(`run ${chosen + 1} of ${runs.length}: ${words(chosen)}`));
    setText(readout, words(chosen));
  };
  const open = () => (location.hash = `#/runs/${encodeURIComponent(runs[chosen].id)}`);

  const draw = () => {
    const width = Math.max(200, slider.clientWidth);
    const inner = width - LEFT - 6;
    const plot = HEIGHT - BOTTOM - TOP;
    const step = inner / Math.max(runs.length, 24);
    canvas.setAttribute('width', width);
    const y = (share) => TOP + plot * (1 - share);
    const lines = [0, 0.5, 1].map((share) => [
      svg('line.rule', { x1: LEFT, x2: width - 6, y1: y(share), y2: y(share) }),
      svg('text', { x: LEFT - 8, y: y(share) + 4, 'text-anchor': 'end' }, share === 0 ? '0' : format(most * share)),
    ]);
    bars = runs.map((run, at) => {
      const share = Math.max((value(run) ?? 0) / most, 0);
      const tone = toneOf(kindOf(run));
      const height = Math.max(share * plot, 1.5);
      const x = LEFT + at * step;
      // A run that went wrong has a cap, so that colour is not all that tells it.
      const cap = tone === 'bad' || tone === 'warn' ? svg('rect.cap', { x, y: y(0) + 2, width: Math.max(step - 1, 1), height: 3 }) : null;
      return svg(
        'g.bar',
        { 'data-tone': tone, 'data-at': at },
        svg('rect.touch', { x, y: TOP, width: step, height: plot + 5 }),
        svg('rect', { x, y: y(0) - height, width: Math.max(step - 1, 1), height, rx: Math.min(1.5, step / 4) }),
        cap,
      );
    });
    const at = (run, x, anchor) => svg('text', { x, y: HEIGHT - 4, 'text-anchor': anchor }, clock(new Date(run.scheduled_time)));
    const ends = runs.length > 1 ? [at(runs[0], LEFT, 'start'), at(runs.at(-1), Math.min(LEFT + runs.length * step, width - 6), 'end')] : [];
    replace(canvas, lines, bars, ends);
    choose(chosen);
  };

  slider.addEventListener('pointermove', (event) => {
    const bar = event.target.closest?.('.bar');
    if (bar) choose(Number(bar.dataset.at));
  });
  slider.addEventListener('click', (event) => event.target.closest?.('.bar') && open());
  slider.addEventListener('keydown', (event) => {
    const to = { ArrowLeft: chosen - 1, ArrowDown: chosen - 1, ArrowRight: chosen + 1, ArrowUp: chosen + 1, PageDown: chosen - 10, PageUp: chosen + 10, Home: 0, End: runs.length - 1 }[event.key];
    if (to !== undefined) choose(to);
    else if (event.key === 'Enter') open();
    else return;
    event.preventDefault();
  });
  const watch = new ResizeObserver(draw);
  watch.observe(slider);
  signal.addEventListener('abort', () => watch.disconnect());
  return h('figure.chart', h('figcaption', h('strong', title), readout), slider);
}
