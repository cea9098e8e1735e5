// @ts-check
// Requests are numbered: the page shows the answer to its latest one alone, whatever arrives when.
// A request names the picture; models and score are what the pickers say when it leaves.

/**
 * @typedef {object} Wanted
 * @property {string} [example]
 * @property {string} [path] of a file on the server
 * @property {string} [name] of the file as the visitor calls it
 * @property {string} [truth] path of the ground truth
 * @property {string} [white] what 255 means in it: void or anomaly
 * @property {string} [shown] address of the photo, to have something on the stage at once
 */

export class Requests {
  /** @param {(event: string, data: object) => void} trigger */
  constructor(trigger) {
    this.trigger = trigger;
    this.latest = 0;
    this.waiting = false;
    /** One request at a time is underway; of those that come meanwhile the newest waits here. */
    this.underway = false;
    /** @type {object | null} */
    this.next = null;
    /** What was asked for last, and what the result on the stage answers. @type {Wanted | null} */
    this.wanted = null;
    /** @type {Wanted | null} */
    this.answered = null;
  }

  /** @param {Wanted} wanted */
  send(wanted) {
    this.wanted = wanted;
    this.waiting = true;
    const { shown, ...picture } = wanted;
    const question = { token: ++this.latest, ...picture };
    if (this.underway) this.next = question;
    else this.leave(question);
  }

  /** @param {object} question */
  leave(question) {
    this.underway = true;
    this.next = null;
    this.trigger('look', question);
  }

  /** Ask for the picture of the latest request again: models, score or truth have changed. */
  again(changes = {}) {
    const picture = this.wanted ?? this.answered;
    if (picture) this.send({ ...picture, ...changes });
    return Boolean(picture);
  }

  /** What was underway has come to an end: the newest that waits leaves. */
  ended() {
    this.underway = false;
    if (this.next) this.leave(this.next);
  }

  /**
   * Whether an answer is the one that is waited for; it then is not any more.
   * @param {number} token
   */
  accepts(token) {
    this.ended();
    if (token !== this.latest || !this.waiting) return false;
    this.waiting = false;
    return true;
  }

  /** Nothing is waited for any more. */
  cancel() {
    this.latest++;
    this.waiting = this.underway = false;
    this.next = null;
    this.trigger('stopped', {});
  }
}
