// Tables that are cards on a phone, and lists whose rows stay while what they show changes.

import { h } from '../dom.js';

/** `columns`: { label, style }. The roles stay what they are when a narrow screen lays rows out as cards. */
export function table(caption, columns, style = '') {
  const head = columns.map(({ label, style }) => h('th', { scope: 'col', role: 'columnheader', class: style }, label));
  const body = h('tbody', { role: 'rowgroup' });
  const node = h(
    'table',
    { role: 'table', class: style },
    h('caption.visually-hidden', caption),
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, head)),
    body,
  );
  const row = (...cells) =>
    h('tr', { role: 'row' }, cells.map((cell, at) => h('td', { role: 'cell', 'data-label': columns[at].label, class: columns[at].style }, cell)));
  return { node, body, row };
}

/** The children of `parent`, one for each item: `make(item)` gives { node, update }. */
export class Rows {
  rows = new Map();

  constructor(parent, key, make) {
    Object.assign(this, { parent, key, make });
  }

  /** Rows that are not `wanted` are kept, and hidden. */
  show(items, wanted = () => true) {
    const old = this.rows;
    this.rows = new Map();
    const stay = new Set(items.map(this.key));
    for (const [key, row] of old) if (!stay.has(key)) row.node.remove();
    let at = this.parent.firstElementChild;
    for (const item of items) {
      const key = this.key(item);
      const row = old.get(key) ?? this.make(item);
      if (old.has(key)) row.update(item);
      this.rows.set(key, row);
      row.node.hidden = !wanted(item);
      if (row.node === at) at = at.nextElementSibling;
      else this.parent.insertBefore(row.node, at);
    }
  }
}

/** Pairs of a name and what it is; those without a value are left out. */
export function facts(...pairs) {
  const shown = pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== undefined && pair[1] !== false);
  return h('dl.facts', shown.map(([name, ...value]) => h('div', h('dt', name), h('dd', value))));
}
