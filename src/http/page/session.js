// Who the page speaks for, and what that one may do.

import * as api from './api.js';

const LEVELS = ['read', 'operate', 'grant'];

/** { name, access }, or null. */
export let current = null;

/** Whether the session may do what needs this access. */
export const may = (access) => LEVELS.indexOf(current?.access) >= LEVELS.indexOf(access);

/** Whether this browser had a session that nobody signed out of: scripts cannot see the cookie. */
const HAD = 'session';

function remember(had) {
  try {
    if (had) localStorage.setItem(HAD, 'yes');
    else localStorage.removeItem(HAD);
  } catch {
    // Then the page that asks for a token does not say why.
  }
}

/** Whether a session that was there has ended by itself. */
export function hasEnded() {
  try {
    return current === null && localStorage.getItem(HAD) !== null;
  } catch {
    return false;
  }
}

/** The session that the browser's cookie stands for, or null. */
export async function load() {
  try {
    current = await api.get('/v1/session');
    remember(true);
  } catch (problem) {
    if (problem.status !== 401) throw problem;
    current = null;
  }
  return current;
}

/** Signs in with { token } or a one-time { code }. */
export async function signIn(credential) {
  current = await api.post('/v1/session', credential);
  remember(true);
  return current;
}

export async function signOut() {
  await api.remove('/v1/session');
  current = null;
  remember(false);
}
