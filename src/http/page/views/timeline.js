// The next 24 hours: one row for each job, a cell for each quarter of an hour.

import * as api from '../api.js';
import { h, replace, setText, svg } from '../dom.js';
import { clock, localZone, weekday } from '../time.js';
import * as live from '../live.js';
import { count, plural, titleOf } from '../words.js';
import { actionButton, command, empty } from '../widgets/feedback.js';
import { table } from '../widgets/table.js';

/** What is asked for: the hour more has the rest of the quarter in which the next 24 hours end. */
const HOURS = 25;
const QUARTERS = 24 * 4 + 1;
const CELL = 8;
const ROW = 22;
/** Beyond so many fire times in a quarter of an hour, a cell is full. */
const FULL = 15;

const COLUMNS = [{ label: 'Job', style: 'main' }, { label: 'Fire times', style: 'number' }, { label: 'When', style: 'said' }];

/** The quarters of one answer: their times. */
class Quarters {
  constructor({ from, bucket_seconds: seconds, items }) {
    this.start = Date.parse(from);
    this.length = seconds * 1000;
    this.count = items[0]?.counts.length ?? QUARTERS;
  }
  at(quarter) {
    return new Date(this.start + quarter * this.length);
  }
  /** The quarters at which an hour of the reader's zone begins. */
  hours() {
    return Array.from({ length: this.count }, (_, quarter) => quarter).filter((quarter) => this.at(quarter).getMinutes() === 0);
  }
  /** The stretches that have a bar each, [from, to): quarters, or hours where there is little room. */
  stretches(hourly) {
    const cuts = hourly ? this.hours() : Array.from({ length: this.count }, (_, quarter) => quarter);
    const starts = cuts[0] === 0 ? cuts : [0, ...cuts];
    return starts.map((start, at) => [start, starts[at + 1] ?? this.count]);
  }
}

const moment = (iso) => (Date.parse(iso) <= Date.now() ? 'now' : `${weekday(new Date(iso))} ${clock(new Date(iso))}`);

/** `24 times, next Sat 20:00`. */
const totalOf = (item) => `${item.capped ? 'more than ' : ''}${plural(item.total, 'time')}, next ${moment(item.next_run_time)}`;

/** Without the quarters beyond the next 24 hours. */
function within(item) {
  const counts = item.counts.slice(0, QUARTERS);
  return { ...item, counts, total: counts.reduce((sum, number) => sum + number, 0) };
}

/** Whether a job fires so often that single bars would tell nothing. */
const isContinuous = (counts) => counts.filter((number) => number > 1).length > counts.length / 2;

const nameCell = (item, style = 'a') => {
  const { title, id } = titleOf({ ...item, id: item.job_id });
  return h(style, { href: `#/jobs/${encodeURIComponent(item.job_id)}`, 'data-item': true, title: id }, title);
};

function row(item, quarters, hourly, tell) {
  const stretches = quarters.stretches(hourly);
  const counts = stretches.map(([from, to]) => item.counts.slice(from, to).reduce((sum, one) => sum + one, 0));
  const continuous = isContinuous(counts);
  const cells = stretches.flatMap(([from, to], at) => {
    const number = counts[at];
    if (number === 0) return [];
    const words = `${clock(quarters.at(from))} to ${clock(quarters.at(to))}: ${plural(number, 'fire time')} of ${item.job_id}`;
    const height = continuous ? 6 : 6 + Math.round((Math.min(number, FULL) / FULL) * (ROW - 8));
    const gap = continuous ? 0 : 1;
    const cell = svg(continuous ? 'rect.cell.even' : 'rect.cell', { x: from * CELL + gap, y: (ROW - height) / 2, width: (to - from) * CELL - 2 * gap, height, rx: continuous ? 0 : 2 });
    cell.addEventListener('pointerenter', () => tell(words));
    return [cell];
  });
  const ticks = hourly ? [] : quarters.hours().map((quarter) => svg('line.rule', { x1: quarter * CELL, x2: quarter * CELL, y1: 0, y2: ROW }));
  const label = `${totalOf(item)}${continuous ? ', all the time' : ''}`;
  return h(
    'tr',
    h('th', { scope: 'row' }, nameCell(item)),
    h('td', svg('svg.lane', { viewBox: `0 0 ${quarters.count * CELL} ${ROW}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label }, ticks, cells)),
    h('td.number', { title: label }, `${item.capped ? '>' : ''}${count(item.total)}`),
  );
}

function grid(items, quarters, tell) {
  // As many labels as there is room for.
  const hourly = innerWidth <= 700;
  const every = hourly ? 8 : innerWidth <= 1000 ? 4 : 2;
  const marks = quarters.hours().filter((quarter) => quarters.at(quarter).getHours() % every === 0).map((quarter) => {
    const share = quarter / quarters.count;
    const edge = hourly ? 0.08 : 0.02;
    const mark = h(share < edge ? 'span.first' : share > 1 - edge ? 'span.last' : 'span', clock(quarters.at(quarter)));
    mark.style.left = `${share * 100}%`;
    return mark;
  });
  return h(
    'table.timeline',
    h('caption.visually-hidden', 'Fire times of the next 24 hours'),
    h('thead', h('tr', h('th', { scope: 'col' }, 'Job'), h('th.hours', { scope: 'col' }, h('span.visually-hidden', 'From now on'), h('span.ruler', { 'aria-hidden': 'true' }, marks)), h('th.number', { scope: 'col' }, 'Fires'))),
    h('tbody', items.map((item) => row(item, quarters, hourly, tell))),
  );
}

/** `14:00 × 4, 15:00`: the hours in which a job fires. */
function hoursOf(item, quarters) {
  const hours = new Map();
  item.counts.forEach((number, quarter) => {
    const at = quarters.at(quarter);
    const name = `${weekday(at)} ${String(at.getHours()).padStart(2, '0')}`;
    if (number > 0) hours.set(name, (hours.get(name) ?? 0) + number);
  });
  if (hours.size > 12) return `in ${hours.size} of the hours, first in ${[...hours.keys()][0]}:00`;
  return [...hours].map(([name, number]) => `${name}:00${number > 1 ? ` × ${count(number)}` : ''}`).join(', ');
}

function list(items, quarters) {
  const { node, body, row } = table('Fire times of the next 24 hours', COLUMNS, 'cards');
  for (const item of items) body.append(row(nameCell(item, 'a.strong'), totalOf(item), hoursOf(item, quarters)));
  return node;
}

export async function show(page) {
  const { signal, root } = page;
  const READOUT = 'Point at a cell to see its time.';
  const readout = h('p.dim', { role: 'status' }, READOUT);
  const place = h('div');
  const later = h('p.dim');
  const narrow = matchMedia('(max-width: 700px)');
  let asTable = narrow.matches;
  let answer = null;
  let items = [];
  /** Rows stay where they are while one looks: the next to fire was first when the view was opened. */
  const places = new Map();
  const placed = (list) => {
    for (const { job_id: id } of list) if (!places.has(id)) places.set(id, places.size);
    return list.toSorted((one, other) => places.get(one.job_id) - places.get(other.job_id));
  };

  const swap = h('button.small', { type: 'button', onclick: () => ((asTable = !asTable), render()) });
  const more = actionButton({
    label: 'More jobs',
    act: async () => {
      const following = await fetch(answer.next);
      items = placed([...items, ...following.items.map(within)]);
      answer.next = following.next;
      render();
    },
  });
  const fetch = (after) => {
    const now = new Date();
    now.setMinutes(now.getMinutes() - (now.getMinutes() % 15), 0, 0);
    return api.get(api.withQuery('/v1/timeline', { from: after ? answer.from : now.toISOString(), hours: HOURS, after }), { signal });
  };
  const render = () => {
    const quarters = new Quarters({ ...answer, items });
    const due = items.filter(({ total }) => total > 0);
    setText(later, due.length < items.length ? `${plural(items.length - due.length, 'job')} more after that.` : '');
    setText(swap, asTable ? 'Show as a chart' : 'Show as a table');
    readout.hidden = asTable || due.length === 0;
    more.hidden = !answer.next;
    if (due.length === 0) {
      replace(place, empty('Nothing is due in the next 24 hours', 'Jobs that are paused do not show here. To add one:', command("sandclock job add hello:greet --arg name=Ada --trigger 'every day at 9'")));
    } else {
      const held = place.contains(document.activeElement) ? document.activeElement.getAttribute('href') : null;
      replace(place, asTable ? list(due, quarters) : grid(due, quarters, (words) => setText(readout, words)));
      if (held) [...place.querySelectorAll('a')].find((link) => link.getAttribute('href') === held)?.focus({ preventScroll: true });
    }
  };
  const load = async () => {
    answer = await fetch();
    items = placed(answer.items.map(within));
    render();
  };
  await load();
  replace(
    root,
    h('header.top', h('h1', 'Next 24 hours'), h('div.row', h('span.dim', `from now on, times in ${localZone()}`), swap)),
    readout,
    place,
    later,
    h('div.row.center', more),
  );
  const changed = new Set(['JOB_ADDED', 'JOB_REMOVED', 'JOB_MODIFIED', 'JOB_PAUSED', 'JOB_RESUMED', 'JOB_QUARANTINED', 'ALL_JOBS_REMOVED']);
  live.refetch({ signal, wants: (event) => changed.has(event.kind), load });
  // The quarter of an hour that it begins with passes.
  for (const width of ['700px', '1000px']) matchMedia(`(max-width: ${width})`).addEventListener('change', () => render(), { signal });
  const timer = setInterval(() => !document.hidden && Date.now() > Date.parse(answer.from) + 900_000 && load().catch(() => {}), 30_000);
  signal.addEventListener('abort', () => clearInterval(timer));
}
