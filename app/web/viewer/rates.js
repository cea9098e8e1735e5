// @ts-check
// The scale that both models' thresholds share. A raw score of one model says nothing about
// another's, the rate of false alarms on the calibration data does: both sliders stand at "5 % of
// ordinary pixels marked", whatever the score is there.
//
// A position of 0 is the fewest alarms, 1 the most. Where a checkpoint carries a calibration curve,
// positions are the logarithm of that rate; else they are the score's own range, upside down.

const [LOWEST, HIGHEST] = [0.0002, 0.5];
const SPAN = Math.log(HIGHEST / LOWEST);

export class Scale {
  /** @param {import('./payload.js').Side} data */
  constructor(data) {
    this.data = data;
    const [low, high] = data.range;
    /** Knots of [position, threshold], positions growing and thresholds falling. */
    this.knots = this.measured
      ? data.curve.map(([rate, threshold]) => [Math.log(rate / LOWEST) / SPAN, threshold])
      : [[0, high], [1, high > low ? low : high - 1]];
  }

  /** Whether positions are rates that were measured. */
  get measured() {
    return this.data.curve.length > 1;
  }

  /** @param {number} position */
  threshold(position) {
    return between(this.knots, position, 0, 1);
  }

  /** @param {number} threshold */
  position(threshold) {
    return Math.min(1, Math.max(0, between(this.knots, threshold, 1, 0)));
  }

  /**
   * The share of ordinary pixels that the calibration marked; null where it was not measured.
   * @param {number} threshold
   */
  rate(threshold) {
    if (!this.measured) return null;
    return LOWEST * Math.exp(SPAN * this.position(threshold));
  }

  /**
   * The share of anomalous pixels that were marked there.
   * @param {number} threshold
   */
  recall(threshold) {
    if (!this.measured) return null;
    return between(this.data.curve, threshold, 1, 2);
  }
}

/** @param {number} rate */
export function positionOf(rate) {
  return Math.log(rate / LOWEST) / SPAN;
}

/**
 * Interpolate column `to` of rows at a value of column `from`, which grows or falls; the ends are
 * kept beyond them.
 * @param {number[][]} rows
 * @param {number} value
 * @param {number} from
 * @param {number} to
 */
function between(rows, value, from, to) {
  const grows = rows[rows.length - 1][from] > rows[0][from];
  const after = rows.findIndex((row) => (grows ? row[from] >= value : row[from] <= value));
  if (after === 0) return rows[0][to];
  if (after < 0) return rows[rows.length - 1][to];
  const [a, b] = [rows[after - 1], rows[after]];
  return a[to] + ((value - a[from]) / (b[from] - a[from])) * (b[to] - a[to]);
}
