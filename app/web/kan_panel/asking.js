// @ts-check
// When the panel asks the server for what it shows: it is on screen, and what it shows is not what
// is chosen. One question is out at a time; an answer to anything but the latest choice is dropped.

/** @import { Answer, KanPayload, Wish } from './types.js' */

/**
 * @typedef {object} Page
 * @property {() => boolean} visible
 * @property {() => Wish} wish What is chosen now.
 * @property {(question: Wish & { token: number }) => void} ask
 * @property {() => void} waiting
 * @property {(payload: KanPayload) => void} show
 * @property {(reason: string) => void} refuse
 */

export class Asking {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.token = 0;
    this.out = false;
    this.asked = ''; // what the question that is out asks for
    this.settled = ''; // what was answered last, with a result or a refusal
  }

  /** Ask if there is something to ask for. */
  refresh() {
    if (this.out || !this.page.visible()) return;
    const wish = this.page.wish();
    const key = JSON.stringify(wish);
    if (key === this.settled) return;
    this.asked = key;
    this.out = true;
    this.page.waiting();
    this.page.ask({ ...wish, token: ++this.token });
  }

  retry() {
    this.settled = '';
    this.refresh();
  }

  /** @param {Answer | null} answer */
  answered(answer) {
    if (!answer || !this.out || answer.token !== this.token) return;
    this.settle(() => {
      if ('error' in answer) this.page.refuse(answer.error);
      else this.page.show(answer);
    });
  }

  /** @param {string} reason */
  failed(reason) {
    if (this.out) this.settle(() => this.page.refuse(reason));
  }

  /** @param {() => void} tell */
  settle(tell) {
    this.out = false;
    this.settled = this.asked;
    if (JSON.stringify(this.page.wish()) === this.asked) tell();
    else this.refresh();
  }
}
