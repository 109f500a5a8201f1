// The next 24 hours: one row for each job, a cell for each quarter of an hour.

import * as api from '../api.js';
import { h, replace, setText, svg } from '../dom.js';
import { clock, localZone, weekday } from '../time.js';
import * as live from '../live.js';
import { plural } from '../words.js';
import { actionButton, command, empty } from '../widgets/feedback.js';
import { table } from '../widgets/table.js';

const HOURS = 24;
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
    this.count = items[0]?.counts.length ?? (HOURS * 3600) / seconds;
  }
  at(quarter) {
    return new Date(this.start + quarter * this.length);
  }
  /** The quarters at which an hour of the reader's zone begins. */
  hours() {
    return Array.from({ length: this.count }, (_, quarter) => quarter).filter((quarter) => this.at(quarter).getMinutes() === 0);
  }
}

const totalOf = (item) => `${item.capped ? 'more than ' : ''}${plural(item.total, 'fire time')}`;

function row(item, quarters, tell) {
  const cells = item.counts.flatMap((number, quarter) => {
    if (number === 0) return [];
    const height = 6 + Math.round((Math.min(number, FULL) / FULL) * (ROW - 8));
    const words = `${clock(quarters.at(quarter))} to ${clock(quarters.at(quarter + 1))}: ${plural(number, 'fire time')} of ${item.job_id}`;
    const cell = svg('rect.cell', { x: quarter * CELL + 1, y: (ROW - height) / 2, width: CELL - 2, height, rx: 2 });
    cell.addEventListener('pointerenter', () => tell(words));
    return [cell];
  });
  const ticks = quarters.hours().map((quarter) => svg('line.rule', { x1: quarter * CELL, x2: quarter * CELL, y1: 0, y2: ROW }));
  const first = item.counts.findIndex((number) => number > 0);
  const label = `${totalOf(item)}${first < 0 ? '' : `, the first after ${clock(quarters.at(first))}`}`;
  return h(
    'tr',
    h('th', { scope: 'row' }, h('a', { href: `#/jobs/${encodeURIComponent(item.job_id)}`, 'data-item': true }, item.job_id)),
    h('td', svg('svg.lane', { viewBox: `0 0 ${quarters.count * CELL} ${ROW}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label }, ticks, cells)),
    h('td.number', `${item.capped ? '>' : ''}${item.total}`),
  );
}

function grid(items, quarters, tell) {
  const hours = quarters.hours().filter((_, at) => at % 2 === 0);
  const marks = hours.map((quarter) => {
    const mark = h('span', clock(quarters.at(quarter)));
    mark.style.left = `${(quarter / quarters.count) * 100}%`;
    return mark;
  });
  return h(
    'table.timeline',
    h('caption.visually-hidden', 'Fire times of the next 24 hours'),
    h('thead', h('tr', h('th', { scope: 'col' }, 'Job'), h('th.hours', { scope: 'col' }, h('span.visually-hidden', 'From now on'), h('span.ruler', { 'aria-hidden': 'true' }, marks)), h('th.number', { scope: 'col' }, 'Fires'))),
    h('tbody', items.map((item) => row(item, quarters, tell))),
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
  return [...hours].map(([name, number]) => `${name}:00${number > 1 ? ` × ${number}` : ''}`).join(', ');
}

function list(items, quarters) {
  const { node, body, row } = table('Fire times of the next 24 hours', COLUMNS, 'cards');
  for (const item of items) body.append(row(h('a.strong', { href: `#/jobs/${encodeURIComponent(item.job_id)}`, 'data-item': true }, item.job_id), totalOf(item), hoursOf(item, quarters)));
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

  const swap = h('button.small', { type: 'button', onclick: () => ((asTable = !asTable), render()) });
  const more = actionButton({
    label: 'More jobs',
    act: async () => {
      const following = await fetch(answer.next);
      items = [...items, ...following.items];
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
      replace(place, asTable ? list(due, quarters) : grid(due, quarters, (words) => setText(readout, words)));
    }
  };
  const load = async () => {
    answer = await fetch();
    items = answer.items;
    render();
  };
  await load();
  replace(
    root,
    h('header.top', h('h1', 'Next 24 hours'), h('div.row', h('span.dim', `from now on, in the time of ${localZone()}`), swap)),
    readout,
    place,
    later,
    h('div.row.center', more),
  );
  const changed = new Set(['JOB_ADDED', 'JOB_REMOVED', 'JOB_MODIFIED', 'JOB_PAUSED', 'JOB_RESUMED', 'JOB_QUARANTINED', 'ALL_JOBS_REMOVED']);
  live.refetch({ signal, wants: (event) => changed.has(event.kind), load });
  // The quarter of an hour that it begins with passes.
  const timer = setInterval(() => !document.hidden && Date.now() > Date.parse(answer.from) + 900_000 && load().catch(() => {}), 30_000);
  signal.addEventListener('abort', () => clearInterval(timer));
}
