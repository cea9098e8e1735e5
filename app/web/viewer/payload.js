// @ts-check
// The values that arrive from Python, field by field as `app/web/payload.py` has them; what each
// field means is said there. A test compares the two.

/** @typedef {{path: string, url?: string | null}} File */
/** @typedef {{name: string, colour: number[], share: number}} ClassShare */
/** @typedef {{codes: File, extent: number[], smoothing: number}} ScoreMap */

/**
 * @typedef {object} Side
 * @property {'left' | 'right'} side
 * @property {string} source
 * @property {string} title
 * @property {string} head
 * @property {string} facts
 * @property {string} stages
 * @property {string[]} notes
 * @property {string} score
 * @property {string} score_title
 * @property {boolean} calibrated
 * @property {string} calibrated_on
 * @property {number[]} range
 * @property {number} threshold
 * @property {number[][]} curve
 * @property {ClassShare[]} classes
 * @property {File} labels
 * @property {ScoreMap} scores
 */

/**
 * @typedef {object} Result
 * @property {number} token
 * @property {string} run
 * @property {string} name
 * @property {string} example
 * @property {number[]} size
 * @property {number[]} source_size
 * @property {File} picture
 * @property {File | null} truth
 * @property {number} smallest
 * @property {boolean} unlike
 * @property {Side[]} sides
 */

/** @typedef {{token: number, error: string}} Refusal */

export {};
