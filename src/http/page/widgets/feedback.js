// What the page answers to what people do: problems near their cause, toasts, questions.

import { h, newId, replace, withCode } from '../dom.js';
import { icon } from '../icons.js';

const TOAST_MS = 6000;
const TOASTS_MOST = 3;

/** Says that something was done; `link` is { href, text } of where to look. */
export function toast(text, link) {
  const box = document.getElementById('toasts');
  const close = () => node.remove();
  const node = h(
    'div.toast',
    h('span', withCode(text), link && [' ', h('a', { href: link.href, onclick: close }, link.text)]),
    h('button.quiet.round', { type: 'button', 'aria-label': 'Close this message', onclick: close }, icon('close')),
  );
  box.append(node);
  while (box.children.length > TOASTS_MOST) box.firstElementChild.remove();
  setTimeout(close, TOAST_MS);
}

/** What went wrong, in the words of the API. */
export const problemNote = (problem, ...more) =>
  h('div.note.bad', { role: 'alert' }, h('p', withCode(problem.message || 'it went wrong')), more);

/** A place for one problem at a time. */
export class ProblemSlot {
  node = h('div.problem-slot');
  show(problem) {
    replace(this.node, problemNote(problem));
    this.node.scrollIntoView({ block: 'nearest' });
  }
  clear() {
    this.node.replaceChildren();
  }
}

/**
 * A button that does something on the server: it waits while that goes on, and a problem is shown in
 * `slot`, or as a dialog where there is no place for one.
 */
export function actionButton({ label, iconName, style = '', title, act, slot, iconOnly = false }) {
  const text = h('span', iconOnly ? { class: 'visually-hidden' } : {}, label);
  const button = h(`button${style ? `.${style.split(' ').join('.')}` : ''}`, { type: 'button', title: title ?? (iconOnly ? label : null) });
  button.append(...(iconName ? [icon(iconName)] : []), text);
  button.addEventListener('click', () => busy(button, act, slot));
  button.relabel = (newLabel, newIcon) => {
    if (text.textContent === newLabel) return;
    text.textContent = newLabel;
    if (iconOnly) button.title = newLabel;
    if (newIcon) button.firstElementChild.replaceWith(icon(newIcon));
  };
  return button;
}

/** Does `act` once at a time, with its problem in `slot`. Whether it was done. */
export async function busy(button, act, slot) {
  if (button.getAttribute('aria-busy') === 'true') return false;
  button.setAttribute('aria-busy', 'true');
  slot?.clear();
  try {
    await act();
    return true;
  } catch (problem) {
    if (problem.name === 'AbortError') return false;
    if (slot) slot.show(problem);
    else tell('That did not work', problemNote(problem));
    return false;
  } finally {
    button.removeAttribute('aria-busy');
  }
}

function dialog(title, body, buttons) {
  const id = newId('dialog');
  const node = h('dialog', { 'aria-labelledby': id }, h('h2', { id }, title), body, h('div.row.end', buttons));
  node.addEventListener('close', () => node.remove());
  document.body.append(node);
  node.showModal();
  return node;
}

/** A dialog that only says something. */
export function tell(title, ...body) {
  const close = h('button', { type: 'button', onclick: () => node.close() }, 'Close');
  const node = dialog(title, body, close);
  return node;
}

/** Asks before something is done; true if it shall be. */
export function confirm({ title, text, verb, danger = true }) {
  return new Promise((resolve) => {
    const no = h('button', { type: 'button', onclick: () => node.close() }, 'Keep it');
    const yes = h(danger ? 'button.danger' : 'button.primary', { type: 'button', onclick: () => node.close('yes') }, verb);
    const node = dialog(title, h('p', withCode(text)), [no, yes]);
    node.addEventListener('close', () => resolve(node.returnValue === 'yes'));
    no.focus();
  });
}

/** A command as one would type it, with a button that copies it. */
export function command(text) {
  const copy = h('button.quiet.small', { type: 'button' }, 'Copy');
  copy.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = 'Copied';
    } catch {
      copy.textContent = 'Select it';
    }
  });
  return h('div.command', h('pre', { tabindex: 0 }, text), copy);
}

/** Where nothing is yet: what would be here, and how it comes about. */
export const empty = (title, text, ...more) => h('div.empty', h('h2', title), h('p', withCode(text)), more);
