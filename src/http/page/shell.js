// What stands around every view: where one can go, how the scheduler is, who one is.

import * as api from './api.js';
import { clean, h, newId, replace, setText } from './dom.js';
import { icon } from './icons.js';
import * as live from './live.js';
import * as session from './session.js';
import { duration } from './time.js';
import { plural } from './words.js';
import { actionButton, tell } from './widgets/feedback.js';

const PLACES = [
  ['jobs', 'Jobs'],
  ['timeline', 'Timeline'],
  ['plugins', 'Plugins'],
  ['events', 'Events'],
  ['failures', 'Failures'],
  ['secrets', 'Secrets'],
];

const SHORTCUTS = [
  ['/', 'go to the filter; Enter leads to what it found'],
  ['j, k', 'next, previous of a list'],
  ['Enter', 'open it'],
  ['g, then j t p e f s', 'go to jobs, timeline, plugins, events, failures, secrets'],
  ['n', 'add a job'],
  ['Esc', 'close what is open, clear the filter, leave it'],
  ['?', 'this'],
];

const CONNECTIONS = { connecting: ['none', 'connecting'], live: ['ok', 'live'], lost: ['bad', 'disconnected'] };

function toggleTheme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === 'dark' || (!document.documentElement.dataset.theme && matchMedia('(prefers-color-scheme: dark)').matches);
  const theme = dark ? 'light' : 'dark';
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem('theme', theme);
  } catch {
    // It lasts as long as the page.
  }
}

function link([name, words]) {
  return h('a', { href: `#/${name}`, 'data-place': name }, icon(name), h('span', words));
}

/** Builds the frame in `root`; gives the place of views, and what marks where one is. */
export function frame(root, { signedOut, signal }) {
  const places = PLACES.map(link);
  const nav = h('nav.places', { 'aria-label': 'Views' }, places);
  const main = h('main', { id: 'main', tabindex: -1 });
  replace(
    root,
    h('header.bar', h('a.brand', { href: '#/jobs', 'aria-label': 'Sandclock, to the jobs' }, h('img', { src: '/page/icon.svg', alt: '', width: 28, height: 28 }), h('span', 'Sandclock')), nav, status(signal), account(signedOut)),
    main,
  );
  api
    .get('/v1/nodes', { signal })
    .then(({ items }) => items.length > 0 && (places.push(link(['nodes', 'Nodes'])), nav.append(places.at(-1))))
    // A view says that nothing answers.
    .catch(() => {});
  return {
    main,
    mark(name) {
      for (const place of places) {
        if (place.dataset.place === name) place.setAttribute('aria-current', 'page');
        else place.removeAttribute('aria-current');
      }
    },
  };
}

/** The scheduler's phase with its verb, what runs, and whether one hears of it. */
function status(signal) {
  const phase = h('span.badge');
  const running = h('span.dim');
  const connection = h('span.connection');
  let now = null;
  const verb = actionButton({
    label: 'Pause scheduler',
    iconName: 'pause',
    style: 'quiet round',
    iconOnly: true,
    act: async () => {
      await api.post(now.phase === 'paused' ? '/v1/scheduler/resume' : '/v1/scheduler/pause');
      await load();
    },
  });
  verb.hidden = true;
  const render = () => {
    const known = now !== null && live.connection !== 'lost';
    running.hidden = !known;
    if (!known) {
      verb.hidden = true;
      phase.dataset.tone = 'none';
      phase.title = 'The server does not answer; what is shown is what was known last';
      // Nothing is said before the first answer.
      if (live.connection === 'lost') replace(phase, h('span', 'not known'));
      return;
    }
    const slots = Object.entries(now.slots ?? {}).map(([alias, { used, total }]) => `${alias} ${used} of ${total}`);
    const runs = now.phase === 'running';
    phase.dataset.tone = runs ? 'ok' : 'warn';
    replace(phase, h('span.mark', { 'data-state': runs ? 'active' : 'paused', 'aria-hidden': 'true' }), h('span', runs ? 'scheduling' : now.phase));
    phase.title = `Sandclock ${now.version} on ${now.node}${now.uptime ? `, up for ${duration(now.uptime)}` : ''}; ${plural(now.jobs, 'job')}, time zones ${now.time_zones}`.slice(0, 300);
    setText(running, `${now.running} running`);
    running.title = slots.length > 0 ? clean(`Slots: ${slots.join(', ')}`, { most: 300 }) : '';
    verb.hidden = !session.may('operate') || now.phase === 'stopped';
    verb.relabel(now.phase === 'paused' ? 'Resume scheduler' : 'Pause scheduler', now.phase === 'paused' ? 'resume' : 'pause');
  };
  const load = async () => {
    now = await api.get('/v1/status', { signal });
    render();
  };
  const connected = (state) => {
    const [tone, words] = CONNECTIONS[state];
    connection.dataset.tone = tone;
    connection.title = state === 'lost' ? 'The page tries to connect again' : 'Changes are shown as they happen';
    replace(connection, h('span.dot', { 'aria-hidden': 'true' }), h('span', words));
    render();
  };
  connected(live.connection);
  live.onConnection(connected, signal);
  live.refetch({ signal, wants: ({ kind }) => /^(SCHEDULER_|JOB_(STARTED|EXECUTED|ERROR|CANCELLED|INTERRUPTED|ADDED|REMOVED))/.test(kind), load });
  load().catch(() => {});
  return h('div.status', { role: 'group', 'aria-label': 'Scheduler' }, phase, verb, running, h('span', { role: 'status' }, connection));
}

function account(signedOut) {
  const { name, access } = session.current;
  const can = { read: 'may look', operate: 'may run jobs', grant: 'may do everything' }[access] ?? access;
  const menu = h('div.menu', { popover: 'auto', id: newId('menu') });
  const toggle = h('button.quiet.round', { type: 'button', popovertarget: menu.id, 'aria-label': 'Account and settings' }, icon('user'));
  const out = actionButton({
    label: 'Sign out',
    act: async () => {
      // Its stream ends with it, which is no loss to tell.
      live.stop();
      try {
        await session.signOut();
      } catch (problem) {
        live.start();
        throw problem;
      }
      signedOut();
    },
  });
  replace(
    menu,
    h('p', h('strong', name ?? 'signed in'), h('br'), h('span.dim', can)),
    h('button.quiet', { type: 'button', onclick: () => (menu.hidePopover(), showShortcuts()) }, 'Keyboard shortcuts'),
    out,
  );
  return h('div.account', h('button.quiet.round', { type: 'button', 'aria-label': 'Dark or light', title: 'Dark or light', onclick: toggleTheme }, icon('theme')), toggle, menu);
}

function showShortcuts() {
  tell('Keyboard shortcuts', h('dl.facts.keys', SHORTCUTS.map(([keys, what]) => h('div', h('dt', h('kbd', keys)), h('dd', what)))));
}

/** Moves the focus among the items of the list that is shown. */
function step(by) {
  const items = [...document.querySelectorAll('main [data-item]')].filter((item) => item.offsetParent !== null);
  if (items.length === 0) return;
  const holder = document.activeElement?.closest('tr, li');
  const at = items.findIndex((item) => item === document.activeElement || (holder && holder.contains(item)));
  const next = items[at < 0 ? (by > 0 ? 0 : items.length - 1) : Math.max(0, Math.min(items.length - 1, at + by))];
  next.focus();
  next.scrollIntoView({ block: 'nearest' });
}

/** The keys that work anywhere but where one types. */
export function listenToKeys(go) {
  let afterG = 0;
  document.addEventListener('keydown', (event) => {
    const typing = event.target.closest('input, textarea, select, [role=slider], dialog') && event.target.type !== 'checkbox';
    if (event.target.matches('[data-filter]')) {
      if (event.key === 'Escape' && event.target.value === '') event.target.blur();
      if (event.key === 'Enter') {
        step(1);
        event.preventDefault();
      }
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
    const place = PLACES.find(([name]) => name[0] === event.key);
    if (place && Date.now() - afterG < 1500) go(`#/${place[0]}`);
    else if (event.key === '/') document.querySelector('[data-filter]')?.focus();
    else if (event.key === 'j') step(1);
    else if (event.key === 'k') step(-1);
    else if (event.key === 'n' && session.may('operate')) go('#/add-job');
    else if (event.key === '?') showShortcuts();
    else if (event.key === 'g') afterG = Date.now();
    else return;
    if (event.key !== 'g') afterG = 0;
    event.preventDefault();
  });
}
