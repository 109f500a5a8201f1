// Secrets: their names. What they are goes in and never comes out.

import * as api from '../api.js';
import { h, replace, withCode } from '../dom.js';
import { may } from '../session.js';
import { ProblemSlot, actionButton, busy, command, confirm, empty, toast } from '../widgets/feedback.js';
import { FieldError, complain, labelled } from '../widgets/form.js';
import { Rows } from '../widgets/table.js';

export async function show(page) {
  const { signal, root } = page;
  const list = h('ul.plain.card.secrets');
  const place = h('div');
  const slot = new ProblemSlot();
  const name = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false' });
  const value = h('input', { type: 'password', autocomplete: 'new-password', spellcheck: 'false' });
  const save = h('button.primary', { type: 'submit' }, 'Set secret');

  const remove = async (secret) => {
    const sure = await confirm({ title: 'Remove this secret?', text: `Plugins that were granted \`${secret}\` find nothing under its name any more.`, verb: 'Remove it' });
    if (!sure) return;
    await api.remove(api.url`/v1/secrets/${secret}`);
    toast(`Removed \`${secret}\`.`);
    await load();
  };
  const rows = new Rows(list, (secret) => secret, (secret) => {
    const replaceIt = h('button.quiet.small', { type: 'button', 'aria-label': `Replace ${secret}`, onclick: () => ((name.value = secret), value.focus()) }, 'Replace');
    const button = actionButton({ label: 'Remove', style: 'quiet small', slot, act: () => remove(secret) });
    button.setAttribute('aria-label', `Remove ${secret}`);
    return { node: h('li.row.between', h('span.mono', secret), may('grant') && h('div.row.tight', replaceIt, button)), update() {} };
  });
  const load = async () => {
    const { items } = await api.get('/v1/secrets', { signal });
    rows.show(items);
    list.hidden = items.length === 0;
    replace(place, items.length === 0 && empty('No secrets', 'A plugin that is granted one can use it; nobody can read it here. On the command line:', command('sandclock secret set token < token.txt')));
  };
  const submit = async (event) => {
    event.preventDefault();
    if (name.value.trim() === '') return complain(new FieldError('a name, please', name));
    if (value.value === '') return complain(new FieldError('what is the secret?', value));
    await busy(save, async () => {
      await api.put(api.url`/v1/secrets/${name.value.trim()}`, { value: value.value });
      toast(`Set \`${name.value.trim()}\`.`);
      name.value = '';
      value.value = '';
      await load();
    }, slot);
  };
  await load();
  replace(
    root,
    h('header.top', h('h1', 'Secrets')),
    h('p.dim', withCode('They go in and never come out. A plugin has those that it is granted, on its own page.')),
    may('grant') && h('form.card.sheet-form', { onsubmit: submit, novalidate: true, 'aria-label': 'Set a secret' }, h('div.grid', labelled('Name', name), labelled('Secret', value, { hint: 'At least 8 bytes. A name that is there gets another secret.' })), h('div.row.end', save)),
    slot.node,
    place,
    list,
  );
}
