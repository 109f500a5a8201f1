// Nodes: the processes that share the store, and how long each is heard of still.

import * as api from '../api.js';
import { h, replace, setText } from '../dom.js';
import { command, empty } from '../widgets/feedback.js';
import { Rows } from '../widgets/table.js';

/** How often it is asked for anew: leases are renewed all the time, and no event tells of it. */
const EVERY = 2000;

/** What is to be said of a node, and how it is. */
function state(node) {
  if (node.left === undefined) return ['bad', 'its lease has run out'];
  if (node.executors.length === 0) return ['none', 'runs nothing'];
  return node.claims ? ['ok', 'runs'] : ['none', 'stands by'];
}

export async function show(page) {
  const { signal, root } = page;
  const place = h('div');
  const list = h('ul.plain.card');
  const rows = new Rows(list, (node) => String(node.lease), (first) => {
    const [name, about, badge] = [h('strong.mono'), h('span.dim'), h('span.badge')];
    const update = (node) => {
      const [tone, words] = state(node);
      const holds = node.left === undefined ? '' : `, holds for ${Math.ceil(node.left)} s`;
      setText(name, node.name);
      setText(about, `${node.executors.join(', ') || 'no executors'}; lease ${node.lease}${holds}${node.own ? '; this one' : ''}`);
      setText(badge, words);
      badge.dataset.tone = tone;
    };
    update(first);
    return { node: h('li.row.between', h('div', name, ' ', about), badge), update };
  });
  const load = async () => {
    const { items } = await api.get('/v1/nodes', { signal });
    rows.show(items);
    list.hidden = items.length === 0;
    replace(place, items.length === 0 && empty('One node', 'The store is in the home of this daemon. Several share one in a database:', command('sandclock serve --store postgres://…')));
  };
  await load();
  const again = setInterval(() => load().catch(() => {}), EVERY);
  signal.addEventListener('abort', () => clearInterval(again));
  replace(root, h('header.top', h('h1', 'Nodes')), h('p.dim', 'They share jobs, plugins and history. What a node was running when its lease ran out is interrupted, and others go on with its jobs.'), place, list);
}
