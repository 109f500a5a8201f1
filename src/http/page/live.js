// The stream of events: one for the whole page, which resumes where it was.

import { get } from './api.js';

const RETRY_FIRST_MS = 1000;
const RETRY_MOST_MS = 30_000;
/** At most one refetch in so long. */
const REFETCH_MS = 1000;

/** Events that are remembered of the time in which a view loads. */
const EARLY_MOST = 1000;

const heard = new EventTarget();
/** What was heard since the view began: it may have asked before, and listens only after. */
let early = [];
let source = null;
let retry = null;
let wait = RETRY_FIRST_MS;
let last = null;

/** `connecting`, `live`, or `lost`. */
export let connection = 'connecting';

function become(state) {
  if (state === connection) return;
  connection = state;
  heard.dispatchEvent(new CustomEvent('connection', { detail: state }));
}

function tell(detail) {
  if (early.length < EARLY_MOST) early.push(detail);
  heard.dispatchEvent(new CustomEvent('event', { detail }));
}

export function start() {
  stop();
  const since = last === null ? '' : `&since=${last}`;
  source = new EventSource(`/v1/events?mask=ALL${since}`);
  source.onopen = () => {
    // What happened between a page's first look and now, or while away, is not in its lists.
    if (connection === 'lost') tell({ lagged: 1 });
    wait = RETRY_FIRST_MS;
    become('live');
  };
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (typeof event.lagged === 'number') return tell(event);
    if (message.lastEventId) last = message.lastEventId;
    tell(event);
  };
  source.addEventListener('lagged', (message) => tell(JSON.parse(message.data)));
  source.onerror = () => {
    const was = connection;
    become('lost');
    // A session that ends takes its stream with it: whoever asks is told at once.
    if (was === 'live') get('/v1/status').catch(() => {});
    // The browser tries again by itself, unless it was refused.
    if (source?.readyState !== EventSource.CLOSED) return;
    clearTimeout(retry);
    retry = setTimeout(again, wait);
    wait = Math.min(wait * 2, RETRY_MOST_MS);
  };
}

/** After a refusal: is there still a session? */
async function again() {
  try {
    await get('/v1/status');
  } catch (problem) {
    if (problem.status === 401) return;
  }
  start();
}

export function stop() {
  clearTimeout(retry);
  source?.close();
  source = null;
}

/** There is no session: nothing is heard until there is one and `start` is called. */
export function rest() {
  stop();
  become('lost');
}

export function forget() {
  stop();
  last = null;
  connection = 'connecting';
}

/** A view begins to load. */
export function viewBegins() {
  early = [];
}

/** Hears each event, and { lagged } where some were lost, until `signal` aborts. */
export function onEvent(hear, signal) {
  heard.addEventListener('event', ({ detail }) => hear(detail), { signal });
}

export function onConnection(hear, signal) {
  heard.addEventListener('connection', ({ detail }) => hear(detail), { signal });
}

/**
 * Calls `load` after events that `wants`, gathered: never twice at one time, and once a second at most.
 * Returns a function that asks for it as an event would.
 */
export function refetch({ wants, load, signal }) {
  let timer = null;
  let busy = false;
  let asked = false;
  let done = 0;
  const plan = () => {
    asked = true;
    if (timer !== null || busy || signal.aborted) return;
    timer = setTimeout(work, Math.max(150, done + REFETCH_MS - Date.now()));
  };
  const work = async () => {
    [timer, busy, asked] = [null, true, false];
    try {
      await load();
    } catch {
      // The connection's state is shown; the next event asks again.
    }
    [busy, done] = [false, Date.now()];
    if (asked) plan();
  };
  signal.addEventListener('abort', () => clearTimeout(timer));
  const matters = (event) => wants(event) || event.lagged;
  onEvent((event) => matters(event) && plan(), signal);
  if (early.some(matters)) plan();
  return plan;
}
