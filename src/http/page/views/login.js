// Signing in: with a token, or with the one-time code of a link.

import { h, newId, replace, withCode } from '../dom.js';
import * as session from '../session.js';
import { ProblemSlot, busy, command } from '../widgets/feedback.js';
import { FieldError, complain, labelled } from '../widgets/form.js';

const ENDED = 'The session has ended: it was twelve hours old, or the daemon was started anew.';

/** The form; `done` is called when there is a session. */
export function loginForm(done, problem) {
  const token = h('input.mono', { type: 'password', autocomplete: 'current-password', spellcheck: 'false', required: true });
  const field = labelled('Token', token, { hint: 'It is exchanged for a cookie that scripts cannot read, and kept nowhere else.' });
  const slot = new ProblemSlot();
  const enter = h('button.primary', { type: 'submit' }, 'Sign in');
  const submit = async (event) => {
    event.preventDefault();
    if (token.value.trim() === '') return complain(new FieldError('paste the token here', token));
    await busy(enter, async () => {
      await session.signIn({ token: token.value.trim() });
      done();
    }, slot);
  };
  if (problem) slot.show(problem);
  else if (session.hasEnded()) replace(slot.node, h('p.note', { role: 'status' }, ENDED));
  return h('form', { onsubmit: submit, novalidate: true }, field, slot.node, h('div.row', enter));
}

/** The whole page of somebody who has no session. */
export function showLogin(root, done, problem) {
  const id = newId('login');
  replace(
    root,
    h(
      'main.login',
      { id: 'main', tabindex: -1, 'aria-labelledby': id },
      h('img', { src: '/page/icon.svg', alt: '', width: 56, height: 56 }),
      h('h1', { id }, 'Sandclock'),
      h('p.dim', 'Runs untrusted WebAssembly on a schedule, safely.'),
      loginForm(done, problem),
      h('section.hint-box', h('h2', 'No token at hand?'), h('p', withCode('On the machine of the daemon, this prints an address that signs you in:')), command('sandclock open')),
    ),
  );
  root.querySelector('input').focus();
}

/** Over a view whose session has ended: what was typed there stays. */
export function loginDialog(done) {
  const id = newId('login');
  const node = h(
    'dialog',
    { 'aria-labelledby': id },
    h('h2', { id }, 'Sign in again'),
    h('p', `${ENDED} What you have entered on this page is still there.`),
    loginForm(() => {
      node.close();
      done();
    }),
  );
  node.addEventListener('close', () => node.remove());
  document.body.append(node);
  node.showModal();
  node.querySelector('input').focus();
  return node;
}
