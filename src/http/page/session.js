// Who the page speaks for, and what that one may do.

import * as api from './api.js';

const LEVELS = ['read', 'operate', 'grant'];

/** { name, access }, or null. */
export let current = null;

/** Whether the session may do what needs this access. */
export const may = (access) => LEVELS.indexOf(current?.access) >= LEVELS.indexOf(access);

/** The session that the browser's cookie stands for, or null. */
export async function load() {
  try {
    current = await api.get('/v1/session');
  } catch (problem) {
    if (problem.status !== 401) throw problem;
    current = null;
  }
  return current;
}

/** Signs in with { token } or a one-time { code }. */
export async function signIn(credential) {
  current = await api.post('/v1/session', credential);
  return current;
}

export async function signOut() {
  await api.remove('/v1/session');
  current = null;
}
