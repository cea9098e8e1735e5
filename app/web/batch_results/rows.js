// The rows of a batch, and their orders.

/**
 * @typedef {object} Model one model's results on a picture
 * @property {number} area share of the picture that the regions cover
 * @property {number} regions
 * @property {number} largest region, in pixels
 * @property {number} highest score
 * @property {number} position of the highest score on the score's range
 * @typedef {object} Row
 * @property {number} number its place in the batch, from 1
 * @property {string} label
 * @property {number | null} seconds into the video
 * @property {string} error
 * @property {Model[]} models left and right; none after an error
 * @property {string | null} photo file of both models' outlines
 * @property {string | null} heat file of both models' heat
 * @typedef {{ key: string, descending: boolean }} Sorting
 */

/** @param {Row} row */
export function areaOf(row) {
  return Math.max(...row.models.map((model) => model.area));
}

/** @param {Row} row */
export function difference(row) {
  return Math.abs(row.models[0].area - row.models[1].area);
}

/** @type {Record<string, (row: Row) => number>} */
const VALUES = {
  'anomalous area': areaOf,
  'highest score': (row) => Math.max(...row.models.map((model) => model.position)),
  'models disagree': difference,
  disagree: difference,
};

/**
 * How to sort by an order of the list, or by a column: "area:0" is the left model's area.
 * Pictures without numbers come last, whichever way; equal ones stay in the order given.
 * @param {Sorting} sorting
 * @returns {(a: Row, b: Row) => number}
 */
export function compare({ key, descending }) {
  const sign = descending ? -1 : 1;
  const given = (/** @type {Row} */ a, /** @type {Row} */ b) => a.number - b.number;
  if (key === 'order given') return given;
  if (key === 'name') {
    return (a, b) => sign * a.label.localeCompare(b.label, undefined, { numeric: true }) || given(a, b);
  }
  const [column, side] = key.split(':');
  const value = VALUES[key] ?? ((row) => {
    const model = row.models[Number(side)];
    return model[/** @type {keyof Model} */ (column)];
  });
  return (a, b) => {
    if (!a.models.length || !b.models.length) return b.models.length - a.models.length || given(a, b);
    return sign * (value(a) - value(b)) || given(a, b);
  };
}
