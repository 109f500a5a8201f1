// Failures of the same kind as one line.

import * as api from '../api.js';
import { code, h, replace, withCode } from '../dom.js';
import * as live from '../live.js';
import { timeTag } from '../time.js';
import { count, kindWords, reasonOf } from '../words.js';
import { empty } from '../widgets/feedback.js';
import { badge } from '../widgets/strip.js';
import { Rows, table } from '../widgets/table.js';

const COLUMNS = [
  { label: 'Kind', style: 'state' },
  { label: 'What went wrong', style: 'main' },
  { label: 'Times', style: 'number' },
  { label: 'Last' },
  { label: 'First' },
  { label: 'Jobs', style: 'said' },
];
const JOBS_SHOWN = 5;

export async function show(page) {
  const { signal, root } = page;
  const { node, body, row } = table('Failures', COLUMNS, 'cards failures');
  const place = h('div');
  const rows = new Rows(body, ({ fingerprint }) => fingerprint, (group) => {
    const cells = COLUMNS.map(() => h('div'));
    const update = (group) => {
      const more = group.jobs.length - JOBS_SHOWN;
      replace(cells[0], badge(group.kind));
      replace(cells[1], h('a.clip', { href: `#/runs/${encodeURIComponent(group.run)}`, 'data-item': true }, withCode(reasonOf(group.outcome) || kindWords(group.kind))), h('div.dim.small', code(group.func)));
      replace(cells[2], count(group.count));
      replace(cells[3], timeTag(group.last, { brief: true }));
      replace(cells[4], timeTag(group.first, { brief: true }));
      replace(cells[5], group.jobs.slice(0, JOBS_SHOWN).map((id) => [h('a', { href: `#/jobs/${encodeURIComponent(id)}` }, id), ' ']), more > 0 && `and ${more} more`);
    };
    update(group);
    return { node: row(...cells), update };
  });
  const load = async () => {
    const { items } = await api.get('/v1/failures', { signal });
    rows.show(items);
    node.hidden = items.length === 0;
    replace(place, items.length === 0 && empty('No failures', 'Of the runs that are kept, none has failed.'));
  };
  await load();
  replace(root, h('header.top', h('h1', 'Failures'), h('p.dim', 'Of the same kind as one line, the most frequent first')), place, node);
  live.refetch({ signal, wants: ({ kind }) => ['JOB_ERROR', 'JOB_INTERRUPTED', 'JOB_CANCELLED'].includes(kind), load });
}
