// @ts-check
// From a chosen picture to its result on the stage: waiting, answers, failures, and what a link
// asks for when the page opens.

import { h } from './dom.js';
import { download, Maps, unpack } from './maps.js';
import { Requests } from './requests.js';

/** @typedef {import('./viewer.js').Viewer} Viewer */
/** @typedef {import('./payload.js').Result} Result */
/** @typedef {import('./payload.js').Refusal} Refusal */
/** @typedef {import('./requests.js').Wanted} Wanted */

export class Session {
  /**
   * @param {Viewer} viewer
   * @param {(event: string, data: object) => void} trigger
   */
  constructor(viewer, trigger) {
    this.viewer = viewer;
    this.t = viewer.t;
    this.requests = new Requests(trigger);
    this.loading = 0;
    /** The photo that is about to be explained. */
    this.coming = h('div', { class: 'm2k-coming', hidden: true });
    this.message = h('div', { class: 'm2k-message', role: 'alert' }, this.t('welcome'));
  }

  /** @param {'empty' | 'busy' | 'ready' | 'failed'} state */
  say(state) {
    this.viewer.root.dataset.state = state;
    this.message.hidden = state === 'ready';
  }

  /** Show a picture at once, and ask for the models' answers. @param {Wanted} wanted */
  look(wanted) {
    this.requests.send(wanted);
    this.wait();
  }

  /** Models, score or ground truth have changed. */
  lookAgain(changes = {}) {
    if (this.requests.again(changes)) this.wait();
  }

  wait() {
    const { viewer, t } = this;
    const { wanted, answered } = this.requests;
    this.say('busy');
    // Of the same picture the old answer stays until the new one is there.
    const same = Boolean(viewer.result) && wanted?.path === answered?.path && wanted?.example === answered?.example;
    this.coming.hidden = same;
    viewer.root.dataset.pending = same ? '' : 'picture';
    viewer.body.querySelector('.m2k-notice')?.remove();
    this.coming.replaceChildren(...(wanted?.shown && !same ? [h('img', { src: wanted.shown, alt: '' })] : []));
    viewer.inputs.mark(wanted?.example ?? '');
    this.message.replaceChildren(h('span', {}, t('computing')), h('button', {
      type: 'button', class: 'm2k-chip', 'data-cancel': true, onclick: () => this.cancel(),
    }, t('cancel')));
  }

  cancel() {
    this.requests.cancel();
    this.back();
  }

  /** To the result before, or an empty stage. */
  back() {
    const { result, inputs } = this.viewer;
    this.requests.wanted = this.requests.answered;
    this.coming.hidden = true;
    this.viewer.root.dataset.pending = '';
    this.say(result ? 'ready' : 'empty');
    this.message.replaceChildren(this.t('welcome'));
    inputs.mark(result?.example ?? '');
    if (result) this.requests.trigger('returned', {}); // the pickers go back, too
  }

  /** What the pickers said when the result on the stage was asked for: left, right and score. */
  pickers() {
    const [left, right] = this.viewer.maps.map((maps) => maps.data);
    return [left.source, right.source, left.score];
  }

  /** A failure is said where the result would be, and stays there. @param {string} text */
  fail(text) {
    const { t } = this;
    this.requests.waiting = false;
    this.say('failed');
    /** @param {string} name @param {() => void} action */
    const button = (name, action) => h('button', {
      type: 'button', class: 'm2k-chip', [`data-${name}`]: true, onclick: action,
    }, t(name));
    this.message.replaceChildren(h('p', {}, text), button('retry', () => this.lookAgain()),
      ...(this.viewer.result ? [button('back', () => this.back())] : []));
  }

  /** The event itself failed: the server is busy, or gone. */
  failed() {
    const alone = !this.requests.next;
    this.requests.ended();
    if (this.requests.waiting && alone) this.fail(this.t('no_answer'));
  }

  /** @param {any} value of Python: a result, a refusal, or what else the page should do */
  async load(value) {
    if (value?.linked) this.linked(value.linked);
    else if (value?.open) this.look(value.open);
    else if (value?.message) {
      this.say('empty');
      this.message.replaceChildren(value.message);
    } else if ((value?.error || value?.sides) && this.requests.accepts(value.token)) {
      if (value.error) this.fail(value.error);
      else await this.take(value, this.requests.wanted);
    }
  }

  /**
   * Fetch a result's maps and show it.
   * @param {Result} result
   * @param {Wanted | null} wanted what it answers
   */
  async take(result, wanted) {
    const { viewer } = this;
    const mine = ++this.loading;
    const { latest } = this.requests;
    const outdated = () => mine !== this.loading || latest !== this.requests.latest;
    try {
      const [height, width] = result.size;
      /** @param {import('./payload.js').File} file */
      const bytes = (file) => unpack(viewer.fileUrl(file));
      const [truth, photo, ...maps] = await Promise.all([
        result.truth ? bytes(result.truth).then((buffer) => new Uint8Array(buffer)) : null,
        download(viewer.fileUrl(result.picture)).then((answer) => answer.blob()).then(createImageBitmap),
        ...result.sides.flatMap((side) => [bytes(side.labels), bytes(side.scores.codes)])]);
      if (outdated()) return;
      const sides = result.sides.map((side, i) => new Maps(side, width, height, maps[2 * i], maps[2 * i + 1], truth));
      const before = this.requests.answered?.shown;
      if (before?.startsWith('blob:') && before !== wanted?.shown) URL.revokeObjectURL(before);
      this.requests.answered = this.requests.wanted = wanted;
      this.coming.hidden = true;
      viewer.root.dataset.pending = '';
      this.message.replaceChildren();
      viewer.show(result, photo, sides);
      viewer.inputs.mark(result.example);
      this.say('ready');
    } catch (error) {
      if (!outdated()) this.fail(this.t('not_loaded', { reason: /** @type {Error} */ (error).message }));
    }
  }

  // ------------------------------------------------------------ what the page opens with

  /** The first result lies ready as files; whatever else a link asks for is computed. */
  async begin() {
    const { props, wish } = this.viewer;
    if (!props.first || wish.models) return; // for models the server sets the pickers first
    const [{ name }] = props.examples;
    if (wish.example && wish.example !== name) {
      this.open(wish.example);
      return;
    }
    const { latest } = this.requests;
    let result = null;
    try {
      result = await (await download(this.viewer.fileUrl({ path: props.first }))).json();
    } catch { /* it is still being computed: ask for it like for any other */ }
    if (latest !== this.requests.latest) return; // somebody was quicker
    if (result) await this.take(result, this.example(name));
    else this.open(name);
  }

  /** The server has set the pickers to what the link names, if anything. @param {string[]} vain */
  linked(vain) {
    const { wish, props } = this.viewer;
    const said = [...wish.vain.map((what) => this.t('link_vain', { what })), ...vain];
    if (wish.own) said.push(this.t('link_own'));
    Object.assign(wish, { vain: [], own: false });
    if (wish.models && !this.requests.latest) this.open(wish.example || props.examples[0].name);
    // After that: a new choice takes the remarks on the one before away.
    if (said.length) this.viewer.notice(said.join('\n'));
  }

  /** Look at an example. @param {string} name */
  open(name) {
    this.look(this.example(name));
  }

  /** @param {string} name @returns {Wanted} */
  example(name) {
    const { props } = this.viewer;
    const found = props.examples.find((one) => one.name === name) ?? props.examples[0];
    return { example: found.name, shown: this.viewer.fileUrl({ path: found.picture }) };
  }
}
