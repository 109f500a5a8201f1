// All plugins, and how one is added.

import * as api from '../api.js';
import { code, h, replace, setText, withCode } from '../dom.js';
import { icon } from '../icons.js';
import * as live from '../live.js';
import { may } from '../session.js';
import { timeTag } from '../time.js';
import { bytes, plural } from '../words.js';
import { ProblemSlot, busy, command, empty, toast } from '../widgets/feedback.js';
import { FieldError, complain, labelled } from '../widgets/form.js';
import { missingOf } from '../widgets/sheet.js';
import { Rows, table } from '../widgets/table.js';

const COLUMNS = [
  { label: 'Plugin', style: 'main' },
  { label: 'Functions', style: 'said' },
  { label: 'Grants' },
  { label: 'Versions', style: 'number' },
  { label: 'Newest' },
];

export const pluginLink = (name) => `#/plugins/${encodeURIComponent(name)}`;

/** The version that jobs follow: the last with all that it asks for, else the last. */
export const currentOf = ({ versions }) => versions.findLast((version) => missingOf(version).length === 0) ?? versions.at(-1);

/** Whether a version has what it asks for. */
export function grantBadge(version) {
  const missing = missingOf(version);
  const [tone, mark, words] = version.audit ? ['none', 'none', 'watched'] : missing.length > 0 ? ['bad', 'missing', `misses ${missing.join(', ')}`] : ['ok', 'granted', 'complete'];
  return h('span.badge', { 'data-tone': tone }, h('span.mark', { 'data-grant': mark, 'aria-hidden': 'true' }), words);
}

export async function show(page) {
  const { signal, root } = page;
  const filter = h('input', { type: 'search', placeholder: 'Filter', 'aria-label': 'Filter plugins', 'data-filter': true });
  const summary = h('p.dim', { role: 'status' });
  const { node, body, row } = table('Plugins', COLUMNS, 'cards');
  const place = h('div');
  let plugins = [];
  const rows = new Rows(body, ({ name }) => name, (plugin) => {
    const cells = COLUMNS.map(() => h('div'));
    const update = (plugin) => {
      const newest = plugin.versions.at(-1);
      replace(cells[0], h('a.strong', { href: pluginLink(plugin.name), 'data-item': true }, plugin.name));
      replace(cells[1], h('div.clip', newest.exports.map(({ name }) => [code(name.split('#').at(-1)), ' '])));
      replace(cells[2], grantBadge(newest));
      replace(cells[3], plugin.versions.length);
      replace(cells[4], timeTag(newest.added), ' ', h('span.dim', bytes(newest.size)));
    };
    update(plugin);
    return { node: row(...cells), update };
  });
  const render = () => {
    const wanted = filter.value.trim().toLowerCase();
    const found = plugins.filter(({ name }) => name.includes(wanted));
    rows.show(found);
    node.hidden = found.length === 0;
    setText(summary, plural(plugins.length, 'plugin'));
    const teach = empty('No plugins yet', 'A plugin is a WebAssembly component whose functions jobs can call. Write one and add it:', command('sandclock plugin new hello\nsandclock plugin build hello\nsandclock plugin add hello/target/wasm32-wasip2/release/hello.wasm'));
    replace(place, plugins.length === 0 ? teach : found.length === 0 && empty('Nothing here', 'No plugin matches this filter.'));
  };
  const load = async () => {
    plugins = await api.all('/v1/plugins', { signal });
    render();
  };
  filter.addEventListener('input', render);
  await load();
  replace(
    root,
    h('header.top', h('h1', 'Plugins'), may('grant') && h('a.button.primary', { href: '#/add-plugin' }, icon('upload'), 'Add plugin')),
    h('div.toolbar', h('div.search', icon('search'), filter), summary),
    place,
    node,
  );
  live.refetch({ signal, wants: (event) => event.kind.startsWith('PLUGIN_'), load });
}

const NAME = /^[a-z0-9][a-z0-9_-]{0,63}$/;

/** A plugin's name made from a file's. */
const nameOf = (file) => file.name.replace(/\.wasm$/i, '').toLowerCase().replace(/[^a-z0-9_-]+/g, '-').replace(/^[-_]+/, '').slice(0, 64);

const STAGES = { sending: 'sending it', received: 'it has arrived', compiling: 'compiling it, in a sandbox of its own' };

/** A place to drop a component on, or to choose one. `chosen(file)` hears of it. */
function dropZone(chosen) {
  const input = h('input.visually-hidden', { type: 'file', accept: '.wasm,application/wasm', id: 'component' });
  const label = h('span', 'Drop a component here, or choose a ', code('.wasm'), ' file');
  const zone = h('label.drop', { for: 'component' }, icon('upload'), label, input);
  const take = (file) => {
    if (!file) return;
    setText(label, `${file.name}, ${bytes(file.size)}`);
    chosen(file);
  };
  input.addEventListener('change', () => take(input.files[0]));
  for (const name of ['dragenter', 'dragover']) {
    zone.addEventListener(name, (event) => {
      event.preventDefault();
      zone.dataset.over = '';
    });
  }
  zone.addEventListener('dragleave', () => delete zone.dataset.over);
  zone.addEventListener('drop', (event) => {
    event.preventDefault();
    delete zone.dataset.over;
    take(event.dataTransfer.files[0]);
  });
  return { node: zone, input };
}

export async function add(page) {
  const name = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', value: page.query.get('name') ?? '' });
  const label = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false' });
  const audit = h('input', { type: 'checkbox' });
  const progress = h('progress', { max: 1, 'aria-label': 'Upload', hidden: true });
  const stage = h('p.dim', { role: 'status' });
  const slot = new ProblemSlot();
  const save = h('button.primary', { type: 'submit' }, icon('upload'), 'Add plugin');
  let file = null;
  const zone = dropZone((chosen) => {
    // A name that was made from the last file is made again.
    if (name.value === '' || (file !== null && name.value === nameOf(file))) name.value = nameOf(chosen);
    file = chosen;
    zone.input.complain('');
  });
  zone.input.complain = (message) => setText(zoneError, message);
  const zoneError = h('p.field-error', { role: 'alert' });

  const tell = (now) => {
    setText(stage, STAGES[now.stage] ?? now.stage);
    if (now.stage === 'sending' && now.total > 0) progress.value = now.sent / now.total;
    // How long a compilation takes nobody knows.
    else progress.removeAttribute('value');
  };
  const submit = async (event) => {
    event.preventDefault();
    if (file === null) return complain(new FieldError('choose a file first', zone.input));
    if (!NAME.test(name.value)) return complain(new FieldError('a-z, 0-9, `-` and `_`, at most 64', name));
    await busy(save, async () => {
      progress.hidden = false;
      try {
        const path = api.withQuery(api.url`/v1/plugins/${name.value}`, { label: label.value.trim(), audit: audit.checked ? 'true' : '' });
        const added = await api.upload(path, file, tell);
        toast(`Added \`${added.name}\`.`);
        if (!page.signal.aborted) page.go(pluginLink(added.name));
      } finally {
        progress.hidden = true;
        setText(stage, '');
      }
    }, slot);
  };
  replace(
    page.root,
    h('nav.crumbs', { 'aria-label': 'Where this is' }, h('a', { href: '#/plugins' }, 'Plugins')),
    h('header.top', h('h1', 'Add a plugin')),
    h(
      'form.sheet-form',
      { onsubmit: submit, novalidate: true, 'aria-label': 'Add a plugin' },
      h(
        'section.card',
        zone.node,
        zoneError,
        h('div.grid', labelled('Name', name, { hint: 'Jobs call its functions as NAME:function. A name that is there gets another version.' }), labelled('Version label', label, { hint: 'Such as 1.4.0, for jobs that pin one. May be empty.' })),
        h('label.check', audit, h('span', 'Watch it (audit): what is not granted is denied when it is used, and recorded')),
        progress,
        stage,
        slot.node,
      ),
      h('div.row.end', h('a.button', { href: '#/plugins' }, 'Cancel'), save),
    ),
    h('section.hint-box', h('h2', 'Or on the command line'), h('p', withCode('It may have nothing at first but what is harmless; what else it asks for is shown, and granted or not, afterwards.')), command('sandclock plugin add hello.wasm')),
  );
}
