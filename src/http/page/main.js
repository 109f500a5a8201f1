// Starts the page: who is there, and which view the address names.

import * as api from './api.js';
import { clean, h, replace } from './dom.js';
import * as live from './live.js';
import * as session from './session.js';
import { frame, listenToKeys } from './shell.js';
import { startTicking } from './time.js';
import { loginDialog, showLogin } from './views/login.js';
import * as events from './views/events.js';
import * as failures from './views/failures.js';
import * as job from './views/job.js';
import * as jobForm from './views/job_form.js';
import * as jobs from './views/jobs.js';
import * as nodes from './views/nodes.js';
import * as plugin from './views/plugin.js';
import * as plugins from './views/plugins.js';
import * as run from './views/run.js';
import * as secrets from './views/secrets.js';
import * as timeline from './views/timeline.js';
import { empty, problemNote, toast } from './widgets/feedback.js';

/** By the first part of the address: the place it belongs to, its title, the view of all and of one, the access that it needs. */
const ROUTES = {
  jobs: { place: 'jobs', title: 'Jobs', all: jobs.show, one: job.show },
  runs: { place: 'jobs', title: 'Run', one: run.show },
  'add-job': { place: 'jobs', title: 'Add a job', all: jobForm.add, needs: 'operate' },
  'edit-job': { place: 'jobs', title: 'Edit', one: jobForm.edit, needs: 'operate' },
  timeline: { place: 'timeline', title: 'Next 24 hours', all: timeline.show },
  plugins: { place: 'plugins', title: 'Plugins', all: plugins.show, one: plugin.show },
  'add-plugin': { place: 'plugins', title: 'Add a plugin', all: plugins.add, needs: 'grant' },
  events: { place: 'events', title: 'Events', all: events.show },
  failures: { place: 'failures', title: 'Failures', all: failures.show },
  nodes: { place: 'nodes', title: 'Nodes', all: nodes.show },
  secrets: { place: 'secrets', title: 'Secrets', all: secrets.show },
};

const root = document.getElementById('app');
const title = (words) => (document.title = `${clean(words, { most: 80 })} · Sandclock`);
const go = (hash) => (location.hash = hash);

/** The frame of the session, and what ends with it. */
let shell = null;
let signedIn = null;
/** What ends when the view is left. */
let viewed = null;
/** The view could not be shown. */
let failed = false;
let asking = null;

/** Instead of a form whose button could only be refused. */
function forbidden(place) {
  const words = session.may('operate') ? 'This token may run jobs, and not grant anything.' : 'This token is only for looking.';
  return empty('Not with this token', words, h('a.button', { href: `#/${place}` }, 'Back'));
}

/** `#/jobs/nightly?x=y` as its parts. */
function address() {
  const [path, query] = location.hash.replace(/^#\/?/, '').split(/\?(.*)/s);
  try {
    return { parts: path.split('/').filter(Boolean).map(decodeURIComponent), query: new URLSearchParams(query) };
  } catch {
    return { parts: ['?'], query: new URLSearchParams() };
  }
}

/** What a view is given: where to draw, until when, and ways to say where it is. */
function pageFor(place, query) {
  const { signal } = viewed;
  const scopes = new Map();
  const scope = (name) => {
    scopes.get(name)?.abort();
    const within = new AbortController();
    scopes.set(name, within);
    signal.addEventListener('abort', () => within.abort(), { signal: within.signal });
    return within.signal;
  };
  return { root: place, query, signal, title, go, scope };
}

async function showView({ focus = true } = {}) {
  const { parts, query } = address();
  if (parts.length === 0) return history.replaceState(null, '', '#/jobs'), showView({ focus });
  viewed?.abort();
  viewed = new AbortController();
  const { signal } = viewed;
  live.viewBegins();
  const route = ROUTES[parts[0]];
  const view = parts.length === 1 ? route?.all : parts.length === 2 ? route?.one : null;
  shell.mark(route?.place);
  title(route?.title ?? 'Nothing here');
  const main = shell.main;
  // Built aside, so that a view that is left while it loads touches nothing.
  const place = h('div.view');
  // A view that is quick is not announced.
  const slow = setTimeout(() => replace(main, h('p.loading', { role: 'status' }, 'Loading …')), 200);
  failed = false;
  try {
    if (view && route.needs && !session.may(route.needs)) replace(place, h('header.top', h('h1', route.title)), forbidden(route.place));
    else if (view) await view(pageFor(place, query), parts[1]);
    else replace(place, empty('Nothing here', 'There is no such page.', h('a.button', { href: '#/jobs' }, 'To the jobs')));
  } catch (problem) {
    if (signal.aborted || problem.name === 'AbortError') return;
    failed = true;
    replace(place, h('h1', route.title), problemNote(problem, h('button', { type: 'button', onclick: () => showView() }, 'Try again')));
  } finally {
    clearTimeout(slow);
  }
  if (signal.aborted) return;
  replace(main, place);
  scrollTo(0, 0);
  if (focus) main.focus({ preventScroll: true });
}

function leave() {
  viewed?.abort();
  signedIn?.abort();
  live.forget();
  [shell, viewed, signedIn] = [null, null, null];
}

function signedOut(problem) {
  leave();
  title('Sign in');
  showLogin(root, enter, problem);
}

/** There is a session: the frame, the stream of events, and the view. */
async function enter({ focus = true } = {}) {
  leave();
  signedIn = new AbortController();
  shell = frame(root, { signedOut: () => signedOut(), signal: signedIn.signal });
  live.start();
  await showView({ focus });
}

/** The session has ended under a view: asks for another, over it, so that nothing typed is lost. */
function lost() {
  if (shell === null || asking?.isConnected) return;
  live.rest();
  const access = session.current?.access;
  asking = loginDialog(() => {
    if (session.current.access !== access) return enter();
    live.start();
    if (failed) showView();
  });
}

/** Arrives with `#code=…`: exchanges it, and forgets it. */
async function arrive() {
  const code = /^#code=(.+)$/.exec(location.hash)?.[1];
  if (!code) return (await session.load()) !== null;
  history.replaceState(null, '', '#/jobs');
  try {
    await session.signIn({ code: decodeURIComponent(code) });
  } catch (problem) {
    if (problem.status !== 401) throw problem;
    const spent = 'this address was used already or is older than two minutes; `sandclock open` prints a new one';
    // Who is signed in stays so.
    if ((await session.load()) === null) throw new Error(spent);
    toast(`You stay signed in as before: ${spent}.`);
  }
  return true;
}

async function start() {
  let problem = null;
  try {
    if (await arrive()) return enter({ focus: false });
  } catch (caught) {
    problem = caught;
  }
  signedOut(problem);
}

document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  document.getElementById('main')?.focus();
});
addEventListener('hashchange', () => {
  if (location.hash.startsWith('#code=')) start();
  else if (shell !== null) showView();
});
api.session.addEventListener('lost', lost);
listenToKeys(go);
startTicking();
start();
